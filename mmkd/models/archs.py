"""The architectures by name: what builds each, what it reads, and how its input is normalised."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from mmkd.config import MODALITIES
from mmkd.models.audio import MelNet
from mmkd.models.boxes import STLT
from mmkd.models.frames import FrameEncoder
from mmkd.models.huggingface import TokenEncoder
from mmkd.models.r2plus1d import R2Plus1D
from mmkd.models.resnet3d import BLOCKS, ResNet3D

Normalisation = tuple[Sequence[float], Sequence[float]]
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FRAMES = ("rgb", "flow", "audio")
"""What a network for frames reads: sound comes to it as spectrograms."""


@dataclass(frozen=True)
class Arch:
    """One architecture.

    Attributes:
        build: from options to a backbone with `num_features`.
        reads: modalities.
        norm: mean and standard deviation of its input, in 0..1.
        channels: of its input, where it takes no other number (flow comes as u, v, 0); None: it is told `in_channels`.
        own_sound: it makes its own spectrograms from samples.
    """

    build: Callable[..., nn.Module]
    reads: tuple[str, ...]
    norm: Normalisation = HALF
    channels: int | None = None
    own_sound: bool = False

    def options(self) -> list[str]:
        """Names of the options that `build` takes."""
        names = [
            name for name, each in inspect.signature(self.build).parameters.items() if each.kind is not each.VAR_KEYWORD
        ]
        return [name for name in names if name not in ("in_channels", "pretrained", "heads")]


ARCHS: dict[str, Arch] = {
    "r2plus1d_tiny": Arch(R2Plus1D, FRAMES),
    "melnet": Arch(MelNet, ("audio",), own_sound=True),
    "stlt": Arch(STLT, ("boxes",)),
    **{f"resnet3d_{depth}": Arch(partial(ResNet3D, depth), FRAMES, channels=3) for depth in BLOCKS},
}
"""Those that need no prefix."""


def find_arch(name: str) -> Arch:
    """The architecture of a name.

    Raises:
        ValueError: there is none; near matches are named.
    """
    if name in ARCHS:
        return ARCHS[name]
    if name.startswith("timm/"):
        return _timm(name.removeprefix("timm/"))
    if name.startswith("torchvision/"):
        return _torchvision(name.removeprefix("torchvision/"))
    if name.startswith("hf/"):
        return Arch(TokenEncoder, ("rgb",), IMAGENET, channels=3)
    if ":" in name:
        module, function = name.split(":", 1)
        try:
            return Arch(getattr(importlib.import_module(module), function), MODALITIES, own_sound=True)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"arch {name!r} names your own network, but it cannot be imported: {error}") from error
    raise ValueError(_unknown(name, _all_names()))


def _timm(name: str) -> Arch:
    import timm

    if not timm.is_model(name):
        raise ValueError(_unknown(f"timm/{name}", [f"timm/{each}" for each in timm.list_models()]))
    config = timm.get_pretrained_cfg(name)
    return Arch(partial(FrameEncoder, name), FRAMES, (config.mean, config.std) if config else IMAGENET)


def _torchvision(name: str) -> Arch:
    from torchvision.models import get_model_weights, list_models, video

    names = list_models(module=video)
    if name not in names:
        raise ValueError(_unknown(f"torchvision/{name}", [f"torchvision/{each}" for each in names]))
    weights: Any = get_model_weights(name)
    transforms = weights.DEFAULT.transforms()
    return Arch(_torchvision_builder(name), FRAMES, (transforms.mean, transforms.std), channels=3)


def _torchvision_builder(name: str) -> Callable[..., nn.Module]:
    from torchvision.models import video

    def network(pretrained: bool) -> Any:
        return getattr(video, name)(weights="DEFAULT" if pretrained else None, progress=False)

    def swin(pretrained: bool = False, drop_path: float = 0.2) -> nn.Module:
        made = network(pretrained)
        made.channels_last = True
        return _drop_paths(_without_head(made, "head"), drop_path)

    def mvit(pretrained: bool = False, drop_path: float = 0.2) -> nn.Module:
        made = _drop_paths(_without_head(network(pretrained), "head"), drop_path)
        made.register_forward_pre_hook(_published_size)
        return made

    def s3d(pretrained: bool = False) -> nn.Module:
        made = network(pretrained)
        made.num_features = made.classifier[-1].in_channels
        made.avgpool = made.classifier = nn.Identity()  # what is left ends with a mean over time and space
        return made

    def resnet(pretrained: bool = False) -> nn.Module:
        return _without_head(network(pretrained), "fc")

    return swin if name.startswith("swin") else mvit if name.startswith("mvit") else s3d if name == "s3d" else resnet


def _without_head(network: Any, name: str) -> nn.Module:
    last = getattr(network, name)
    last = last[-1] if isinstance(last, nn.Sequential) else last
    network.num_features = last.in_features
    setattr(network, name, nn.Identity())
    return network


def _drop_paths(network: nn.Module, last: float) -> nn.Module:
    """Probability that a block is skipped in training: from 0 in the first block, evenly, to `last`."""
    from torchvision.ops import StochasticDepth

    found = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    for number, module in enumerate(found):
        module.p = last * number / max(len(found) - 1, 1)
    return network


def _published_size(network: nn.Module, inputs: tuple[Any, ...]) -> None:
    if tuple(inputs[0].shape[2:]) != (16, 224, 224):
        frames, height, width = inputs[0].shape[2:]
        raise ValueError(
            f"torchvision's MViT takes 16 frames of 224 px, and was given {frames} of {height} x {width}; set "
            "views.frames 16 and views.size 224."
        )


def _all_names() -> list[str]:
    import timm
    from torchvision.models import list_models, video

    prefixed = [f"torchvision/{name}" for name in list_models(module=video)]
    return [*ARCHS, *prefixed, *(f"timm/{name}" for name in timm.list_models())]


def _unknown(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near = near or [each for each in names if name.lower() in each][:3] or list(names)[:5]
    return f"there is no arch {name!r}; did you mean {', '.join(near)}?"
