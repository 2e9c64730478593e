"""What every source yields: recordings, each with the segments of it that become clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import simplejpeg
from numpy.typing import NDArray

Labels = dict[str, int | list[int]]

MAX_REASON = 1000
"""Characters of a reason: it may quote what a file says, and is kept with every clip of that file."""
OVERHANG = 0.5
"""Seconds by which an annotation may reach beyond the end of its recording; the clip ends with the recording then."""

KINDS = {
    "unreadable": "the recording or a file of it is missing or cannot be read",
    "damaged": "a frame of the clip cannot be decoded",
    "interval": "the interval is empty, or starts after its end",
    "past_end": "the interval lies past the end of the recording",
    "label": "a label is not in the class list",
    "duplicate": "another clip has the same clip_id",
    "row": "a row of a table is malformed",
    "path": "a path leads out of the data folder",
    "sound": "the sound cannot be decoded",
    "flow": "the flow does not fit the frames, or cannot be read",
    "boxes": "boxes are not finite, or cannot be read",
    "unsafe": "a file would run code",
    "large": "the clip is too large to be kept",
    "other": "something unforeseen went wrong",
}
"""Why a clip is rejected."""


class RejectedError(ValueError):
    """A clip, or all clips of a recording, cannot be packed.

    Args:
        kind: one of `KINDS`.
        reason: what was wrong, for people.
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 4] + " ...")
        self.kind = kind


@dataclass(frozen=True)
class Reject:
    """A clip that is not packed, and why."""

    split: str
    clip_id: str
    recording: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Segment:
    """A clip to be cut out of a recording, before anything of it is read.

    Attributes:
        labels: head to class index, or a list of them in a multi-label head; NO_LABEL where unknown.
        start, stop: seconds from the recording's first frame; stop None: to its end.
        frames: number of the first frame and one past the last, from 0, where the source counts frames; they count
            over start and stop.
        meta: what the source says besides.
    """

    clip_id: str
    labels: Labels
    start: float = 0.0
    stop: float | None = None
    frames: tuple[int, int] | None = None
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """Which frames of a recording are those of a clip.

    Attributes:
        first, last: numbers in the recording, last excluded; None: to its end.
        step: frames of the recording from one frame of the clip to the next, 1 or more.
    """

    first: int
    last: int | None
    step: float = 1.0

    def number(self, k: int) -> int:
        """The recording's number of the clip's frame k."""
        return self.first + round(k * self.step)

    def count(self) -> int:
        """Frames of the clip, where its end is known."""
        assert self.last is not None
        most = int((self.last - self.first) / self.step) + 1
        return most if self.number(most - 1) < self.last else most - 1

    def numbers(self) -> Iterator[int]:
        k = 0
        while self.last is None or self.number(k) < self.last:
            yield self.number(k)
            k += 1


class Frame:
    """One RGB frame, as pixels, as a JPEG, or both; each is made from the other when it is first asked for.

    Attributes:
        size: width and height of the frame in the recording, pixels, before it was scaled.
    """

    def __init__(self, size: tuple[int, int], pixels: NDArray[np.uint8] | None = None, jpeg: bytes | None = None):
        self.size = size
        self._pixels, self._jpeg = pixels, jpeg

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [height, width, 3]."""
        if self._pixels is None:
            assert self._jpeg is not None
            self._pixels = simplejpeg.decode_jpeg(self._jpeg, "RGB")
        return self._pixels

    def jpeg(self, quality: int) -> bytes:
        """The frame as a JPEG: the recording's own where it need not be scaled, else one of that quality."""
        if self._jpeg is None:
            assert self._pixels is not None
            self._jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(self._pixels), quality, "RGB", "420")
        return self._jpeg


@dataclass(frozen=True)
class Fault:
    """In place of a frame that is not to be had."""

    reason: str


class FrameReader(Protocol):
    """The frames of an open recording.

    Attributes:
        rate: frames per second; frame n shows the recording n / rate seconds after its first frame.
        length: number of frames, or what a header promises at least; None where only decoding tells.
    """

    rate: float
    length: int | None

    def read(self, numbers: Iterable[int], short_side: int) -> Iterator[tuple[int, Frame | Fault]]:
        """The frames of these numbers, which ascend, scaled down to a short side (0: as they are); ends early where the
        recording ends. `numbers` may go on for ever."""


class FlowReader(Protocol):
    """Ready-made optical flow of an open recording."""

    def read(self, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Flow of a frame, scaled to a size (width, height) with its values as they are: uint8 [height, width, 2].

        Raises:
            RejectedError: it is missing or damaged.
        """


class SoundReader(Protocol):
    """The sound of an open recording; `rate` in samples per second."""

    rate: int

    def read(self, start: float, stop: float) -> NDArray[np.int16] | None:
        """Mono sound between two times in seconds from the first frame, int16 [samples], with silence where the sound
        begins later or ends earlier; None where there is none at all.

        Raises:
            RejectedError: it is damaged.
        """


class BoxReader(Protocol):
    """The hand and object boxes of an open recording."""

    def read(self, numbers: Sequence[int], size: tuple[int, int]) -> list[NDArray] | None:
        """Boxes of these frames, one array of BOX_DTYPE each, corners as shares of the frame; None where the recording
        has none at all.

        Args:
            size: width and height of the recording's frames, pixels.

        Raises:
            RejectedError: they cannot be read.
        """


@dataclass
class Media:
    """An open recording; `meta` is what is known of all its clips once it is open."""

    frames: FrameReader
    flow: FlowReader | None = None
    sound: SoundReader | None = None
    boxes: BoxReader | None = None
    meta: dict[str, str] = field(default_factory=dict)


class Recording(Protocol):
    """One recording (a video, a folder of frames, ...) and the segments to cut out of it. Small and cheap to send:
    nothing is read before it is opened."""

    @property
    def name(self) -> str: ...

    @property
    def segments(self) -> Sequence[Segment]: ...

    def open(self) -> AbstractContextManager[Media]:
        """Open what is read.

        Raises:
            RejectedError: no clip of it can be packed.
        """


class Source(Protocol):
    """A data set as others keep it. Adding one takes a module with this interface and an entry in `SOURCES`.

    Attributes:
        heads: head to class names.
        multi_label: heads in which a clip may have any number of classes.
        notes: what dataset.json should say of it, besides its settings (classes of the tail, participants unseen).
        flow: of ready-made flow, its bound and frame step and the frame size that its pixels refer to, as in
            dataset.json; empty where flow is computed.
        flow_bound: of computed flow, pixels that become 0 or 255, unless the settings say another.
    """

    name: str
    heads: dict[str, list[str]]
    multi_label: list[str]
    notes: dict[str, object]
    flow: dict[str, object]
    flow_bound: float

    def recordings(self) -> Iterator[tuple[str, Recording] | Reject]:
        """Every recording with its split, in an order that is always the same, and what is rejected already.

        Raises:
            ValueError: nothing of the source can be read; the message says what is missing.
        """
