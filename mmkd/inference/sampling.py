"""What an RGB model sees of a video: which frames, how large, and which square of them. All of it is in its model.json;
it is what packing and the reader would show of the same video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from mmkd.config import Pack, Views
from mmkd.config.changes import explain
from mmkd.config.training import GEOMETRY
from mmkd.media.images import resized
from mmkd.media.video import scaled_size
from mmkd.sources.recording import Span
from mmkd.views import View, parse_grid, test_views, view_rgb

if TYPE_CHECKING:  # so that a process that only reads needs no torch
    from mmkd.models import ModelSpec

Frames = NDArray[np.uint8]
Shown = list[tuple[int, list[int]]]
"""Of each test view: the number of its crop, and the numbers of its frames in the recording."""


@dataclass(frozen=True)
class Sampling:
    """What a model sees of a clip; small and cheap to send.

    Attributes:
        views: of these `frames`, `sampling`, `stride` and `size` count.
        pack: frame rate and short side that the model's training data were packed with.
        grid: test views in time by views in space, whose logits are averaged.
    """

    views: Views
    pack: Pack
    grid: tuple[int, int] = (1, 1)

    def span(self, first: int, last: int, rate: float) -> Span:
        """The frames of a clip from number `first` to before `last` of a recording with `rate` frames per second."""
        return Span(first, last, rate / self.pack.kept_rate(rate))

    def shown(self, span: Span) -> Shown:
        """The frames of each test view of a clip."""
        views = test_views(self.views, span.count(), [self.grid])
        return [(self._places.index(view.left), [span.number(int(k)) for k in view.indices]) for view in views]

    def crops(self, pixels: Frames) -> Frames:
        """The squares of a frame [height, width, 3] that test views show, uint8 [crops, size, size, 3]."""
        height, width = pixels.shape[:2]
        if (to := scaled_size((width, height), self.pack.short_side)) != (width, height):
            pixels = resized(pixels, to)
        none = np.zeros(0, np.int64)
        views = [View(none, left=place, top=place) for place in self._places]
        return np.concatenate([view_rgb([pixels], view, self.views.size) for view in views])

    @property
    def _places(self) -> list[float]:
        """Where the crops lie, 0..1."""
        return list(dict.fromkeys(view.left for view in test_views(self.views, 1, [self.grid])))


def stacked(shown: Shown, crops: Mapping[int, Frames]) -> Frames:
    """All test views of a clip, uint8 [views, frames, size, size, 3].

    Args:
        crops: number of each frame to what :meth:`Sampling.crops` made of it.
    """
    return np.stack([np.stack([crops[number][place] for number in numbers]) for place, numbers in shown])


def sampling_of(spec: ModelSpec, views: str = "1x1", name: object = "the model") -> Sampling:
    """What a model sees of a video.

    Args:
        views: grid of test views, in time x in space (1 or 3).
        name: of the model, for messages.

    Raises:
        ValueError: it sees something else than RGB, its model.json does not say what it sees, or there is no such grid.
    """
    if spec.modality != "rgb":
        raise ValueError(
            f"{name} sees {spec.modality}, and videos are predicted from their RGB frames. Packed data have "
            f"{spec.modality}: python rayjobs/evaluate.py --model FOLDER asks this model about them, and "
            "rayjobs/distill.py --teachers.folders FOLDER makes an RGB student of it."
        )
    if missing := [field for field in ("frames", "size") if field not in spec.input]:
        raise ValueError(
            f"{name} does not say what it sees: `input` of its model.json lacks {' and '.join(missing)}. A model of a "
            'training has them, as {"frames": 8, "sampling": "uniform", "size": 224}.'
        )
    packed = _packed(spec.training)
    try:
        seen = Views.model_validate({field: spec.input[field] for field in GEOMETRY if field in spec.input})
        unknown = {"short_side": max(Pack().short_side, seen.size)}
        kept = Pack.model_validate({field: packed[field] for field in ("short_side", "fps") if field in packed})
    except ValidationError as error:
        raise ValueError(f"model.json of {name} cannot be used: {explain(error)}") from None
    return Sampling(seen, kept if packed else Pack.model_validate(unknown), parse_grid(views))


def _packed(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the data were packed that a model learnt on; nothing where model.json does not tell."""
    facts: Any = training
    for part in ("data", "made_by", "pack"):
        facts = facts.get(part) if isinstance(facts, Mapping) else None
    return facts if isinstance(facts, Mapping) else {}
