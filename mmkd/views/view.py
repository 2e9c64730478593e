"""A view: everything about it that is decided before anything is decoded.

A view is a pure function of (view_seed, clip, view number). Its numbers are relative to the frame, so that they can be
drawn without knowing it.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmkd.config import Views
from mmkd.config.evaluate import GRID
from mmkd.plan import TEST_VIEW
from mmkd.views.sampling import Indices, strided_indices, uniform_indices

Grids = Sequence[tuple[int, int]]
"""Grids of test views: (views in time, views in space: 1 or 3)."""

PHOTOMETRIC = ("brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize")
"""RandAugment's operations that move no pixel, so that flow and boxes stay true."""


@dataclass(frozen=True)
class Mix:
    """Another clip that a view is mixed with.

    Attributes:
        partner: 0..1, the place of the other clip among the training clips.
        share: 0..1, what is left of the view's own clip.
        box: left, top, right, bottom of the rectangle that shows the other clip, as shares of the view (cutmix); None:
            both are blended (mixup).
    """

    partner: float
    share: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class View:
    """One view of one clip.

    Attributes:
        indices: frames, int64 [frames].
        scale: the short side is resized to the view's size times this.
        left, top: where the square lies, as a share (0..1) of the room there is.
        flip: mirrored.
        jitter: brightness, contrast and saturation factors and the turn of the hue as a share of the circle.
        operations: RandAugment's (name of PHOTOMETRIC, amount -1..1), one after the other.
        mix: another clip that is mixed in.
    """

    indices: Indices
    scale: float = 1.0
    left: float = 0.5
    top: float = 0.5
    flip: bool = False
    jitter: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.0)
    operations: tuple[tuple[str, float], ...] = ()
    mix: Mix | None = None


def make_view(settings: Views, clip_id: str, num_frames: int, number: int) -> View:
    """View `number` of a clip of num_frames frames; TEST_VIEW is the one for validation and test: middle frames,
    centre crop, no jitter."""
    rng = None if number == TEST_VIEW else np.random.default_rng([settings.seed, _clip_key(clip_id), number])
    if settings.sampling == "uniform":
        indices = uniform_indices(num_frames, settings.frames, rng=rng)
    else:
        indices = strided_indices(num_frames, settings.frames, settings.stride, rng=rng)
    if rng is None:
        return View(indices)
    scale, left, top = rng.uniform(*settings.scale), rng.uniform(), rng.uniform()
    flip = bool(rng.uniform() < 0.5) and settings.flip
    brightness, contrast, saturation = rng.uniform(1 - settings.jitter, 1 + settings.jitter, 3)
    hue = rng.uniform(-settings.hue, settings.hue)
    # What is off draws nothing, so that switching it on leaves the rest of the view as it was.
    view = View(indices, scale, left, top, flip, (brightness, contrast, saturation, hue))
    if settings.randaugment:
        view = replace(view, operations=_draw_operations(settings, rng))
    if settings.mixup or settings.cutmix:
        view = replace(view, mix=_draw_mix(settings, rng))
    return view


def test_views(settings: Views, num_frames: int, grids: Grids) -> list[View]:
    """The views of a clip for validation and test, one for each slot of :func:`grid_slots`.

    Of uniform sampling each view in time takes every so many-th segment, so that each shows the whole clip.
    """
    slots, _ = grid_slots(grids)
    indices = {}
    for clips in {clips for clips, _, _ in slots}:
        if settings.sampling == "uniform":
            indices[clips] = uniform_indices(num_frames, settings.frames, clips).reshape(-1, clips).T
        else:
            chosen = strided_indices(num_frames, settings.frames, settings.stride, clips)
            indices[clips] = chosen.reshape(clips, -1)
    return [View(indices[clips][number], left=place, top=place) for clips, number, place in slots]


def grid_slots(grids: Grids) -> tuple[list[tuple[int, int, float]], list[list[int]]]:
    """The distinct test views of some grids, each of so many views in time by 1 or 3 in space.

    One crop is the centre; three lie along the long side, at its start, centre and end. Those of one time lie side by
    side. Grids with other numbers of views in time share none, since they divide the clip otherwise.

    Returns:
        slots, (views in time of its grid, number of this one, place 0..1 of the crop); and for each grid the numbers
        of its slots.
    """
    slots: dict[tuple[int, int, float], int] = {}
    members = []
    for clips, crops in grids:
        places = (0.5,) if crops == 1 else (0.0, 0.5, 1.0)
        own = [(clips, number, place) for number in range(clips) for place in places]
        members.append([slots.setdefault(slot, len(slots)) for slot in own])
    return list(slots), members


def parse_grid(text: str) -> tuple[int, int]:
    """A grid of test views as people write it: 3x1 is 3 views in time by 1 in space.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(GRID, text):
        raise ValueError(f"views are {text!r}; they must be views in time x views in space (1 or 3), as 1x1 or 10x3.")
    clips, crops = text.split("x")
    return int(clips), int(crops)


def crop_square(view: View, height: int, width: int) -> tuple[int, int, int]:
    """The square of a view in pixels of a frame: x, y, side."""
    side = max(1, round(min(height, width) / view.scale))
    return round(view.left * (width - side)), round(view.top * (height - side)), side


def _draw_operations(settings: Views, rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    names = rng.integers(len(PHOTOMETRIC), size=settings.randaugment)
    signs = np.where(rng.uniform(size=settings.randaugment) < 0.5, -1.0, 1.0)
    return tuple((PHOTOMETRIC[n], float(s * settings.randaugment_strength)) for n, s in zip(names, signs, strict=True))


def _draw_mix(settings: Views, rng: np.random.Generator) -> Mix | None:
    """mixup (Zhang et al., ICLR 2018, arXiv 1710.09412) or cutmix (Yun et al., ICCV 2019, arXiv 1905.04899)."""
    # Always the same number of draws.
    mixed, which, partner, x, y = rng.uniform(size=5)
    shares = [rng.beta(alpha, alpha) if alpha else 1.0 for alpha in (settings.mixup, settings.cutmix)]
    if mixed >= settings.mix_probability:
        return None
    if settings.mixup and (not settings.cutmix or which < 0.5):
        return Mix(partner, float(shares[0]))
    size, half = settings.size, np.sqrt(1 - shares[1]) * settings.size / 2
    left, right = (int(np.clip(round(x * size + side), 0, size)) for side in (-half, half))
    top, bottom = (int(np.clip(round(y * size + side), 0, size)) for side in (-half, half))
    share = 1 - (right - left) * (bottom - top) / size**2
    return Mix(partner, share, (left / size, top / size, right / size, bottom / size))


def _clip_key(clip_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), "big")
