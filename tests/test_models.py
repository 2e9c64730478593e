"""Models take raw input, are kept in folders without pickle, and mix time."""

import json

import pytest
import torch

import mmkd
from mmkd.models import create_model, describe_model, load_model, save_model
from mmkd.models.audio import log_mel

HEADS = {"verb": ["push", "lift", "drop"], "noun": ["cup", "ball"]}
INPUTS = {
    "rgb": torch.randint(0, 255, (2, 8, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    "flow": torch.randint(0, 255, (2, 8, 64, 64, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)),
    "audio": torch.randint(-999, 999, (2, 8, 4800), dtype=torch.int16, generator=torch.Generator().manual_seed(2)),
    "boxes": {
        "boxes": torch.rand(2, 8, 4, 4, generator=torch.Generator().manual_seed(3)),
        "category": torch.tensor([1, 2, 0, 0]).expand(2, 8, 4),
        "score": torch.ones(2, 8, 4),
        "side": torch.zeros(2, 8, 4, dtype=torch.int8),
        "state": torch.zeros(2, 8, 4, dtype=torch.int8),
    },
}
SMALL = [
    ("r2plus1d_tiny", "rgb", {}),
    ("r2plus1d_tiny", "flow", {}),
    ("timm/test_efficientnet", "rgb", {}),
    ("melnet", "audio", {}),
    ("stlt", "boxes", {"num_frames": 8, "width": 32, "depth": 1, "num_heads": 2}),
]


def make(arch: str, modality: str, options: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(arch, HEADS, modality, **options).eval()


@pytest.mark.parametrize(("arch", "modality", "options"), SMALL)
def test_a_saved_model_answers_as_before(tmp_path, arch, modality, options):
    model = make(arch, modality, options)
    logits = model(INPUTS[modality])
    assert {head: tuple(values.shape) for head, values in logits.items()} == {"verb": (2, 3), "noun": (2, 2)}
    mmkd.save_model(model, tmp_path / "m")
    again = mmkd.load_model(tmp_path / "m")
    assert again.spec.heads == HEADS and again.modality == modality
    assert all(torch.equal(values, logits[head]) for head, values in again(INPUTS[modality]).items())
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model.json", "model.safetensors"]


def test_the_default_student_mixes_time_before_it_pools():
    model = make("r2plus1d_tiny", "rgb", {})
    clip = (torch.arange(8, dtype=torch.uint8) * 30).reshape(1, 8, 1, 1, 1).expand(1, 8, 64, 64, 3)  # grows bright
    forward, backward = model(clip)["verb"], model(clip.flip(1))["verb"]
    assert (forward - backward).abs().max() > 1e-3 * forward.abs().max()


def test_padding_boxes_change_nothing():
    model = make("stlt", "boxes", {"num_frames": 8, "width": 32, "depth": 1, "num_heads": 2})
    moved = dict(INPUTS["boxes"], boxes=INPUTS["boxes"]["boxes"].clone())
    moved["boxes"][:, :, 2:] = 0.7
    assert torch.allclose(model(INPUTS["boxes"])["verb"], model(moved)["verb"], atol=1e-6)


def test_unknown_archs_name_near_ones_and_wrong_modalities_are_refused():
    with pytest.raises(ValueError, match="r2plus1d_tiny"):
        create_model("r2plus1d_tin", HEADS)
    with pytest.raises(ValueError, match="timm/resnet18"):
        create_model("timm/resnet1", HEADS)
    with pytest.raises(ValueError, match="stlt reads boxes, not rgb"):
        create_model("stlt", HEADS, "rgb")
    with pytest.raises(ValueError, match="at least one head"):
        create_model("stlt", {}, "boxes")


def test_weights_that_were_changed_or_belong_to_another_network_are_refused(tmp_path):
    save_model(make("r2plus1d_tiny", "rgb", {}), tmp_path)
    description = describe_model(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(description | {"options": {"channels": [4, 8]}}))
    with pytest.raises(ValueError, match="does not fit"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(ValueError, match="update mmkd"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(description))
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ValueError, match="hash"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a model folder"):
        load_model(tmp_path / "nothing")


def test_a_tone_lies_in_its_mel_band_and_silence_on_the_floor():
    time = torch.arange(16000) / 16000
    mel = log_mel(torch.stack([torch.sin(2 * torch.pi * 1000 * time), torch.zeros(16000)]), 16000)
    assert mel.shape == (2, 128, 201)
    # 1000 Hz is 1000 mel; 128 bands over 0..2840 mel put their centres 22 mel apart.
    assert abs(int(mel[0, :, 100].argmax()) - round(1000 / (2840 / 129)) + 1) <= 1
    assert (mel[1] == -100).all()


@pytest.mark.parametrize(("arch", "modality", "options"), SMALL)
def test_gradients_reach_every_parameter(arch, modality, options):
    model = make(arch, modality, options).train()
    torch.manual_seed(1)
    sum(values.square().sum() for values in model(INPUTS[modality]).values()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
