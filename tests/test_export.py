"""An exported file answers as its model does, for any batch, and says what it is; others are refused with a reason."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmkd import shards
from mmkd.__main__ import COMMANDS
from mmkd.__main__ import main as mmkd_command
from mmkd.dataset import open_dataset
from mmkd.export import compare, convert, export_model, onnx_file, open_export
from mmkd.export.clips import clips_of, random_clips
from mmkd.export.command import main, parse
from mmkd.export.comparison import TOLERANCE
from mmkd.models import create_model, load_model, save_model
from mmkd.plan import TEST_VIEW
from mmkd.reader import REAL, read_unit
from mmkd.shards import read_manifest
from tests.small import HEADS, small_settings, write_dataset
from tests.videos import number_of, write_video

pytestmark = pytest.mark.slow
TARGETS = ("onnx", "torchscript", "torch-export")
TEMPERATURES = {"verb": 1.5, "noun": 0.75}


def write_model(folder, arch="r2plus1d_tiny", modality="rgb", frames=4, size=16, heads=HEADS, **options):
    """A model of random weights that tells clips apart as a trained one does: its norms have seen some."""
    torch.manual_seed(0)
    model = create_model(arch, heads, modality, **options)
    model.spec.input = {"frames": frames, "sampling": "uniform", "size": size}
    for norm in (module for module in model.modules() if isinstance(module, _BatchNorm)):
        norm.momentum = None
    if modality in ("rgb", "flow"):
        with torch.no_grad():
            model.train()(torch.from_numpy(next(random_clips(model.spec, 8, 8))))
    for head in model.heads.values():
        nn.init.normal_(head.weight, std=head.in_features**-0.5)
    model.spec.temperatures = {head: value for head, value in TEMPERATURES.items() if head in heads}
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("student") / "best", channels=(4, 8))


@pytest.fixture(scope="module")
def files(student):
    """The student as a file of each target in fp32, where they are written by default."""
    return {to: export_model(student, to) for to in TARGETS}


@pytest.fixture
def data(home):
    return str(home / "data" / "small")


@pytest.fixture
def run(student, capsys):
    """Run the command on the student; returns its exit status, the JSON of its last line, and what people are told."""

    def run(*flags, model=student):
        status = 0
        try:
            main([str(model), *flags])
        except SystemExit as error:
            status = error.code
        said = capsys.readouterr()
        lines = said.out.splitlines()
        return status, json.loads(lines[-1]) if lines else None, said.err

    return run


def in_batches(model, *sizes):
    for number, size in enumerate(sizes):
        yield from random_clips(model.spec, size, size, seed=number)


def range_of_logits(model):
    with torch.inference_mode():
        logits = model(torch.from_numpy(next(in_batches(model, 32))))
    assert all(float(values.std(dim=0).min()) > 1e-3 for values in logits.values())  # they tell clips apart
    return max(float(values.max() - values.min()) for values in logits.values())


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize(
    ("arch", "modality", "frames", "size", "options"),
    [
        ("r2plus1d_tiny", "rgb", 4, 16, {"channels": (4, 8)}),
        ("r2plus1d_tiny", "flow", 4, 16, {"channels": (4, 8)}),
        ("timm/test_vit", "rgb", 2, 160, {}),
        ("timm/test_efficientnet", "rgb", 4, 32, {"pooling": "shift"}),
        ("resnet3d_18", "flow", 4, 32, {}),
        pytest.param("torchvision/swin3d_t", "rgb", 4, 64, {}, marks=pytest.mark.slow),
    ],
)
def test_a_file_answers_as_the_model_for_batches_of_any_size(tmp_path, to, arch, modality, frames, size, options):
    folder = write_model(tmp_path / "model", arch, modality, frames, size, **options)
    model = load_model(folder)
    range_of_logits(model)
    exported = open_export(export_model(folder, to))
    found = compare(model, exported, in_batches(model, 1, 2, 5), seconds=0)
    assert found.clips == 8 and found.latency_ms == {} and list(found.difference) == ["verb", "noun"]
    assert max(found.difference.values()) <= TOLERANCE
    assert all(share == 1 for share in found.agreement.values())


@pytest.mark.parametrize("to", TARGETS)
def test_a_file_says_what_it_is_and_its_logits_are_raw(student, files, to):
    model, exported = load_model(student), open_export(files[to])
    about = exported.about
    assert about["heads"] == HEADS and about["temperatures"] == TEMPERATURES and about["precision"] == "fp32"
    assert about["input"] == {"frames": 4, "sampling": "uniform", "size": 16} and about["arch"] == "r2plus1d_tiny"
    assert about["weights_hash"] == json.loads((student / "model.json").read_text())["weights_hash"]
    frames = next(in_batches(model, 3))
    with torch.inference_mode():
        logits = model(torch.from_numpy(frames))
    answered = exported(frames)
    for head, values in answered.items():
        assert values.dtype == np.float32 and np.allclose(values, logits[head].numpy(), atol=1e-5)


def test_an_onnx_file_needs_no_mmkd(student, files):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(files["onnx"]))
    (frames,) = session.get_inputs()
    assert (frames.name, frames.type, frames.shape) == ("frames", "tensor(uint8)", ["batch", 4, 16, 16, 3])
    assert {each.name: each.shape for each in session.get_outputs()} == {"verb": ["batch", 3], "noun": ["batch", 2]}
    about = json.loads(session.get_modelmeta().custom_metadata_map["mmkd"])
    assert about["heads"] == HEADS and about["temperatures"] == TEMPERATURES


@pytest.mark.parametrize("to", TARGETS)
def test_fp16_is_close_and_smaller(tmp_path, to):
    folder = write_model(tmp_path / "model")
    model = load_model(folder)
    path = export_model(folder, to, tmp_path / "half", precision="fp16")
    exported = open_export(path, to)
    found = compare(model, exported, in_batches(model, 1, 5), seconds=0)
    weights = (folder / "model.safetensors").stat().st_size
    assert exported.about["precision"] == "fp16" and path.stat().st_size < 0.9 * weights
    assert 0 < max(found.difference.values()) < 0.01 * range_of_logits(model)


@pytest.mark.parametrize("how", ["dynamic", "static"])
@pytest.mark.parametrize("arch", ["r2plus1d_tiny", "timm/test_vit"])
def test_int8_is_close_and_has_int8_weights(tmp_path, arch, how):
    import onnx

    folder = write_model(tmp_path / "model", arch, size=160 if "vit" in arch else 16)
    model = load_model(folder)
    calibration = in_batches(model, 16, 16) if how == "static" else None
    path = export_model(folder, "onnx", precision="int8", calibration=calibration)
    exported = open_export(path)
    found = compare(model, exported, in_batches(model, 1, 2, 5), seconds=0)
    assert exported.about["precision"] == f"int8, {how}" and path.name == "model.int8.onnx"
    assert exported.about["heads"] == HEADS
    assert 1e-4 < max(found.difference.values()) < 0.15 * range_of_logits(model)
    small = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    kept = onnx.load(path).graph.initializer
    if how == "static":  # the classifiers stay in fp32
        assert all(x.data_type not in small for x in kept if "heads" in x.name and len(x.dims) > 1)
    assert sum(np.prod(x.dims) for x in kept if x.data_type in small) > 0.5 * sum(np.prod(x.dims) for x in kept)


def test_another_model_s_file_is_told_from_it(student, files):
    model = load_model(student)
    with torch.no_grad():
        model.heads["noun"].bias += torch.tensor([0.0, 100.0])
    found = compare(model, open_export(files["onnx"]), in_batches(model, 4), seconds=0)
    assert found.difference["verb"] <= TOLERANCE and found.difference["noun"] == pytest.approx(100, abs=1e-3)
    assert found.agreement == {"verb": 1.0, "noun": 0.0}


def test_logits_that_are_not_finite_are_a_difference_without_bounds(student, files):
    model = load_model(student)
    with torch.no_grad():
        model.heads["noun"].bias += torch.tensor([0.0, float("nan")])
    found = compare(model, open_export(files["onnx"]), in_batches(model, 4), seconds=0)
    assert found.difference["noun"] == float("inf")


def test_the_command_compares_on_the_clips_that_the_model_is_tested_on(run, tmp_path, data):
    flags = ("--to", "onnx", "--out", str(tmp_path / "a.onnx"), "--check", data, "--check-clips", "0", "--batch", "3")
    status, result, said = run(*flags)
    assert status == 0 and result["passed"] and result["clips"] == 7 and result["compared_on"] == data
    assert result["bytes"] == (tmp_path / "a.onnx").stat().st_size and set(result["latency_ms"]) == {"1", "3"}
    assert result["top1_agreement"] == {"verb": 1.0, "noun": 1.0} and max(result["largest_difference"].values()) < 1e-4
    assert "verb" in said and "batch of 3" in said and "random" not in said
    status, result, said = run("--to", "torchscript", "--out", str(tmp_path / "a"), "--check-clips", "5")
    assert (
        status == 0 and result["clips"] == 5 and result["compared_on"] == "random patches" and "random patches" in said
    )


def test_without_check_it_compares_on_the_data_that_the_model_learnt_on(run, tmp_path, data, monkeypatch):
    monkeypatch.setenv("MMKD_HOME", str(Path(data).parents[1]))
    own = open_dataset(data).fingerprint
    elsewhere = shutil.copytree(data, tmp_path / "elsewhere")
    cases = [
        (True, "small", own),
        (False, "small", "of other data"),
        (False, str(elsewhere), own),
        (False, "torn", own),
    ]
    torn = Path(data).parent / "torn"
    torn.mkdir()
    (torn / "dataset.json").write_text("{")
    for known, name, fingerprint in cases:
        folder = write_model(tmp_path / fingerprint / Path(name).name, channels=(4, 8))
        described = json.loads((folder / "model.json").read_text())
        described["training"] = {"data": {"name": name, "fingerprint": fingerprint}}
        (folder / "model.json").write_text(json.dumps(described))
        status, result, _ = run("--to", "torchscript", model=folder)
        assert status == 0 and result["compared_on"] == (data if known else "random patches")
        assert result["clips"] == (7 if known else 64)


def test_clips_are_those_of_an_evaluation_and_broken_ones_are_left_out(tmp_path, student):
    def spoil(split, rows):
        if split == "test":
            rows[2]["rgb"][0] = b"no jpeg"
        return rows

    data = str(write_dataset(tmp_path / "data" / "small", spoil))
    spec = load_model(student).spec
    views = small_settings(tmp_path).views
    block = read_unit(open_dataset(data), read_manifest(data, "test"), views, np.arange(7), TEST_VIEW, ("rgb",))
    assert (block["status"] == REAL).sum() == 6
    got = list(clips_of(data, spec, "test", 0, 4))
    assert [len(each) for each in got] == [3, 3] and np.array_equal(np.concatenate(got), np.delete(block["rgb"], 2, 0))
    some = np.concatenate(list(clips_of(data, spec, "test", 3, 4)))
    assert np.array_equal(some, block["rgb"][[0, 3, 6]])


def test_a_video_is_shown_in_views_spread_over_it(tmp_path, student, run):
    video = write_video(tmp_path / "film.mp4", 40)
    got = np.concatenate(list(clips_of(str(video), load_model(student).spec, "", 3, 2)))
    assert got.shape == (3, 4, 16, 16, 3)
    shown = [[number_of(frame) for frame in view] for view in got]
    assert all(view == sorted(view) and view[0] < 10 and view[-1] >= 30 for view in shown)
    assert len({number for view in shown for number in view}) == 12
    status, result, _ = run("--to", "torchscript", "--out", str(tmp_path / "a"), "--check", str(video))
    assert status == 0 and result["clips"] == 64


def test_calibration_clips_come_from_the_split_that_is_named(run, tmp_path, data, monkeypatch):
    seen = []
    monkeypatch.setattr(shards, "read_manifest", lambda *asked: seen.append(asked[1]) or read_manifest(*asked))
    flags = ("--to", "onnx", "--precision", "int8", "--calibrate", data, "--check", data, "--out", str(tmp_path / "a"))
    status, result, _ = run(*flags, "--split", "train")
    assert status == 0 and result["precision"] == "int8, static" and seen == ["test", "train"]


def test_a_difference_in_fp32_is_a_failure(run, tmp_path, monkeypatch):
    def changed(folder, **options):
        model = load_model(folder, **options)
        model.heads["verb"].bias.data += torch.tensor([0.0, 0.0, 2e-4])
        return model

    monkeypatch.setattr(convert, "load_model", changed)
    status, result, said = run("--to", "torchscript", "--out", str(tmp_path / "a"))
    assert status == 1 and not result["passed"] and "do not use" in said
    assert result["largest_difference"]["verb"] == pytest.approx(2e-4, rel=0.1)
    assert run("--to", "torchscript", "--out", str(tmp_path / "b"), "--precision", "fp16")[0] == 0


def test_what_is_no_model_or_was_tampered_with_is_refused(run, tmp_path, student):
    status, result, said = run("--to", "torchscript", model=tmp_path / "nowhere")
    assert status == 1 and result is None and "is no model folder" in said
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="not a model folder"):
        export_model(tmp_path / "empty", "torchscript")
    folder = write_model(tmp_path / "tampered", channels=(4, 8))
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    status, result, said = run("--to", "torchscript", model=folder)
    assert status == 1 and result is None and "changed or damaged after it was saved" in said
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_an_unknown_target_or_precision_is_refused(run, student):
    with pytest.raises(ValueError, match="no target 'tflite'; it must be one of onnx, torchscript, torch-export"):
        export_model(student, "tflite")
    with pytest.raises(ValueError, match="precision is 'int4'"):
        export_model(student, "onnx", precision="int4")
    with pytest.raises(ValueError, match="int8 is for onnx, not for torchscript"):
        export_model(student, "torchscript", precision="int8")
    status, _, said = run("--to", "tflite")
    assert status == 2 and "invalid choice: 'tflite'" in said


def test_static_int8_needs_clips(run, tmp_path, student, data):
    int8 = ("--to", "onnx", "--precision", "int8", "--out", str(tmp_path / "a"))
    status, result, said = run(*int8, "--quantise", "static")
    assert status == 2 and result is None and "--quantise static needs --calibrate DATA" in said
    status, _, said = run(*int8, "--calibrate", str(tmp_path / "nowhere"))
    assert status == 1 and "is not a data set" in said
    status, _, said = run(*int8, "--calibrate", data, "--split", "other")
    assert status == 1 and "has no split 'other'" in said
    with pytest.raises(ValueError, match="no clip to calibrate on"):
        export_model(student, "onnx", tmp_path / "a", precision="int8", calibration=[])
    with pytest.raises(ValueError, match="calibration is for int8"):
        export_model(student, "onnx", tmp_path / "a", calibration=[])
    status, _, said = run("--to", "onnx", "--calibrate", data)
    assert status == 2 and "are for --precision int8" in said
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_written_over_only_by_force(run, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"mine")
    flags = ("--to", "torchscript", "--out", str(path))
    status, result, said = run(*flags)
    assert status == 1 and result is None and f"{path} is there already" in said and "--force" in said
    assert path.read_bytes() == b"mine"
    assert run(*flags, "--force")[0] == 0 and path.stat().st_size > 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("arch", "modality"), [("melnet", "audio"), ("stlt", "boxes")])
def test_networks_that_see_no_frames_are_refused(tmp_path, arch, modality):
    options = {"width": 16, "depth": 1, "num_heads": 2} if arch == "stlt" else {}
    folder = write_model(tmp_path / "model", arch, modality, **options)
    with pytest.raises(ValueError, match=f"sees {modality}; what is exported sees frames"):
        export_model(folder, "onnx")


def test_a_model_that_does_not_say_what_it_sees_is_refused(tmp_path):
    save_model(create_model("r2plus1d_tiny", HEADS), tmp_path)
    with pytest.raises(ValueError, match="does not say the frames and size of its input"):
        export_model(tmp_path, "torchscript")


def test_data_without_what_the_model_sees_is_refused(tmp_path, data, student):
    flow = load_model(write_model(tmp_path / "flow", modality="flow", channels=(4, 8))).spec
    video = write_video(tmp_path / "film.mp4", 10)
    with pytest.raises(ValueError, match="is a video, and the model sees flow"):
        next(clips_of(str(video), flow, "", 2, 2))
    assert next(clips_of(data, flow, "test", 2, 2)).shape == (2, 4, 16, 16, 2)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4 cannot be opened"):
        next(clips_of(str(tmp_path / "text.mp4"), load_model(student).spec, "", 2, 2))


class Checked(nn.Module):
    """It looks at values, which torch.export cannot follow; a trace of it is right all the same."""

    def __init__(self):
        super().__init__()
        self.num_features = 4
        self.layer = nn.Linear(3, 4)

    def forward(self, x):
        if not torch.isfinite(x).all():
            raise ValueError("the input is not finite")
        return self.layer(x.mean(dim=(2, 3, 4)))


class Branching(Checked):
    """What it computes depends on what it sees, so that nothing that was traced is right."""

    def forward(self, x):
        features = x.mean(dim=(2, 3, 4))
        return self.layer(features if float(x[0, 0, 0, 0, 0]) > 0 else 100 - features)


class Mean(nn.Module):
    """It has nothing with weights."""

    num_features = 3

    def forward(self, x):
        return x.mean(dim=(2, 3, 4))


def mean():
    return Mean()


def checked():
    return Checked()


def branching():
    return Branching()


@pytest.mark.parametrize(
    ("function", "said"), [("checked", "torchscript can, as tried"), ("branching", "nor can any other target")]
)
def test_what_a_target_cannot_hold_is_refused_and_the_error_says_which_can(tmp_path, function, said):
    folder = write_model(tmp_path / "model", f"tests.test_export:{function}")
    arch = f"tests.test_export:{function}"
    with pytest.raises(ValueError, match=rf"torch-export cannot hold {arch} \(.*{said}"):
        export_model(folder, "torch-export", trust=[arch])
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_int8_in_which_nothing_would_be_int8_is_refused(tmp_path):
    arch = "tests.test_export:mean"
    folder = write_model(tmp_path / "model", arch)
    calibration = in_batches(load_model(folder, trust=[arch]), 2)
    with pytest.raises(ValueError, match="nothing in it has weights that ONNX Runtime can quantise"):
        export_model(folder, "onnx", precision="int8", calibration=calibration, trust=[arch])
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_what_one_onnx_file_cannot_hold_is_refused_and_the_other_targets_are_named(tmp_path, student, monkeypatch):
    folder = write_model(tmp_path / "model", heads={"frames": ["few", "many"]}, channels=(4, 8))
    with pytest.raises(ValueError, match=r"a head is called frames.*torchscript and torch-export can, as tried"):
        export_model(folder, "onnx")
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"an ONNX file holds 2 GB\); torchscript and torch-export can, as tried"):
        export_model(student, "onnx", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_nothing_is_written_where_the_clips_to_compare_on_are_not_there(run, tmp_path, data):
    flags = ("--to", "torchscript", "--out", str(tmp_path / "a"))
    status, result, said = run(*flags, "--check", str(tmp_path / "film.mp4"))
    assert status == 1 and result is None and "is not a data set" in said
    status, result, said = run(*flags, "--check", data, "--check-split", "other")
    assert status == 1 and result is None and "has no split 'other'" in said
    assert list(tmp_path.iterdir()) == []


def test_code_that_a_model_folder_names_is_not_run_unless_it_is_trusted(tmp_path):
    folder = write_model(tmp_path / "model", channels=(4, 8))
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(described | {"arch": "somebodys:network"}))
    with pytest.raises(ValueError, match="code that would be imported"):
        export_model(folder, "torchscript")


@pytest.mark.parametrize("page", ["README.md", "docs/export.md"])
def test_the_commands_of_the_pages_are_understood(page):
    text = (Path(__file__).parents[1] / page).read_text().replace("\\\n", " ")  # lines that go on
    found = re.findall(r"^ {4}python -m mmkd export(.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert found
    for arguments in found:
        assert parse(shlex.split(arguments)).to in TARGETS


def test_the_program_of_the_page_runs_without_mmkd(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    export_model(write_model(tmp_path / "model", frames=8, size=64), "onnx", tmp_path / "model.onnx")
    alone = "import sys; sys.modules['mmkd'] = None\n" + program
    done = subprocess.run([sys.executable, "-c", alone], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in HEADS["verb"]


def test_the_commands_of_mmkd_are_listed_and_found_without_importing_torch(capsys):
    program = "import sys; from mmkd.__main__ import main; main(['--help']); sys.exit('torch' in sys.modules)"
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in listed and about in listed for name, (_, about) in COMMANDS.items())
    with pytest.raises(SystemExit) as stopped:
        mmkd_command(["exprt"])
    assert stopped.value.code == 2 and "no command 'exprt'" in capsys.readouterr().err
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            mmkd_command([name, "--help"])
        assert stopped.value.code == 0 and f"python -m mmkd {name}" in capsys.readouterr().out
