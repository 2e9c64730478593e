"""What can be wrong with a clip of a data set, as a pure function of its row; one frame is in memory at a time."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import cv2
import numpy as np
import simplejpeg
import soundfile
from numpy.typing import NDArray

from mmkd.dataset import Dataset
from mmkd.media.images import decode_image, jpeg_pixels
from mmkd.media.sound import check_sound
from mmkd.media.video import MAX_PIXELS, decoder_options, said
from mmkd.shards import Row

Pixels = NDArray[np.uint8]

SATURATED_SHARE, SOUND_SECONDS = 0.05, 0.1
PAIRS = 3
"""Pairs of consecutive frames of a clip that its flow is held against."""
LONG_SIDE = 512
"""They are looked at no larger than this, pixels."""
MOVING = 2.0
"""Mean difference of consecutive frames, of 255, from which on a clip moves."""
FAULTS = {
    "dataset": "dataset.json says other than the clips do",
    "shard": "a shard is missing, or is not what dataset.json says",
    "duplicate": "a clip_id occurs more than once",
    "row": "a clip has no frames, frame rate, frame size or modality",
    "label": "a label is out of range",
    "frames": "frames cannot be decoded, or are not as many or as large as they should be",
    "flow": "flow cannot be decoded or does not fit its frames",
    "sound": "sound cannot be decoded or does not last as long as its frames",
    "boxes": "boxes are not as many as frames, not finite, out of range or inside out",
}
WARNINGS = {
    "no rgb": "a clip has no RGB, which is what students see",
    "silent": "the sound is silent from beginning to end",
    "still flow": "the flow is the same everywhere although the frames move",
    "saturated": f"more than {SATURATED_SHARE:.0%} of the flow is at its bound: a larger pack.flow_bound keeps more",
    "astray flow": "the flow does not lead from one frame to the next",
    "no clip": "a head has classes without a clip in train",
    "stray": "a shard lies in the folder that dataset.json does not name",
}


@dataclass(frozen=True)
class Finding:
    """Something wrong with a clip: a key of FAULTS or WARNINGS, and what exactly."""

    kind: str
    detail: str
    split: str = ""
    clip_id: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.split, self.clip_id, self.detail)))

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS


@dataclass
class Look:
    """What a look at a clip gave.

    Attributes:
        at_bound: share of the flow's values at 0 or 255.
        explained: how much less consecutive frames of a moving clip differ once the flow has moved the second one back,
            0 (as much as before) to 1; None where it cannot be had.
    """

    findings: list[Finding] = field(default_factory=list)
    at_bound: float | None = None
    explained: float | None = None
    _size: tuple[int, int] | None = None
    _motion: float = 0.0
    _pairs: dict[int, tuple[Pixels, Pixels]] = field(default_factory=dict)

    def add(self, kind: str, detail: str) -> None:
        self.findings.append(Finding(kind, detail))


def look_at(row: Row, dataset: Dataset) -> Look:
    """Decode all of a clip and find what is wrong with it."""
    look = Look()
    for check in (_facts, _labels, _frames, _flow, _sound, _boxes):
        check(row, dataset, look)
    return look


def seconds_of(row: Row) -> float | None:
    """How long a clip is; None where its row does not tell."""
    fps = row["fps"]
    return row["num_frames"] / fps if fps is not None and math.isfinite(fps) and fps > 0 else None


def box_fault(box: Mapping[str, Any] | None) -> str | None:
    """What is wrong with a box."""
    values: list[Any] = [None if box is None else box[name] for name in ("x1", "y1", "x2", "y2", "score")]
    if box is None or any(value is None or not math.isfinite(value) for value in values):
        return "a value is not finite"
    if not all(-1e-6 <= value <= 1 + 1e-6 for value in values):
        return f"a value is out of 0..1: {max(values, key=abs):g}"
    if box["x2"] < box["x1"] or box["y2"] < box["y1"]:
        return "an end lies before its start"
    if box["category"] not in (1, 2) or box["side"] not in (-1, 0, 1) or box["state"] not in range(-1, 5):
        return f"category {box['category']}, side {box['side']} or state {box['state']} is none"
    return None


def _facts(row: Row, dataset: Dataset, look: Look) -> None:
    if row["num_frames"] < 1:
        look.add("row", f"num_frames is {row['num_frames']}")
    if seconds_of(row) is None:
        look.add("row", f"fps is {row['fps']}")
    if (row["width"] or 0) < 1 or (row["height"] or 0) < 1:
        look.add("row", f"its size is {row['width']} x {row['height']}")
    if all(row[name] is None for name in ("rgb", "flow", "audio", "boxes")):
        look.add("row", "it has no modality")
    elif row["rgb"] is None:
        look.add("no rgb", "it is null")


def _labels(row: Row, dataset: Dataset, look: Look) -> None:
    for head, classes in dataset.heads.items():
        label = (row["labels"] or {}).get(head)
        for each in [] if label is None else label if isinstance(label, list) else [label]:
            if each is None or not 0 <= each < len(classes):
                look.add("label", f"{head} is {each}, of {len(classes)} classes")
                break


def _frames(row: Row, dataset: Dataset, look: Look) -> None:
    if row["rgb"] is None:
        return
    wanted = row["num_frames"]
    pairs = set(np.linspace(0, max(wanted - 2, 0), PAIRS).astype(int).tolist())
    sizes: set[tuple[int, int]] = set()
    before, number = None, 0
    try:
        for gray in _video_grays(row["rgb"]) if dataset.rgb_codec == "h264" else _jpeg_grays(row["rgb"]):
            sizes.add((gray.shape[1], gray.shape[0]))
            if before is not None and before.shape == gray.shape:
                if number - 1 in pairs:
                    look._pairs[number - 1] = _small(before), _small(gray)
                look._motion = max(look._motion, float(cv2.absdiff(before, gray).mean()))
            before, number = gray, number + 1
    except ValueError as error:
        look.add("frames", str(error))
        return
    if number != wanted:
        look.add("frames", f"{number} frames where num_frames is {wanted}")
    if len(sizes) > 1:
        look.add("frames", f"frames of different sizes: {', '.join(_times(size) for size in sorted(sizes)[:3])}")
        return
    if sizes and row["width"] and row["height"]:
        look._size = sizes.pop()
        said_size = row["width"], row["height"]
        even = tuple(side - side % 2 for side in said_size)  # all that H.264 can keep
        if look._size not in ({said_size, even} if dataset.rgb_codec == "h264" else {said_size}):
            look.add("frames", f"frames of {_times(look._size)} where the row says {_times(said_size)}")


def _flow(row: Row, dataset: Dataset, look: Look) -> None:
    if row["flow"] is None:
        return
    if len(row["flow"]) != row["num_frames"] or not row["flow"]:
        look.add("flow", f"{len(row['flow'])} frames of flow for {row['num_frames']} frames")
        return
    sizes: set[tuple[int, int]] = set()
    counts = np.zeros(256)
    still = moved = 0.0
    try:
        for number, image in enumerate(row["flow"]):
            flow = decode_image(_jpeg(image, number))
            sizes.add((flow.shape[1], flow.shape[0]))
            for channel in (0, 1):
                counts += cv2.calcHist([flow], [channel], None, [256], [0, 256]).ravel()
            if number in look._pairs and dataset.flow.get("step", 1) == 1:
                change = _change(*look._pairs[number], _pixels(flow[..., :2], look._pairs[number][0].shape, dataset))
                still, moved = still + change[0], moved + change[1]
    except ValueError as error:
        look.add("flow", str(error))
        return
    if len(sizes) > 1:
        look.add("flow", f"flow frames of different sizes: {', '.join(_times(size) for size in sorted(sizes)[:3])}")
        return
    if sizes and look._size:
        (own_width, own_height), (width, height) = next(iter(sizes)), look._size
        if abs(width * own_height - height * own_width) > max(width, height) * 2:
            look.add("flow", f"flow of {own_width} x {own_height} for frames of {width} x {height}")
            return
    levels = np.flatnonzero(counts)
    look.at_bound = float(counts[[0, 1, 254, 255]].sum() / counts.sum())
    if look.at_bound > SATURATED_SHARE:
        look.add("saturated", f"{100 * look.at_bound:.0f} % of the values")
    if look._motion > MOVING and levels[-1] - levels[0] <= 2:
        look.add("still flow", f"flow is {levels[0]} everywhere")
    elif still > MOVING * len(look._pairs):
        look.explained = 1 - moved / still


def _sound(row: Row, dataset: Dataset, look: Look) -> None:
    if row["audio"] is None:
        return
    length, least, most = 0, 32767, -32768
    try:
        with soundfile.SoundFile(io.BytesIO(row["audio"])) as sound:
            if sound.channels != 1:
                look.add("sound", f"{sound.channels} channels where one is kept")
                return
            check_sound(sound.frames, sound.samplerate)
            while len(part := sound.read(1 << 16, dtype="int16")):
                length, least, most = length + len(part), min(least, part.min()), max(most, part.max())
            rate = sound.samplerate
    except (RuntimeError, ValueError) as error:
        look.add("sound", str(error))
        return
    seconds = seconds_of(row)
    if seconds is not None and abs(seconds - length / rate) > SOUND_SECONDS:
        look.add("sound", f"{length / rate:.2f} s of sound for {seconds:.2f} s of frames")
    if length and least == most:
        look.add("silent", f"every sample is {least}")


def _boxes(row: Row, dataset: Dataset, look: Look) -> None:
    if row["boxes"] is None:
        return
    if len(row["boxes"]) != row["num_frames"]:
        look.add("boxes", f"{len(row['boxes'])} frames of boxes for {row['num_frames']} frames")
    for number, boxes in enumerate(row["boxes"]):
        wrong = "there is null instead of a list" if boxes is None else next(filter(None, map(box_fault, boxes)), None)
        if wrong:
            look.add("boxes", f"in frame {number + 1}, {wrong}")
            return


def _jpeg_grays(images: Sequence[bytes | None]) -> Iterator[Pixels]:
    for number, image in enumerate(images):
        data = _jpeg(image, number)
        try:
            jpeg_pixels(data)
        except ValueError as error:
            raise ValueError(f"frame {number + 1}: {error}") from error
        yield simplejpeg.decode_jpeg(data, "GRAY")[..., 0]


def _video_grays(videos: Sequence[bytes | None]) -> Iterator[Pixels]:
    try:
        source = io.BytesIO(_only(videos))
        with av.open(source, "r", format="mp4", options=decoder_options("mp4")) as container:
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise ValueError(f"it claims frames of {stream.width} x {stream.height}")
            stream.codec_context.thread_count = 1
            stream.codec_context.options = decoder_options()
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise ValueError("a frame is damaged")
                yield np.asarray(frame.to_ndarray(format="gray"), np.uint8)
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise ValueError(f"the video of the clip cannot be decoded: {said(error)}") from error


def _only(videos: Sequence[bytes | None]) -> bytes:
    if len(videos) != 1 or videos[0] is None:
        raise ValueError(f"rgb has {len(videos)} parts where it should be one video")
    return videos[0]


def _jpeg(image: bytes | None, number: int) -> bytes:
    if image is None or not simplejpeg.is_jpeg(image):
        raise ValueError(f"frame {number + 1} is no JPEG")
    return image


def _pixels(flow: Pixels, shape: tuple[int, ...], dataset: Dataset) -> NDArray[np.float32]:
    """Flow of 0..255 as pixels of a frame of that shape, in its size."""
    height, width = shape[:2]
    own_width, own_height = dataset.flow.get("size") or (width, height)
    scale = np.array([width / own_width, height / own_height], np.float32)
    pixels = (flow.astype(np.float32) - 128) * (dataset.flow["bound"] / 127 * scale)
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _change(first: Pixels, second: Pixels, flow: NDArray[np.float32]) -> tuple[float, float]:
    """Mean difference of two frames, before and after the flow has moved the second one back."""
    y, x = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
    back = cv2.remap(second, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float(cv2.absdiff(first, second).mean()), float(cv2.absdiff(first, back).mean())


def _small(gray: Pixels) -> Pixels:
    height, width = gray.shape
    scale = LONG_SIDE / max(height, width)
    if scale >= 1:
        return gray
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)


def _times(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
