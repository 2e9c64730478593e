"""Small videos that the tests make: frame n is a plain gray of level(n), with a white bar on its left."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 16000


def level(number: int) -> int:
    return 20 + 5 * (number % 40)


def number_of(pixels: np.ndarray, scale: int = 5) -> int:
    """Which frame (modulo 40) an image shows, from its middle."""
    height, width = pixels.shape[:2]
    middle = pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
    return round((float(middle.mean()) - 20) / scale)


def picture(number: int, width: int, height: int) -> np.ndarray:
    image = np.full((height, width, 3), level(number), np.uint8)
    image[:, : width // 8] = 255
    return image


def write_video(
    path: Path,
    frames: int,
    *,
    size: tuple[int, int] = (64, 48),
    fps: float = 10.0,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[float] | None = None,
    sound: np.ndarray | None = None,
    sound_codec: str = "aac",
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    gop: int = 12,
) -> Path:
    """A video of that many frames; `times` are their seconds (constant rate without), `sound` int16 at RATE."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt, stream.gop_size = pix_fmt, gop
        if aspect is not None:
            stream.sample_aspect_ratio = aspect
        stream.codec_context.time_base = Fraction(1, 1000)
        heard = out.add_stream(sound_codec, rate=RATE, layout="mono") if sound is not None else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), "rgb24")
            frame.pts = round(1000 * (number / fps if times is None else times[number]))
            frame.time_base = Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if heard is not None and sound is not None:
            samples = av.AudioFrame.from_ndarray(sound[None].astype(np.int16), format="s16", layout="mono")
            samples.rate, samples.pts, samples.time_base = RATE, 0, Fraction(1, RATE)
            resampler = av.AudioResampler(format=heard.codec_context.format, layout="mono", rate=RATE, frame_size=1024)
            for part in [*resampler.resample(samples), *resampler.resample(None)]:
                out.mux(heard.encode(part))
            out.mux(heard.encode(None))
    return path


def click(seconds: float, at: float) -> np.ndarray:
    """Silence with 20 ms of a loud tone."""
    time = np.arange(int(seconds * RATE)) / RATE
    inside = (time >= at) & (time < at + 0.02)
    return (inside * 20000 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16)


def rotate_mp4(path: Path, degrees: int) -> None:
    """Write into an MP4's track header that it is to be shown turned by that much, as phones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    matrix = at + 4 + 4 + 4 + 4 + 4 + 4 + 8 + 2 + 2 + 2 + 2  # a track header of version 0
    one, minus = (1 << 16).to_bytes(4, "big"), ((1 << 32) - (1 << 16)).to_bytes(4, "big")
    zero, end = bytes(4), (1 << 30).to_bytes(4, "big")
    turns = {
        90: [zero, one, zero, minus, zero, zero],
        180: [minus, zero, zero, zero, minus, zero],
        270: [zero, minus, zero, one, zero, zero],
    }
    data[matrix : matrix + 36] = b"".join([*turns[degrees], zero, zero, end])
    path.write_bytes(bytes(data))
