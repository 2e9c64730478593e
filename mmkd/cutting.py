"""Cutting: one pass over an open recording, out of which come the rows of its clips.

Each frame is decoded once and encoded once, however many clips show it, and a clip leaves as soon as it is whole, so
that memory does not grow with the recording.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import simplejpeg
import soundfile
from numpy.typing import NDArray

from mmkd.config import Pack
from mmkd.extract.boxes import TorchvisionDetector as Detector
from mmkd.extract.flow import FlowMethod
from mmkd.extract.sound import resample
from mmkd.media.clips import VideoWriter
from mmkd.shards import NO_LABEL, Row
from mmkd.sources.recording import OVERHANG, Fault, Frame, Media, Recording, Reject, RejectedError, Segment, Span
from mmkd.storage import MAX_IN_LISTS

MAX_BYTES, MAX_FRAMES = 1 << 30, 1 << 20
"""Of a clip, flow included; it is held in memory while it is cut, and Parquet cannot keep twice as much in a row."""


@dataclass
class _Cut:
    """A segment on its way to become a clip.

    Attributes:
        numbers, images, flow, boxes: of the frames so far; bytes: of the images and the flow.
        video: encodes them where they are kept as one video.
        size: width and height, in the recording and of the clip's frames.
        before: the frame before, as the flow method wants it.
    """

    segment: Segment
    span: Span
    numbers: list[int] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    flow: list[bytes] = field(default_factory=list)
    boxes: list[NDArray] = field(default_factory=list)
    bytes: int = 0
    video: VideoWriter | None = None
    size: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    before: Any = None

    @property
    def done(self) -> bool:
        return self.span.last is not None and self.span.number(len(self.numbers)) >= self.span.last


def cut(
    split: str,
    recording: Recording,
    heads: Mapping[str, Sequence[str]],
    pack: Pack,
    flow: FlowMethod | None = None,
    detector: Detector | None = None,
) -> Iterator[Row | Reject]:
    """The rows of a recording's clips, see :func:`mmkd.shards.schema`, and a Reject for each that cannot be packed.

    Args:
        heads: head to class names; labels must be among them.
        flow, detector: compute the flow between two frames, and the boxes of a frame, where the recording has none;
            None: such clips have none.
    """

    def reject(segment: Segment, error: RejectedError) -> Reject:
        return Reject(split, segment.clip_id, recording.name, error.kind, str(error))

    left: dict[str, Segment] = {}
    for segment in recording.segments:
        try:
            _check(segment, heads)
            labels = {head: segment.labels[head] for head in heads}
            left[segment.clip_id] = replace(segment, labels=labels)
        except RejectedError as error:
            yield reject(segment, error)
    if not left:
        return
    try:
        with recording.open() as media:
            for segment, result in _pass(media, list(left.values()), pack, flow, detector):
                del left[segment.clip_id]
                yield reject(segment, result) if isinstance(result, RejectedError) else result
    except RejectedError as error:
        for segment in left.values():
            yield reject(segment, error)
    except Exception as error:  # whatever a library makes of a file that nobody foresaw: the others must be packed
        for segment in left.values():
            yield reject(segment, RejectedError("other", f"{type(error).__name__}: {error}"))


def _check(segment: Segment, heads: Mapping[str, Sequence[str]]) -> None:
    for head, classes in heads.items():
        label = segment.labels[head]
        if any(not -1 <= each < len(classes) for each in (label if isinstance(label, list) else [label])):
            raise RejectedError("label", f"label {label} of head {head} is not among {len(classes)} classes")
    if segment.frames is not None:
        first, last = segment.frames
        if not 0 <= first < last:
            raise RejectedError("interval", f"it has no frame: from {first + 1} to {last}")
    elif not 0 <= segment.start < (np.inf if segment.stop is None else segment.stop):
        raise RejectedError("interval", f"from {segment.start:g} to {segment.stop:g} s is no interval of time")


def _pass(
    media: Media, segments: list[Segment], pack: Pack, flow: FlowMethod | None, detector: Detector | None
) -> Iterator[tuple[Segment, Row | RejectedError]]:
    """Each segment with its row, or with what is wrong with it."""
    rate = media.frames.rate
    fps = pack.kept_rate(rate)
    waiting = sorted((_begin(segment, rate, fps) for segment in segments), key=lambda each: each.span.first)
    wanted = heapq.merge(*(each.span.numbers() for each in waiting))
    computed = _Computed(pack, flow if media.flow is None else None, detector if media.boxes is None else None)
    active: list[_Cut] = []
    at = -1
    for number, frame in media.frames.read(_unique(wanted), pack.short_side):
        at = number
        while waiting and waiting[0].span.first <= number:
            active.append(waiting.pop(0))
        mine = [each for each in active if each.span.number(len(each.numbers)) == number]
        try:
            if isinstance(frame, Fault):
                raise RejectedError("damaged", frame.reason)
            for each in mine:
                _add(each, number, frame, media, fps, pack, computed)
        except RejectedError as error:
            active = [each for each in active if each not in mine]
            yield from ((each.segment, error) for each in mine)
            continue
        for each in mine:
            if each.done:
                active.remove(each)
                yield each.segment, _finish(each, media, fps, pack, computed)
    for each in [*active, *waiting]:
        last = each.span.last if each.span.last is not None else media.frames.length or 0
        if each.numbers and (last - at) / rate - 1 / fps <= OVERHANG:
            yield each.segment, _finish(each, media, fps, pack, computed)
        else:
            yield each.segment, _past_end(each, at, media)


def _past_end(each: _Cut, at: int, media: Media) -> RejectedError:
    """What is wrong with a clip of which the frames after number `at` were not found."""
    rate, length, span = media.frames.rate, media.frames.length, each.span
    said = f"it lies from {span.first / rate:.2f} s" + ("" if span.last is None else f" to {span.last / rate:.2f} s")
    if each.numbers:
        said += f", and the last frame found is at {at / rate:.2f} s"
    if length is not None and (span.first + 1 if span.last is None else span.last) <= length:
        return RejectedError("damaged", f"{said}; the recording should be {length / rate:.2f} s long: is it truncated?")
    return RejectedError("past_end", said + (f"; the recording is {length / rate:.2f} s long" if length else ""))


def _begin(segment: Segment, rate: float, fps: float) -> _Cut:
    if segment.frames is not None:
        return _Cut(segment, Span(*segment.frames, rate / fps))
    first = round(segment.start * rate)
    last = None if segment.stop is None else max(first + 1, round(segment.stop * rate))
    return _Cut(segment, Span(first, last, rate / fps))


def _add(each: _Cut, number: int, frame: Frame, media: Media, fps: float, pack: Pack, computed: _Computed) -> None:
    if len(each.numbers) == MAX_FRAMES:
        raise RejectedError("large", f"it has more than {MAX_FRAMES} frames; pack.fps makes them fewer")
    height, width = frame.pixels.shape[:2]
    if each.numbers and each.size[1] != (width, height):
        raise RejectedError("damaged", f"frame {number + 1} is {width} x {height}, the ones before are {each.size[1]}")
    each.size = (frame.size, (width, height))
    flows = len(each.flow)
    computed.look_at(number, frame)
    if media.flow is not None:
        each.flow.append(flow_jpeg(media.flow.read(number, (width, height)), pack.flow_quality))
    elif computed.flow is not None:
        if each.numbers:
            each.flow.append(computed.since(each.numbers[-1], each.before))
        each.before = computed.prepared
    if computed.detector is not None:
        each.boxes.append(computed.boxes())
    each.numbers.append(number)
    each.bytes += sum(map(len, each.flow[flows:]))
    if pack.rgb_codec == "jpeg":
        each.images.append(frame.jpeg(pack.quality))
        each.bytes += len(each.images[-1])
    else:
        each.video = each.video or VideoWriter((width, height), fps, pack.crf, pack.gop)
        each.video.add(frame.pixels)
    if each.bytes + (each.video.written if each.video else 0) > MAX_BYTES:
        said = f"its frames and flow have more than {MAX_BYTES >> 20} MB up to second {len(each.numbers) / fps:.0f}"
        raise RejectedError("large", f"{said}; pack.fps, pack.short_side or pack.rgb_codec h264 make them less")


def _finish(each: _Cut, media: Media, fps: float, pack: Pack, computed: _Computed) -> Row | RejectedError:
    segment, number = each.segment, len(each.numbers)
    rate = media.frames.rate
    start = each.span.first / rate
    stop = start + number / fps
    try:
        sound = None if media.sound is None else media.sound.read(start, stop)
        boxes = each.boxes if media.boxes is None else media.boxes.read(each.numbers, each.size[0])
        flow = each.flow
        if computed.flow is not None:
            # The last frame repeats the flow before it; a clip of one frame stands still.
            flow = [*flow, flow[-1] if flow else computed.still(each.size[1])]
        audio = None
        if sound is not None and media.sound is not None:
            sample_rate = min(pack.sample_rate or media.sound.rate, media.sound.rate)
            audio = _flac(resample(sound, media.sound.rate, sample_rate), sample_rate)
        return {
            "clip_id": segment.clip_id,
            "rgb": each.images if each.video is None else [each.video.close()],
            "flow": flow or None,
            "audio": audio,
            "boxes": None if not boxes else _box_lists(boxes, pack.box_score),
            "num_frames": number,
            "width": each.size[1][0],
            "height": each.size[1][1],
            "labels": {head: None if label == NO_LABEL else label for head, label in segment.labels.items()},
            "fps": _float32(fps),
            "start": _float32(start),
            "stop": _float32(stop),
            "meta": list((media.meta | segment.meta).items()),
        }
    except RejectedError as error:
        return error


class _Computed:
    """Flow and boxes of the current frame, computed once, however many clips show it."""

    def __init__(self, pack: Pack, flow: FlowMethod | None, detector: Detector | None):
        self.pack, self.flow, self.detector = pack, flow, detector
        self.number = -1
        self.prepared: Any = None

    def look_at(self, number: int, frame: Frame) -> None:
        """Make a frame the current one."""
        if number != self.number:
            self.number, self.pixels = number, frame.pixels
            self.prepared = None if self.flow is None else self.flow.prepare(frame.pixels)
            self._since: dict[int, bytes] = {}
            self._boxes: NDArray | None = None

    def since(self, before: int, frame: Any) -> bytes:
        """Flow from an earlier frame, prepared, of number `before` to the current one, as a JPEG."""
        assert self.flow is not None
        if before not in self._since:
            flow = as_bytes(self.flow.flow(frame, self.prepared), self.pack.flow_bound)
            self._since[before] = flow_jpeg(flow, self.pack.flow_quality)
        return self._since[before]

    def still(self, size: tuple[int, int]) -> bytes:
        return flow_jpeg(np.full((size[1], size[0], 2), 128, np.uint8), self.pack.flow_quality)

    def boxes(self) -> NDArray:
        assert self.detector is not None
        if self._boxes is None:
            self._boxes = self.detector.boxes(self.pixels)
        return self._boxes


def as_bytes(flow: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """Flow in pixels to 0..255 for -bound..bound; no motion is 128."""
    return np.clip(np.round(flow * (127.0 / bound) + 128.0), 0, 255).astype(np.uint8)


def flow_jpeg(flow: NDArray[np.uint8], quality: int) -> bytes:
    """u and v in the first two channels of a 4:4:4 JPEG; the third is constant and costs next to nothing."""
    image = np.full((*flow.shape[:2], 3), 128, np.uint8)
    image[..., :2] = flow
    return simplejpeg.encode_jpeg(image, quality, "RGB", "444")


def box_rows(boxes: NDArray, min_score: float = 0.0) -> list[dict[str, float]]:
    """Boxes (BOX_DTYPE) of a frame as a shard keeps them.

    Raises:
        RejectedError: a corner or a score is not finite.
    """
    corners = ("x1", "y1", "x2", "y2", "score")
    if not all(np.isfinite(boxes[name]).all() for name in corners):
        raise RejectedError("boxes", "a box is not finite")
    kept = boxes[boxes["score"] >= min_score]
    return [{name: (float if name in corners else int)(box[name]) for name in boxes.dtype.names or ()} for box in kept]


def _box_lists(boxes: Sequence[NDArray], min_score: float) -> list[list[dict[str, float]]]:
    if (number := sum(int((one["score"] >= min_score).sum()) for one in boxes)) > MAX_IN_LISTS:
        said = f"it has {number} boxes, more than {MAX_IN_LISTS}"
        raise RejectedError("large", f"{said}; pack.box_score or pack.fps makes them fewer")
    return [box_rows(one, min_score) for one in boxes]


def _flac(samples: NDArray[np.int16], sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _float32(value: float) -> float:
    """The value as a shard keeps it, so that rows hash alike before they are written and after."""
    return float(np.float32(value))


def _unique(numbers: Iterator[int]) -> Iterator[int]:
    last = -1
    for number in numbers:
        if number != last:
            yield number
            last = number
