"""The packs of the authors' code: HDF5 files of JPEG frames, flow, sound and boxes, and JSON files of detections.

Which data set they are of is told by its official tables: those of EPIC-KITCHENS, with frames under
[video_id][narration_id], or those of Something-Something, with frames under [video_id]. Frames of a clip are cut out
already, so each clip is a recording of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.config import Source as Settings
from mmkd.sources import epic, ssv2
from mmkd.sources.clip import CORNERS, HAND, OBJECT, check_number
from mmkd.sources.epic_media import PACK_RATE, part_of
from mmkd.sources.recording import OVERHANG, BoxReader, Media, Reject, RejectedError, Segment
from mmkd.sources.reference_media import (
    PackedBoxes,
    PackedFlow,
    find_array,
    flow_size,
    frame_reader,
    open_pack,
    sound_reader,
)
from mmkd.sources.something_else import COMPACT, VideoBoxes
from mmkd.storage import is_file, join, list_files, name_of

DETECTION_TABLES = {"train_table": "train_dataset.json", "val_table": "val_dataset.json"}
"""Setting to the authors' name of a split's detections, which serve as its table too."""
FLOW_BOUND = 20
STAMP = re.compile(r"(\d{1,3}):(\d{1,2}):(\d{1,2}(?:\.\d{1,9})?)", re.ASCII)


def make(settings: Settings) -> EpicPacks | SSv2Packs:
    """The source of these settings.

    Raises:
        FileNotFoundError: a table, a list of classes or a pack is missing.
        ValueError: a pack cannot be read, or the annotations are of neither data set, or of both.
    """
    folder = settings.annotations
    if not folder:
        raise ValueError("source.annotations is empty; it must be the folder of the data set's official tables")
    names = list_files(folder)
    chosen = [settings.train_table, settings.val_table, settings.test_table]
    tables = [name for name in chosen if name] or names
    is_epic = any(re.fullmatch(r"EPIC_.*\.csv", name_of(name)) for name in tables) or (
        any(chosen) and all(name.endswith(".csv") for name in tables)
    )
    known = {*ssv2.LABELS, *(name for pair in ssv2.TABLES.values() for name in pair), *DETECTION_TABLES.values()}
    is_ssv2 = any(name.endswith(".json") if any(chosen) else name in known for name in tables)
    if is_epic == is_ssv2:
        raise ValueError(
            f"{folder} has tables of {'both' if is_epic else 'neither'} of EPIC-KITCHENS (EPIC_*.csv) and "
            f"Something-Something ({ssv2.LABELS[0]}, {ssv2.TABLES['train'][0]}, {DETECTION_TABLES['train_table']}, "
            "...); it must have those of one, or source.train_table and the like must name them"
        )
    packs = {name: getattr(settings, name) for name in ("root", "flow", "audio") if getattr(settings, name)}
    if is_epic and settings.boxes:
        packs["boxes"] = settings.boxes
    for name, path in packs.items():
        if not is_file(path):
            raise FileNotFoundError(f"source.{name} must be an HDF5 file; there is no file {path}")
        try:
            open_pack(path)
        except RejectedError as error:
            raise ValueError(f"source.{name} {path}: {error}") from error
    return EpicPacks(settings) if is_epic else SSv2Packs(settings, names)


@dataclass(frozen=True)
class PackedClip:
    """A clip in the packs.

    Attributes:
        keys: where its frames and flow are: (video_id,), or (video_id, narration_id) of EPIC-KITCHENS, whose flow is u
            and v in turn.
        rate: frames per second.
        count: number of its frames; None: all that are there.
        sound_start: seconds into the video at which its sound begins.
        first: number of its first frame in the video.
    """

    settings: Settings
    keys: tuple[str, ...]
    segments: tuple[Segment, ...]
    rate: float
    count: int | None = None
    sound_start: float = 0.0
    first: int = 1
    detections: Detections | None = None

    @property
    def name(self) -> str:
        return "/".join(self.keys)

    @contextmanager
    def open(self) -> Iterator[Media]:
        """See :class:`mmkd.sources.recording.Recording`."""
        packs, video = self.settings, self.keys[0]
        images = find_array(packs.root, *self.keys)
        if self.count is not None and len(images) - self.count > OVERHANG * self.rate:
            said = f"the table gives {self.count} frames and {name_of(packs.root)} has {len(images)}"
            raise RejectedError("interval", f"{said}: is the pack made by another table?")
        frames = frame_reader(images, self.rate, len(images) if self.count is None else self.count)
        flow = sound = None
        boxes: BoxReader | None = None
        if packs.flow:
            flow = PackedFlow(find_array(packs.flow, *self.keys), len(images), pairs=len(self.keys) == 2)
        if packs.audio:
            sound = sound_reader(packs.audio, video, PACK_RATE, self.sound_start)
        if self.detections is not None:
            boxes = self.detections.open()
        elif packs.boxes and len(self.keys) == 2:
            boxes = PackedBoxes(packs.boxes, video, self.first)
        yield Media(frames, flow, sound, boxes)


class _Packs:
    """What packs of both data sets have in common, see :class:`mmkd.sources.recording.Source`.

    Args:
        tables: the source that reads the same tables.
        pairs: whether flow is gray images, u and v in turn.
    """

    name = "reference"

    def __init__(self, settings: Settings, tables: epic.Epic | ssv2.SSv2, pairs: bool):
        self.settings = settings
        self.heads, self.multi_label, self.notes = tables.heads, tables.multi_label, tables.notes
        self.flow: dict[str, object] = {}
        if settings.flow:
            self.flow = {"bound": FLOW_BOUND, "step": 1, "size": flow_size(settings.flow, pairs)}
        self.flow_bound = float(FLOW_BOUND)


class EpicPacks(_Packs):
    """Packs of EPIC-KITCHENS; in the order of the `epic` source."""

    def __init__(self, settings: Settings):
        folder = settings.annotations
        self.tables = epic.make(_without_media(settings, root=folder))
        super().__init__(settings, self.tables, pairs=True)

    def recordings(self) -> Iterator[tuple[str, PackedClip] | Reject]:
        """See :class:`mmkd.sources.recording.Source`."""
        settings, heard = self.settings, not self.settings.audio
        places = {split: self._places(path) for split, path in epic.find_tables(settings).items()}
        for each in self.tables.recordings():
            if isinstance(each, Reject):
                yield each
                continue
            split, recording = each
            video, rate = recording.name, settings.frame_rate or part_of(recording.name).rate
            heard = heard or video in open_pack(settings.audio)
            for segment in recording.segments:
                first, stop = segment.frames or (0, 0)
                key, start = places[split].get(segment.clip_id, (segment.clip_id, None))
                meta = segment.meta | {"start_frame": str(first + 1)}
                whole = Segment(segment.clip_id, segment.labels, frames=(0, stop - first), meta=meta)
                begin = first / rate if start is None else start
                yield split, PackedClip(settings, (video, key), (whole,), rate, stop - first, begin, first + 1)
        if not heard:
            raise ValueError(f"source.audio {settings.audio} has no video of the tables")

    def _places(self, path: str) -> dict[str, tuple[str, float | None]]:
        """Clip to its key in the packs and the second in the video at which it starts, None where that is not given."""
        found = {}
        for row in epic.read_table(path, []):
            cells = row.cells
            key = cells.get("narration_id") or cells.get("uid", "")
            clip_id = key if self.settings.version == 100 else f"{cells.get('video_id')}_{cells.get('uid')}"
            found[clip_id] = (key, _seconds(cells.get("start_timestamp", "")))
        return found


class SSv2Packs(_Packs):
    """Packs of Something-Something and Something-Else; in the order of the tables."""

    def __init__(self, settings: Settings, names: Collection[str]):
        tables = {field: getattr(settings, field) for field in ("train_table", "val_table", "test_table")}
        official = {name for pair in ssv2.TABLES.values() for name in pair}
        if not any(tables.values()) and official.isdisjoint(names):
            tables |= {field: name for field, name in DETECTION_TABLES.items() if name in names}
        self.tables = ssv2.make(_without_media(settings, **tables))
        super().__init__(settings, self.tables, pairs=False)

    def recordings(self) -> Iterator[tuple[str, PackedClip] | Reject]:
        """See :class:`mmkd.sources.recording.Source`."""
        settings, rate = self.settings, self.settings.frame_rate or ssv2.FRAME_RATE
        listed = list(self.tables.recordings())
        wanted = {each[1].name for each in listed if not isinstance(each, Reject)}
        found: dict[str, Detections] = {}
        for path in self._detection_files():
            found |= read_detections(path, wanted)
        for each in listed:
            if isinstance(each, Reject):
                yield each
            else:
                split, clip = each
                boxes = found.get(clip.name)
                yield split, PackedClip(settings, (clip.name,), clip.segments, rate, detections=boxes)

    def _detection_files(self) -> list[str]:
        if not self.settings.boxes:
            return [path for path in self.tables.tables.values() if name_of(path) in DETECTION_TABLES.values()]
        if is_file(self.settings.boxes):
            return [self.settings.boxes]
        names = [name for name in list_files(self.settings.boxes) if name in DETECTION_TABLES.values()]
        if not names:
            said = f"{self.settings.boxes} is neither a JSON file nor a folder of {DETECTION_TABLES['train_table']}"
            raise FileNotFoundError(f"source.boxes: {said}")
        return [join(self.settings.boxes, name) for name in names]


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes of a clip in pixels of frames of a size (width, height), whatever size the frames in the pack have."""

    boxes: VideoBoxes
    size: tuple[int, int]

    def open(self) -> Detections:
        self.boxes.open(0.0)
        return self

    def read(self, numbers: Any, size: tuple[int, int]) -> list[NDArray]:
        """See :class:`mmkd.sources.recording.BoxReader`."""
        return self.boxes.read(numbers, self.size)


def read_detections(path: str, wanted: Collection[str]) -> dict[str, Detections]:
    """The wanted clips' boxes from a JSON list of {"id", "size", "frames": [[{"x1", "y1", "x2", "y2", "category",
    "score"}]]}, which is read as a stream.

    Raises:
        ValueError: it is no such list, or damaged.
    """
    found = {}
    for entry in ssv2.stream_list(path):
        clip_id = entry.get("id") if isinstance(entry, dict) else ""
        clip_id = str(clip_id) if isinstance(clip_id, int | str) else ""
        if clip_id in wanted:
            found[clip_id] = _detections(entry)
    return found


def _detections(entry: dict[str, Any]) -> Detections:
    try:
        width, height = (int(side) for side in entry["size"])
        if not 0 < min(width, height) <= max(width, height) < 1 << 16:
            raise ValueError(f"size is {entry['size']}")
        rows = [
            (number, *(float(box[name]) for name in CORNERS), float(box["score"]), _category(box["category"]))
            for number, boxes in enumerate(entry["frames"])
            for box in boxes
        ]
        with np.errstate(over="ignore"):  # what is not finite is found when it is read
            boxes = np.array(rows, COMPACT)
        check_number(boxes["frame"])
        return Detections(VideoBoxes(boxes), (width, height))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        said = f"no {error} is given" if isinstance(error, KeyError) else str(error)
        return Detections(VideoBoxes(np.zeros(0, COMPACT), f"the boxes cannot be read: {said}"), (1, 1))


def _category(name: str) -> int:
    return HAND if "hand" in name else OBJECT


def _without_media(settings: Settings, **changes: str) -> Settings:
    """Settings of the source that reads the same tables, which has no packs to look into."""
    return settings.model_copy(update={"boxes": "", "flow": "", "audio": "", **changes})


def _seconds(stamp: str) -> float | None:
    """Seconds of HH:MM:SS.ff; None of anything else."""
    found = STAMP.fullmatch(stamp.strip())
    return None if found is None else int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
