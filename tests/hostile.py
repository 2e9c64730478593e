"""Files that claim what cannot be, for tests of what is done about them."""

import io
import wave
from pathlib import Path

import cv2
import numpy as np
import soundfile

from tests.videos import picture

JPEG = cv2.imencode(".jpg", picture(3, 64, 48))[1].tobytes()
DEEP = "[" * 100_000 + "]" * 100_000
"""JSON of brackets in brackets."""


def huge(jpeg: bytes) -> bytes:
    """The JPEG with a header that claims 65,000 x 65,000 pixels."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + (65000).to_bytes(2, "big") * 2 + jpeg[at + 4 :]


def flac(samples: np.ndarray, rate: int = 4000) -> bytes:
    """A FLAC file of samples, [samples] or [samples, channels]."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.astype(np.int16), rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def endless(data: bytes) -> bytes:
    """The FLAC file with a header that claims 2^36 - 1 samples."""
    return data[:21] + bytes([data[21] | 15]) + b"\xff" * 4 + data[26:]


def wav(path: Path, rate: int = 16000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * channels * 1600))
    return path
