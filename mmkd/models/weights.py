"""Weights files of others, as a start: safetensors, or PyTorch files read without running what they may hold."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    from mmkd.models.create import Recogniser

WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state")
PREFIXES = ("module.", "_orig_mod.")
TABLES = ("num_batches_tracked", "relative_position_index")
"""Buffers that no training changes, or that nothing depends on; files need not have them."""
CLASSIFIERS = ("heads.", "classifiers.", "cls_head.", "head.", "fc.", "classifier.", "mean", "std")


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a file by name, without the wrappers and prefixes that training scripts put around them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds other things than tensors, or cannot be read safely.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            return strip(load_file(path))
        _refuse_compressed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler of an unknown file raises
        raise ValueError(
            f"{path} cannot be read as plain tensors, and mmkd runs no code from files: {error}"
        ) from error
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} does not map names to tensors.")
    return strip(content)


def _refuse_compressed(path: Path) -> None:
    """torch.save compresses nothing; where something is compressed, a few bytes may be gigabytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its content is compressed, as PyTorch's is not")


def strip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes that parallel and compiled networks put before them."""
    out = {}
    for name, value in state.items():
        while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
            name = name.removeprefix(prefix)
        out[name] = value
    return out


def load_backbone(model: "Recogniser", path: str | os.PathLike[str]) -> None:
    """Give a model's backbone the weights of a file, strictly; the file's classifier is left out.

    Names may be the backbone's own, those of the authors' code or of Video Swin's (:mod:`mmkd.reference`), or, in a
    PyTorch file where number, order and shapes of all tensors are the same, any others. A first layer for another
    number of channels is adapted as timm does.

    Raises:
        ValueError: tensors are missing, surplus or of another shape; all are listed.
    """
    from mmkd.models.frames import FrameEncoder

    target: Any = model.backbone.encoder if isinstance(model.backbone, FrameEncoder) else model.backbone
    wanted = target.state_dict()
    weights = read_weights(path)
    tries = [_plain(weights)]
    try:
        from mmkd.reference import convert_state_dict

        tries.append(_plain(convert_state_dict(model.spec.arch, weights)))
    except ValueError:
        pass  # not the authors' names; what does not fit is said below
    optional = {name for name in wanted if name.endswith(TABLES)}
    best = min(tries, key=lambda found: len((set(wanted) ^ set(found)) - optional))
    ordered = None if str(path).endswith(".safetensors") else _in_order(best, wanted)  # which keep no order
    if set(best) != set(wanted) and ordered is not None:
        best = ordered
    best = _adapt_input(best, wanted)
    missing = [name for name in wanted if name not in best and name not in optional]
    surplus = [name for name in best if name not in wanted]
    misshapen = [
        f"{name} {tuple(best[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in best and best[name].shape != wanted[name].shape
    ]
    if missing or surplus or misshapen:
        said = "; ".join(
            f"{len(names)} {what}: {', '.join(names)}"
            for what, names in (("missing", missing), ("surplus", surplus), ("misshapen", misshapen))
            if names
        )
        raise ValueError(f"the weights in {path} do not fit {model.spec.arch}: {said}.")
    target.load_state_dict(wanted | best)


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the backbone alone."""
    if any(name.startswith("backbone.") for name in weights):
        weights = {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
        weights = {k.removeprefix("encoder."): v for k, v in weights.items()}
    return {name: value for name, value in weights.items() if not name.startswith(CLASSIFIERS)}


def _in_order(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Weights with other names in the same order, as those of a port of the same network."""
    names = [name for name, value in wanted.items() if value.is_floating_point()]  # no counters
    values = [value for value in found.values() if value.is_floating_point()]
    values = values[: len(names)] if len(values) - len(names) <= 2 else values  # a classifier's weight and bias
    same = len(names) == len(values) and all(
        wanted[name].shape == value.shape for name, value in zip(names, values, strict=True)
    )
    return dict(zip(names, values, strict=True)) if same else None


def _adapt_input(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from timm.models import adapt_input_conv

    first = next((name for name, value in wanted.items() if value.ndim >= 4), None)
    if first in found:
        value, shape = found[first], wanted[first].shape
        if value.shape[1] == 3 != shape[1] and (value.shape[0], *value.shape[2:]) == (shape[0], *shape[2:]):
            adapted = adapt_input_conv(shape[1], value.flatten(3) if value.ndim > 4 else value)
            found = found | {first: adapted.reshape(shape)}
    return found
