"""Which frames of a video a view shows."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


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


def _check_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"a clip has {length} frames; at least 1 is needed.")
