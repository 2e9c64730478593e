"""EPIC-KITCHENS-100 and 55: a CSV table a split, videos or their extracted frames, and all that comes with them."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mmkd.config import Source as Settings
from mmkd.shards import NO_LABEL
from mmkd.sources.epic_media import EpicRecording, Places, part_of, videos_with_flow
from mmkd.sources.recording import Reject, RejectedError, Segment
from mmkd.storage import is_file, is_folder, is_remote, join, name_of, read_bytes

TABLES = {
    100: {
        "train": "EPIC_100_train.csv",
        "val": "EPIC_100_validation.csv",
        "test": "EPIC_100_test_timestamps.csv",
    },
    55: {
        "train": "EPIC_train_action_labels.csv",
        "test_s1": "EPIC_test_s1_timestamps.csv",
        "test_s2": "EPIC_test_s2_timestamps.csv",
    },
}
"""Version to split to its official table."""
CLASSES = {
    100: {"verb": ("EPIC_100_verb_classes.csv", "id", "key"), "noun": ("EPIC_100_noun_classes.csv", "id", "key")},
    55: {
        "verb": ("EPIC_verb_classes.csv", "verb_id", "class_key"),
        "noun": ("EPIC_noun_classes.csv", "noun_id", "class_key"),
    },
}
"""Version to head to its table of classes, and the columns of number and name there."""
NOTHING = "Nothing"
"""Noun 0 of version 55, which no clip has; the others are numbered from 0 without it, as in the authors' code."""
LABELS = {"verb": "verb_class", "noun": "noun_class"}
UNSEEN = {
    "val": "EPIC_100_unseen_participant_ids_validation.csv",
    "test": "EPIC_100_unseen_participant_ids_test.csv",
}
FLOW_SIZE = [456, 256]
VIDEO = re.compile(r"P[0-9]{2}_[0-9]{2,3}")
NUMBER = re.compile(r"[0-9]{1,9}")


def make(settings: Settings) -> Epic:
    """The source of these settings; its tables are read.

    Raises:
        FileNotFoundError: a folder, a table that a setting names or a table of classes is missing, or there is no table
            at all.
        ValueError: `annotations` is empty, or a table lacks a column or is no text.
    """
    if not settings.annotations:
        raise ValueError("source.annotations is empty; source.kind epic needs the folder of the annotation tables")
    for name in ("root", "annotations", "flow", "boxes"):
        path = getattr(settings, name)
        if path and not is_folder(path):
            raise FileNotFoundError(f"source.{name} is {path}, which is no folder")
    if settings.audio and not is_file(settings.audio) and not is_folder(settings.audio):
        raise FileNotFoundError(f"source.audio is {settings.audio}, which is neither a folder nor an HDF5 file")
    tables = find_tables(settings)
    heads = {
        head: read_classes(join(settings.annotations, name), number, key)
        for head, (name, number, key) in CLASSES[settings.version].items()
    }
    if settings.version == 55:
        if heads["noun"][0] != NOTHING:
            raise ValueError(f"noun 0 of EPIC-KITCHENS-55 is {heads['noun'][0]!r} and not {NOTHING!r}")
        del heads["noun"][0]
    return Epic(settings, heads, tables)


class Epic:
    """See :class:`mmkd.sources.recording.Source`.

    Args:
        tables: split to the path of its table.
    """

    name = "epic"

    def __init__(self, settings: Settings, heads: dict[str, list[str]], tables: dict[str, str]):
        self.heads = heads
        self.multi_label: list[str] = []
        self.flow_bound = 20.0
        self.notes = read_notes(settings.annotations, heads) if settings.version == 100 else {}
        self.rejects: dict[str, list[Reject]] = {}
        self.videos: dict[str, dict[str, list[Segment]]] = {}
        for split, path in tables.items():
            self.rejects[split], self.videos[split] = [], {}
            for video, found in read_segments(path, split, heads, settings.version):
                if isinstance(found, Reject):
                    self.rejects[split].append(found)
                else:
                    self.videos[split].setdefault(video, []).append(found)
        self.flow = self._find_flow(settings)
        self.places = Places(
            root=settings.root,
            flow=(settings.flow or settings.root) if self.flow else "",
            boxes=settings.boxes or settings.root,
            loose=bool(settings.boxes),
            audio=settings.audio,
        )

    def recordings(self) -> Iterator[tuple[str, EpicRecording] | Reject]:
        """See :class:`mmkd.sources.recording.Source`; in the order of videos and of their frames."""
        for split, videos in self.videos.items():
            yield from self.rejects[split]
            for video in sorted(videos):
                segments = sorted(videos[video], key=lambda segment: (segment.frames, segment.clip_id))
                yield split, EpicRecording(video, tuple(segments), self.places)

    def _find_flow(self, settings: Settings) -> dict[str, object]:
        """Of the part of EPIC-KITCHENS that most videos with flow are of; each clip's meta says its own."""
        all_videos = sorted({video for videos in self.videos.values() for video in videos})
        found = videos_with_flow(settings.flow or settings.root, all_videos)
        if not found:
            if settings.flow and all_videos:
                raise FileNotFoundError(
                    f"source.flow is {settings.flow}, which has no flow of any video: looked for "
                    f"PXX/flow_frames/PXX_YY and .tar. Leave it empty to compute flow"
                )
            return {}
        part = Counter(part_of(video) for video in found).most_common(1)[0][0]
        return {"bound": part.flow_bound, "step": part.flow_step, "size": FLOW_SIZE}


def find_tables(settings: Settings) -> dict[str, str]:
    """Split to the path of its table, of those that are there.

    Raises:
        FileNotFoundError: one that a setting names is missing, or there is none at all.
    """
    folder, official = settings.annotations, dict(TABLES[settings.version])
    named = {"train": settings.train_table, "val": settings.val_table, "test": settings.test_table}
    if settings.version == 55 and settings.test_table:
        del official["test_s1"], official["test_s2"]
    tables = {}
    for split in dict.fromkeys(("train", "val", *official, "test")):
        if name := named.get(split, ""):
            path = name if is_remote(name) or name.startswith("/") else join(folder, name)
            if not is_file(path):
                raise FileNotFoundError(f"source.{split}_table is {name}, and there is no file {path}")
            tables[split] = path
        elif split in official and is_file(join(folder, official[split])):
            tables[split] = join(folder, official[split])
    if not tables:
        raise FileNotFoundError(f"there is no table in {folder}: looked for {', '.join(official.values())}")
    return tables


def read_segments(
    path: str, split: str, heads: dict[str, list[str]], version: int
) -> Iterator[tuple[str, Segment | Reject]]:
    """Each row of a split's table as its video and a clip of it, or as a Reject.

    Raises:
        ValueError: a column is missing.
    """
    clip = "narration_id" if version == 100 else "uid"
    needed = [clip, "video_id", "start_frame", "stop_frame", *(LABELS.values() if split in ("train", "val") else ())]
    for row in read_table(path, needed):
        video, clip_id = row.cells.get("video_id", ""), row.cells.get(clip, "")
        if version == 55 and clip_id:
            clip_id = f"{video}_{clip_id}"
        try:
            yield video, _segment(row, video, clip_id, heads, version)
        except RejectedError as error:
            where = f"{name_of(path)} line {row.line}"
            yield video, Reject(split, clip_id or where, video, error.kind, f"{where}: {error}")


def _segment(row: Row, video: str, clip_id: str, heads: dict[str, list[str]], version: int) -> Segment:
    """Raises RejectedError."""
    if row.wrong:
        raise RejectedError("row", row.wrong)
    if not clip_id:
        raise RejectedError("row", "it has no clip id")
    if not VIDEO.fullmatch(video):
        outside = "/" in video or "\\" in video or ".." in video
        raise RejectedError("path" if outside else "row", f"{video!r} is no video id such as P01_01")
    frames = [row.cells[name] for name in ("start_frame", "stop_frame")]
    if not all(NUMBER.fullmatch(frame) for frame in frames):
        raise RejectedError("row", f"start_frame {frames[0]!r} and stop_frame {frames[1]!r} must be numbers")
    start, stop = map(int, frames)
    if not 1 <= start <= stop:
        raise RejectedError("interval", f"it is from frame {start} to {stop}; frames count from 1")
    labels: dict[str, int | list[int]] = {}
    for head, column in LABELS.items():
        text, first = row.cells.get(column), int(version == 55 and head == "noun")
        label = NO_LABEL if text is None else int(text) - first if NUMBER.fullmatch(text) else len(heads[head])
        if text is not None and not 0 <= label < len(heads[head]):
            raise RejectedError("label", f"{column} {text!r} is not {first} to {len(heads[head]) - 1 + first}")
        labels[head] = label
    meta = {"participant": video.partition("_")[0], "video": video}
    if row.cells.get("narration"):
        meta["narration"] = row.cells["narration"]
    return Segment(clip_id, labels, frames=(start - 1, stop), meta=meta)


def read_notes(folder: str, heads: dict[str, list[str]]) -> dict[str, object]:
    """Classes of the tail and participants that training doesn't show, of those lists that are there.

    Raises:
        ValueError: a list is malformed.
    """
    tail = {}
    for head, classes in heads.items():
        path = join(folder, f"EPIC_100_tail_{head}s.csv")
        if is_file(path):
            texts = [row.cells.get(head, "") for row in read_table(path, [head])]
            if not all(NUMBER.fullmatch(text) and int(text) < len(classes) for text in texts):
                raise ValueError(f"{path} has a class that is not 0 to {len(classes) - 1}")
            tail[head] = [int(text) for text in texts]
    unseen = {
        split: [row.cells.get("participant_id", "") for row in read_table(join(folder, name), ["participant_id"])]
        for split, name in UNSEEN.items()
        if is_file(join(folder, name))
    }
    return {name: value for name, value in (("tail", tail), ("unseen", unseen)) if value}


def read_classes(path: str, number: str, key: str) -> list[str]:
    """Names of the classes by number.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: a column is missing, or the numbers are not 0, 1, ... once each.
    """
    if not is_file(path):
        raise FileNotFoundError(f"the table of classes {path} is missing")
    names = {row.cells.get(number): row.cells.get(key, "") for row in read_table(path, [number, key])}
    classes = [names.get(str(n), "") for n in range(len(names))]
    if not classes or not all(classes):
        raise ValueError(f"{path} must give each class a name, and number the {len(names)} from 0 on")
    return classes


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        cells: column to text.
        wrong: what is malformed; empty: nothing.
    """

    line: int
    cells: dict[str, str]
    wrong: str = ""


def read_table(path: str, needed: list[str]) -> Iterator[Row]:
    """The rows of a CSV file. No cell of these tables holds a line break, so a stray quote spoils its own line only.

    Raises:
        ValueError: a needed column is missing.
    """
    columns: list[str] | None = None
    lines = read_bytes(path).decode("utf-8-sig", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        try:
            cells, wrong = next(csv.reader([line], strict=True)), ""
        except csv.Error as error:
            cells, wrong = [], f"it is no CSV: {error}"
        if columns is None:
            columns = cells
            if missing := [name for name in needed if name not in columns]:
                raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(columns)}")
            continue
        if not wrong and len(cells) != len(columns):
            wrong = f"it has {len(cells)} cells instead of {len(columns)}"
        yield Row(number, dict(zip(columns, cells, strict=False)), wrong)
    if columns is None:
        raise ValueError(f"{path} is empty")
