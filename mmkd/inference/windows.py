"""The clips of a video: the whole of it, or windows that slide over it. Only frames that they show are kept, each is
decoded once, and no more of them are held at a time than lie in one window."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from av import FFmpegError

from mmkd.inference.sampling import Frames, Sampling, Shown, stacked
from mmkd.media.video import VideoReader, count_frames, open_container, said
from mmkd.sources.recording import OVERHANG, Fault, FrameReader, RejectedError
from mmkd.storage import StrPath, name_of


@dataclass(frozen=True)
class Window:
    """A clip of a video, as a model sees it.

    Attributes:
        start, stop: seconds from the first frame.
        rgb: uint8 [views, frames, size, size, 3]; None where the clip cannot be shown.
        error: why it cannot.
    """

    start: float
    stop: float
    rgb: Frames | None = None
    error: str = ""


def video_windows(path: StrPath, sampling: Sampling, window: float = 0.0, hop: float = 0.0) -> Iterator[Window]:
    """The clips of a video file, local or remote, in order.

    Args:
        window: seconds of each; 0: the whole video is one clip.
        hop: seconds from the start of one to that of the next; 0: `window`.

    Raises:
        RejectedError: it is no video, has no frame, or is of an absurd size (docs/security.md has the limits). What is
            damaged further on is the error of the windows that show it.
        ValueError: window or hop cannot be.
    """
    check_windows(window, hop)
    name = name_of(path)
    with open_container(path) as container:
        try:
            frames = VideoReader(container, name)
            (count, end), rate = count_frames(path, frames), frames.rate
        except FFmpegError as error:
            raise RejectedError("unreadable", f"{name} cannot be read: {said(error)}") from error
        if not count:
            raise RejectedError("unreadable", f"{name} has no frames")
        lost = ""
        stop = max(count, frames.length or 0) / rate
        # The last frame may be shown for long, as in a recording of a screen.
        if stop - max((count - 1) / rate + 1 / sampling.pack.kept_rate(rate), end) > OVERHANG:
            lost = f"{name} ends at {count / rate:.2f} s and should be {stop:.2f} s long: is it truncated?"
        if lost and not window:
            yield Window(0.0, stop, error=f"{lost} Windows answer for what is there.")
            return
        yield from clips_of(frames, count, sampling, window, hop)
        if lost:
            yield Window(count / rate, stop, error=lost)


def reason_of(error: Exception) -> str:
    """Why a video cannot be answered, for people; an error that nobody foresaw, with its kind."""
    return str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"


def check_windows(window: float, hop: float) -> None:
    """Raise ValueError where windows cannot be so long, or so far apart."""
    if not (0 <= window < math.inf and 0 <= hop < math.inf):
        raise ValueError(f"window {window:g} and hop {hop:g} must be seconds, 0 or more.")
    if hop and not window:
        raise ValueError(f"hop {hop:g} says how far windows are apart; say how long they are, too (window).")


def windows_of(count: int, rate: float, window: float, hop: float) -> Iterator[tuple[int, int]]:
    """First frame, and one past the last, of each window of a video.

    Windows are equally long and start every `hop` seconds; the last one is moved back to end with the video, so that no
    end of it is left out. A video that is shorter than a window is one.

    Args:
        count: frames of the video; of `rate` a second.

    Raises:
        ValueError: the windows start at less than a frame from each other.
    """
    hop = hop or window
    if window and hop * rate < 1:
        raise ValueError(f"hop {hop:g} s is less than one frame, which lasts {1 / rate:.4f} s.")
    length = max(1, round(window * rate)) if window else count
    first, number, stop = 0, 0, 0
    while first + length <= count:
        yield first, (stop := first + length)
        if not window:
            return
        number += 1
        first = round(number * hop * rate)
    if stop < count and first < count:
        yield max(0, count - length), count


def clips_of(
    frames: FrameReader, count: int, sampling: Sampling, window: float = 0.0, hop: float = 0.0
) -> Iterator[Window]:
    """The clips of an open recording of `count` frames; see :func:`video_windows`.

    Where decoding ends early, all windows that are left are one, with the reason.
    """
    rate = frames.rate
    waiting: deque[_Waiting] = deque()
    seen: dict[int, _Seen] = {}

    def wanted() -> Iterator[int]:
        """Numbers of the frames to decode, ascending; when one is taken, the windows that show it are waiting."""
        ahead: set[int] = set()
        for first, last in windows_of(count, rate, window, hop):
            yield from sorted(number for number in ahead if number < first)
            shown = sampling.shown(sampling.span(first, last, rate))
            numbers = {number for _, view in shown for number in view}
            ahead = {number for number in ahead if number >= first} | numbers
            waiting.append(_Waiting(first, last, shown, max(numbers)))
        yield from sorted(ahead)

    reason = f"decoding ends before {count / rate:.2f} s, to which the video should last: it is damaged"
    try:
        for number, frame in frames.read(wanted(), sampling.pack.short_side):
            if isinstance(frame, Fault):
                seen[number] = _Seen(error=frame.reason)
            else:
                seen[number] = _Seen(frame.size, sampling.crops(frame.pixels))
            while waiting and waiting[0].end <= number:
                yield waiting.popleft().window(seen, rate)
                kept = waiting[0].first if waiting else number + 1
                for old in [each for each in seen if each < kept]:
                    del seen[old]
    except (RejectedError, FFmpegError, OSError) as error:
        reason = said(error)
    if waiting:
        yield Window(waiting[0].first / rate, count / rate, error=reason)


@dataclass(frozen=True)
class _Seen:
    """A frame's size and crops, or why there is none."""

    size: tuple[int, int] = (0, 0)
    crops: Frames | None = None
    error: str = ""


@dataclass(frozen=True)
class _Waiting:
    """A window whose frames are not all there yet: its first frame, one past its last, and the last that it shows."""

    first: int
    last: int
    shown: Shown
    end: int

    def window(self, seen: dict[int, _Seen], rate: float) -> Window:
        start, stop = self.first / rate, self.last / rate
        mine = {number: seen[number] for _, view in self.shown for number in view}
        if faults := [each.error for each in mine.values() if each.error]:
            return Window(start, stop, error=faults[0])
        if len(sizes := {each.size for each in mine.values()}) > 1:
            listed = " and ".join(f"{width} x {height}" for width, height in sorted(sizes))
            return Window(start, stop, error=f"its frames are of different sizes, {listed}")
        crops = {number: each.crops for number, each in mine.items() if each.crops is not None}
        return Window(start, stop, stacked(self.shown, crops))
