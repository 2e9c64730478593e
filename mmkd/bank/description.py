"""bank.json: what a bank's answers depend on, and whether a training may use them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmkd.bank.rows import MAX_TEACHERS, Layout
from mmkd.config import SettingsError
from mmkd.runs import differences, write_json

VERSION = 1
MAX_BYTES = 1 << 24
"""Of bank.json, which anybody may have written."""
MAX_CLIPS, MAX_VIEWS, MAX_ROW_BYTES = 1 << 27, 1 << 16, 1 << 26
"""Of clips, views, and bytes of one answer that it may claim: 64 teachers of 100,000 classes have 13 million bytes."""


@dataclass
class Description:
    """What bank.json says. All but `kept_views`, `coverage` and `made_by` decides the answers.

    Attributes:
        teachers: name to weights hash, in the order of the rows' columns.
        data: name, fingerprint, split and number of its clips.
        heads: head to number of classes.
        views: the settings that views and inputs are made by; `mixed_clips`: number of clips among which partners lie,
            and `train_share`: the share of the split that they are, where it is not all.
        parameters: numpy's description of the stored view parameters.
        kept_views: training views of each clip that the bank is meant to hold.
        coverage: answers in it, parts, and megabytes, when a job last closed it.
    """

    teachers: dict[str, str]
    data: dict[str, Any]
    heads: dict[str, int]
    views: dict[str, Any]
    parameters: list[Any]
    kept_views: int = 0
    coverage: dict[str, Any] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def layout(self) -> Layout:
        fields = [tuple(tuple(x) if isinstance(x, list) else x for x in each) for each in self.parameters]
        return Layout(len(self.teachers), self.heads, np.dtype(fields))

    def identity(self) -> dict[str, Any]:
        """What must be equal for two banks' answers to be the same, but for the teachers."""
        data = {key: value for key, value in self.data.items() if key != "name"}
        return {"version": self.version, "data": data, "heads": self.heads, "views": self.views}

    def seal(self) -> str:
        """16 hex digits that every part carries, so that no answer passes for another bank's."""
        content = json.dumps([self.identity(), list(self.teachers.values())], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        write_json(folder / "bank.json", vars(self))


def read_description(folder: Path) -> Description:
    """Read bank.json.

    Raises:
        SettingsError: the folder is no bank, or bank.json is damaged or of a newer mmkd.
    """
    path = folder / "bank.json"
    if not path.is_file():
        raise SettingsError(f"{folder} is not a bank: it has no bank.json. teachers.mode record or auto makes one.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        content = json.loads(path.read_text())
        if content["version"] > VERSION:
            raise SettingsError(f"{path} has version {content['version']}, newer than this mmkd: update mmkd.")
        description = Description(**content)
        _check(description)
        return description
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(
            f"{path} is damaged: {error!r}. Delete it: teachers.mode auto writes it anew, and keeps the bank's parts."
        ) from error


def _check(description: Description) -> None:
    """Raises what is wrong where the sizes that it names cannot be: memory is taken for them."""
    texts = [*description.teachers.items(), *((name, "") for name in description.heads)]
    if not all(isinstance(part, str) for pair in texts for part in pair) or len(description.teachers) > MAX_TEACHERS:
        raise ValueError(f"teachers and heads must be texts, and teachers {MAX_TEACHERS} at the most")
    numbers = [(description.data["clips"], MAX_CLIPS), (description.kept_views, MAX_VIEWS)]
    for number, most in [*numbers, *((number, MAX_CLIPS) for number in description.heads.values())]:
        if not isinstance(number, int) or not 0 <= number <= most:
            raise ValueError(f"there is {number!r} where a number of clips, views or classes should be, up to {most}")
    layout = description.layout()
    if layout.parameters.hasobject or layout.row_bytes() > MAX_ROW_BYTES:
        raise ValueError(f"an answer has {layout.row_bytes()} bytes, more than {MAX_ROW_BYTES}")


def teacher_columns(folder: Path, theirs: Mapping[str, str], ours: Mapping[str, str], whole: bool) -> tuple[int, ...]:
    """Where our teachers lie among the bank's, by hash.

    Args:
        theirs, ours: name to weights hash.
        whole: the bank is to be written, so that it must have no other teachers.

    Raises:
        SettingsError: the bank lacks one, or has others.
    """
    place = {weights: number for number, weights in enumerate(theirs.values())}
    lacking = [f"{name} ({weights})" for name, weights in ours.items() if weights not in place]
    others = [f"{name} ({weights})" for name, weights in theirs.items() if weights not in ours.values()]
    if lacking or (whole and others):
        said = [f"it lacks {', '.join(lacking)}"] if lacking else []
        said += [f"it has {', '.join(others)}"] if others else []
        raise SettingsError(
            f"bank {folder} holds other teachers' answers: {' and '.join(said)}. Choose another teachers.bank, or "
            "leave it empty: banks are then named by what they are made of."
        )
    return tuple(place[weights] for weights in ours.values())


def check_identity(folder: Path, theirs: Description, ours: Description) -> None:
    """Refuse a bank of other data, heads or views.

    Raises:
        SettingsError: names each difference.
    """
    changed = [f"{name} {old!r} (here {new!r})" for name, old, new in differences(theirs.identity(), ours.identity())]
    if changed:
        raise SettingsError(
            f"bank {folder} was made with {'; '.join(changed)}. Use those settings, or choose another teachers.bank "
            "(empty: banks are named by what they are made of)."
        )


def make_bank(folder: Path, description: Description) -> Description:
    """Open the bank of a folder for writing, or make it; returns what its bank.json says.

    Raises:
        SettingsError: it is a bank of other data, views, heads or teachers, or is damaged.
    """
    if len(description.teachers) > MAX_TEACHERS:
        raise SettingsError(f"a bank holds {MAX_TEACHERS} teachers at most; {len(description.teachers)} were given.")
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    if not (folder / "bank.json").is_file():
        description.save(folder)
    there = read_description(folder)
    check_identity(folder, there, description)
    teacher_columns(folder, there.teachers, description.teachers, whole=True)
    if there.kept_views < description.kept_views:
        there.kept_views = description.kept_views
        there.save(folder)
    return there
