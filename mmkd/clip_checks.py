"""What can be wrong with a clip of a data set, as a pure function of its row."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
import soundfile
from numpy.typing import NDArray

from mmkd.media.clips import decode_frames
from mmkd.shards import Dataset, Row

SATURATED_SHARE, SOUND_SECONDS = 0.05, 0.1
FAULTS = {
    "shard": "a shard is missing, or is not what dataset.json says",
    "duplicate": "a clip_id occurs more than once",
    "label": "a label is out of range",
    "frames": "frames cannot be decoded, or are not as many or as large as they should be",
    "flow": "flow cannot be decoded or does not fit its frames",
    "sound": "sound cannot be decoded or does not last as long as its frames",
    "boxes": "boxes are not as many as frames, not finite, out of range or inside out",
}
WARNINGS = {
    "silent": "the sound is silent from beginning to end",
    "still flow": "the flow is the same everywhere although the frames move",
    "saturated": f"more than {SATURATED_SHARE:.0%} of the flow is at its bound: a larger pack.flow_bound keeps more",
    "no clip": "a class has no clip in train",
}


@dataclass(frozen=True)
class Finding:
    """Something wrong with a clip: a key of FAULTS or WARNINGS, and what exactly."""

    kind: str
    detail: str
    split: str = ""
    clip_id: str = ""

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS


@dataclass
class Decoded:
    """A clip's arrays; empty where they cannot be had."""

    rgb: list[NDArray[np.uint8]]
    flow: list[NDArray[np.uint8]]
    samples: NDArray[np.int16] | None = None
    rate: int = 0


def clip_findings(row: Row, dataset: Dataset) -> list[Finding]:
    """All that is wrong with a clip."""
    decoded = Decoded([], [])
    checks = (_labels, _frames, _flow, _sound, _boxes)
    return [finding for check in checks for finding in check(row, dataset, decoded)]


def decode_clip(row: Row, dataset: Dataset) -> Decoded:
    """A clip's arrays, as far as they can be had."""
    decoded = Decoded([], [])
    for check in (_frames, _flow, _sound):
        list(check(row, dataset, decoded))
    return decoded


def decode_rgb(row: Row, dataset: Dataset) -> list[NDArray[np.uint8]]:
    """All frames of a clip, uint8 [height, width, 3] each.

    Raises:
        ValueError: one cannot be decoded.
    """
    if dataset.rgb_codec == "h264":
        frames = decode_frames(row["rgb"][0], range(row["num_frames"]))
        return [frames[number] for number in sorted(frames)]
    return [simplejpeg.decode_jpeg(frame, "RGB") for frame in row["rgb"]]


def _labels(row: Row, dataset: Dataset, decoded: Decoded) -> Iterator[Finding]:
    for head, classes in dataset.heads.items():
        label = (row["labels"] or {}).get(head)
        chosen = [] if label is None else label if isinstance(label, list) else [label]
        for each in chosen:
            if each is None or not 0 <= each < len(classes):
                yield Finding("label", f"{head} is {each}, of {len(classes)} classes")


def _frames(row: Row, dataset: Dataset, decoded: Decoded) -> Iterator[Finding]:
    if row["rgb"] is None:
        return
    try:
        decoded.rgb = decode_rgb(row, dataset)
    except (ValueError, IndexError, TypeError) as error:
        yield Finding("frames", str(error))
        return
    if len(decoded.rgb) != row["num_frames"]:
        yield Finding("frames", f"{len(decoded.rgb)} frames where num_frames is {row['num_frames']}")
    sizes = sorted({frame.shape[1::-1] for frame in decoded.rgb})
    if len(sizes) > 1:
        yield Finding("frames", f"frames of different sizes: {sizes[:3]}")
    elif sizes and row["width"] is not None and any(abs(a - b) > 1 for a, b in zip(sizes[0], _size(row), strict=True)):
        yield Finding("frames", f"frames of {sizes[0]} where the row says {_size(row)}")


def _flow(row: Row, dataset: Dataset, decoded: Decoded) -> Iterator[Finding]:
    if row["flow"] is None:
        return
    try:
        decoded.flow = [simplejpeg.decode_jpeg(frame, "RGB")[..., :2] for frame in row["flow"]]
    except (ValueError, TypeError) as error:
        yield Finding("flow", str(error))
        return
    if len(decoded.flow) != row["num_frames"]:
        yield Finding("flow", f"{len(decoded.flow)} frames of flow for {row['num_frames']} frames")
        return
    if len({frame.shape for frame in decoded.flow}) > 1:
        yield Finding("flow", "flow frames of different sizes")
        return
    if decoded.flow and decoded.rgb:
        (height, width), (own_height, own_width) = decoded.rgb[0].shape[:2], decoded.flow[0].shape[:2]
        if abs(width * own_height - height * own_width) > max(width, height) * 2:
            yield Finding("flow", f"flow of {own_width} x {own_height} for frames of {width} x {height}")
        elif len(decoded.rgb) > 1:
            flow = np.stack(decoded.flow)
            motion = np.abs(decoded.rgb[0].astype(np.int16) - decoded.rgb[len(decoded.rgb) // 2]).mean()
            if flow.std() < 0.5 and motion > 8:
                yield Finding("still flow", f"flow is {flow.mean():.0f} everywhere")
            share = float(((flow <= 1) | (flow >= 254)).mean())
            if share > SATURATED_SHARE:
                yield Finding("saturated", f"{100 * share:.0f} % of the values")


def _sound(row: Row, dataset: Dataset, decoded: Decoded) -> Iterator[Finding]:
    if row["audio"] is None:
        return
    try:
        samples, decoded.rate = soundfile.read(io.BytesIO(row["audio"]), dtype="int16")
    except (RuntimeError, TypeError) as error:
        yield Finding("sound", str(error))
        return
    if samples.ndim != 1:
        yield Finding("sound", f"{samples.shape[1]} channels where one is kept")
        return
    decoded.samples = samples
    wanted, heard = row["num_frames"] / row["fps"], len(samples) / decoded.rate
    if abs(wanted - heard) > SOUND_SECONDS:
        yield Finding("sound", f"{heard:.2f} s of sound for {wanted:.2f} s of frames")
    if len(samples) and samples.min() == samples.max():
        yield Finding("silent", f"every sample is {samples[0]}")


def _boxes(row: Row, dataset: Dataset, decoded: Decoded) -> Iterator[Finding]:
    if row["boxes"] is None:
        return
    if len(row["boxes"]) != row["num_frames"]:
        yield Finding("boxes", f"{len(row['boxes'])} frames of boxes for {row['num_frames']} frames")
    for number, boxes in enumerate(row["boxes"]):
        wrong = next((said for box in boxes for said in _box(box)), None)
        if wrong:
            yield Finding("boxes", f"in frame {number + 1}, {wrong}")
            return


def _box(box: dict[str, Any]) -> Iterator[str]:
    corners = [box[name] for name in ("x1", "y1", "x2", "y2", "score")]
    if any(value is None or not np.isfinite(value) for value in corners):
        yield "a value is not finite"
    elif not all(-1e-6 <= value <= 1 + 1e-6 for value in corners):
        yield f"a value is out of 0..1: {max(corners, key=abs):g}"
    elif box["x2"] < box["x1"] or box["y2"] < box["y1"]:
        yield "an end lies before its start"
    elif box["category"] not in (1, 2) or box["side"] not in (-1, 0, 1) or box["state"] not in range(-1, 5):
        yield f"category {box['category']}, side {box['side']} or state {box['state']} is none"


def _size(row: Row) -> tuple[int, int]:
    return row["width"], row["height"]
