"""Models take raw input, are kept in folders without pickle, and mix time."""

import json
import shutil
from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

import mmkd
from mmkd.cost import example_input, flops_per_view
from mmkd.models import create_model, describe_model, load_model, save_model
from mmkd.models.audio import Spectrograms, log_mel
from mmkd.models.blocks import checkpoint_blocks
from mmkd.models.frames import shift_channels

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
    with torch.autocast("cpu", dtype=torch.float16):
        assert (log_mel(torch.zeros(16000), 16000) == -100).all()


@pytest.mark.parametrize(("arch", "modality", "options"), SMALL)
def test_gradients_reach_every_parameter(arch, modality, options):
    model = make(arch, modality, options).train()
    torch.manual_seed(1)
    sum(values.square().sum() for values in model(INPUTS[modality]).values()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def own_backbone(in_channels: int, width: int = 4) -> torch.nn.Module:
    """Somebody's backbone: the contract is features [batch, num_features]."""

    class Mine(torch.nn.Module):
        num_features = width

        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv3d(in_channels, width, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.convolution(x).mean(dim=(2, 3, 4))

    return Mine()


def own_network(heads: dict) -> torch.nn.Module:
    """Somebody's whole network, which takes raw input and answers with logits."""

    class Mine(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = torch.nn.ModuleDict({head: torch.nn.Linear(3, len(names)) for head, names in heads.items()})

        def forward(self, frames: torch.Tensor) -> dict:
            return {head: layer(frames.float().mean(dim=(1, 2, 3)) / 255) for head, layer in self.heads.items()}

    return Mine()


ALL = [
    ("torchvision/swin3d_t", "flow", {"drop_path": 0.1}),
    ("torchvision/swin3d_t", "audio", {"spectrogram_size": 64, "time_mask": 0.3}),
    ("torchvision/s3d", "rgb", {}),
    ("torchvision/r3d_18", "flow", {}),
    ("torchvision/mc3_18", "rgb", {}),
    ("resnet3d_18", "rgb", {}),
    ("resnet3d_34", "audio", {"spectrogram_size": 64}),
    ("timm/test_vit", "flow", {"pooling": "mean"}),
    ("timm/test_vit", "rgb", {"pooling": "transformer", "depth": 1}),
    ("timm/test_resnet", "rgb", {"pooling": "shift"}),
    ("timm/test_efficientnet", "audio", {"spectrogram_size": 160}),
    ("r2plus1d_tiny", "audio", {"spectrogram_size": 64}),
    ("tests.test_models:own_backbone", "flow", {"width": 6}),
    ("tests.test_models:own_network", "rgb", {}),
]


def inputs_for(arch: str, modality: str):
    x = INPUTS[modality]
    return x.repeat(1, 1, 3, 3, 1)[:, :, :160, :160] if arch == "timm/test_vit" else x


@pytest.mark.parametrize(("arch", "modality", "options"), ALL)
def test_every_kind_of_network_answers_and_is_kept(tmp_path, arch, modality, options):
    model = make(arch, modality, options)
    with torch.inference_mode():
        logits = model(inputs_for(arch, modality))
        assert {head: tuple(values.shape) for head, values in logits.items()} == {"verb": (2, 3), "noun": (2, 2)}
        save_model(model, tmp_path / "m")
        again = load_model(tmp_path / "m")(inputs_for(arch, modality))
    assert all(torch.equal(again[head], values) for head, values in logits.items())


def test_torchvisions_mvit_takes_what_it_was_published_for_and_says_so():
    with torch.device("meta"):
        model = create_model("torchvision/mvit_v2_s", HEADS)
    with pytest.raises(ValueError, match=r"16 frames of 224 px, and was given 8 of 64 x 64"):
        model(torch.zeros(1, 8, 64, 64, 3, dtype=torch.uint8, device="meta"))
    assert model(torch.zeros(1, 16, 224, 224, 3, dtype=torch.uint8, device="meta"))["verb"].shape == (1, 3)


def test_drop_path_rises_evenly_from_0_to_what_the_paper_has():
    from torchvision.ops import StochasticDepth

    with torch.device("meta"):
        networks = {arch: create_model(f"torchvision/{arch}", HEADS) for arch in ("swin3d_t", "mvit_v2_s")}
        other = create_model("torchvision/swin3d_s", HEADS, drop_path=0.4)
    found = {arch: [m.p for m in model.modules() if isinstance(m, StochasticDepth)] for arch, model in networks.items()}
    assert found["swin3d_t"] == pytest.approx([0.2 * i / 11 for i in range(12)])
    assert max(found["mvit_v2_s"]) == pytest.approx(0.2) and min(found["mvit_v2_s"]) == 0
    assert max(m.p for m in other.modules() if isinstance(m, StochasticDepth)) == pytest.approx(0.4)
    with pytest.raises(ValueError, match=r"torchvision/s3d has no option 'drop_path'; it has none"):
        create_model("torchvision/s3d", HEADS, drop_path=0.2)
    with pytest.raises(ValueError, match=r"r2plus1d_tiny has no option 'widht'; it has channels, dropout"):
        create_model("r2plus1d_tiny", HEADS, widht=3)


@pytest.mark.parametrize(
    ("pooling", "blind"), [("conv", False), ("mean", True), ("shift", False), ("transformer", False)]
)
def test_temporal_pooling_sees_the_order_of_frames_unless_it_is_the_mean(pooling, blind):
    model = make("timm/test_resnet", "rgb", {"pooling": pooling})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # residual branches begin at 0 otherwise
            torch.nn.init.ones_(module.weight)
    with torch.inference_mode():
        forward, backward = model(INPUTS["rgb"])["verb"], model(INPUTS["rgb"].flip(1))["verb"]
    assert ((forward - backward).abs().max() < 1e-5) == blind


def test_shifted_channels_come_from_the_frames_beside():
    x = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 8, 1, 1)
    assert shift_channels(x, 3)[:, :, 0, 0].tolist() == [
        [1, 0, *[0] * 6],
        [2, 0, *[1] * 6],
        [0, 1, *[2] * 6],
    ]
    with pytest.raises(ValueError, match="'shift' is for convolutional networks"):
        create_model("timm/test_vit", HEADS, pooling="shift")
    with pytest.raises(ValueError, match="pooling is 'max'"):
        create_model("timm/test_vit", HEADS, pooling="max")


def test_normalisation_is_inside_and_leaves_the_input_alone():
    model = make("torchvision/s3d", "flow", {})
    for frames in (INPUTS["flow"], INPUTS["flow"].float()):
        before = frames.clone()
        x = model.prepare(frames)
        assert torch.equal(frames, before)
        assert x.shape == (2, 3, 8, 64, 64) and (x[:, 2] == -0.37645 / 0.216989).all()  # (u, v, 0), normalised
        expected = (before[0, 1, 2, 3, 0] / 255 - 0.43216) / 0.22803
        assert x[0, 0, 1, 2, 3].item() == pytest.approx(expected.item(), abs=1e-6)


def test_masking_blanks_a_stretch_of_time_or_frequency_in_training_alone():
    samples = torch.randn(1, 2, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    for name, axis in (("time_mask", -1), ("freq_mask", -2)):
        front = Spectrograms(1, 16000, 64, **{name: 0.5})
        whole = front.eval()(samples)[0, 0]
        torch.manual_seed(0)
        masked = front.train()(samples)[0, 0]
        changed = (masked != whole).flatten(0, 0)
        lines = changed.any(dim=-2 if axis == -1 else -1)
        assert 0 < lines.sum() < 0.5 * 2 * 64 + 2
        assert changed.float().mean(dim=-2 if axis == -1 else -1)[lines].min() > 0.95  # whole lines are blank
        assert torch.equal(front.eval()(samples)[0, 0], whole)


def test_filters_follow_the_sample_rate():
    for rate in (8000, 16000, 44100):
        time = torch.arange(rate) / rate
        mel = log_mel(torch.sin(2 * torch.pi * 1000 * time), rate)
        top = 2595 * torch.log10(torch.tensor(1 + rate // 2 / 700)).item()
        assert mel.shape == (128, 201)
        assert abs(int(mel[:, 100].argmax()) - round(1000 / (top / 129)) + 1) <= 1


def test_sigmoid_heads_are_recorded_and_give_probabilities_of_their_own():
    model = create_model("r2plus1d_tiny", HEADS, multi_label=["noun"]).eval()
    with torch.inference_mode():
        logits, p = model(INPUTS["rgb"]), model.probabilities(INPUTS["rgb"])
    assert torch.equal(p["noun"], logits["noun"].sigmoid()) and torch.allclose(p["verb"].sum(1), torch.ones(2))
    with pytest.raises(ValueError, match=r"multi_label names \['adverb'\]"):
        create_model("r2plus1d_tiny", HEADS, multi_label=["adverb"])


def weights_file(tmp_path, change=lambda weights: weights, name="w.safetensors"):
    torch.manual_seed(7)
    source = create_model("timm/test_efficientnet", HEADS)
    path = tmp_path / name
    weights = change({k: v.clone() for k, v in source.backbone.encoder.state_dict().items()})
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save({"state_dict": weights}, path)
    return source, path


def test_weights_files_are_a_start_and_the_first_layer_is_adapted(tmp_path):
    source, path = weights_file(tmp_path)
    model = create_model("timm/test_efficientnet", HEADS, pretrained=str(path))
    ours, theirs = model.backbone.encoder.state_dict(), source.backbone.encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    mono = create_model("timm/test_efficientnet", HEADS, "audio", pretrained=str(path)).backbone.encoder.state_dict()
    assert torch.allclose(mono["conv_stem.weight"], theirs["conv_stem.weight"].sum(1, keepdim=True), atol=1e-6)

    # A port with other names in the same order, and a classifier at its end.
    def port(weights):
        named = {f"net.{i}": v for i, v in enumerate(weights.values())}
        return named | {"net.98": torch.zeros(10, 256), "net.99": torch.zeros(10)}

    renamed = weights_file(tmp_path, port, "port.pth")[1]
    ported = create_model("timm/test_efficientnet", HEADS, pretrained=str(renamed)).backbone.encoder.state_dict()
    assert all(torch.equal(ported[name], theirs[name]) for name in theirs)


def test_weights_that_do_not_fit_are_refused_with_every_name(tmp_path):
    def spoil(weights):
        del weights["bn1.weight"]
        return weights | {"more.weight": torch.zeros(1), "conv_stem.weight": torch.zeros(2, 3, 3, 3)}

    _, path = weights_file(tmp_path, spoil)
    with pytest.raises(
        ValueError, match=r"1 missing: bn1\.weight; 1 surplus: more\.weight; 1 misshapen: conv_stem\.weight"
    ):
        create_model("timm/test_efficientnet", HEADS, pretrained=str(path))
    with pytest.raises(FileNotFoundError, match="no weights file"):
        create_model("timm/test_efficientnet", HEADS, pretrained=str(tmp_path / "nothing.pt"))
    with pytest.raises(ValueError, match="no published weights"):
        create_model("r2plus1d_tiny", HEADS, pretrained=True)


@pytest.mark.parametrize(("arch", "options"), [("torchvision/swin3d_t", {"drop_path": 0.0}), ("resnet3d_18", {})])
def test_activations_computed_again_change_neither_gradients_nor_statistics(arch, options):
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        model = create_model(arch, {"verb": 3}, **options).train()
        names = set(model.state_dict())
        if again:
            checkpoint_blocks(model.backbone)
        copy = deepcopy(model)  # as a moving average is: it must run its own blocks
        for network in (model, copy):
            network(INPUTS["rgb"][:, :4, :32, :32])["verb"].square().sum().backward()
            assert set(network.state_dict()) == names
            kept = {n: b.clone() for n, b in network.named_buffers() if "running" in n or "tracked" in n}
            found.append({n: p.grad for n, p in network.named_parameters()} | kept)
    for other in found[1:]:
        assert all(torch.allclose(x.float(), other[n].float(), atol=1e-5) for n, x in found[0].items())
    with pytest.raises(ValueError, match="no blocks"):
        checkpoint_blocks(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("arch", "modality", "early", "late"),
    [
        ("torchvision/swin3d_t", "rgb", "backbone.patch_embed.proj.weight", "backbone.features.6.1.mlp.0.weight"),
        ("timm/test_vit", "rgb", "backbone.encoder.pos_embed", "backbone.encoder.blocks.1.mlp.fc1.weight"),
        ("resnet3d_18", "rgb", "backbone.stem.0.weight", "backbone.layers.3.1.conv1.weight"),
        ("stlt", "boxes", "backbone.embedding.box.weight", "backbone.time.layers.5.linear1.weight"),
    ],
)  # fmt: skip
def test_layer_decay_gives_the_stem_the_least_and_the_heads_the_full_rate(arch, modality, early, late):
    from timm.optim import create_optimizer_v2

    with torch.device("meta"):
        model = create_model(arch, HEADS, modality)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    scale = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert set(scale) == set(names.values())
    assert scale[early] == min(scale.values()) < scale[late] < scale["heads.verb.weight"] == 1.0


def test_models_of_transformers_come_from_a_local_folder_and_need_it_no_more_once_kept(tmp_path):
    transformers = pytest.importorskip("transformers")
    shared = {"image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 32, "num_frames": 4}  # fmt: skip
    frames = INPUTS["rgb"][:, :4, :32, :32]
    for name in ("VideoMAE", "Timesformer"):
        folder = tmp_path / name
        config = getattr(transformers, f"{name}Config")(**shared)
        network = getattr(transformers, f"{name}Model")(config).eval()
        network.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(
            '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
        )
        model = create_model(f"hf/{folder}", HEADS).eval()
        with torch.inference_mode():
            tokens = network(pixel_values=(frames.permute(0, 1, 4, 2, 3) / 255 - 0.5) / 0.5).last_hidden_state
            assert torch.allclose(model.backbone(model.prepare(frames)), tokens.mean(dim=1), atol=1e-5)
            logits = model(frames)
            save_model(model, tmp_path / "kept")
            shutil.rmtree(folder)
            assert torch.equal(load_model(tmp_path / "kept")(frames)["verb"], logits["verb"])
    with pytest.raises(ValueError, match=r"no config\.json"):
        create_model(f"hf/{tmp_path}", HEADS)


def test_costs_are_those_that_torchvision_publishes():
    from torchvision.models import get_model_weights

    for name, frames, factor in (("swin3d_t", 32, 2), ("mvit_v2_s", 16, 1), ("s3d", 16, 1)):
        with torch.device("meta"):
            model = create_model(f"torchvision/{name}", {"verb": 400})
        published = get_model_weights(name).DEFAULT.meta["_ops"] * factor  # of multiply-adds, at 16 frames
        assert flops_per_view(model, {"frames": frames, "size": 224}) / 2e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("arch", "modality", "options"), SMALL)
def test_costs_counted_without_data_are_those_of_a_real_pass(arch, modality, options):
    model = make(arch, modality, options)
    seen = {"frames": 8, "size": 64, "audio_seconds": 0.3, "sample_rate": 16000, "boxes": 4}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.train()(example_input(model, seen))
    assert flops_per_view(model, seen) == counter.get_total_flops() > 0
