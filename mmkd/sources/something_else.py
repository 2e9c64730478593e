"""Boxes of Something-Else: JSON files of gigabytes, read as a stream, of which the wanted videos' boxes stay."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ijson
import numpy as np
from numpy.typing import NDArray

from mmkd.sources.clip import BOX_DTYPE, CORNERS, HAND, OBJECT, check_number, in_shares
from mmkd.sources.recording import RejectedError
from mmkd.sources.tables import ShallowJson
from mmkd.storage import is_file, join, list_files, name_of, open_input

COMPACT = np.dtype([("frame", "i4"), *((name, "f4") for name in (*CORNERS, "score")), ("category", "i1")])
"""A box in pixels, with the number of its frame, from 0; category as in BOX_DTYPE."""
FRAME_NAME = re.compile(r"(?:.*/)?0*(\d{1,9})\.\w+", re.ASCII)


@dataclass(frozen=True, eq=False)
class VideoBoxes:
    """The boxes of one video.

    Attributes:
        boxes: COMPACT, by frame.
        fault: what is wrong with them; empty: nothing.
    """

    boxes: NDArray
    fault: str = ""

    def open(self, rate: float) -> VideoBoxes:
        """See :class:`mmkd.sources.video.BoxFile`; frames are counted, whatever their rate."""
        if self.fault:
            raise RejectedError("boxes", self.fault)
        return self

    def read(self, numbers: Sequence[int], size: tuple[int, int]) -> list[NDArray]:
        """See :class:`mmkd.sources.recording.BoxReader`; frames that the file leaves out have no box."""
        starts = np.searchsorted(self.boxes["frame"], numbers, "left")
        stops = np.searchsorted(self.boxes["frame"], numbers, "right")
        return [in_shares(_full(self.boxes[a:b]), size) for a, b in zip(starts, stops, strict=True)]


def read_boxes(path: str, wanted: Collection[str]) -> dict[str, VideoBoxes]:
    """Boxes of the wanted videos, from a file or from all JSON files in a folder.

    Raises:
        FileNotFoundError: there is no such file, and no JSON file in a folder of that name.
        ValueError: a file is no JSON object of video to frames, or no video of theirs is wanted.
    """
    paths = [path]
    if not is_file(path):
        paths = [join(path, name) for name in list_files(path) if name.endswith(".json")]
    if not paths:
        raise FileNotFoundError(f"there are no boxes: {path} is neither a JSON file nor a folder with one")
    found: dict[str, VideoBoxes] = {}
    where: dict[str, str] = {}
    for one in paths:
        with open_input(one) as file:
            try:
                if next(ijson.basic_parse(file))[0] != "start_map":
                    raise ValueError(f"{one} is no JSON object of video to frames")
                file.seek(0)
                for video, frames in ijson.kvitems(ShallowJson(file, one), "", use_float=True):
                    if video not in wanted:
                        continue
                    twice = video in where and f"its boxes are in {name_of(where[video])} and in {name_of(one)}"
                    found[video] = VideoBoxes(np.zeros(0, COMPACT), twice) if twice else _boxes_of(frames)
                    where[video] = one
            except (ijson.JSONError, UnicodeDecodeError, StopIteration) as error:
                raise ValueError(f"{one} is damaged: {error}") from error
    if wanted and not found:
        raise ValueError(f"{path} has boxes of no video that the tables name")
    return found


def _boxes_of(frames: Any) -> VideoBoxes:
    rows: list[tuple[float, ...]] = []
    try:
        for frame in frames:
            match = FRAME_NAME.fullmatch(frame["name"])
            if match is None or match[1] == "0":
                raise ValueError(f"{frame['name']!r} is no numbered frame")
            for label in frame["labels"] or ():
                corners = (float(label["box2d"][name]) for name in CORNERS)
                hand = label.get("standard_category", label.get("category")) == "hand"
                rows.append((int(match[1]) - 1, *corners, float(label.get("score", 1.0)), HAND if hand else OBJECT))
        with np.errstate(over="ignore"):  # what is not finite is found when it is read
            boxes = np.array(rows, COMPACT)
        check_number(boxes["frame"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"no {error} is given" if isinstance(error, KeyError) else str(error)
        return VideoBoxes(np.zeros(0, COMPACT), f"the boxes cannot be read: {said}")
    return VideoBoxes(boxes[np.argsort(boxes["frame"], kind="stable")])


def _full(compact: NDArray) -> NDArray:
    """BOX_DTYPE, still in pixels."""
    boxes = np.zeros(len(compact), BOX_DTYPE)
    for name in (*CORNERS, "score", "category"):
        boxes[name] = compact[name]
    boxes["side"] = boxes["state"] = -1
    return boxes
