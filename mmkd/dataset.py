"""The description of a data set: dataset.json, which names its classes, modalities, splits and shards."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from mmkd.config import MODALITIES
from mmkd.storage import StrPath, is_file, join, read_text, write_bytes

SCHEMA_VERSION = 1
MAX_SAMPLE_RATE = 768_000


@dataclass
class Dataset:
    """What dataset.json says.

    Attributes:
        heads: head name to class names.
        modalities: those that at least some clips have.
        splits: split name to {"clips": n, "shards": {file name: SHA-256 of its rows}}.
        flow: bound, frame step and the frame size that the pixels refer to.
        sample_rate: of the sound, samples per second.
        made_by: source, its settings and the versions that made it.
        multi_label: heads in which a clip may have any number of classes.
        rgb_codec: jpeg, a JPEG a frame; h264, one MP4 for all frames of a clip.
        notes: what the source says of it: classes of the tail, participants that training does not see.
    """

    heads: dict[str, list[str]]
    modalities: list[str]
    splits: dict[str, dict[str, Any]]
    fps: float
    flow: dict[str, Any] = field(default_factory=dict)
    sample_rate: int = 0
    made_by: dict[str, Any] = field(default_factory=dict)
    version: int = SCHEMA_VERSION
    multi_label: list[str] = field(default_factory=list)
    rgb_codec: str = "jpeg"
    notes: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: StrPath) -> None:
        write_bytes(join(folder, "dataset.json"), (json.dumps(asdict(self), indent=2) + "\n").encode())

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of a SHA-256 over the classes and the content of every shard."""
        parts = [self.version, self.heads, self.splits, *([self.multi_label] if self.multi_label else [])]
        content = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def open_dataset(folder: StrPath) -> Dataset:
    """Read dataset.json.

    Raises:
        FileNotFoundError: the folder is no data set.
        ValueError: it was written by a newer mmkd, is damaged, or says what cannot be.
    """
    path = join(folder, "dataset.json")
    if not is_file(path):
        raise FileNotFoundError(
            f"{folder} is not a data set: it has no dataset.json. Make one with rayjobs/pack.py, or set data.folder."
        )
    try:
        content = json.loads(read_text(path))
        if content["version"] > SCHEMA_VERSION:
            raise ValueError(f"{path} has version {content['version']}, newer than this mmkd: update mmkd.")
        dataset = Dataset(**content)
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}; pack the data set again.") from error
    if wrong := _described_wrongly(dataset):
        raise ValueError(f"{path} cannot be used: {wrong}; pack the data set again.")
    return dataset


def _described_wrongly(dataset: Dataset) -> str:
    """Why nothing can be done with what dataset.json says; empty: it can."""
    try:
        if dataset.version != SCHEMA_VERSION:
            return f"version is {dataset.version!r}"
        if not dataset.heads or not all(names and len({*names}) == len(names) for names in dataset.heads.values()):
            return "heads must have class names that differ"
        if not all(isinstance(name, str) for names in dataset.heads.values() for name in names):
            return "class names must be text"
        if dataset.rgb_codec not in ("jpeg", "h264"):
            return f"rgb_codec is {dataset.rgb_codec!r}"
        if not set(dataset.modalities) <= set(MODALITIES) or not set(dataset.multi_label) <= set(dataset.heads):
            return "it names a modality or a multi-label head that there is not"
        if "flow" in dataset.modalities and not dataset.flow["bound"] > 0:
            return "flow has no bound"
        if not isinstance(dataset.sample_rate, int) or not 0 <= dataset.sample_rate <= MAX_SAMPLE_RATE:
            return f"sample_rate is {dataset.sample_rate!r}, not 0 to {MAX_SAMPLE_RATE}"
        for split, entry in dataset.splits.items():
            if int(entry["clips"]) < 0 or not all(isinstance(digest, str) for digest in entry["shards"].values()):
                return f"split {split!r} has no number of clips or hash of a shard"
            if odd := [name for name in (split, *entry["shards"]) if not name or "/" in name or name in (".", "..")]:
                return f"{odd[0]!r} is not a plain file name"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"a part of it is missing or of another kind ({error!r})"
    return ""
