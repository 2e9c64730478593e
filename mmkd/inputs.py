"""From blocks to models: a block's arrays as what a model of each modality takes, on its device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkd.views.boxes import BOX_COLUMNS

NUM_AXES = {"rgb": 5, "flow": 5, "audio": 3, "boxes": 4}
"""Axes of a block's array without the axis of test views."""


def columns_of(modality: str) -> list[str]:
    """Names of a block's columns that a model of this modality takes."""
    return [f"boxes/{name}" for name in BOX_COLUMNS] if modality == "boxes" else [modality]


def inputs_of(block: Mapping[str, Any], modality: str, rows: np.ndarray, device: torch.device) -> Any:
    """What a model of this modality takes, on `device`: a tensor, or for boxes a dict of them.

    Args:
        block: with one view a row; columns that are on the device already are taken from there.
        rows: a selection of the rows, in ascending order.
    """
    tensors = [to_device(block[name], rows, device) for name in columns_of(modality)]
    return dict(zip(BOX_COLUMNS, tensors, strict=True)) if modality == "boxes" else tensors[0]


def to_device(array: np.ndarray | Tensor, rows: np.ndarray | None, device: torch.device) -> Tensor:
    """Rows of an array on a device, copied once on this side, to pinned memory where it is a GPU; None: all rows."""
    if isinstance(array, Tensor):
        return array if rows is None or len(rows) == len(array) else array[torch.from_numpy(rows).to(device)]
    if device.type != "cuda":
        return torch.from_numpy(np.ascontiguousarray(array if rows is None else array[rows])).to(device)
    shape = (len(array) if rows is None else len(rows), *array.shape[1:])
    host = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype, pin_memory=True)
    if rows is None:
        np.copyto(host.numpy(), array)
    else:
        np.take(array, rows, axis=0, out=host.numpy(), mode="clip")  # other modes copy twice
    return host.to(device, non_blocking=True)


def num_views(block: Mapping[str, np.ndarray], modality: str) -> int:
    """Test views a row of a block, which lie on the axis after the rows; 1 where there is no such axis."""
    array = block["boxes/boxes" if modality == "boxes" else modality]
    return array.shape[1] if array.ndim > NUM_AXES[modality] else 1


def mean_logits(
    model: nn.Module, modality: str, block: Mapping[str, np.ndarray], rows: np.ndarray, device: torch.device, size: int
) -> dict[str, Tensor]:
    """Logits of the rows, averaged over their views, float32 [rows, classes]; see :func:`view_logits`."""
    logits = view_logits(model, modality, block, rows, device, size)
    return {head: values.mean(dim=1) for head, values in logits.items()}


def view_logits(
    model: nn.Module, modality: str, block: Mapping[str, np.ndarray], rows: np.ndarray, device: torch.device, size: int
) -> dict[str, Tensor]:
    """Logits of each view of the rows, float32 [rows, views, classes] on `device`; at most about `size` views at a
    time."""
    views = num_views(block, modality)
    parts: list[dict[str, Tensor]] = []
    for chunk in np.array_split(rows, -(-len(rows) * views // size) or 1):
        inputs = inputs_of(block, modality, chunk, device)
        if views > 1:
            flat = {name: x.flatten(0, 1) for name, x in inputs.items()} if isinstance(inputs, dict) else None
            inputs = inputs.flatten(0, 1) if flat is None else flat
        logits = model(inputs)
        parts.append({head: x.float().unflatten(0, (len(chunk), views)) for head, x in logits.items()})
    return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}
