"""create_model: one call that makes any recogniser, with normalisation inside and one linear layer per head."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.config import MODALITIES
from mmkd.models.archs import ARCHS, Arch, Normalisation, find_arch
from mmkd.models.audio import Spectrograms
from mmkd.models.blocks import layer_numbers

FRAME_CHANNELS = {"rgb": 3, "flow": 2, "audio": 1}
SOUND_OPTIONS = ("sample_rate", "spectrogram_size", "time_mask", "freq_mask")


@dataclass
class ModelSpec:
    """What it takes to build a model again, to feed it and to read its answers: the content of model.json.

    Attributes:
        temperatures: head to what its logits are divided by before they become probabilities (temperature scaling,
            fitted on split val); heads without one were not calibrated.
    """

    arch: str
    modality: str
    heads: dict[str, list[str]]
    options: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    multi_label: list[str] = field(default_factory=list)
    temperatures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Recogniser(nn.Module):
    """A backbone with one linear classifier per head; takes raw inputs and returns a dict of logits.

    Inputs by modality: `rgb`, `flow`: uint8 [batch, frames, height, width, 3 or 2]; `audio`: int16 or float samples
    [batch, frames, samples]; `boxes`: a dict, see :class:`mmkd.models.boxes.STLT`. Output: head to [batch, classes].

    Args:
        sound: makes spectrograms for a backbone that sees frames.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, spec: ModelSpec, sound: Spectrograms | None = None):
        super().__init__()
        self.spec = spec
        self.modality = spec.modality
        self.backbone = backbone
        self.sound = sound
        width = getattr(backbone, "num_features", None)
        # A network of one's own may have heads of its own; then it is used as it is.
        named = spec.heads if width is not None else {}
        self.heads = nn.ModuleDict({head: nn.Linear(int(width), len(names)) for head, names in named.items()})  # type: ignore[arg-type]
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, -1, 1, 1, 1), persistent=False)
        self.register_load_state_dict_pre_hook(_match_case_of_heads)

    def use_spec(self, spec: ModelSpec) -> None:
        """Take the facts of a model folder, and its normalisation, in place of those of the architecture."""
        self.spec = spec
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            setattr(self, name, torch.tensor(values).reshape(1, -1, 1, 1, 1))

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def prepare(self, inputs: Any) -> Any:
        """Raw inputs to what the backbone takes: float [batch, channels, frames, height, width] for frames."""
        if self.modality == "audio":
            return inputs if self.sound is None else self.sound(inputs)
        if self.modality == "boxes":
            return inputs
        x = inputs.permute(0, 4, 1, 2, 3).float() / 255.0
        missing = len(self.spec.mean) - x.shape[1]
        if missing > 0:  # a network for RGB images reads flow as (u, v, 0)
            x = nn.functional.pad(x, (0, 0) * 3 + (0, missing))
        return x.sub_(self.mean).div_(self.std)

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        if not self.heads:
            return self.backbone(inputs)
        features = self.backbone(self.prepare(inputs))
        return {head: classifier(features) for head, classifier in self.heads.items()}

    def probabilities(self, inputs: Any) -> dict[str, Tensor]:
        """Head to [batch, classes]: softmax, or one sigmoid a class in multi-label heads."""
        logits = self(inputs)
        return {h: x.sigmoid() if h in self.spec.multi_label else x.softmax(dim=-1) for h, x in logits.items()}

    def group_matcher(self, coarse: bool = False) -> Any:
        """Parameter name to the number of its layer, the stem's being 0: what timm's layer decay asks a model for."""
        numbers = {f"backbone.{name}": number for name, number in layer_numbers(self.backbone).items()}
        last = max(numbers.values(), default=0) + 1
        return lambda name: numbers.get(name, last)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay that the backbone names, besides norms and biases."""
        own: Any = getattr(self.backbone, "no_weight_decay", set)
        return {f"backbone.{name}" for name in own()}


def create_model(
    arch: str,
    heads: Mapping[str, int | Sequence[str]],
    modality: str = "rgb",
    *,
    multi_label: Collection[str] = (),
    pretrained: bool | str = False,
    **options: Any,
) -> Recogniser:
    """Make a model.

    Args:
        arch: one of :func:`known_archs`; `timm/NAME` (any timm image network over the frames); `torchvision/NAME` (a
            torchvision video network); `hf/FOLDER` (a transformers video model); or `package.module:function`, your
            own, called with the options, and with `in_channels` (rgb, flow) and `heads` if it takes them. It returns a
            backbone with `num_features`, or a module without, which is given raw inputs and returns a dict of logits.
        heads: head name to its class names, or to their number.
        modality: `rgb`, `flow`, `audio` or `boxes`.
        multi_label: heads in which a clip may have any number of classes.
        pretrained: weights of the backbone to start from: True for those of timm or torchvision, which are downloaded,
            or the path of a file, see :func:`mmkd.models.weights.load_backbone`.
        options: passed to the architecture. Networks for frames that hear `audio` also take those of
            :class:`mmkd.models.audio.Spectrograms`.

    Raises:
        ValueError: unknown arch (near matches are named) or option, a modality that the arch cannot read, no head, or
            weights that do not fit.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality is {modality!r}; it must be one of {', '.join(MODALITIES)}.")
    if not heads:
        raise ValueError("heads is empty; a model needs at least one head.")
    if unknown := set(multi_label) - set(heads):
        raise ValueError(f"multi_label names {sorted(unknown)}, but the heads are {sorted(heads)}.")
    names = {
        head: [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
        for head, classes in heads.items()
    }
    folder: str | None = None
    norm: Normalisation | None = None
    if arch.startswith("hf/") and "config" not in options:
        from mmkd.models.huggingface import read_folder

        folder = arch.removeprefix("hf/")
        options["config"], norm = read_folder(folder)
        arch = f"hf/{options['config']['model_type']}"
    found = find_arch(arch)
    if modality not in found.reads:
        raise ValueError(f"{arch} reads {' or '.join(found.reads)}, not {modality}.")
    mean, std = norm or found.norm
    channels = found.channels or FRAME_CHANNELS.get(modality, 0)
    sound = None
    build_options = dict(options)
    if modality == "audio" and not found.own_sound:
        sound = Spectrograms(channels, **{k: build_options.pop(k) for k in SOUND_OPTIONS if k in build_options})
    seen = modality in ("rgb", "flow")
    spec = ModelSpec(
        arch,
        modality,
        names,
        dict(options),
        mean=tuple(mean[:channels]) if seen else (),
        std=tuple(std[:channels]) if seen else (),
        multi_label=[head for head in names if head in multi_label],
    )
    backbone = _build(arch, found, build_options, channels if seen or sound else 0, names, pretrained is True)
    model = Recogniser(backbone, spec, sound)
    if folder is not None:
        from mmkd.models.huggingface import load_folder

        load_folder(backbone, folder)  # type: ignore[arg-type]
    if isinstance(pretrained, str | Path):
        from mmkd.models.weights import load_backbone

        load_backbone(model, pretrained)
    return model


def _build(
    arch: str, found: Arch, options: dict[str, Any], channels: int, heads: dict[str, list[str]], pretrained: bool
) -> nn.Module:
    parameters = inspect.signature(found.build).parameters
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    wrong = [] if anything else [name for name in options if name not in found.options()]
    if wrong:
        has = ", ".join(found.options()) or "none"
        raise ValueError(f"{arch} has no option {', '.join(map(repr, wrong))}; it has {has}.")
    if channels and found.channels is None and "in_channels" in parameters:
        options["in_channels"] = channels
    if "heads" in parameters and ":" in arch:
        options["heads"] = heads
    if pretrained:
        if "pretrained" not in parameters:
            raise ValueError(f"{arch} has no published weights to start from; give the path of a file.")
        options["pretrained"] = True
    return found.build(**options)


def known_archs() -> list[str]:
    """The names that need no prefix."""
    return sorted(ARCHS)


def _match_case_of_heads(module: Any, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """The authors' heads are called VERB, NOUN and ACTION; weights of `heads.VERB` go to a head `verb`."""
    ours = {head.lower(): head for head in module.heads}
    for key in [key for key in state if key.startswith(f"{prefix}heads.")]:
        head, _, weight = key.removeprefix(f"{prefix}heads.").rpartition(".")
        if head not in module.heads and head.lower() in ours:
            state[f"{prefix}heads.{ours[head.lower()]}.{weight}"] = state.pop(key)
