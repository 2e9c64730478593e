"""Inputs and weights that the authors' code and ours can both make from nothing, so that only answers are stored."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

HEADS = {"NOUN": 5, "VERB": 3}
LOSSES = [
    {"T": 1.0, "distill": 1.0, "label": 0.0, "weights": {"NOUN": 1.0, "VERB": 1.0}},
    {"T": 4.0, "distill": 1.0, "label": 0.0, "weights": {"NOUN": 2.0, "VERB": 0.5}},
    {"T": 2.5, "distill": 0.3, "label": 0.7, "weights": {"NOUN": 2.0, "VERB": 0.5}},
    {"T": 1.0, "distill": 0.0, "label": 1.0, "weights": {"NOUN": 1.0, "VERB": 3.0}},
    {"T": 7.0, "distill": 1.0, "label": 1.0, "weights": {"NOUN": 0.0, "VERB": 1.0}},
    {"T": 0.5, "distill": 2.0, "label": 0.1, "weights": {"NOUN": 1.0, "VERB": 0.0}},
]
GAMMAS = [0.1, 1.0, 30.0]
LENGTHS = [1, 2, 5, 8, 17, 30, 64, 65, 100, 333]
UNIFORM = [(4, 1), (8, 1), (8, 3), (16, 2)]
STRIDED = [(8, 8, 1), (8, 8, 4), (4, 2, 3), (16, 2, 10)]
RESNETS = [18, 50]


def numbers(seed: str, *shape: int) -> np.ndarray:
    """Standard normal float32, the same everywhere (numpy keeps this generator's stream)."""
    return np.random.RandomState(zlib.crc32(seed.encode())).standard_normal(shape).astype(np.float32)


def integers(seed: str, high: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(seed.encode())).randint(0, high, shape)


def fill(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights for the authors' names, of a size that keeps what networks answer near 1."""
    out = {}
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            out[name] = tensor
            continue
        values = numbers(name, *shape)
        if len(shape) > 1:
            values /= np.sqrt(max(np.prod(shape[1:]), 1))
        elif name.endswith("running_var"):
            values = 1 + 0.1 * np.abs(values)
        else:
            values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
        out[name] = torch.from_numpy(values.astype(np.float32))
    return out


def logits(seed: str, heads: Mapping[str, int] = HEADS, rows: int = 6) -> dict[str, torch.Tensor]:
    return {head: torch.from_numpy(3 * numbers(f"{seed}{head}", rows, n)) for head, n in heads.items()}


def labels(seed: str, heads: Mapping[str, int] = HEADS, rows: int = 6) -> dict[str, torch.Tensor]:
    return {head: torch.from_numpy(integers(f"{seed}{head}", n, rows)) for head, n in heads.items()}


def frames(seed: str, batch: int, number: int, size: int) -> np.ndarray:
    """uint8 [batch, frames, size, size, 3], smooth enough to look like a picture."""
    small = numbers(seed, batch, number, 8, 8, 3)
    picture = torch.from_numpy(small).permute(0, 1, 4, 2, 3).flatten(0, 1)
    picture = torch.nn.functional.interpolate(picture, (size, size), mode="nearest")
    values = (picture.numpy() * 40 + 128).clip(0, 255).astype(np.uint8)
    return values.reshape(batch, number, 3, size, size).transpose(0, 1, 3, 4, 2).copy()


def boxes(batch: int, number: int, most: int) -> dict[str, np.ndarray]:
    """Boxes of [batch, frames, most]: the first frame of the first clip has none, another one all."""
    corners = np.sort(np.random.RandomState(3).uniform(0, 1, (batch, number, most, 2, 2)), axis=3)
    count = integers("count", most + 1, batch, number)
    count[0, 0], count[-1, -1] = 0, most
    there = np.arange(most) < count[..., None]
    category = np.where(there, 1 + integers("category", 2, batch, number, most), 0)
    hand = category == 2
    out: dict[str, Any] = {
        "boxes": np.where(there[..., None], corners.reshape(batch, number, most, 4), [0, 0, 1e-9, 1e-9]),
        "category": category,
        "score": np.where(there, np.random.RandomState(4).uniform(0, 1, there.shape), 0),
        "side": np.where(hand, 1 + integers("side", 2, batch, number, most), 0),
        "state": np.where(hand, 1 + integers("state", 5, batch, number, most), 0),
    }
    return {name: x.astype(np.float32 if x.dtype == np.float64 else np.int64) for name, x in out.items()}


def sound(samples: int) -> np.ndarray:
    time = np.arange(samples) / 16000
    chirp = 0.3 * np.sin(2 * np.pi * (200 + 1500 * time) * time) + 0.01 * numbers("sound", samples)
    return (chirp * (time > 0.2)).astype(np.float32)


def pixel_boxes() -> list[list[float]]:
    """Boxes in pixels for a frame of 60 x 40, many of them outside it, turned around or empty."""
    draw = np.random.RandomState(5)
    wild = draw.uniform(-20, 80, (200, 4)).round(1).tolist()
    flat = [[x, y, x, y] for x in (-3, 0, 0.5, 30, 59, 60, 99) for y in (-3, 0, 20, 39, 40, 41)]
    return wild + [[float(v) for v in box] for box in flat]
