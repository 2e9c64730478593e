"""Frames, flow, sound and boxes in the HDF5 packs of the authors' code, checked before they are read."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import h5py
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from mmkd.media.images import ImageReader, decode_image, resized
from mmkd.media.sound import ArraySound, Samples
from mmkd.sources.clip import BOX_DTYPE, FAR_OUT
from mmkd.sources.recording import RejectedError
from mmkd.storage import is_remote, name_of, open_input

MAX_FRAMES = 1_000_000
MAX_ELEMENT, MAX_CHUNK = 1 << 26, 1 << 28
"""Bytes of one frame, and of what must be unpacked at once to get at it."""
MAX_TEXT, MAX_DEPTH = 200_000, 6
"""Characters of the boxes of one frame, and how deep their brackets may be nested."""
CATEGORIES = {"object": 1, "hand": 2}
_FAILURES = (KeyError, IndexError, OSError, RuntimeError, ValueError, TypeError, OverflowError)
"""What h5py raises where a file is damaged or lacks something."""
_TOKEN = re.compile(
    r"\s*(?:(?P<mark>[\[\]{}:,()])|'(?P<single>[^'\\]*)'|\"(?P<double>[^\"\\]*)\"|(?P<word>None|True|False)"
    r"|(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))"
)
_WORDS = {"None": "null", "True": "true", "False": "false"}


def open_pack(path: str) -> h5py.File:
    """An HDF5 file, local or remote; each process opens it once.

    Raises:
        RejectedError: it is missing, or no HDF5 file.
    """
    return _opened(path, os.getpid())


@lru_cache(maxsize=8)
def _opened(path: str, process: int) -> h5py.File:
    try:
        if not is_remote(path):
            return h5py.File(path, "r", locking=False)
        remote: Any = open_input(path)
        return h5py.File(io.BufferedReader(remote, 1 << 20), "r")
    except _FAILURES as error:
        raise RejectedError("unreadable", f"{name_of(path)} cannot be opened as HDF5: {error}") from error


def find(path: str, *keys: str) -> h5py.Group | h5py.Dataset:
    """What lies under these keys of a pack, one below the other.

    Raises:
        RejectedError: there is no such key, or it leads into another file.
    """
    at: Any = open_pack(path)
    for depth, key in enumerate(keys, 1):
        where = f"{name_of(path)} at {'/'.join(keys[:depth])}"
        try:
            link = at.get(key, getlink=True) if isinstance(at, h5py.Group) and "/" not in key else None
            if link is None or key == ".":
                raise RejectedError("unreadable", f"{name_of(path)} has no {'/'.join(keys[:depth])}")
            if not isinstance(link, h5py.HardLink):
                raise RejectedError("path", f"{where} leads elsewhere; a pack must hold its data itself")
            at = at[key]
        except RejectedError:
            raise
        except _FAILURES as error:
            raise RejectedError("unreadable", f"{where} cannot be read: {error}") from error
    return at


def find_array(path: str, *keys: str) -> h5py.Dataset:
    """The data set under these keys, which has at least one axis, see :func:`find`."""
    found = find(path, *keys)
    where = f"{name_of(path)} at {'/'.join(keys)}"
    if not isinstance(found, h5py.Dataset) or not found.shape:
        raise RejectedError("unreadable", f"{where} is no data set of elements in a row")
    check_array(found, where)
    return found


def check_array(found: h5py.Dataset, where: str) -> None:
    """Refuse a data set that lies in other files, or would be unpacked to an absurd size.

    Raises:
        RejectedError: it does.
    """
    if found.is_virtual or found.external:
        raise RejectedError("path", f"{where} has its data in other files; a pack must hold them itself")
    size = found.dtype.itemsize * int(np.prod(found.shape[1:], dtype=np.int64))
    unpacked = found.dtype.itemsize * int(np.prod(found.chunks or (1,), dtype=np.int64))
    if not 0 <= size <= MAX_ELEMENT or not 0 <= unpacked <= MAX_CHUNK:
        raise RejectedError("unreadable", f"{where} claims elements of {size} bytes in chunks of {unpacked}")


def image_bytes(images: h5py.Dataset, number: int) -> bytes:
    """An image file that is an element of a data set: a variable or fixed number of uint8, bytes, or opaque.

    Raises:
        OSError: it cannot be read, or holds something else.
    """
    try:
        value = images[number]
    except _FAILURES as error:
        raise OSError(f"it cannot be read: {error}") from error
    if isinstance(value, np.void) or (isinstance(value, np.ndarray) and value.dtype in (np.uint8, np.int8)):
        value = value.tobytes()
    if not isinstance(value, bytes):
        raise OSError(f"it is {getattr(value, 'dtype', type(value).__name__)} where an image file should be")
    return bytes(value.rstrip(b"\0"))  # elements of a fixed size are filled up with zeros


def frame_reader(images: h5py.Dataset, rate: float, length: int) -> ImageReader:
    """The first `length` images of a data set as frames; fewer where it has fewer.

    Raises:
        RejectedError: it has none, or absurdly many.
    """
    if not 0 < len(images) <= MAX_FRAMES:
        raise RejectedError("unreadable", f"{images.name} has {len(images)} frames")
    return ImageReader(lambda number: image_bytes(images, number), rate, min(length, len(images)))


class PackedFlow:
    """Flow of a clip: an image a frame with u and v in its first two channels or, with `pairs`, two gray images a
    frame, u and v. The last frame may lack its flow, and the one before stands for it.

    Args:
        frames: number of frames of the clip.

    Raises:
        RejectedError: it is of another number of frames.
    """

    def __init__(self, images: h5py.Dataset, frames: int, pairs: bool):
        self.images, self.pairs = images, pairs
        self.length, half = divmod(len(images), 2) if pairs else (len(images), 0)
        if half or not self.length or self.length not in (frames, frames - 1):
            said = f"{len(images)} images of flow" + (" (u and v in turn)" if pairs else "")
            raise RejectedError("flow", f"{images.name} has {said} for {frames} frames")

    def read(self, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See :class:`mmkd.sources.recording.FlowReader`."""
        number = min(number, self.length - 1)
        try:
            flow = self._decode(number)
        except (OSError, ValueError) as error:
            raise RejectedError("flow", f"flow {number + 1} of {self.images.name}: {error}") from error
        return flow if flow.shape[1::-1] == size else resized(flow, size)

    def _decode(self, number: int) -> NDArray[np.uint8]:
        if not self.pairs:
            data = image_bytes(self.images, number)
            if simplejpeg.is_jpeg(data) and simplejpeg.decode_jpeg_header(data)[2] == "Gray":
                raise ValueError("it is a gray image, and u and v should be its first two channels")
            return np.ascontiguousarray(decode_image(data)[..., :2])
        u, v = (decode_image(image_bytes(self.images, 2 * number + channel))[..., 0] for channel in (0, 1))
        if u.shape != v.shape:
            raise ValueError(f"u is {u.shape[1]} x {u.shape[0]} and v is {v.shape[1]} x {v.shape[0]}")
        return np.stack([u, v], axis=-1)


def flow_size(path: str, pairs: bool) -> list[int]:
    """Width and height of the first flow frame that a pack has.

    Raises:
        ValueError: none is found among its first clips.
    """
    try:
        videos = islice(open_pack(path), 20)
        found = [(video, clip) for video in videos for clip in islice(find(path, video), 1)] if pairs else videos
        for keys in found:
            try:
                images = find_array(path, *(keys if pairs else (keys,)))
                height, width = decode_image(image_bytes(images, 0)).shape[:2]
                return [width, height]
            except (RejectedError, OSError, ValueError):
                continue
    except (RejectedError, *_FAILURES) as error:
        raise ValueError(f"source.flow: {path} cannot be read: {error}") from error
    raise ValueError(f"source.flow: {path} has no image of flow at [video_id]{'[narration_id]' if pairs else ''}[0]")


def sound_reader(path: str, video: str, rate: int, offset: float) -> PackedSound | None:
    """Sound of a video from a certain second on; None where the pack has not the video, since some have no sound."""
    return PackedSound(find_array(path, video), rate, offset) if video in open_pack(path) else None


class PackedSound:
    """Samples of a video, which are read from a certain second on.

    Raises:
        RejectedError: it is no array of float or int16 samples, mono.
    """

    def __init__(self, samples: h5py.Dataset, rate: int, offset: float):
        if samples.ndim != 1 or not (samples.dtype.kind == "f" or samples.dtype == np.int16):
            said = f"{samples.name} is {samples.dtype} {list(samples.shape)}"
            raise RejectedError("sound", f"{said}; it must be mono samples, float or int16")
        self.samples, self.rate, self.offset = samples, rate, offset

    def read(self, start: float, stop: float) -> Samples | None:
        """See :class:`mmkd.sources.recording.SoundReader`."""
        try:
            return ArraySound(self.samples, self.rate).read(self.offset + start, self.offset + stop)
        except RejectedError:
            raise
        except _FAILURES as error:
            raise RejectedError("sound", f"{self.samples.name} cannot be read: {error}") from error


@dataclass(frozen=True)
class PackedBoxes:
    """Boxes under [video_id][frame], the frame numbered as in the video; a frame that is left out has none, and a video
    that is left out has null.

    Attributes:
        first: the number there of the clip's first frame.
    """

    path: str
    video: str
    first: int

    def read(self, numbers: Sequence[int], size: tuple[int, int]) -> list[NDArray] | None:
        """See :class:`mmkd.sources.recording.BoxReader`."""
        if self.video not in open_pack(self.path):
            return None
        group = find(self.path, self.video)
        if not isinstance(group, h5py.Group):
            raise RejectedError("boxes", f"{name_of(self.path)} at {self.video} is no group of frames")
        return [self._boxes(group, str(self.first + number)) for number in numbers]

    def _boxes(self, group: h5py.Group, key: str) -> NDArray:
        if key not in group:
            return np.zeros(0, BOX_DTYPE)
        where = f"{name_of(self.path)} at {self.video}/{key}"
        found = find(self.path, self.video, key)
        if not isinstance(found, h5py.Dataset) or found.size != 1 or found.dtype.itemsize > MAX_TEXT:
            raise RejectedError("boxes", f"{where} is no text of at most {MAX_TEXT} characters")
        check_array(found, where)
        try:
            value = np.asarray(found[()]).item()
            text = value.decode() if isinstance(value, bytes) else str(value)
            return parse_boxes(text)
        except _FAILURES as error:
            raise RejectedError("boxes", f"{where} cannot be read: {error}") from error


def parse_boxes(text: str) -> NDArray:
    """Boxes (BOX_DTYPE) of a Python list of {"box": [x1, y1, x2, y2], "category", "score", "state"?, "side"?}, corners
    as shares of the frame. The text is taken apart into brackets, strings and numbers, and nothing else may be in it.

    Raises:
        ValueError: it is something else.
    """
    content = _parse_literal(text)
    if not isinstance(content, list):
        raise ValueError("it is no list of boxes")
    boxes = np.zeros(len(content), BOX_DTYPE)
    for number, box in enumerate(content):
        if not isinstance(box, dict) or not isinstance(box.get("box"), list) or len(box["box"]) != 4:
            raise ValueError(f"a box must be a dict with `box`, a list of 4, it is {str(box)[:80]}")
        if box.get("category") not in CATEGORIES:
            raise ValueError(f"a category is {str(box.get('category'))[:40]!r}, neither object nor hand")
        corners = np.array([float(corner) for corner in box["box"]])
        if not np.isfinite(corners).all() or corners.min() < -FAR_OUT or corners.max() > 1 + FAR_OUT:
            raise ValueError(f"a box is {box['box']}; corners must be shares of the frame")
        x1, y1, x2, y2 = np.clip(corners, 0.0, 1.0)
        side, state = int(box.get("side", -1)), int(box.get("state", -1))
        if not -1 <= side <= 1 or not -1 <= state <= 4:
            raise ValueError(f"a hand has side {side} and state {state}; they must be 0 or 1 and 0 to 4")
        ends = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        boxes[number] = (*ends, float(box["score"]), CATEGORIES[box["category"]], side, state)
    return boxes


def _parse_literal(text: str) -> Any:
    """A Python literal of lists, tuples, dicts, strings and numbers; tuples become lists."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"it is longer than {MAX_TEXT} characters")
    parts, at, depth, text = [], 0, 0, text.strip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"it holds {text[at : at + 20]!r}, which is no list, dict, string or number")
        kind, at = token.lastgroup or "", token.end()
        value = token[kind]
        if kind == "mark":
            depth += (value in "[{(") - (value in "]})")
            value = {"(": "[", ")": "]"}.get(value, value)
        elif kind == "number":
            value = repr(float(value)).replace("inf", "Infinity")
        else:
            value = _WORDS[value] if kind == "word" else json.dumps(value)
        if depth > MAX_DEPTH:
            raise ValueError(f"its brackets are nested deeper than {MAX_DEPTH}")
        parts.append(value)
    return json.loads(" ".join(parts))
