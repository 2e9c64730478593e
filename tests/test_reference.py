"""Equal to the authors' code, on numbers that came out of it (benchmarks/reference_numbers.py); its files are read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mmkd.losses import ce_per_row, distillation_loss
from mmkd.metrics import average_views, expected_calibration_error, topk_accuracy
from mmkd.models import create_model, load_model
from mmkd.models.audio import Spectrograms, log_mel
from mmkd.models.weights import TABLES, load_backbone
from mmkd.reference import convert_state_dict, main
from mmkd.teachers import combine, teacher_weights
from mmkd.views import View, repair_box, strided_indices, uniform_indices, view_audio
from tests import reference_cases as cases

GOLDEN = json.loads((Path(__file__).parent / "golden" / "reference.json").read_text())


@pytest.mark.parametrize("number", range(len(cases.LOSSES)))
def test_losses_and_their_gradients(number):
    case, golden = cases.LOSSES[number], GOLDEN["losses"][number]
    student = {head: x.requires_grad_() for head, x in cases.logits("student").items()}
    loss = distillation_loss(
        student,
        cases.logits("teacher"),
        cases.labels("label"),
        temperature=case["T"],
        distill_weight=case["distill"],
        label_weight=case["label"],
        head_weights=case["weights"],
    )
    loss.backward()
    assert loss.item() == pytest.approx(golden["loss"], rel=2e-5)
    for head, x in student.items():
        theirs = torch.tensor(golden["gradients"].get(head, 0.0))
        ours = torch.zeros_like(x) if x.grad is None else x.grad
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@pytest.mark.parametrize("gamma", cases.GAMMAS)
def test_teacher_weights_and_ensembles(gamma):
    logits = torch.from_numpy(3 * cases.numbers("teachers", 6, 3, 5))
    labels = cases.labels("label")["NOUN"]
    losses = torch.stack([ce_per_row(logits[:, k], labels) for k in range(3)], dim=1)
    weights, golden = teacher_weights(losses, gamma), GOLDEN["weights"][str(gamma)]
    assert np.allclose(weights, golden["weights"], rtol=2e-5, atol=1e-7)
    assert np.allclose(combine(logits, weights), golden["ensemble"], rtol=2e-5, atol=1e-6)


def converted(arch: str, golden: dict, modality: str = "rgb", prefix: str = "", **options) -> torch.nn.Module:
    """Our network with the weights that the authors' had."""
    model = create_model(arch, cases.HEADS, modality, **options)
    theirs = cases.fill({name: torch.empty(shape, device="meta") for name, shape in golden["shapes"].items()})
    ours = convert_state_dict(arch, {prefix + name: x for name, x in theirs.items()})
    names = set(model.state_dict())
    tables = {n for n in names if n.endswith(TABLES)}
    missing, surplus = model.load_state_dict(ours, strict=False)
    assert not surplus and set(missing) <= tables
    return model.eval()


def assert_logits(logits: dict[str, torch.Tensor], golden: dict, tolerance: float) -> None:
    for head, theirs in golden["logits"].items():
        ours = logits[head.lower() if head not in logits else head].detach().numpy()
        assert np.abs(ours - theirs).max() <= tolerance * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("number", range(len(GOLDEN["swin"])))
def test_swin_features(number):
    golden = GOLDEN["swin"][number]
    model = converted("torchvision/swin3d_t", golden, prefix="_orig_mod.")
    frames = torch.from_numpy(cases.frames("swin", *golden["input"]))
    with torch.inference_mode():
        features = model.backbone(model.prepare(frames))
        assert np.abs(features.numpy() - golden["features"]).max() <= 5e-6
        assert_logits(model(frames), golden, 5e-6)


@pytest.mark.parametrize("depth", cases.RESNETS)
def test_resnets(depth):
    model = converted(f"resnet3d_{depth}", GOLDEN["resnet"][str(depth)]["64"])
    for size, batch in (("64", 2), ("160", 1)):  # the larger ones are resized to 112
        frames = torch.from_numpy(cases.frames("resnet", batch, 4, int(size)))
        with torch.inference_mode():
            assert_logits(model(frames), GOLDEN["resnet"][str(depth)][size], 5e-6)


def test_stlt():
    model = converted("stlt", GOLDEN["stlt"], "boxes", num_frames=6)
    boxes = {name: torch.from_numpy(x) for name, x in cases.boxes(2, 5, 14).items()}
    with torch.inference_mode():
        assert_logits(model(boxes), GOLDEN["stlt"], 2e-5)
    with torch.enable_grad():
        assert_logits(model(boxes), GOLDEN["stlt"], 2e-5)  # without attention's fast path for inference


def test_mel_spectrograms():
    golden, sound = GOLDEN["mel"], cases.sound(32000)
    # The windows are cut by our own code: at 16000 frames a second, a frame is a sample.
    view = View(np.array([0, 9000, 16000, 31999]))
    windows = torch.from_numpy(view_audio(sound, view, 16000, 16000.0, 1.116))
    decibels = log_mel(windows, 16000)
    assert list(decibels.shape) == golden["shape"]
    assert np.abs(decibels[:, ::9, ::17].numpy() - golden["decibels"]).max() <= 1e-3
    assert decibels.double().mean().item() == pytest.approx(golden["mean"], abs=1e-4)
    seen = Spectrograms(3).eval()(windows[None])[0]
    assert seen.shape == (3, 4, 224, 224) and torch.equal(seen[0], seen[2])
    assert np.abs(seen[0][:, ::31, ::37].numpy() - golden["seen"]).max() <= 1e-3
    assert seen.double().mean().item() == pytest.approx(golden["seen_mean"], abs=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "strided"])
def test_samplers(kind):
    for case in GOLDEN["samplers"][kind]:
        (number, stride, clips), length = case["arguments"], case["length"]

        def sample(rng=None, length=length, number=number, stride=stride, clips=clips):
            if kind == "uniform":
                return uniform_indices(length, number, clips, rng)
            return strided_indices(length, number, stride, clips, rng)

        assert sample().tolist() == case["test"]
        rng = np.random.default_rng(0)
        draws = np.array([sample(rng) for _ in range(300)])
        low, high = (np.array(bound) for bound in case["train"])
        # Different draws of the same distribution: the same range, all but met where it is wide.
        slack = 0.15 * (high - low) + 0.01
        assert (np.abs(draws.min(axis=0) - low) <= slack).all() and (np.abs(draws.max(axis=0) - high) <= slack).all()


def test_accuracy_and_calibration():
    golden = GOLDEN["metrics"]
    views = 2 * cases.numbers("metrics", 200, 3, 7)
    labels = cases.integers("metrics", 7, 200)
    views[np.arange(200), :, labels] += 1
    logits = average_views(views)
    assert round(100 * topk_accuracy(logits, labels, 1), 2) == golden["top1_acc"]
    assert round(100 * topk_accuracy(logits, labels, 5), 2) == golden["top5_acc"]
    assert expected_calibration_error(logits, labels) == pytest.approx(golden["ece"], abs=1e-6)


def test_box_repair():
    assert [repair_box(box, 60, 40) for box in cases.pixel_boxes()] == GOLDEN["boxes"]


def experiment(folder: Path, name: str, shapes: dict, change=lambda weights: weights, **config) -> Path:
    """An experiment folder as the authors' training leaves it."""
    folder.mkdir()
    heads = {"ACTION": None, "NOUN": 5, "VERB": 3}
    settings = {"MODEL_NAME": name, "TOTAL_ACTIONS": heads, "NUM_FRAMES": 6, "STRIDE": 8, "FRAME_UNIFORM": False}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | config))
    theirs = cases.fill({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    torch.save(change({f"_orig_mod.{k}": v for k, v in theirs.items()}), folder / "model_checkpoint.pt")
    return folder


@pytest.mark.slow
def test_an_experiment_becomes_a_model_folder_by_one_command(tmp_path):
    golden = GOLDEN["swin"][0]
    source = experiment(tmp_path / "experiment", "swin", golden["shapes"], DATASET_TYPE="video_flow_audio")
    names = {"verb": ["take", "put", "wash"]}
    (tmp_path / "heads.json").write_text(json.dumps(names))
    command = [sys.executable, "-m", "mmkd.reference", str(source), str(tmp_path / "out"), "--heads",
               str(tmp_path / "heads.json")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["arch"] == "torchvision/swin3d_t"
    model = load_model(tmp_path / "out")
    assert model.spec.heads == {"noun": [str(i) for i in range(5)], **names} and model.modality == "rgb"
    assert model.spec.input == {"frames": 6, "sampling": "strided", "stride": 8, "size": 224}
    with torch.inference_mode():
        assert_logits(model(torch.from_numpy(cases.frames("swin", *golden["input"]))), golden, 5e-6)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "holds a model already" in again.stderr


def test_experiments_that_do_not_fit_are_refused_with_every_name(tmp_path, capsys):
    shapes = GOLDEN["resnet"]["18"]["64"]["shapes"]

    def refused(source, *more):
        with pytest.raises(SystemExit) as stop:
            main([str(source), str(tmp_path / "out"), *more])
        assert stop.value.code == 1
        return capsys.readouterr().err

    def spoil(weights):
        del weights["_orig_mod.resnet.0.weight"]
        weights["_orig_mod.projector.0.bias"] = torch.zeros(7)
        return weights

    config = {"DATASET_TYPE": "video", "RESNET3D_DEPTH": 18}
    said = refused(experiment(tmp_path / "a", "resnet3d", shapes, spoil, **config))
    assert "backbone.stem.0.weight" in said and "backbone.projector.0.bias" in said
    said = refused(experiment(tmp_path / "b", "resnet3d", shapes, lambda w: w | {"x.y": torch.zeros(1)}, **config))
    assert "none of the authors' resnet3d_18: x.y" in said
    assert "not a model that mmkd knows" in refused(experiment(tmp_path / "c", "omnivore", {}, DATASET_TYPE="omnivore"))
    assert "no config.yaml" in refused(tmp_path)
    (tmp_path / "h.json").write_text('{"verb": ["take"]}')
    assert "head 'verb' has 3 classes" in refused(tmp_path / "a", "--heads", str(tmp_path / "h.json"))


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {"a": Evil()}}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="runs no code from files"):
        load_backbone(create_model("r2plus1d_tiny", {"a": 2}), tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_video_swins_own_checkpoints_are_a_start(tmp_path):
    golden = GOLDEN["swin"][0]
    theirs = cases.fill({n: torch.empty(s, device="meta") for n, s in golden["shapes"].items() if "classif" not in n})
    released = theirs | {"cls_head.fc_cls.weight": torch.zeros(400, 768)}
    torch.save({"state_dict": released, "meta": {"epoch": 30}}, tmp_path / "swin.pth")
    model = create_model("torchvision/swin3d_t", {"action": 4}, pretrained=str(tmp_path / "swin.pth")).eval()
    frames = torch.from_numpy(cases.frames("swin", *golden["input"]))
    with torch.inference_mode():
        features = model.backbone(model.prepare(frames))
    assert np.abs(features.numpy() - golden["features"]).max() <= 5e-6
    assert "pretrained" not in model.spec.options


def test_conversion_leaves_our_own_names_and_refuses_other_networks():
    model = create_model("resnet3d_18", {"verb": 3})
    assert set(convert_state_dict("resnet3d_18", model.state_dict())) == set(model.state_dict())
    bare = {"conv1.weight": torch.zeros(1), "layer2.0.downsample.1.bias": torch.zeros(1), "fc.weight": torch.zeros(1)}
    assert list(convert_state_dict("resnet3d_18", bare)) == [
        "backbone.stem.0.weight",
        "backbone.layers.1.0.downsample.1.bias",
    ]
    with pytest.raises(ValueError, match="has no timm/resnet18"):
        convert_state_dict("timm/resnet18", {})
