"""The plan of a packing: the recordings of a source, divided into shards before anything is read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmkd.config import Pack, Settings
from mmkd.rejects import summary
from mmkd.sources import make_source
from mmkd.sources.recording import Recording, Reject, Source

SHARDS_A_SPLIT = 8
"""Small splits are divided into about this many shards, so that several processes have something to do."""
FREE_TO_CHANGE = ("max_reject_share", "check", "retry")
"""Settings that a packing which goes on may have otherwise: no row depends on them."""


@dataclass(frozen=True)
class Task:
    """One shard to write."""

    split: str
    name: str
    recordings: tuple[Recording, ...]

    @property
    def clips(self) -> int:
        return sum(len(recording.segments) for recording in self.recordings)


@dataclass
class Packing:
    """What is to be packed, and how; the same for the same settings and files."""

    source: Source
    pack: Pack
    tasks: list[Task]
    rejects: list[Reject]

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(task.split for task in self.tasks))

    def identity(self, settings: Settings) -> dict[str, Any]:
        """What an interrupted packing must have in common with the one that goes on with it."""
        clips = hashlib.sha256()
        for task in self.tasks:
            for recording in task.recordings:
                clips.update(f"{task.split}/{task.name}/{recording.name}/".encode())
                clips.update(repr(tuple(recording.segments)).encode())
        pack = {key: value for key, value in self.pack.model_dump().items() if key not in FREE_TO_CHANGE}
        return {"source": settings.source.model_dump(), "pack": pack, "clips": clips.hexdigest()[:16]}


def plan_packing(settings: Settings) -> Packing:
    """Look through a source and divide its recordings into shards.

    Raises:
        ValueError: the source cannot be read, or has no clip.
    """
    source = make_source(settings)
    pack = settings.pack.model_copy(update={"flow_bound": settings.pack.flow_bound or source.flow_bound})
    found: dict[str, list[Recording]] = {}
    rejects: list[Reject] = []
    seen: set[str] = set()
    for each in source.recordings():
        if isinstance(each, Reject):
            rejects.append(each)
            continue
        split, recording = each
        ids = [segment.clip_id for segment in recording.segments]
        if len(set(ids)) < len(ids) or not seen.isdisjoint(ids):
            recording, doubled = _without_doubles(split, recording, seen)
            rejects += doubled
        seen.update(ids)
        if recording.segments:
            found.setdefault(split, []).append(recording)
    if not found:
        why = f": {summary(rejects)}" if rejects else ""
        raise ValueError(f"there is nothing to pack in {settings.source.root or source.name}{why}.")
    tasks = [task for split, recordings in found.items() for task in _divide(split, recordings, pack)]
    return Packing(source, pack, tasks, rejects)


def _without_doubles(split: str, recording: Recording, seen: set[str]) -> tuple[Any, list[Reject]]:
    kept, doubled, own = [], [], set(seen)
    for segment in recording.segments:
        if segment.clip_id in own:
            reason = f"clip_id {segment.clip_id!r} is taken by an earlier clip"
            doubled.append(Reject(split, segment.clip_id, recording.name, "duplicate", reason))
        else:
            own.add(segment.clip_id)
            kept.append(segment)
    return _Some(recording, tuple(kept)), doubled


@dataclass(frozen=True)
class _Some:
    """A recording with fewer segments."""

    recording: Recording
    segments: tuple

    @property
    def name(self) -> str:
        return self.recording.name

    def open(self) -> Any:
        return self.recording.open()


def _divide(split: str, recordings: list[Recording], pack: Pack) -> Iterator[Task]:
    clips = sum(len(recording.segments) for recording in recordings)
    most = min(pack.clips_per_shard, max(1, -(-clips // SHARDS_A_SPLIT)))
    number, chunk, size = 0, list[Recording](), 0
    for recording in recordings:
        if chunk and size + len(recording.segments) > most:
            yield Task(split, f"{number:05d}.parquet", tuple(chunk))
            number, chunk, size = number + 1, [], 0
        chunk.append(recording)
        size += len(recording.segments)
    yield Task(split, f"{number:05d}.parquet", tuple(chunk))
