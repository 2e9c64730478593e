"""A bank's answers on disk: parts/*.parquet, each written whole or not at all, read a row group at a time."""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmkd.bank.description import MAX_VIEWS, read_description
from mmkd.bank.rows import (
    Rows,
    check_part,
    checksums,
    concatenate,
    read_group,
    read_keys,
    read_seal,
    take,
    write_part,
)
from mmkd.plan import Clips

CACHE_BYTES = 64 << 20
"""Decoded row groups that a process keeps: a small bank is decoded once, a large one stays on disk."""
MAX_PLACES = 1 << 29
"""Clips times views of which a process keeps where their answers are, 8 bytes each."""
PART_BYTES = 8 << 20
PART_SECONDS = 60.0
"""A part is written when it holds this much, or this long after its first row: what a killed job loses at most."""


class Bank:
    """The answers in a folder, read a row group at a time.

    Attributes:
        rows: number of answers (of all teachers to one view of one clip), those that newer ones replace left out.
        damaged: name of a part that cannot be read to the reason; its answers count as missing.
        lock: for threads that use it together, one at a time.
    """

    def __init__(self, folder: Path):
        self.folder, self.description = Path(folder), read_description(Path(folder))
        self.layout, self._seal = self.description.layout(), self.description.seal()
        self.damaged: dict[str, str] = {}
        self.lock = threading.Lock()
        self._clips = int(self.description.data["clips"])
        self._files: list[pq.ParquetFile] = []
        self._names: dict[str, None] = {}
        self._starts = np.zeros(1, np.int64)
        self._place = np.full((1, self._clips), -1, np.int64)
        self._groups: OrderedDict[tuple[int, int], Rows] = OrderedDict()
        self._cached = 0
        self.refresh()

    @property
    def rows(self) -> int:
        return int((self._place >= 0).sum())

    @property
    def written(self) -> int:
        """Rows in the parts, with those that newer ones replace."""
        return int(self._starts[-1])

    @property
    def parts(self) -> list[str]:
        return list(self._names)

    def megabytes(self) -> float:
        return sum(path.stat().st_size for path in (self.folder / "parts").glob("*.parquet")) / 1e6

    def refresh(self) -> None:
        """Take in parts that were written since; of two answers to one view, the newer part's counts."""
        for path in sorted((self.folder / "parts").glob("*.parquet")):
            if path.name in self._names or path.name in self.damaged:
                continue
            try:
                file = pq.ParquetFile(path)
                check_part(file, self.layout)
                clips, views = read_keys(file)
                if read_seal(file) != self._seal:
                    raise ValueError("it belongs to another bank")
                if len(clips) and not (clips.min() >= 0 and clips.max() < self._clips and views.min() >= -1):
                    raise ValueError("it has clips that the data set has not")
                last = int(views.max(initial=-1))
                if last >= MAX_VIEWS or (last + 2) * self._clips > MAX_PLACES:
                    raise ValueError(f"it has view {last} of {self._clips} clips")
            except (OSError, pa.ArrowException, ValueError, KeyError) as error:
                self.damaged[path.name] = str(error).splitlines()[0] if str(error) else repr(error)
                continue
            self._add(path.name, file, clips, views)

    def _add(self, name: str, file: pq.ParquetFile, clips: NDArray[np.int32], views: NDArray[np.int32]) -> None:
        if len(views) and (more := int(views.max()) + 2 - len(self._place)) > 0:
            self._place = np.vstack([self._place, np.full((more, self._clips), -1, np.int64)])
        self._names[name] = None
        self._files.append(file)
        first = self._starts[-1]
        self._starts = np.append(self._starts, first + len(clips))
        self._place[views + 1, clips] = first + np.arange(len(clips))

    def keys(self) -> tuple[Clips, Clips]:
        """Clips and views of all answers, in the order in which they lie."""
        views, clips = np.nonzero(self._place >= 0)
        order = np.argsort(self._place[views, clips])
        return clips[order], views[order] - 1

    def has(self, clips: Clips, views: Clips) -> NDArray[np.bool_]:
        """Which (clip, view) the bank holds an answer to; TEST_VIEW is a view as well. bool [rows]."""
        return self._find(clips, views) >= 0

    def _find(self, clips: Clips, views: Clips) -> NDArray[np.int64]:
        inside = (clips >= 0) & (clips < self._clips) & (views + 1 < len(self._place))
        found = np.full(len(clips), -1, np.int64)
        found[inside] = self._place[views[inside] + 1, clips[inside]]
        return found

    def read(self, clips: Clips, views: Clips) -> tuple[Rows, NDArray[np.bool_]]:
        """Answers to the views of clips that :meth:`has` says are there.

        Returns:
            the rows, and bool [rows]: their checksum is right, and they are what was asked for. Others hold anything.
        """
        if not len(clips):
            return take(self._blank(), slice(0, 0)), np.zeros(0, bool)
        places = self._find(clips, views)
        parts = np.searchsorted(self._starts, places, side="right") - 1
        rows, readable = [], np.ones(len(places), bool)
        for number, (part, place) in enumerate(zip(parts.tolist(), places.tolist(), strict=True)):
            try:
                rows.append(self._row(part, place - int(self._starts[part])))
            except (OSError, pa.ArrowException, ValueError, IndexError):
                rows.append(self._blank())
                readable[number] = False
        out = concatenate(rows)
        keys = out | {"clip": clips.astype(np.int32), "view": views.astype(np.int32)}
        return out, readable & (checksums(keys, self.layout) == out["crc"])

    def forget(self, clips: Clips, views: Clips) -> None:
        """Hold answers for missing, in this object."""
        self._place[views + 1, clips] = -1

    def unsound(self) -> tuple[Clips, Clips]:
        """Clips and views of the answers whose checksum is wrong or that cannot be read: reads all of the bank, a row
        group at a time."""
        wrong = []
        for part, file in enumerate(self._files):
            size = file.metadata.row_group(0).num_rows if file.num_row_groups else 1
            for group in range(file.num_row_groups):
                first = int(self._starts[part]) + group * size
                places = first + np.arange(file.metadata.row_group(group).num_rows)
                try:
                    rows = read_group(file, group, self.layout)
                    bad = checksums(rows, self.layout) != rows["crc"]
                except (OSError, pa.ArrowException, ValueError):
                    bad = np.ones(len(places), bool)
                wrong.append(places[bad])
        return self._keys_at(np.concatenate([*wrong, np.zeros(0, np.int64)]))

    def of_status(self, status: int) -> tuple[Clips, Clips]:
        """Clips and views of the answers that have a status of the reader: reads that column alone."""
        found = [np.zeros(0, np.int64)]
        for start, file in zip(self._starts.tolist(), self._files, strict=False):
            with suppress(OSError, pa.ArrowException, ValueError):  # which is for unsound to say
                found.append(start + np.flatnonzero(file.read(columns=["status"])["status"].to_numpy() == status))
        return self._keys_at(np.concatenate(found))

    def _keys_at(self, places: NDArray[np.int64]) -> tuple[Clips, Clips]:
        views, clips = np.nonzero(np.isin(self._place, places))
        return clips, views - 1

    def _row(self, part: int, place: int) -> Rows:
        size = self._files[part].metadata.row_group(0).num_rows
        group, row = divmod(place, size)
        key = (part, group)
        if key in self._groups:
            self._groups.move_to_end(key)
        else:
            self._groups[key] = read_group(self._files[part], group, self.layout)
            self._cached += self.layout.row_bytes() * size
            while self._cached > CACHE_BYTES and len(self._groups) > 1:
                (old, _), _ = self._groups.popitem(last=False)
                self._cached -= self.layout.row_bytes() * self._files[old].metadata.row_group(0).num_rows
        return take(self._groups[key], slice(row, row + 1))

    def _blank(self) -> Rows:
        layout = self.layout
        blank: Rows = {name: np.zeros(1, np.int32) for name in ("clip", "view")}
        blank |= {"status": np.zeros(1, np.int8), "crc": np.zeros(1, np.uint32)}
        blank |= {"present": np.zeros((1, layout.teachers), bool), "parameters": np.zeros(1, layout.parameters)}
        return blank | {f"logits/{h}": np.zeros((1, layout.teachers, c), "<f2") for h, c in layout.heads.items()}

    def save_coverage(self) -> dict[str, Any]:
        """Write into bank.json what the bank holds now, and return it."""
        self.refresh()
        there = read_description(self.folder)
        there.coverage = {"answers": self.rows, "parts": len(self.parts), "megabytes": round(self.megabytes(), 3)}
        there.save(self.folder)
        return there.coverage


@lru_cache(maxsize=2)
def cached_bank(folder: str, state: str) -> Bank:
    """A process opens a bank once, as long as it is in this :func:`state_of`."""
    return Bank(Path(folder))


def state_of(folder: Path) -> str:
    """Changes when parts come, go or are written to."""
    parts = sorted((folder / "parts").glob("*.parquet"))
    seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in parts]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


class BankWriter:
    """Adds answers to a bank, in parts of its own: several may write to one bank at a time.

    Attributes:
        kept: answers written so far.

    Raises:
        OSError: a part cannot be written; the bank stays valid without it.
    """

    def __init__(self, folder: Path, label: str):
        self.folder = Path(folder)
        description = read_description(self.folder)
        self.layout, self._seal = description.layout(), description.seal()
        self.kept = 0
        self._label = "".join(c if c.isalnum() or c in "-_" else "-" for c in label)
        self._waiting: list[Rows] = []
        self._bytes, self._since = 0, 0.0

    def add(self, rows: Rows) -> None:
        """Take rows without their checksums.

        Raises:
            ValueError: a logit is too large for fp16.
        """
        count = len(rows["clip"])
        if not count:
            return
        for head in self.layout.heads:
            if not np.isfinite(rows[f"logits/{head}"]).all():
                wrong = ~np.isfinite(rows[f"logits/{head}"]).all(axis=(1, 2))
                raise ValueError(
                    f"teachers' {head} logits of clips number {rows['clip'][wrong][:20].tolist()} do not fit into "
                    "fp16, which a bank keeps; use teachers.mode live."
                )
        self._since = self._since if self._waiting else time.monotonic()
        self._waiting.append(rows)
        self._bytes += count * self.layout.row_bytes()
        if self._bytes > PART_BYTES or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as a part."""
        if not self._waiting:
            return
        rows = concatenate(self._waiting)
        self._waiting, self._bytes = [], 0
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%f")
        path = self.folder / "parts" / f"{stamp}-{self._label}.parquet"
        partial = path.with_name(path.name + ".partial")
        try:
            write_part(partial, rows, self.layout, self._seal)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        self.kept += len(rows["clip"])


def select_teachers(rows: Rows, columns: Sequence[int]) -> Rows:
    """The same answers with the teachers of these columns only, in this order."""
    which = list(columns)
    chosen = {name: rows[name][:, which] for name in rows if name == "present" or name.startswith("logits/")}
    return rows | chosen
