"""Something-Something v2: a JSON table a split, a video a clip, and the boxes of Something-Else.

The compositional and few-shot splits of Something-Else are tables of the same format. Classes are matched by name,
since the two projects number them differently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ijson

from mmkd.config import Source as Settings
from mmkd.media.images import ImageReader, fetch_from_folder
from mmkd.shards import NO_LABEL
from mmkd.sources.recording import Media, Reject, RejectedError, Segment
from mmkd.sources.something_else import VideoBoxes, read_boxes
from mmkd.sources.tables import ShallowJson
from mmkd.sources.video import BoxFile, VideoRecording
from mmkd.storage import inside, is_file, is_remote, join, list_files, open_input

HEAD = "action"
PREFIX = "something-something-v2-"
LABELS = (f"{PREFIX}labels.json", "labels.json")
TABLES = {
    "train": (f"{PREFIX}train.json", "train.json"),
    "val": (f"{PREFIX}validation.json", "validation.json"),
    "test": (f"{PREFIX}test.json", "test.json"),
}
"""Split to the names of its table: of the first download, and of the newer one."""
FRAME_RATE = 12.0
VIDEO_ENDINGS = (".webm", ".mp4", ".mkv")
IMAGE = re.compile(r"(\d{1,9})\.(?:jpg|jpeg|png)", re.ASCII | re.IGNORECASE)


def make(settings: Settings) -> SSv2:
    """The source of these settings.

    Raises:
        FileNotFoundError: the labels or a table that a setting names are missing, or there is no table at all.
        ValueError: the labels are malformed.
    """
    folder = settings.annotations or settings.root
    labels = _find(folder, settings.classes, LABELS)
    if not labels:
        raise FileNotFoundError(f"the labels are missing: looked for {' and '.join(LABELS)} in {folder}")
    named = {"train": settings.train_table, "val": settings.val_table, "test": settings.test_table}
    tables = {split: _find(folder, named[split], names) for split, names in TABLES.items()}
    if not any(tables.values()):
        names = ", ".join(name for pair in TABLES.values() for name in pair)
        raise FileNotFoundError(f"there is no table: looked for {names} in {folder}")
    return SSv2(settings, read_classes(labels), {split: path for split, path in tables.items() if path})


class SSv2:
    """See :class:`mmkd.sources.recording.Source`.

    Args:
        classes: names by number.
        tables: split to the path of its table.
    """

    name = "ssv2"

    def __init__(self, settings: Settings, classes: list[str], tables: dict[str, str]):
        self.settings, self.tables = settings, tables
        self.heads = {HEAD: classes}
        self.multi_label: list[str] = []
        self.notes: dict[str, object] = {}
        self.flow: dict[str, object] = {}
        self.flow_bound = 20.0

    def recordings(self) -> Iterator[tuple[str, SSv2Recording] | Reject]:
        """See :class:`mmkd.sources.recording.Source`; in the order of the tables."""
        entries = {split: read_table(path) for split, path in self.tables.items()}
        boxes: dict[str, VideoBoxes] = {}
        if self.settings.boxes:
            ids = {_id_of(entry) for table in entries.values() for entry in table}
            boxes = read_boxes(self.settings.boxes, ids)
        root, rate = self.settings.root, self.settings.frame_rate or FRAME_RATE
        read = _Reader(self.heads[HEAD])
        for split, table in entries.items():
            for number, entry in enumerate(table):
                clip_id = _id_of(entry)
                try:
                    segment = read.segment(entry, number, split)
                    _check_id(root, clip_id)
                except RejectedError as error:
                    yield Reject(split, clip_id, clip_id, error.kind, f"{self.tables[split]}: {error}")
                    continue
                yield split, SSv2Recording(root, clip_id, (segment,), rate, boxes.get(clip_id))


@dataclass(frozen=True)
class SSv2Recording:
    """A clip as ROOT/NAME.webm (or .mp4, .mkv) or as numbered frames ROOT/NAME/0001.jpg, ...; a video goes first.

    Attributes:
        rate: frames per second of numbered frames.
    """

    root: str
    name: str
    segments: tuple[Segment, ...]
    rate: float = FRAME_RATE
    boxes: BoxFile | None = None

    @contextmanager
    def open(self) -> Iterator[Media]:
        try:
            folder, *videos = (inside(self.root, self.name + ending) for ending in ("", *VIDEO_ENDINGS))
        except ValueError as error:
            raise RejectedError("path", str(error)) from error
        video = next((path for path in videos if is_file(path)), "")
        if video:
            with VideoRecording(video, self.name, self.segments, boxes=self.boxes).open() as media:
                yield media
            return
        images = {name: int(found[1]) for name in list_files(folder) if (found := IMAGE.fullmatch(name))}
        if not images:
            said = ", ".join(self.name + ending for ending in VIDEO_ENDINGS)
            raise RejectedError("unreadable", f"there is no {said} and no {self.name}/0001.jpg in {self.root}")
        names = sorted(images, key=lambda name: images[name])
        for number, name in enumerate(names, 1):
            if images[name] != number:
                raise RejectedError("damaged", f"{self.name} has {name} where the image of frame {number} should be")
        frames = ImageReader(fetch_from_folder(folder, names), self.rate, len(names))
        yield Media(frames, boxes=None if self.boxes is None else self.boxes.open(self.rate))


def read_classes(path: str) -> list[str]:
    """Names of the classes by number, from a JSON object of name to number, an integer or its digits.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is something else, or the numbers are not 0, 1, ... once each.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} is no JSON object of class name to number")
    numbers: dict[int, str] = {}
    for name, value in content.items():
        number = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else value
        if not isinstance(number, int) or isinstance(number, bool) or number in numbers:
            raise ValueError(f"{path} numbers the class {name!r} {value!r}: not a number, or taken by another class")
        numbers[number] = name
    if sorted(numbers) != list(range(len(numbers))):
        raise ValueError(f"{path} numbers {len(numbers)} classes from {min(numbers)} to {max(numbers)}, not from 0 on")
    return [numbers[number] for number in range(len(numbers))]


def class_of(template: str, classes: Mapping[str, int]) -> int | None:
    """Number of a template's class, by its name, which is the template without its square brackets; None if there is
    none. Case and white space may differ where no class has the very name."""
    name = re.sub(r"[\[\]]", "", template)
    if name in classes:
        return classes[name]
    return next((number for other, number in classes.items() if _folded(other) == _folded(name)), None)


def read_table(path: str) -> list[Any]:
    """Entries of a split, unchecked, with what is read of them: `id`, `template` and `label`.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is no JSON list.
    """
    names = ("id", "template", "label")
    return [
        {name: entry[name] for name in names if name in entry} if isinstance(entry, dict) else entry
        for entry in stream_list(path)
    ]


def stream_list(path: str) -> Iterator[Any]:
    """The entries of a JSON list one by one, since some tables hold boxes, too, and are larger than memory.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is no JSON list.
    """
    with open_input(path) as file:
        try:
            if next(ijson.basic_parse(file))[0] != "start_array":
                raise ValueError(f"{path} is no JSON list of entries such as {{'id': ..., 'template': ...}}")
            file.seek(0)
            yield from ijson.items(ShallowJson(file, path), "item", use_float=True)
        except (ijson.JSONError, UnicodeDecodeError, StopIteration) as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error


def read_json(path: str) -> Any:
    """A JSON file.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged.
    """
    with open_input(path) as file:
        try:
            return json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error


class _Reader:
    """Entries to segments; each template is looked up once."""

    def __init__(self, classes: list[str]):
        self.classes = {name: number for number, name in enumerate(classes)}
        self.known: dict[str, int | None] = {}

    def segment(self, entry: Any, number: int, split: str) -> Segment:
        """Raises RejectedError."""
        clip_id = _id_of(entry)
        if not clip_id:
            raise RejectedError("row", f"entry {number} has no id")
        template, text = entry.get("template"), entry.get("label")
        meta = {"label": text} if isinstance(text, str) else {}
        if template is None and split == "test":
            return Segment(clip_id, {HEAD: NO_LABEL}, meta=meta)
        if not isinstance(template, str):
            raise RejectedError("row", f"entry {number} has no template")
        if template not in self.known:
            self.known[template] = class_of(template, self.classes)
        label = self.known[template]
        if label is None:
            raise RejectedError("label", f"entry {number}: {template!r} is none of the {len(self.classes)} classes")
        return Segment(clip_id, {HEAD: label}, meta=meta)


def _id_of(entry: Any) -> str:
    """The id of an entry; empty where it has none."""
    value = entry.get("id") if isinstance(entry, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def _check_id(root: str, clip_id: str) -> None:
    """Raises RejectedError where an id names no file or folder below the root."""
    try:
        if inside(root, clip_id) == inside(root, "."):
            raise ValueError(f"{clip_id!r} names {root} itself")
    except ValueError as error:
        raise RejectedError("path", str(error)) from error


def _find(folder: str, named: str, usual: tuple[str, ...]) -> str:
    """Path of the file that a setting names, else of the first usual one that is there; empty if none is."""
    if named:
        path = named if named.startswith("/") or is_remote(named) else join(folder, named)
        if not is_file(path):
            raise FileNotFoundError(f"{path}, which the settings name, is missing")
        return path
    return next((path for path in (join(folder, name) for name in usual) if is_file(path)), "")


def _folded(name: str) -> str:
    return " ".join(re.sub(r"[\[\]]", "", name).casefold().split())
