"""Boxes of a user's own detector: JSON Lines with a line a frame, Parquet with a row a box, or a folder of such files.

docs/data.md describes both formats. A JSON Lines file may be larger than memory: one scan notes where the lines of each
video are, and only those are read when it is opened.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmkd.sources.clip import BOX_DTYPE, CORNERS, FAR_OUT, check_number
from mmkd.sources.recording import BoxReader, RejectedError
from mmkd.sources.tables import check_texts, read_table, texts_of
from mmkd.sources.video import BoxFile
from mmkd.storage import (
    inside,
    is_file,
    is_folder,
    is_remote,
    list_files,
    name_of,
    open_input,
    open_parquet,
    size_of,
)

JSON_LINES, PARQUET = (".jsonl", ".ndjson"), (".parquet",)
CATEGORIES = {"object": 1, "hand": 2, 1: 1, 2: 2}
SIDES = {"left": 0, "right": 1, 0: 0, 1: 1, -1: -1, None: -1}
STATES: dict[Any, int] = {**{state: state for state in range(-1, 5)}, None: -1}
MAX_LINE = 1 << 24
"""Bytes of a line, which has the boxes of one frame."""
MAX_OF_VIDEO = 1 << 23
"""Boxes of one video: 5 hours at 30 frames a second with 15 in each."""
_VIDEO = re.compile(rb'"video"\s*:\s*("(?:[^"\\]|\\.)*")')

Spans = list[tuple[int, int, int]]
"""Parts of a file: first byte, one past the last, and the number of its first line."""


def boxes_of(path: str, video: str) -> BoxFile:
    """Where the boxes of a video are.

    Args:
        path: a JSON Lines or Parquet file that names videos, or a folder with a file for each.
        video: as the file names it; in a folder the file is called so, with its extension replaced.

    Raises:
        FileNotFoundError: there is nothing of that path.
        ValueError: it has another extension.
    """
    if _is_a_folder(path):
        return FolderBoxes(path, video)
    return (ParquetBoxes if path_ends(path, PARQUET) else LineBoxes)(path, video)


def videos_of(path: str) -> Collection[str]:
    """The videos that a file or a folder has boxes of, as :func:`boxes_of` names them; in a folder without extension.

    Raises:
        FileNotFoundError, ValueError: as above, or the file cannot be read.
    """
    try:
        if _is_a_folder(path):
            names = list_files(path, recursive=True)
            return {_stem(name) for name in names if name.endswith((*JSON_LINES, *PARQUET))}
        if not path_ends(path, PARQUET):
            return _spans(path, size_of(path)).keys()
        return _videos(path)
    except RejectedError as error:
        raise ValueError(str(error)) from error


@dataclass(frozen=True)
class LineBoxes:
    """The lines of a JSON Lines file that are of one video; video None: all."""

    path: str
    video: str | None

    def open(self, rate: float) -> BoxReader | None:
        try:
            spans = [(0, -1, 1)] if self.video is None else _spans(self.path, size_of(self.path)).get(self.video)
            return None if spans is None else _reader(self._rows(spans), rate)
        except OSError as error:
            raise RejectedError("boxes", f"{name_of(self.path)} cannot be read: {error}") from error

    def _rows(self, spans: Spans) -> Iterator[tuple[str, dict[str, Any]]]:
        with _open_buffered(self.path) as file:
            for start, stop, line in spans:
                file.seek(start)
                while stop < 0 or file.tell() < stop:
                    text = file.readline(MAX_LINE + 1)
                    if not text:
                        break
                    if text.strip():
                        yield from self._boxes(f"{name_of(self.path)} line {line}", text)
                    line += 1

    def _boxes(self, where: str, text: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            frame = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RejectedError("boxes", f"{where}: it is no JSON: {error}") from error
        if not isinstance(frame, dict) or not isinstance(frame.get("boxes"), list):
            raise RejectedError("boxes", f"{where}: it must be an object with a list `boxes`")
        if self.video is not None and frame.get("video") != self.video:
            raise RejectedError("boxes", f"{where}: its video is {frame.get('video')!r} and not {self.video!r}")
        size = frame.get("size")
        if size is not None and (not isinstance(size, list) or len(size) != 2):
            raise RejectedError("boxes", f"{where}: size must be [width, height], it is {size!r}")
        about = {"frame": frame.get("frame"), "time": frame.get("time")}
        if size is not None:
            about |= {"width": size[0], "height": size[1]}
        _place(about, 1.0, where)  # even where it has no box
        for box in frame["boxes"]:
            if not isinstance(box, dict):
                raise RejectedError("boxes", f"{where}: a box must be an object, it is {box!r}")
            yield where, box | about


@dataclass(frozen=True)
class ParquetBoxes:
    """The rows of a Parquet file that are of one video; video None: all."""

    path: str
    video: str | None

    def open(self, rate: float) -> BoxReader | None:
        table = _table(self.path, self.video)
        missing = [name for name in (*CORNERS, "category") if name not in table.column_names]
        if missing:
            raise RejectedError("boxes", f"{name_of(self.path)} has no column {', '.join(missing)}")
        if self.video is not None and not table.num_rows:
            return None
        of = "" if self.video is None else f" of {self.video}"
        rows = (row for batch in table.to_batches(10_000) for row in batch.to_pylist())
        return _reader(((f"{name_of(self.path)} row {n}{of}", row) for n, row in enumerate(rows, 1)), rate)


@dataclass(frozen=True)
class FolderBoxes:
    """A folder with a JSON Lines or Parquet file for each video; what the file says of `video` doesn't count."""

    folder: str
    video: str

    def open(self, rate: float) -> BoxReader | None:
        for extension in (*JSON_LINES, *PARQUET):
            try:
                path = inside(self.folder, _stem(self.video) + extension)
            except ValueError as error:
                raise RejectedError("path", str(error)) from error
            if is_file(path):
                return (ParquetBoxes if extension in PARQUET else LineBoxes)(path, None).open(rate)
        return None


@dataclass(frozen=True)
class FrameBoxes:
    """Boxes in the order of their frames.

    Attributes:
        frames: int64 [boxes], ascending.
        boxes: BOX_DTYPE [boxes], corners as shares of the frame.
    """

    frames: NDArray[np.int64]
    boxes: NDArray

    def read(self, numbers: Any, size: tuple[int, int]) -> list[NDArray]:
        first, last = (np.searchsorted(self.frames, numbers, side) for side in ("left", "right"))
        return [self.boxes[a:b] for a, b in zip(first, last, strict=True)]


def path_ends(path: str, extensions: tuple[str, ...]) -> bool:
    """Whether the name of a file, local or remote, has one of these extensions."""
    return name_of(path).lower().endswith(extensions)


@lru_cache(maxsize=16)
def _is_a_folder(path: str) -> bool:
    if is_folder(path):
        return True
    if not is_file(path):
        raise FileNotFoundError(f"source.boxes: there is no file or folder {path}.")
    if not path_ends(path, (*JSON_LINES, *PARQUET)):
        raise ValueError(f"source.boxes is {path}; it must end in {', '.join((*JSON_LINES, *PARQUET))} or be a folder.")
    return False


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _open_buffered(path: str) -> Any:
    file: Any = open_input(path)
    return io.BufferedReader(file, 1 << 20) if is_remote(path) else file


@lru_cache(maxsize=2)
def _spans(path: str, size: int) -> dict[str, Spans]:
    """Where the lines of each video are. A line that names none counts for the video before it, else after it, so that
    opening that one finds it.

    Args:
        size: of the file, so that one that has grown is scanned again.
    """
    spans: dict[str, Spans] = {}
    video, at = "", 0
    with _open_buffered(path) as file:
        for line, text in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(text) > MAX_LINE:
                raise RejectedError("boxes", f"{name_of(path)} line {line}: it is longer than {MAX_LINE} bytes")
            named = _VIDEO.search(text)
            if named:
                before = video
                with suppress(ValueError):
                    video = json.loads(named[1])
                if not before and "" in spans:
                    spans[video] = spans.pop("")
            mine = spans.setdefault(video, []) if text.strip() else []
            if mine and mine[-1][1] == at:
                mine[-1] = (mine[-1][0], at + len(text), mine[-1][2])
            else:
                mine.append((at, at + len(text), line))
            at += len(text)
    return spans


def _videos(path: str) -> set[str]:
    """The videos that a Parquet file names; its column is read bit by bit, since it may have a row for each of many
    million boxes."""
    found: set[str] = set()
    try:
        with open_parquet(path, texts_of(path)) as file:
            if "video" not in file.schema_arrow.names:
                raise RejectedError("boxes", f"{name_of(path)} has no column video")
            for batch in file.iter_batches(columns=["video"], use_threads=False):
                check_texts(batch.column(0))
                found.update(batch.column(0).unique().to_pylist())
    except RejectedError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RejectedError("boxes", f"{name_of(path)} cannot be read: {error}") from error
    return found


def _table(path: str, video: str | None = None) -> pa.Table:
    only = None if video is None else [("video", "==", video)]
    try:
        return read_table(path, filters=only)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise RejectedError("boxes", f"{name_of(path)} cannot be read: {error}") from error


def _reader(rows: Iterator[tuple[str, dict[str, Any]]], rate: float) -> FrameBoxes:
    """Boxes by frame. Of several times that are nearest to one frame the nearest counts, the earlier of two."""
    places: list[float] = []
    boxes: list[tuple[float | int, ...]] = []
    for where, row in rows:
        if len(places) == MAX_OF_VIDEO:
            raise RejectedError("boxes", f"{where}: the video has more than {MAX_OF_VIDEO} boxes")
        places.append(_place(row, rate, where))
        boxes.append(_box(row, where))
    place, box = np.array(places, np.float64), np.array(boxes, BOX_DTYPE)
    frame = np.floor(place + 0.5).astype(np.int64)
    order = np.lexsort((place, np.abs(place - frame), frame))
    found, first = np.unique(frame[order], return_index=True)
    nearest = place[order][first][np.searchsorted(found, frame)]
    kept = np.flatnonzero(place == nearest)
    kept = kept[np.argsort(frame[kept], kind="stable")]
    check_number(frame[kept])
    return FrameBoxes(frame[kept], box[kept])


def _place(row: dict[str, Any], rate: float, where: str) -> float:
    """A frame number, or where between two frames a time is."""
    frame, time = _or_none(row.get("frame")), _or_none(row.get("time"))
    if frame is None and time is None:
        raise RejectedError("boxes", f"{where}: it needs `frame` (from 0) or `time` (seconds)")
    place = _number(time, "time", where) * rate if frame is None else _number(frame, "frame", where)
    if not 0 <= place < 2**31 or (frame is not None and place != int(place)):
        raise RejectedError("boxes", f"{where}: there is no frame {frame}, time {time}")
    return place


def _box(row: dict[str, Any], where: str) -> tuple[float | int, ...]:
    """A box as an element of BOX_DTYPE."""
    for name in (*CORNERS, "category"):
        if row.get(name) is None:
            raise RejectedError("boxes", f"{where}: a box has no {name}")
    width, height = (row.get(name) for name in ("width", "height"))
    size = [1.0 if side is None else _number(side, "size", where) for side in (width, height)]
    if min(size) <= 0 or (width is None) != (height is None):
        raise RejectedError("boxes", f"{where}: a frame cannot be {width} x {height}")
    corners = [_number(row[name], name, where) / side for name, side in zip(CORNERS, size * 2, strict=True)]
    if min(corners) < -FAR_OUT or max(corners) > 1 + FAR_OUT:
        said = "" if width is not None else "; corners are shares of the frame, or pixels where its size is given"
        raise RejectedError("boxes", f"{where}: a box lies outside the frame: {[row[name] for name in CORNERS]}{said}")
    if corners[2] < corners[0] or corners[3] < corners[1]:
        raise RejectedError("boxes", f"{where}: a box ends before it starts: {[row[name] for name in CORNERS]}")
    score = 1.0 if row.get("score") is None else _number(row["score"], "score", where)
    chosen = (_one_of(row.get(name), name, known, where) for name, known in CODES.items())
    return (*(min(max(corner, 0.0), 1.0) for corner in corners), score, *chosen)


CODES: dict[str, dict[Any, int]] = {"category": CATEGORIES, "side": SIDES, "state": STATES}
"""Columns of a fixed few values: what may stand there to what BOX_DTYPE has."""


def _one_of(value: Any, name: str, known: dict[Any, int], where: str) -> int:
    value = value.lower() if isinstance(value, str) else _or_none(value)
    if isinstance(value, bool | list | dict) or value not in known:
        said = ", ".join(str(each) for each in known if each is not None)
        raise RejectedError("boxes", f"{where}: {name} is {value!r}; it must be one of {said}")
    return known[value]


def _or_none(value: Any) -> Any:
    """pandas has NaN where it has no number."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: Any, name: str, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RejectedError("boxes", f"{where}: {name} is no finite number: {value!r}")
    return number
