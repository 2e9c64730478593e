"""A clip in memory, as a renderer makes it, and boxes as every source gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmkd.media.images import ArrayReader
from mmkd.media.sound import ArraySound
from mmkd.sources.recording import Labels, Media, RejectedError, Segment
from mmkd.views.boxes import repair_box

CORNERS = ("x1", "y1", "x2", "y2")
OBJECT, HAND = 1, 2
"""Categories of boxes."""
MAX_BOXES = 10_000
"""Of one frame: detectors give a hundred or a few, and each is an object in memory."""
FAR_OUT = 1.0
"""A corner may lie outside the frame by this share of it, and is moved to its edge; farther out it is a mistake."""
BOX_DTYPE = np.dtype(
    [
        ("x1", "f4"),
        ("y1", "f4"),
        ("x2", "f4"),
        ("y2", "f4"),
        ("score", "f4"),
        ("category", "i4"),
        ("side", "i4"),
        ("state", "i4"),
    ]
)
"""One box. Corners are shares of the frame's width and height, 0..1.

category: 1 object, 2 hand. side: 0 left, 1 right, -1 unknown (objects). state: what a hand touches, 0 nothing, 1 self,
2 another person, 3 a portable object, 4 a stationary one; -1 unknown (objects).
"""


@dataclass
class Clip:
    """One clip. A modality that the source lacks for it is None.

    rgb: uint8 [frames, height, width, 3], in RGB order.
    labels: class index a head, a list of them in a multi-label head; -1 where unknown.
    audio: int16 [samples], mono, over the same time as rgb.
    boxes: one array of BOX_DTYPE a frame.
    meta: what the source says besides.
    """

    clip_id: str
    rgb: np.ndarray
    labels: Labels
    fps: float
    audio: np.ndarray | None = None
    sample_rate: int = 0
    boxes: list[np.ndarray] | None = None
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A recording of one clip that is made when it is opened.

    Args:
        make: gives the clip; a RuntimeError of it is a reject.
    """

    clip_id: str
    labels: Labels
    make: Callable[[], Clip]

    @property
    def name(self) -> str:
        return self.clip_id

    @property
    def segments(self) -> Sequence[Segment]:
        return (Segment(self.clip_id, self.labels),)

    @contextmanager
    def open(self) -> Iterator[Media]:
        try:
            clip = self.make()
        except RuntimeError as error:
            raise RejectedError("other", str(error)) from error
        yield Media(
            ArrayReader(clip.rgb, clip.fps),
            sound=None if clip.audio is None else ArraySound(clip.audio, clip.sample_rate),
            boxes=None if clip.boxes is None else ListedBoxes(clip.boxes),
            meta=clip.meta,
        )


@dataclass(frozen=True)
class ListedBoxes:
    """Boxes by frame number, corners as shares of the frame or, with `pixels`, in pixels of it."""

    frames: Sequence[NDArray]
    pixels: bool = False

    def read(self, numbers: Sequence[int], size: tuple[int, int]) -> list[NDArray]:
        none = np.zeros(0, BOX_DTYPE)
        chosen = [self.frames[number] if number < len(self.frames) else none for number in numbers]
        return [in_shares(boxes, size) for boxes in chosen] if self.pixels else chosen


def check_number(frames: NDArray) -> None:
    """Refuse boxes of which one frame has absurdly many.

    Args:
        frames: number of the frame of each box.

    Raises:
        RejectedError: it has.
    """
    numbers, counts = np.unique(frames, return_counts=True)
    if len(counts) and counts.max() > MAX_BOXES:
        said = f"frame {int(numbers[counts.argmax()]) + 1} has {int(counts.max())} boxes, more than {MAX_BOXES}"
        raise RejectedError("boxes", said)


def in_shares(boxes: NDArray, size: tuple[int, int]) -> NDArray:
    """Boxes in pixels of a frame of that size (width, height), repaired and as shares of it."""
    out = boxes.copy()
    for number, box in enumerate(boxes):
        corners = [float(box[name]) for name in CORNERS]
        if not np.isfinite(corners).all():
            raise RejectedError("boxes", "a box is not finite")
        for name, value, side in zip(CORNERS, repair_box(corners, *size), size * 2, strict=True):
            out[name][number] = value / side
    return out
