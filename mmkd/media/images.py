"""Numbered image files as the frames of a recording: in a folder, in a tar file, or in memory."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mmkd.media.video import MAX_PIXELS, scaled_size
from mmkd.sources.recording import Fault, Frame, RejectedError
from mmkd.storage import StrPath, inside, name_of, open_input, read_bytes

MAX_IMAGE_BYTES = 1 << 28
"""Of an image file: more than an uncompressed one of MAX_PIXELS has."""
MAX_SCANS, FEW_PIXELS = 100, 1 << 22
"""Of a progressive JPEG, of which encoders make about ten: each is a pass over all pixels, for a few bytes. With so few
pixels they need not be counted, which takes longer than to read the header."""
PNG = b"\x89PNG\r\n\x1a\n"

Fetch = Callable[[int], bytes]
"""From a frame's number to its image file; raises OSError or KeyError where it is missing."""


class ImageReader:
    """Frames from images that are fetched by number.

    A JPEG that need not be scaled is kept as it is, after it was decoded once to see that it can be.

    Args:
        rate: frames per second.
        length: number of frames.
    """

    def __init__(self, fetch: Fetch, rate: float, length: int | None):
        self.fetch, self.rate, self.length = fetch, rate, length

    def read(self, numbers: Iterable[int], short_side: int) -> Iterator[tuple[int, Frame | Fault]]:
        for number in numbers:
            if self.length is not None and number >= self.length:
                return
            try:
                data = self.fetch(number)
                pixels = decode_image(data)
            except (OSError, KeyError, ValueError) as error:
                yield number, Fault(f"frame {number + 1} is missing or cannot be decoded: {error}")
                continue
            height, width = pixels.shape[:2]
            to = scaled_size((width, height), short_side)
            if to != (width, height):
                yield number, Frame((width, height), resized(pixels, to))
            else:
                yield number, Frame((width, height), pixels, data if simplejpeg.is_jpeg(data) else None)


class ArrayReader:
    """Frames that are in memory, uint8 [frames, height, width, 3]."""

    def __init__(self, frames: NDArray[np.uint8], rate: float):
        self.frames, self.rate = frames, rate
        self.length: int | None = len(frames)

    def read(self, numbers: Iterable[int], short_side: int) -> Iterator[tuple[int, Frame | Fault]]:
        height, width = self.frames.shape[1:3]
        to = scaled_size((width, height), short_side)
        for number in numbers:
            if number >= len(self.frames):
                return
            pixels = self.frames[number]
            if to != (width, height):
                pixels = resized(pixels, to)
            yield number, Frame((width, height), pixels)


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """An image file as RGB, uint8 [height, width, 3].

    Raises:
        ValueError: it is no JPEG or PNG, cannot be decoded, or claims an absurd size.
    """
    if data[:2] == b"\xff\xd8":
        jpeg_pixels(data)
        if simplejpeg.is_jpeg(data):
            return simplejpeg.decode_jpeg(data, "RGB")
        _check_scans(data)  # OpenCV passes over mistakes, as more scans than there can be
    elif data[:8] != PNG:
        raise ValueError("it is neither JPEG nor PNG; convert it to one of them")
    elif _png_pixels(data) > MAX_PIXELS:
        raise ValueError("it claims an absurd size")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("it is no image")
    return np.ascontiguousarray(image[:, :, ::-1])


def jpeg_pixels(data: bytes) -> int:
    """Pixels that a JPEG claims to have, before anything of it is decoded.

    Raises:
        ValueError: it is no JPEG, or would take absurdly much memory or time.
    """
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    if height * width > MAX_PIXELS:
        raise ValueError(f"it claims {width} x {height} pixels")
    if height * width > FEW_PIXELS:
        _check_scans(data)
    return int(height * width)


def _check_scans(jpeg: bytes) -> None:
    if (scans := jpeg.count(b"\xff\xda")) > MAX_SCANS:
        raise ValueError(f"it has {scans} scans")


def resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame [height, width, channels] at a smaller size (width, height)."""
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def fetch_from_folder(folder: StrPath, names: Sequence[str] | Callable[[int], str]) -> Fetch:
    """Images in a folder, by their names in order, or by a function from a number to a name; a link that leads out of
    the folder is refused."""

    def fetch(number: int) -> bytes:
        return read_bytes(inside(folder, names(number) if callable(names) else names[number]), MAX_IMAGE_BYTES)

    return fetch


class TarImages:
    """Images in an uncompressed tar file, by name, read where they lie; the tar file is scanned once.

    Raises:
        RejectedError: it is missing or no tar file.
    """

    def __init__(self, path: StrPath):
        try:
            self.file = open_input(path)
            with tarfile.open(fileobj=self.file, mode="r:") as tar:
                places = {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}
        except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
            raise RejectedError("unreadable", f"{name_of(path)} cannot be read: {error}") from error
        self.places = {name.removeprefix("./"): place for name, place in places.items()}

    def fetch(self, name: str) -> bytes:
        """Raises KeyError where there is no such image, and ValueError where it claims an absurd size."""
        offset, size = self.places[name]
        if size > MAX_IMAGE_BYTES:
            raise ValueError(f"it claims {size} bytes")
        self.file.seek(offset)
        return self.file.read(size)

    def close(self) -> None:
        self.file.close()


def _png_pixels(data: bytes) -> int:
    if data[12:16] != b"IHDR":
        raise ValueError("its header is missing")
    return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
