"""Pictures of a clip's modalities, uint8 [height, width, 3]: frames with their boxes, flow as colours, spectrograms."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

from mmkd.clip_checks import box_fault
from mmkd.dataset import Dataset
from mmkd.media.clips import decode_frames
from mmkd.media.images import decode_image
from mmkd.media.sound import check_sound
from mmkd.shards import Row

Pixels = NDArray[np.uint8]

CELL, SOUND_HEIGHT, GAP = 168, 72, 3
"""Largest side of a frame in a strip, height of a spectrogram, and pixels between frames."""
BOXES = 8
"""Boxes drawn in a frame, the likeliest."""
OBJECT, HAND = (86, 180, 233), (255, 176, 0)
STATES = {0: "no", 1: "self", 2: "person", 3: "object", 4: "fixed"}
LONGEST_SOUND = 600.0
CORNERS = ("x1", "y1", "x2", "y2")


def frames_at(row: Row, dataset: Dataset, modality: str, numbers: Sequence[int]) -> list[Pixels]:
    """Some frames of a clip's RGB or flow, uint8 [height, width, 3] each.

    Raises:
        ValueError: one is missing or cannot be decoded.
    """
    images = row[modality]
    if modality == "rgb" and dataset.rgb_codec == "h264":
        found = decode_frames(images[0] if images and images[0] else b"", numbers)
        return [found[number] for number in numbers]
    if any(number >= len(images) or images[number] is None for number in numbers):
        raise ValueError("a frame is missing")
    return [decode_image(images[number]) for number in numbers]


def strip(frames: Sequence[Pixels]) -> Pixels:
    """Frames side by side."""
    gap = np.full((frames[0].shape[0], GAP, 3), 128, np.uint8)
    parts = [part for frame in frames for part in (gap, frame)]
    return np.hstack(parts[1:])


def fitted(frame: Pixels) -> Pixels:
    """A frame scaled to a cell of a strip.

    Raises:
        ValueError: it is too narrow to be shown.
    """
    height, width = frame.shape[:2]
    scale = CELL / max(height, width)
    size = (round(width * scale), round(height * scale))
    if min(size) < 1:
        raise ValueError(f"{width} x {height} pixels cannot be shown")
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=how), np.uint8)


def with_boxes(frame: Pixels, boxes: Sequence[Mapping[str, Any]]) -> Pixels:
    """A frame with its boxes drawn in, the likeliest on top; boxes that cannot be are left out."""
    out = np.ascontiguousarray(frame)
    height, width = frame.shape[:2]
    drawn = sorted((box for box in boxes if box_fault(box) is None), key=lambda box: box["score"])[-BOXES:]
    for box in drawn:
        colour = HAND if box["category"] == 2 else OBJECT
        ends = zip(CORNERS, (width - 1, height - 1) * 2, strict=True)
        left, top, right, bottom = (round(box[name] * side) for name, side in ends)
        cv2.rectangle(out, (left, top), (right, bottom), colour, 2)
    for box in drawn:
        if box["category"] == 2:
            text = f"{'LR'[box['side']] if box['side'] >= 0 else '?'} {STATES.get(box['state'], '')}".strip()
            _write(out, text, (round(box["x1"] * width), round(box["y1"] * height)))
    return out


def flow_colours(flow: Pixels, full: float) -> Pixels:
    """Flow of 0..255, uint8 [height, width, 2 or more], as colours: its direction is the hue (right red, down lime,
    left cyan, up violet), its length the saturation, which is full from `full` levels on; no motion is white."""
    u, v = flow[..., 0].astype(np.float32) - 128, flow[..., 1].astype(np.float32) - 128
    length, angle = cv2.cartToPolar(u, v, angleInDegrees=True)
    hsv = np.stack([angle, np.clip(length / full, 0, 1), np.ones_like(length)], axis=-1)
    return np.round(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).astype(np.uint8)


def full_length(flow: Sequence[Pixels]) -> float:
    """Levels from which on the colours of a clip's flow are full: what 2 % of its pixels exceed, 8 at the least."""
    lengths = [np.hypot(*(each[..., i].astype(np.float32) - 128 for i in (0, 1))) for each in flow]
    return max(8.0, float(np.quantile(np.concatenate([each.ravel() for each in lengths]), 0.98)))


def flow_wheel() -> Pixels:
    """The colours of all directions, as a disc."""
    y, x = np.mgrid[-64:65, -64:65]
    wheel = flow_colours((np.stack([x, y], axis=-1) + 128).astype(np.uint8), 64)
    wheel[np.hypot(x, y) > 64] = 255
    return wheel


def spectrogram(row: Row, width: int, seconds: float) -> tuple[Pixels, int, float]:
    """The log-mel spectrogram of a clip's sound over that many seconds, low notes at the bottom, black where it is
    70 dB below the loudest; also the sample rate and the peak in dB of full scale.

    Raises:
        ValueError: the sound cannot be decoded, or lasts too long.
    """
    import torch

    from mmkd.models.audio import as_float, log_mel

    if not 0 < seconds <= LONGEST_SOUND:
        raise ValueError(f"sound of {seconds:.0f} s is not shown")
    try:
        with soundfile.SoundFile(io.BytesIO(row["audio"])) as sound:
            rate, number = int(sound.samplerate), max(1, round(seconds * sound.samplerate))
            check_sound(number, rate, sound.channels)
            samples = sound.read(min(number, sound.frames), dtype="int16", always_2d=True)[:, 0]
        heard = as_float(torch.from_numpy(samples.copy()))
        n_fft = 1 << max(9, (rate // 25).bit_length())  # 25 Hz apart, fine enough for the lowest filters
        heard = torch.nn.functional.pad(heard, (0, max(number, n_fft) - len(heard)))
        hop = max(0.002, seconds / width)
        mel = log_mel(heard, rate, num_mels=64, n_fft=n_fft, window_seconds=0.02, hop_seconds=hop).numpy()
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(str(error)) from error
    mel = mel[::-1, : max(1, round(seconds / hop))]
    gray = np.clip((mel - max(float(mel.max()), -20.0) + 70) / 70, 0, 1) * 255
    size, how = (width, SOUND_HEIGHT), cv2.INTER_LINEAR
    coloured = cv2.applyColorMap(cv2.resize(gray.astype(np.uint8), size, interpolation=how), cv2.COLORMAP_MAGMA)
    peak = 20 * np.log10(max(np.abs(samples.astype(np.int32)).max(initial=0), 1) / 32768)
    return np.ascontiguousarray(coloured[:, :, ::-1]), rate, float(peak)


def _write(frame: Pixels, text: str, corner: tuple[int, int]) -> None:
    """Small text on a dark ground, inside the frame."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.36
    (width, height), below = cv2.getTextSize(text, font, scale, 1)
    left = max(0, min(corner[0], frame.shape[1] - width - 4))
    top = max(0, min(corner[1], frame.shape[0] - height - below - 2))
    cv2.rectangle(frame, (left, top), (left + width + 3, top + height + below + 1), (0, 0, 0), cv2.FILLED)
    cv2.putText(frame, text, (left + 2, top + height + 1), font, scale, HAND, 1, cv2.LINE_AA)
