"""Manifests of videos: a CSV or Parquet table with a row a clip, see docs/data.md."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from mmkd.shards import NO_LABEL
from mmkd.sources.recording import RejectedError
from mmkd.sources.tables import read_table
from mmkd.storage import is_file, name_of, read_bytes, read_text

RESERVED = ("path", "start", "stop", "split", "clip_id")
META = "meta."
SPLITS = {"training": "train", "train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}
MAX_CLASSES = 100_000
MAX_ROWS = 1 << 22
"""Of a Parquet manifest, in which rows may cost no byte."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TIME = re.compile(r"(?:(\d{1,9}):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)")
_INTEGER = re.compile(r"\d+(?:\.0*)?")  # pandas writes 3 as 3.0 where the column has gaps
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]\d+)?")

Label = str | list[str] | None


@dataclass(frozen=True)
class ManifestRow:
    """A clip as the manifest has it.

    Attributes:
        where: its line or row, for people.
        split, clip_id: empty where the manifest has none.
        start, stop: seconds; stop None: to the end of the video.
        labels: of each head the text, or texts of a list column; None where unknown.
        fault: kind and reason for which it cannot be packed.
    """

    where: str
    path: str = ""
    clip_id: str = ""
    split: str = ""
    start: float = 0.0
    stop: float | None = None
    labels: Mapping[str, Label] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    fault: tuple[str, str] | None = None


@dataclass(frozen=True)
class Head:
    """The classes of a head, and how its column says them.

    Attributes:
        numbers: the column has class numbers instead of names.
        multi_label: a clip may have any number of them.
    """

    name: str
    classes: list[str]
    numbers: bool
    multi_label: bool

    def label(self, value: Label) -> int | list[int]:
        """Class number, or numbers of a multi-label head; NO_LABEL where unknown.

        Raises:
            RejectedError: it is not among the classes.
        """
        if value is None:
            return NO_LABEL
        texts = _texts(value, self.multi_label)
        found = sorted({self._class(text) for text in texts})
        if not self.multi_label and len(found) != 1:
            raise RejectedError("label", f"{self.name} has {len(found)} labels; only a multi-label head may")
        return found if self.multi_label else found[0]

    def _class(self, text: str) -> int:
        if not self.numbers:
            if text in self._index:
                return self._index[text]
        elif (number := _integer(text)) is not None and number < len(self.classes):
            return number
        said = f"{self.name} {text!r} is not among its {len(self.classes)} classes"
        if _is_no_label(text):
            said += f"; an unknown label is left empty, and a column of other numbers is called {META}{self.name}"
        raise RejectedError("label", said)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}


@dataclass(frozen=True)
class Declared:
    """What a classes file says of a head; multi_label None: the manifest shows it."""

    classes: list[str]
    multi_label: bool | None = None


def read_manifest(path: str) -> tuple[list[str], list[ManifestRow]]:
    """The heads and the clips of a manifest, in its order.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no table, or has no column `path` and no column of a head.
    """
    if not is_file(path):
        raise FileNotFoundError(f"source.annotations: there is no manifest {path}.")
    if name_of(path).lower().endswith(".parquet"):
        columns, lines = _parquet_rows(path)
    else:
        columns, lines = _csv_rows(path)
    heads = [name for name in columns if name not in RESERVED and not name.startswith(META)]
    if "path" not in columns:
        raise ValueError(f"{path} has no column path; it has {', '.join(columns)}.")
    if not heads:
        raise ValueError(f"{path} has no column of labels; each column but {', '.join(RESERVED)} and meta.* is a head.")
    if dotted := [name for name in heads if "." in name]:
        raise ValueError(
            f"{path} has column {dotted[0]}: a head has no dot in its name; what is no label is called {META}*."
        )
    return heads, [_row(where, values, heads, "split" in columns) for where, values in lines]


def read_classes(path: str) -> dict[str, Declared]:
    """The classes file: JSON of head to a list of names, or to {"classes": names, "multi_label": true or false}.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it says something else.
    """
    if not is_file(path):
        raise FileNotFoundError(f"source.classes: there is no file {path}.")
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must be an object of heads, as {{"action": ["open", "close"]}}.')
    declared = {}
    for head, said in content.items():
        names: Any = said.get("classes") if isinstance(said, dict) else said
        multi_label = said.get("multi_label") if isinstance(said, dict) else None
        good = isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)
        if not good or len(set(names)) < len(names) or multi_label not in (None, True, False):
            raise ValueError(f"{path}: the classes of {head} must be a list of names, each once.")
        declared[head] = Declared(names, multi_label)
    return declared


def make_heads(rows: Sequence[ManifestRow], names: Sequence[str], declared: Mapping[str, Declared]) -> list[Head]:
    """The heads of a manifest, with the classes that are declared or that occur.

    Raises:
        ValueError: a declared head is not in the manifest, or one that is not declared has no label at all.
    """
    unknown = [head for head in declared if head not in names]
    if unknown:
        raise ValueError(f"source.classes has head {unknown[0]}, the manifest has {', '.join(names)}.")
    return [_head(name, [row.labels[name] for row in rows if name in row.labels], declared.get(name)) for name in names]


def seconds(value: Any) -> float | None:
    """A time as seconds or H:MM:SS.mmm; None where it is empty.

    Raises:
        ValueError: it is no time.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        parts = _TIME.fullmatch(value)
        if parts:
            hours, minutes, rest = int(parts[1] or 0), int(parts[2]), float(parts[3])
            if rest >= 60 or (parts[1] and minutes >= 60):
                raise ValueError(f"{value!r} is no time")
            return hours * 3600 + minutes * 60 + rest
    try:
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no time")
    return number


def _row(where: str, values: dict[str, Any] | str, heads: Sequence[str], has_split: bool) -> ManifestRow:
    if isinstance(values, str):
        return ManifestRow(where, fault=("row", f"{where}: {values}"))
    fault, start, stop = None, None, None
    path, clip_id, split = (_text(values.get(name)) for name in ("path", "clip_id", "split"))
    split = SPLITS.get(split.lower(), split)
    try:
        start, stop = (seconds(values.get(name)) for name in ("start", "stop"))
        if not path:
            fault = ("row", f"{where}: path is empty")
        elif has_split and not _PLAIN.fullmatch(split):
            fault = ("row", f"{where}: split is {split!r}; it must be a plain name, as train, val or test")
        elif not 0 <= (start or 0.0) < (math.inf if stop is None else stop):
            said = "" if stop is None else f" to {stop:g}"
            fault = ("interval", f"{where}: from {start or 0.0:g}{said} s is no interval of time")
    except ValueError as error:
        fault = ("row", f"{where}: {error}")
    labels = {head: _label(values.get(head)) for head in heads}
    meta = {name[len(META) :]: _text(value) for name, value in values.items() if name.startswith(META)}
    meta = {name: text for name, text in meta.items() if text}
    return ManifestRow(where, path, clip_id, split, start or 0.0, stop, labels, meta, fault)


def _csv_rows(path: str) -> tuple[list[str], Iterator[tuple[str, dict[str, Any] | str]]]:
    text = read_bytes(path).decode("utf-8-sig", errors="surrogateescape")
    lines = list(io.StringIO(text, newline=""))
    records = _records(lines)
    header = next(records, None)
    if header is None or isinstance(header[1], str):
        raise ValueError(f"{path} is no CSV table: {'it is empty' if header is None else header[1]}.")
    columns = _checked([name.strip() for name in header[1]], path)

    def rows() -> Iterator[tuple[str, dict[str, Any] | str]]:
        for line, fields in records:
            if isinstance(fields, list):
                yield f"line {line}", dict(zip(columns, (each.strip() for each in fields), strict=True))
            else:
                yield f"line {line}", fields

    return columns, rows()


def _records(lines: Sequence[str]) -> Iterator[tuple[int, list[str] | str]]:
    """Number of the first line of each record, and its fields, or what is wrong with it.

    After a malformed record that goes over several lines the next line is tried, so that a stray quotation mark does
    not swallow the rest of the table.
    """
    at, width = 0, 0
    while at < len(lines):
        reader = csv.reader((lines[number] for number in range(at, len(lines))), strict=True)
        first = done = at
        try:
            for fields in reader:
                first, done = done, at + reader.line_num
                if fields:
                    width = width or len(fields)
                    if len(fields) != width:
                        raise csv.Error(f"it has {len(fields)} fields, the header has {width}")
                    if not all(map(_is_unicode, fields)):
                        raise csv.Error("it is not UTF-8")
                    yield first + 1, fields
                first = done
            return
        except csv.Error as error:
            yield first + 1, str(error)
            at = first + 1


def _parquet_rows(path: str) -> tuple[list[str], Iterator[tuple[str, dict[str, Any] | str]]]:
    try:
        table = read_table(path, MAX_ROWS)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is no Parquet table that can be read: {error}") from error
    table = table.select([name for name in table.column_names if not name.startswith("__index_level_")])
    columns = _checked(table.column_names, path)
    rows = (row for batch in table.to_batches(10_000) for row in batch.to_pylist())
    return columns, ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _checked(columns: list[str], path: str) -> list[str]:
    if len(set(columns)) < len(columns) or not all(columns):
        raise ValueError(f"{path} must name each of its columns, and each once; they are {columns}.")
    return columns


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _label(value: Any) -> Label:
    """A label as the text that a CSV has of it; None where it is unknown."""
    if isinstance(value, list):
        return [_text(each) for each in value if each is not None]
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value)


def _texts(value: Label, multi_label: bool) -> list[str]:
    """The labels of one clip; a lone `|` says that it has none."""
    if value is None or isinstance(value, list):
        return value or []
    return [each for each in map(str.strip, value.split("|")) if each] if multi_label else [value]


def _integer(text: str) -> int | None:
    return int(float(text)) if len(text) < 16 and _INTEGER.fullmatch(text) else None


def _is_no_label(text: str) -> bool:
    """Whether it is a number, but not one of a class (-1, 0.5)."""
    return bool(_NUMBER.fullmatch(text)) and not _INTEGER.fullmatch(text)


def _head(name: str, values: Sequence[Label], declared: Declared | None) -> Head:
    multi_label = declared.multi_label if declared else None
    known = set(declared.classes) if declared else set()
    if multi_label is None:
        multi_label = any(isinstance(v, list) or (v is not None and "|" in v and v not in known) for v in values)
    found = {text for value in values for text in _texts(value, multi_label)}
    texts = {text for text in found if text in known or not _is_no_label(text)}
    numbers = bool(texts) and all(_INTEGER.fullmatch(text) for text in texts)
    if declared:
        # Names that are numbers themselves are names.
        return Head(name, declared.classes, numbers and not all(map(str.isdigit, declared.classes)), multi_label)
    if not texts:
        raise ValueError(f"column {name} has no label; leave it out, or call it {META}{name}.")
    if not numbers:
        return Head(name, sorted(texts), False, multi_label)
    count = 1 + max((n for n in map(_integer, texts) if n is not None and n < MAX_CLASSES), default=0)
    return Head(name, [str(number) for number in range(count)], True, multi_label)
