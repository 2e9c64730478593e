"""From blocks to models: a block's arrays as what a model of each modality takes, on its device."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkd.views.boxes import BOX_COLUMNS

NUM_AXES = {"rgb": 5, "flow": 5, "audio": 3, "boxes": 4}
"""Axes of a block's array without the axis of test views."""


def inputs_of(block: Mapping[str, np.ndarray], modality: str, rows: np.ndarray | None, device: torch.device) -> Any:
    """What a model of this modality takes, on `device`: a tensor, or for boxes a dict of them.

    Args:
        block: with one view a row.
        rows: a selection of the rows; None: all.
    """

    def tensor(name: str) -> Tensor:
        array = block[name] if rows is None else block[name][rows]
        host = torch.from_numpy(np.ascontiguousarray(array))
        return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)

    if modality == "boxes":
        return {name: tensor(f"boxes/{name}") for name in BOX_COLUMNS}
    return tensor(modality)


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
