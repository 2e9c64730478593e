"""Model folders that others made run no code and fill no memory."""

import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from mmkd import reference
from mmkd.cli import main
from mmkd.cluster import ray_session
from mmkd.config import Settings
from mmkd.models import create_model, describe_model, load_model, save_model, start_from
from mmkd.models import storage as model_storage
from mmkd.models.weights import read_weights
from mmkd.trust import TRUST
from tests.hostile import DEEP
from tests.small import HEADS


def model_folder(folder: Path, **changes) -> Path:
    """The folder of a small network whose model.json says something else in part."""
    torch.manual_seed(0)
    save_model(create_model("r2plus1d_tiny", HEADS, channels=(4, 8)), folder)
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module with somebody's network that leaves a mark when it is imported; yields a model folder that names it."""
    (tmp_path / "code").mkdir()
    text = f"""
from pathlib import Path
from tests.test_models import own_network
Path({str(tmp_path / "ran")!r}).touch()
"""
    (tmp_path / "code" / "somebodys.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delenv(TRUST, raising=False)
    model = create_model("tests.test_models:own_network", HEADS)
    model.spec.arch = "somebodys:own_network"
    save_model(model, tmp_path / "own")
    model_storage._kept.discard("somebodys:own_network")
    yield tmp_path
    __import__("sys").modules.pop("somebodys", None)


def test_code_that_a_model_folder_names_is_not_imported_unless_it_is_trusted(own, monkeypatch):
    start = create_model("r2plus1d_tiny", HEADS, channels=(4, 8))
    for refused in (load_model, describe_model, lambda folder: start_from(start, folder)):
        with pytest.raises(ValueError, match=r"names 'somebodys:own_network'.*MMKD_TRUST_ARCH=somebodys"):
            refused(own / "own")
    monkeypatch.setenv("MMKD_TRUST_ARCH", "another, some")
    with pytest.raises(ValueError, match="MMKD_TRUST_ARCH"):
        load_model(own / "own")
    assert not (own / "ran").exists()
    assert load_model(own / "own", trust=["somebodys:own_network"]).spec.arch == "somebodys:own_network"
    assert (own / "ran").exists()
    monkeypatch.setenv("MMKD_TRUST_ARCH", "another,somebodys")
    assert load_model(own / "own").spec.heads == HEADS


def test_a_network_that_this_process_kept_itself_is_loaded_again(tmp_path, monkeypatch):
    monkeypatch.delenv(TRUST, raising=False)
    save_model(create_model("tests.test_models:own_network", HEADS), tmp_path)
    assert load_model(tmp_path).spec.arch == "tests.test_models:own_network"


def test_what_a_command_s_flags_name_is_trusted_in_it_and_in_its_workers(own, monkeypatch, capsys):
    started = []
    monkeypatch.setenv(TRUST, "another")
    monkeypatch.setenv("RAY_OVERRIDE_JOB_RUNTIME_ENV", "")  # so that it is put back
    monkeypatch.delenv("RAY_OVERRIDE_JOB_RUNTIME_ENV")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("ray.init", lambda **arguments: started.append(arguments) or SimpleNamespace(dashboard_url=""))
    monkeypatch.setattr("mmkd.cluster.running_cluster", lambda: None)

    def evaluate(settings):
        with ray_session(settings):
            return {"heads": load_model(own / "own").spec.heads}

    monkeypatch.setattr("sys.argv", ["evaluate.py"])
    with pytest.raises(SystemExit):
        main("evaluate", "", evaluate)
    assert "MMKD_TRUST_ARCH=somebodys in the environment of the command" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--student.arch", "somebodys:own_network"])
    main("evaluate", "", evaluate)
    assert json.loads(capsys.readouterr().out) == {"heads": HEADS}
    variables = [arguments["runtime_env"]["env_vars"][TRUST] for arguments in started]
    assert variables == ["another", "another,somebodys:own_network"]
    assert os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] == "1"  # or a job that was submitted with the variable fails
    monkeypatch.delenv(TRUST)
    with ray_session(Settings()):
        assert "runtime_env" not in started[-1]


def test_functions_that_are_imported_already_are_not_trusted_for_it(tmp_path):
    for arch, options in (
        ("os:system", {"command": f"touch {tmp_path / 'ran'}"}),
        ("subprocess:run", {"args": ["touch", str(tmp_path / "ran")]}),
        ("mmkd.storage:delete_folder", {"folder": str(tmp_path)}),
    ):
        with pytest.raises(ValueError, match="code that would be imported and run"):
            load_model(model_folder(tmp_path / "m", arch=arch, options=options))
    assert not (tmp_path / "ran").exists() and tmp_path.is_dir()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {"pretrained": True}}, "pretrained is no option of a network"),  # would be downloaded
        ({"options": {"channels": [4, 1 << 40]}}, "channels is 1099511627776"),
        ({"options": {"channels": [1 << 20, 1 << 20]}}, "does not fit r2plus1d_tiny"),  # 100 TB, if it were made
        ({"arch": "stlt", "modality": "boxes", "options": {"depth": 10**6}}, "depth is 1000000, more than 1000"),
        ({"arch": "hf//etc", "options": {}}, "config is missing"),  # would be read from there
        ({"heads": {"verb": 10**12}}, "no list of names"),
        ({"heads": None}, "heads is missing"),
        ({"input": {"frames": 1 << 20, "size": 1 << 20}}, "its input has frames, size"),
        ({"input": {"frames": "x", "size": 1 << 20}}, "its input has frames, size"),
        ({"options": {"channels": "wide"}}, "cannot be built as r2plus1d_tiny"),
    ],
)
def test_a_model_json_that_would_fill_the_memory_or_read_elsewhere_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        load_model(model_folder(tmp_path, **changes))


@pytest.mark.parametrize("content", [DEEP, "[]", "{", "\xff"])
def test_a_model_json_that_is_damaged_is_named(tmp_path, content):
    (model_folder(tmp_path) / "model.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"model\.json cannot be used"):
        describe_model(tmp_path)


def test_code_that_a_transformers_folder_names_is_not_looked_for(tmp_path):
    transformers = pytest.importorskip("transformers")
    shared = {"image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32, "num_frames": 4}  # fmt: skip
    transformers.VideoMAEModel(transformers.VideoMAEConfig(**shared)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    evil = {"attn_implementation": "evil/kernel", "auto_map": {"AutoModel": "evil--x.Y"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | evil))
    model = create_model(f"hf/{tmp_path}", HEADS)
    assert model.backbone.network.config._attn_implementation in ("sdpa", "eager")


def test_code_that_a_transformers_config_names_is_left_out(tmp_path):
    config = {"model_type": "videomae", "attn_implementation": "evil/kernel", "auto_map": {"AutoModel": "evil--x.Y"}}
    folder = model_folder(tmp_path, arch="hf/videomae", options={"config": config | {"text": dict(config)}})
    kept = describe_model(folder)["options"]["config"]
    assert kept == {"model_type": "videomae", "text": {"model_type": "videomae"}}


def test_files_of_weights_that_claim_too_much_are_refused_by_name(tmp_path):
    folder = model_folder(tmp_path / "m")
    path = folder / "model.safetensors"
    claims = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    for content in (b"\xff" * 8 + b"{}", len(claims).to_bytes(8, "little") + claims):
        path.write_bytes(content)
        described = json.loads((folder / "model.json").read_text())
        described["weights_hash"] = model_storage.weights_hash(path)
        (folder / "model.json").write_text(json.dumps(described))
        with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file, or a damaged one"):
            load_model(folder)
        with pytest.raises(ValueError, match=r"model\.safetensors cannot be read as plain tensors"):
            read_weights(path)
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    assert read_weights(tmp_path / "plain.pt")["a"].shape == (1 << 20,)
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    with pytest.raises(ValueError, match="content is compressed"):
        read_weights(tmp_path / "bomb.pt")


def test_a_start_without_the_weights_of_its_classes_is_refused(tmp_path):
    folder = model_folder(tmp_path)
    weights = model_storage.load_file(folder / "model.safetensors")
    weights["heads.verb.weight"] = weights["heads.verb.weight"][:1]
    save_file(weights, folder / "model.safetensors")
    described = json.loads((folder / "model.json").read_text())
    described["weights_hash"] = model_storage.weights_hash(folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="no weights for the classes that it names in verb"):
        start_from(create_model("r2plus1d_tiny", HEADS, channels=(4, 8)), folder)


NESTED = "&l0 [x, x]\n" + "".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}, *l{n - 1}, *l{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("l0: " + NESTED + "DATASET_TYPE: *l39\nMODEL_NAME: *l39\nTOTAL_ACTIONS: {VERB: 3}\n", "is not a model"),
        ("l0: " + NESTED + "TOTAL_ACTIONS: *l39\n", "no table of head"),
        ("TOTAL_ACTIONS: {VERB: 1000000000000}\nMODEL_NAME: swin\nDATASET_TYPE: video\n", "more than 100000"),
        ("TOTAL_ACTIONS: {A: 3}\nMODEL_NAME: stlt\nNUM_FRAMES: 1000000000000\n", "NUM_FRAMES .* more than 100000"),
        ("TOTAL_ACTIONS: {A: 3}\nNUM_FRAMES: !!python/object/apply:os.getcwd []\n", "is no YAML"),
        ("[" * 5000, "is no YAML"),
        ("text", "no table"),
    ],
)
def test_an_experiment_of_others_is_refused_where_its_settings_are_endless(tmp_path, text, said):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        reference.read_experiment(tmp_path)
