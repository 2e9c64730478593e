"""Procedural textures: patterns on objects, table tops and the wall behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

SIZE = 64
PATTERNS = ("plain", "bands", "stripes", "dots", "label", "checks")
TABLE_FAMILIES = ("wood", "plain", "checks", "speckle", "weave", "planks")
UNSEEN_TABLE_FAMILIES = ("hexagons", "marble", "stripes")


def pattern(kind: str, base: np.ndarray, accent: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An object's texture: uint8 [SIZE, SIZE, 3], rows bottom up. Colours are float [3] in 0..1."""
    v, u = _grid()
    count = int(rng.integers(2, 5))
    if kind == "plain":
        mask = np.zeros((SIZE, SIZE), bool)
    elif kind == "bands":
        mask = (v * count + 0.25) % 1 < 0.4
    elif kind == "stripes":
        mask = (u * 2 * count) % 1 < 0.45
    elif kind == "dots":
        columns, rows = 2 * count + 2, count + 2
        du, dv = (u * columns) % 1 - 0.5, (v * rows) % 1 - 0.5
        mask = du**2 + dv**2 < 0.09
    elif kind == "label":
        mask = (np.abs(v - 0.5) < 0.2) & ((u * 2) % 1 < 0.75)
    elif kind == "checks":
        mask = ((u * 2 * count).astype(int) + (v * 2 * count).astype(int)) % 2 == 0
    else:
        raise ValueError(f"pattern {kind!r} is unknown; one of {PATTERNS}")
    image = np.where(mask[..., None], accent, base)
    return _to_uint8(image + rng.normal(0, 0.02, (SIZE, SIZE, 1)))


def table(family: str, base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A table top that tiles: uint8 [SIZE, SIZE, 3]. `base` is a float colour in 0..1."""
    v, u = _grid()
    depth = rng.uniform(0.15, 0.4)
    count = int(rng.integers(2, 5))
    turn = 2 * np.pi
    if family == "wood":
        shade = np.sin(turn * (count * 2 * v + 0.4 * np.sin(turn * u) + 0.2 * np.sin(turn * 3 * u)))
    elif family == "plain":
        shade = np.zeros((SIZE, SIZE))
    elif family == "checks":
        shade = np.where(((u * count * 2).astype(int) + (v * count * 2).astype(int)) % 2, 1.0, -1.0)
    elif family == "speckle":
        shade = np.where(rng.random((SIZE, SIZE)) < 0.12, -1.5, 0.3)
    elif family == "weave":
        shade = np.sin(turn * count * 2 * u) + np.sin(turn * count * 2 * v)
    elif family == "planks":
        plank = (v * count * 2).astype(int)
        gap = (v * count * 2) % 1 < 0.12
        shade = rng.uniform(-0.6, 0.6, count * 2)[plank] - 1.2 * gap
    elif family == "hexagons":
        shade = np.cos(turn * count * 2 * u) + 2 * np.cos(turn * count * u) * np.cos(turn * count * v)
        shade = np.sign(shade - 0.3)
    elif family == "marble":
        shade = np.sin(turn * (u + v) + 2 * np.sin(turn * 2 * v) + 1.3 * np.cos(turn * 3 * u))
        shade = np.abs(shade) * 2 - 1
    elif family == "stripes":
        shade = np.where((u * count * 2) % 1 < 0.3, -1.0, 0.5)
    else:
        known = TABLE_FAMILIES + UNSEEN_TABLE_FAMILIES
        raise ValueError(f"table family {family!r} is unknown; one of {known}")
    image = base * (1 + depth * shade[..., None]) + rng.normal(0, 0.025, (SIZE, SIZE, 1))
    return _to_uint8(image)


def shadow() -> np.ndarray:
    """A soft dark disc: uint8 [SIZE, SIZE, 4]."""
    v, u = _grid()
    radius = np.hypot(u - 0.5, v - 0.5) * 2
    image = np.zeros((SIZE, SIZE, 4))
    image[..., 3] = np.clip((1 - radius) * 2.2, 0, 1) * 0.6
    return _to_uint8(image)


def to_texture(image: np.ndarray, repeat: bool = True) -> Any:
    """A panda3d.core.Texture of an image [height, width, 3 or 4] in RGB(A) order."""
    from panda3d import core

    channels = image.shape[2]
    texture = core.Texture()
    layout = core.Texture.FRgba if channels == 4 else core.Texture.FRgb
    texture.setup2dTexture(image.shape[1], image.shape[0], core.Texture.TUnsignedByte, layout)
    order = [2, 1, 0] + [3] * (channels == 4)
    texture.setRamImage(np.ascontiguousarray(image[..., order]).tobytes())
    wrap = core.SamplerState.WMRepeat if repeat else core.SamplerState.WMClamp
    texture.setWrapU(wrap)
    texture.setWrapV(wrap)
    texture.setMinfilter(core.SamplerState.FTNearestMipmapNearest)
    texture.setMagfilter(core.SamplerState.FTLinear)
    return texture


def _grid() -> tuple[np.ndarray, np.ndarray]:
    middle = (np.arange(SIZE) + 0.5) / SIZE
    v, u = np.meshgrid(middle, middle, indexing="ij")
    return v, u


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
