"""Views: which frames and which part of them a network sees, the same in every modality.

A view is a pure function of (view_seed, clip, view number). Its numbers are relative to the frame, so that it can be
drawn before anything is decoded.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mmkd.config import Views
from mmkd.plan import TEST_VIEW

Frames = NDArray[np.uint8]
Indices = NDArray[np.int64]
GRAY = np.array([0.299, 0.587, 0.114])


def uniform_indices(
    length: int, num_frames: int, num_clips: int = 1, rng: np.random.Generator | None = None
) -> Indices:
    """One frame from each of num_frames * num_clips equal segments (Something-Something sampling).

    Segments are (length - 1) / (num_frames * num_clips) long, their ends rounded half to even. At test time the middle
    (start + end) // 2 is taken, with `rng` a uniform integer in [start, end].

    Returns:
        int64 [num_clips * num_frames], in 0..length-1.
    """
    _check_length(length)
    total = num_frames * num_clips
    segment = float(length - 1) / total
    ends = np.round(segment * np.arange(total + 1)).astype(np.int64)
    if rng is None:
        return (ends[:-1] + ends[1:]) // 2
    return rng.integers(ends[:-1], ends[1:], endpoint=True)


def strided_indices(
    length: int, num_frames: int, stride: int, num_clips: int = 1, rng: np.random.Generator | None = None
) -> Indices:
    """Clips of num_frames frames, `stride` apart (EPIC-KITCHENS sampling, after Video Swin's).

    Test clips are spread evenly over the video, with `rng` they start at random; an index past the end repeats the
    last frame that was sampled before it.

    Returns:
        int64 [num_clips * num_frames], in 0..length-1.
    """
    _check_length(length)
    starts = _clip_starts(length, num_frames * stride, num_clips, rng)
    indices = starts[:, None] + np.arange(num_frames, dtype=np.int64) * stride
    inside = indices < length
    last = np.where(inside, indices, 0).max(axis=1, keepdims=True)
    return np.where(inside, indices, last).reshape(-1)


def _clip_starts(length: int, span: int, num_clips: int, rng: np.random.Generator | None) -> Indices:
    room = length - span + 1
    clips = np.arange(num_clips)
    if rng is None:
        spread = clips * (room / num_clips) + room / num_clips / 2.0
        return spread.astype(np.int64) if room > 0 else np.zeros(num_clips, np.int64)
    interval = room // num_clips
    if interval > 0:
        return clips * interval + rng.integers(interval, size=num_clips)
    if length > max(num_clips, span):
        return np.sort(rng.integers(room, size=num_clips))
    if interval == 0:
        return np.around(clips * (room / num_clips)).astype(np.int64)
    return np.zeros(num_clips, np.int64)


def repair_box(box: Sequence[float], width: int, height: int) -> list[int]:
    """Repair a box in pixels as the authors' code does, so that it is inside the frame and has an area.

    Corners are cut to integers of at least 0 and swapped where an end lies before its start; what lies at or past the
    frame's edge moves to the last pixel; an empty side becomes 0 to 1 at the left or top edge and elsewhere starts one
    pixel earlier.

    Args:
        box: x1, y1, x2, y2.
        width, height: of the frame.
    """
    x1, y1, x2, y2 = (max(0, int(value)) for value in box)
    return [a for pair in zip(_repair_side(x1, x2, width), _repair_side(y1, y2, height), strict=True) for a in pair]


def _repair_side(start: int, end: int, size: int) -> tuple[int, int]:
    start, end = min(start, end, size - 1), min(max(start, end), size - 1)
    if start == end == 0:
        return 0, 1
    return (start - 1, end) if start == end else (start, end)


@dataclass(frozen=True)
class View:
    """One view of one clip.

    Attributes:
        indices: frames, int64 [frames].
        scale: the short side is resized to the view's size times this.
        left, top: where the square lies, as a share (0..1) of the room there is.
        flip: mirrored.
        jitter: brightness, contrast and saturation factors and the turn of the hue as a share of the circle.
    """

    indices: Indices
    scale: float = 1.0
    left: float = 0.5
    top: float = 0.5
    flip: bool = False
    jitter: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.0)


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
    return View(indices, scale, left, top, flip, (brightness, contrast, saturation, hue))


def crop_square(view: View, height: int, width: int) -> tuple[int, int, int]:
    """The square of a view in pixels of a frame: x, y, side."""
    side = max(1, round(min(height, width) / view.scale))
    return round(view.left * (width - side)), round(view.top * (height - side)), side


def view_frames(frames: Sequence[Frames], view: View, size: int) -> Frames:
    """Cut and resize frames [height, width, channels] to uint8 [frames, size, size, channels]."""
    height, width, channels = frames[0].shape
    x, y, side = crop_square(view, height, width)
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    out = np.empty((len(frames), size, size, channels), np.uint8)
    for target, frame in zip(out, frames, strict=True):
        cv2.resize(frame[y : y + side, x : x + side], (size, size), dst=target, interpolation=how)
    return np.ascontiguousarray(out[:, :, ::-1]) if view.flip else out


def view_rgb(frames: Sequence[Frames], view: View, size: int) -> Frames:
    """RGB frames of a view: cut, resized and jittered, uint8 [frames, size, size, 3]."""
    out = view_frames(frames, view, size)
    brightness, contrast, saturation, hue = view.jitter
    if view.jitter == (1.0, 1.0, 1.0, 0.0):
        return out
    mean = float(np.array(cv2.mean(out.reshape(-1, size, 3))[:3]) @ GRAY) * brightness
    gray = np.tile(GRAY, (3, 1))
    matrix = _turn_hue(hue) @ (gray + saturation * (np.eye(3) - gray)) * (brightness * contrast)
    affine = np.hstack([matrix, np.full((3, 1), mean * (1 - contrast))])
    return np.asarray(cv2.transform(out.reshape(-1, size, 3), affine), np.uint8).reshape(out.shape)


def view_flow(frames: Sequence[Frames], view: View, size: int) -> Frames:
    """Flow frames of a view, from u and v in the first two channels; uint8 [frames, size, size, 2]; a mirrored view
    has u negated."""
    out = np.ascontiguousarray(view_frames(frames, view, size)[..., :2])
    if view.flip:
        out[..., 0] = 255 - out[..., 0]
    return out


def view_boxes(
    frames: Sequence[list[dict[str, float]]], view: View, shape: tuple[int, int], limit: int
) -> dict[str, NDArray]:
    """Boxes of a view: the best `limit` a frame by score, moved with the crop; those outside it are left out.

    Args:
        frames: boxes of each sampled frame, corners as shares of the frame.
        shape: height and width of the frames that the crop refers to, pixels.

    Returns:
        `boxes` float32 [frames, limit, 4] as shares of the crop, `score` float32, `category`, `side`, `state` int8
        [frames, limit]; category 0 is padding, side and state are shifted by one so that 0 is none.

    Raises:
        ValueError: a corner or a score is not finite.
    """
    height, width = shape
    x, y, side = crop_square(view, height, width)
    out: dict[str, NDArray] = {
        "boxes": np.zeros((len(frames), limit, 4), np.float32),
        "score": np.zeros((len(frames), limit), np.float32),
        **{name: np.zeros((len(frames), limit), np.int8) for name in ("category", "side", "state")},
    }
    offset, extent = np.array([x, y, x, y]), np.array([width, height, width, height])
    for number, boxes in enumerate(frames):
        corners = np.array([[b["x1"], b["y1"], b["x2"], b["y2"], b["score"]] for b in boxes]).reshape(-1, 5)
        if not np.isfinite(corners).all():
            raise ValueError("a box is not finite")
        moved = np.clip((corners[:, :4] * extent - offset) / side, 0.0, 1.0)
        seen = np.flatnonzero((moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1]))
        best = seen[np.argsort(-corners[seen, 4], kind="stable")][:limit]
        n = len(best)
        kept = moved[best]
        out["boxes"][number, :n] = kept if not view.flip else (kept * [-1, 1, -1, 1] + [1, 0, 1, 0])[:, [2, 1, 0, 3]]
        out["score"][number, :n] = corners[best, 4]
        sides = np.array([boxes[i]["side"] for i in best], np.int8)
        out["side"][number, :n] = (np.where(sides >= 0, 1 - sides, sides) if view.flip else sides) + 1
        out["category"][number, :n] = [boxes[i]["category"] for i in best]
        out["state"][number, :n] = [boxes[i]["state"] + 1 for i in best]
    return out


def view_audio(samples: NDArray[np.int16], view: View, sample_rate: int, fps: float, seconds: float) -> NDArray:
    """Sound around each sampled frame, int16 [frames, window]; silence where the window leaves the clip."""
    window = int(seconds * sample_rate)
    centres = (view.indices * sample_rate / fps).astype(np.int64)
    padded = np.pad(samples, (window // 2, window))
    starts = np.clip(centres, 0, len(padded) - window)
    return padded[starts[:, None] + np.arange(window)]


def _turn_hue(turn: float) -> NDArray[np.float64]:
    """Rotation of RGB about the gray axis that keeps the luma (as in YIQ)."""
    to_yiq = np.array([GRAY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    c, s = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    return np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ to_yiq


def _clip_key(clip_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), "big")


def _check_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"a clip has {length} frames; at least 1 is needed.")
