"""create_model: one call that makes any recogniser, with normalisation inside and one linear layer per head."""

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.config import MODALITIES
from mmkd.models.audio import MelNet
from mmkd.models.boxes import STLT
from mmkd.models.frames import FrameEncoder
from mmkd.models.r2plus1d import R2Plus1D

FRAME_CHANNELS = {"rgb": 3, "flow": 2}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass
class ModelSpec:
    """What it takes to build a model again and to feed it: the content of model.json."""

    arch: str
    modality: str
    heads: dict[str, list[str]]
    options: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Recogniser(nn.Module):
    """A backbone with one linear classifier per head; takes raw inputs and returns a dict of logits.

    Inputs by modality: `rgb`, `flow`: uint8 [batch, frames, height, width, 3 or 2]; `audio`: int16 or float samples
    [batch, frames, samples]; `boxes`: a dict, see :class:`mmkd.models.boxes.STLT`. Output: head to [batch, classes].
    """

    def __init__(self, backbone: nn.Module, spec: ModelSpec):
        super().__init__()
        self.spec = spec
        self.modality = spec.modality
        self.backbone = backbone
        num_features = int(backbone.num_features)  # type: ignore[arg-type]
        self.heads = nn.ModuleDict({head: nn.Linear(num_features, len(names)) for head, names in spec.heads.items()})
        self.register_buffer("mean", torch.tensor(spec.mean).reshape(1, -1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).reshape(1, -1, 1, 1, 1), persistent=False)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def prepare(self, inputs: Any) -> Any:
        """Raw inputs to what the backbone takes: float [batch, channels, frames, height, width] for frames."""
        if self.modality == "audio":
            return inputs.float() / 32768.0 if inputs.dtype == torch.int16 else inputs.float()
        if self.modality == "boxes":
            return inputs
        x = inputs.permute(0, 4, 1, 2, 3).float().div_(255.0)
        missing = len(self.spec.mean) - x.shape[1]
        if missing > 0:  # a network for RGB images reads flow as (u, v, 0)
            x = nn.functional.pad(x, (0, 0) * 3 + (0, missing))
        return x.sub_(self.mean).div_(self.std)

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        features = self.backbone(self.prepare(inputs))
        return {head: classifier(features) for head, classifier in self.heads.items()}


def create_model(
    arch: str, heads: Mapping[str, int | Sequence[str]], modality: str = "rgb", **options: Any
) -> Recogniser:
    """Make a model.

    Args:
        arch: one of :func:`known_archs`; `timm/NAME` (any timm image network over the frames);
            `torchvision/NAME` (a torchvision video network); or `package.module:function`, your own, called with
            `in_channels` (for rgb and flow) and the options, and returning a backbone with `num_features`.
        heads: head name to its class names, or to their number.
        modality: `rgb`, `flow`, `audio` or `boxes`.
        options: passed to the architecture.

    Raises:
        ValueError: unknown arch (near matches are named), a modality the arch cannot read, or no head.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality is {modality!r}; it must be one of {', '.join(MODALITIES)}.")
    if not heads:
        raise ValueError("heads is empty; a model needs at least one head.")
    names = {
        head: [str(i) for i in range(classes)] if isinstance(classes, int) else list(classes)
        for head, classes in heads.items()
    }
    build, reads, (mean, std) = _find(arch)
    if modality not in reads:
        raise ValueError(f"{arch} reads {' or '.join(reads)}, not {modality}.")
    channels = FRAME_CHANNELS.get(modality)
    frame_options: dict[str, Any] = {}
    if channels:
        whole = arch.startswith("torchvision/")  # made for images: flow comes as (u, v, 0)
        channels = 3 if whole else channels
        mean, std = mean[:channels], std[:channels]
        frame_options = {} if whole else {"in_channels": channels}
    else:
        mean, std = (), ()
    spec = ModelSpec(arch, modality, names, dict(options), mean=tuple(mean), std=tuple(std))
    return Recogniser(build(**frame_options, **options), spec)


def known_archs() -> list[str]:
    """The names that need no prefix."""
    return sorted(_ARCHS)


Build = Callable[..., nn.Module]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


_FRAMES = ("rgb", "flow")
_ARCHS: dict[str, tuple[Build, tuple[str, ...], Normalisation]] = {
    "r2plus1d_tiny": (R2Plus1D, _FRAMES, HALF),
    "melnet": (MelNet, ("audio",), HALF),
    "stlt": (STLT, ("boxes",), HALF),
}


def _torchvision(name: str) -> Build:
    from torchvision.models import video

    def build(**options: Any) -> nn.Module:
        network = getattr(video, name)(**options)
        last = "head" if hasattr(network, "head") else "fc"
        if not isinstance(getattr(network, last, None), nn.Linear):
            raise ValueError(f"torchvision/{name} has no linear last layer to replace; try torchvision/swin3d_t.")
        network.num_features = getattr(network, last).in_features
        setattr(network, last, nn.Identity())
        return network

    return build


def _find(arch: str) -> tuple[Build, tuple[str, ...], Normalisation]:
    if arch in _ARCHS:
        return _ARCHS[arch]
    if arch.startswith("timm/"):
        import timm

        name = arch.removeprefix("timm/")
        if not timm.is_model(name):
            raise ValueError(_unknown(arch, [f"timm/{n}" for n in timm.list_models()]))
        config = timm.get_pretrained_cfg(name)
        normalisation = (config.mean, config.std) if config else IMAGENET
        return (lambda **options: FrameEncoder(name, **options)), _FRAMES, normalisation
    if arch.startswith("torchvision/"):
        from torchvision.models import list_models, video

        name = arch.removeprefix("torchvision/")
        names = list_models(module=video)
        if name not in names:
            raise ValueError(_unknown(arch, [f"torchvision/{n}" for n in names]))
        return _torchvision(name), _FRAMES, IMAGENET
    if ":" in arch:
        module, function = arch.split(":", 1)
        try:
            return getattr(importlib.import_module(module), function), MODALITIES, HALF
        except (ImportError, AttributeError) as error:
            raise ValueError(f"arch {arch!r} names your own network, but it cannot be imported: {error}") from error
    raise ValueError(_unknown(arch, [*_ARCHS, "timm/resnet18", "torchvision/swin3d_t"]))


def _unknown(arch: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(arch, names, n=3, cutoff=0.5) or list(names)[:5]
    return f"there is no arch {arch!r}; did you mean {', '.join(near)}?"
