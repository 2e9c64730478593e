"""Video files by PyAV: the chosen frames in one pass, upright, scaled, on an even grid of times."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from mmkd.sources.recording import Fault, Frame, RejectedError
from mmkd.storage import StrPath, name_of, open_input

SEEK_SECONDS = 4.0
"""Frames that nobody wants are jumped over instead of decoded where they last longer than this."""
LONGER_SOUND = 1.5
"""Seconds by which sound often outlasts the picture."""
SANE_RATES = (0.5, 300.0)
SANE_ASPECTS = (1 / 8, 8.0)
"""Width of a pixel to its height: 2 is the most that cameras have, and a frame is stretched by it."""
LONGEST_STILL = 3600.0
"""Seconds that one frame may be shown. It is repeated as long, so time stamps that leap would be frames without end."""
MAX_PIXELS = 8192 * 8192
"""Of a frame, twice those of 8K video: a file of a few bytes can claim any size."""
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,mxf,dv,h264,hevc,m4v,wav,flac,mp3"
)
"""FFmpeg's names of the formats that are opened. Others are lists of further files (HLS, DASH, concat) or addresses
(SDP), by which a "video" would read any file and reach any server."""


@contextmanager
def open_container(path: StrPath) -> Iterator[Any]:
    """A media file, local or remote, opened by PyAV.

    Raises:
        RejectedError: it is missing, or no media file.
    """
    source: Any = None
    try:
        source = open_input(path)
        if not source.seek(0, os.SEEK_END):
            raise ValueError("it is empty")
        source.seek(0)
        container = av.open(source, metadata_errors="ignore", options=decoder_options(FORMATS))
    except (av.FFmpegError, OSError, ValueError) as error:
        if source is not None:
            source.close()
        what = said(error)
        if isinstance(error, av.FFmpegError) and error.errno == errno.EINVAL:
            what = "its format is none that is opened (docs/security.md lists them) or damaged; convert it to MP4"
        raise RejectedError("unreadable", f"{name_of(path)} cannot be opened: {what}") from error
    try:
        yield container
    finally:
        container.close()
        source.close()


class VideoReader:
    """Frames of an open video.

    Frame n is the one nearest to n / rate seconds after the first. So a video of constant rate gives each of its frames
    once, whatever its time stamps are rounded to, and one of variable rate repeats a frame as long as it is shown.
    Frames between two others that were lost to damage are Faults.

    Args:
        container: open; frames are decoded by one thread, since packing runs one process a core.
        name: of the file, for messages.
        rate: of the grid; 0: the video's own.

    Raises:
        RejectedError: it has no video, one of an absurd size, or one that cannot be decoded at all.
    """

    def __init__(self, container: Any, name: str, rate: float = 0.0):
        if not container.streams.video:
            raise RejectedError("unreadable", f"{name} has no video stream")
        self.container, self.name = container, name
        self.stream = container.streams.video[0]
        if self.stream.codec_context is None:
            raise RejectedError("unreadable", f"{name} is of a codec that is not known; convert it to H.264")
        if self.stream.width * self.stream.height > MAX_PIXELS:
            raise RejectedError("unreadable", f"{name} claims frames of {self.stream.width} x {self.stream.height}")
        self.aspect = float(self.stream.sample_aspect_ratio or 1) or 1.0
        if not SANE_ASPECTS[0] <= self.aspect <= SANE_ASPECTS[1]:
            raise RejectedError("unreadable", f"{name} claims pixels {self.aspect:g} times as wide as high")
        self.stream.codec_context.thread_count = 1
        # Its size may change in the middle.
        self.stream.codec_context.options = decoder_options()
        self.rate = rate or own_rate(container, self.stream)
        self.length = self._length()
        self._scaler = VideoReformatter()
        self._zero: float | None = None
        self._before: tuple[float, Any] | None = None
        self._after: tuple[float, Any] | None = None
        self._lost = False  # frames between the two were lost to damage
        self._far = SEEK_SECONDS * self.rate
        self._decoded = self._decode()
        self._advance()
        if self._after is None and self._lost:
            said = f"it is damaged, of a codec that is not known, or its frames have more than {MAX_PIXELS} pixels"
            raise RejectedError("unreadable", f"not one frame of {name} can be decoded: {said}")

    @property
    def zero(self) -> float:
        """Time stamp of the first frame, seconds: what the times of a recording count from."""
        return self._zero or 0.0

    def read(self, numbers: Iterable[int], short_side: int) -> Iterator[tuple[int, Frame | Fault]]:
        for number in numbers:
            self._go_to(number)
            before, after = self._before, self._after
            if after is None:
                # The last frame; beyond it there is nothing.
                if before is None or number > round(before[0]):
                    return
                chosen = before
            elif before is None:
                chosen = after
            else:
                chosen = before if number - before[0] <= after[0] - number else after
                if self._lost and abs(chosen[0] - number) > 0.5:
                    yield number, Fault(f"{self.name} cannot be decoded at {number / self.rate:.2f} s")
                    continue
                if after[0] - before[0] > LONGEST_STILL * self.rate:
                    seconds = (after[0] - before[0]) / self.rate
                    said = f"{self.name} shows one frame for {seconds:.0f} s from {before[0] / self.rate:.2f} s on"
                    raise RejectedError(
                        "damaged", f"{said}, more than {LONGEST_STILL:.0f} s: are its time stamps wrong?"
                    )
            yield number, self._scaled(chosen[1], short_side)

    def _go_to(self, number: int) -> None:
        """Move on until the frames on both sides of a place on the grid are there."""
        if self._after is not None and number - self._after[0] > self._far:
            place = self._after[0]
            self._jump(number)
            if self._after is not None and self._after[0] <= place:
                self._far *= 2  # its key frames are far apart: what was decoded before is decoded again
        while self._after is not None and self._after[0] <= number:
            self._advance()

    def _advance(self) -> None:
        self._before, self._lost = self._after, False
        self._after = next(self._decoded, None)

    def _jump(self, number: int) -> None:
        for seconds in (self.zero + number / self.rate, self.zero):
            try:
                self.container.seek(int(seconds / self.stream.time_base), stream=self.stream)
            except (av.FFmpegError, OverflowError):  # the latter: no container can count so far
                continue
            self._before, self._after, self._decoded = None, None, self._decode()
            self._advance()
            if self._after is not None and self._after[0] <= number + 0.5:
                return  # else its index is wrong, or there is no key frame from here on; from the start, then

    def _decode(self) -> Iterator[tuple[float, Any]]:
        """Decoded frames with their place on the grid, a fraction of a number."""
        place = -1.0
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except (av.InvalidDataError, ValueError):
                self._lost = True
                continue
            except av.EOFError:
                return
            if packet is None:
                return
            for frame in frames:
                if frame.is_corrupt:
                    self._lost = True
                    continue
                seconds = frame.time
                if self._zero is None:
                    self._zero = seconds or 0.0
                place = place + 1 if seconds is None else (seconds - self._zero) * self.rate
                yield place, frame

    def _scaled(self, frame: Any, short_side: int) -> Frame | Fault:
        width, height = max(1, round(frame.width * self.aspect)), frame.height
        to = scaled_size((width, height), short_side)
        if to[0] * to[1] > MAX_PIXELS:
            return Fault(f"{self.name} claims frames of {width} x {height}")
        shown = self._scaler.reformat(frame, *to, format="rgb24", interpolation="AREA").to_ndarray()
        turns = round(frame.rotation / 90) % 4
        if turns:
            shown = np.rot90(shown, turns)
        return Frame((height, width) if turns % 2 else (width, height), np.ascontiguousarray(shown))

    def _length(self) -> int | None:
        """Frames that the header promises, at least."""
        seconds = None
        if self.stream.duration:
            seconds = float(self.stream.duration * self.stream.time_base)
        elif tag := re.fullmatch(r"(\d{1,6}):(\d{1,2}):(\d{1,2}\.?\d*)", self.stream.metadata.get("DURATION", "")):
            seconds = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        elif self.container.duration:
            seconds = self.container.duration / av.time_base
            if len(self.container.streams) > 1:  # its sound may be what lasts so long
                seconds -= LONGER_SOUND
        return None if seconds is None else max(1, round(seconds * self.rate))


def count_frames(path: StrPath, frames: VideoReader) -> tuple[int, float]:
    """Number of frames that a reader of this file gives, and how many seconds after the first the last of them ends,
    from the time stamps of the file's packets, none of which is decoded. Damage that only decoding shows may make them
    fewer.

    Raises:
        RejectedError: the file cannot be opened, or its time stamps leap.
    """
    packets, last, end = 0, None, 0.0
    with open_container(path) as container, suppress(av.FFmpegError, ValueError):  # where it ends in damage
        for packet in container.demux(container.streams.video[0]):
            if packet.size and not packet.is_discard:
                packets += 1
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is not None:
                    last = max(float(stamp * packet.time_base), frames.zero if last is None else last)
                    end = max(end, float((stamp + (packet.duration or 0)) * packet.time_base) - frames.zero)
    if last is None:
        return packets, packets / frames.rate
    if last - frames.zero > packets * LONGEST_STILL:
        said = f"{frames.name} has {packets} frames in {last - frames.zero:.0f} s: are its time stamps wrong?"
        raise RejectedError("damaged", said)
    return round((last - frames.zero) * frames.rate) + 1, end


def decoder_options(formats: str = "") -> dict[str, str]:
    """FFmpeg's options by which a decoder refuses frames of absurd size, and a demuxer other formats and files."""
    options = {"max_pixels": str(MAX_PIXELS)}
    return options | {"format_whitelist": formats, "protocol_whitelist": "none"} if formats else options


def scaled_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Width and height scaled down to a short side, both even; as they are where that is 0 or they are smaller."""
    if not short_side or min(size) <= short_side:
        return size
    width, height = (max(2, 2 * round(side * short_side / min(size) / 2)) for side in size)
    return width, height


def own_rate(container: Any, stream: Any) -> float:
    """Frames per second of a video: what its header says where that can be, else counted."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and SANE_RATES[0] <= float(rate) <= SANE_RATES[1]:
            return float(rate)
    times = sorted(float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.pts is not None)
    with suppress(av.FFmpegError):  # in a file without frames there is no going back
        container.seek(0)
    span = times[-1] - times[0] if times else 0.0
    return (len(times) - 1) / span if span > 0 else 1.0


def said(error: Exception) -> str:
    """What an error says, without the path that PyAV and Python add."""
    return getattr(error, "strerror", None) or str(error)
