"""Shards: a data set as a folder of `dataset.json` and SPLIT/*.parquet, one row a clip (docs/data.md)."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmkd.dataset import open_dataset
from mmkd.storage import (
    StrPath,
    check_group,
    is_remote,
    join,
    locate,
    open_parquet,
    row_of,
)

NO_LABEL = -1
MAX_GROUP_BYTES = 1 << 28
"""Row groups of long clips have fewer rows than others."""
BOX_BYTES = 32
"""Of a box in a shard, about."""
Row = dict[str, Any]
"""One clip: a value for each column of a shard."""

BOX = pa.struct(
    [(name, pa.float32()) for name in ("x1", "y1", "x2", "y2", "score")]
    + [(name, pa.int8()) for name in ("category", "side", "state")]
)


def schema(heads: Sequence[str], multi_label: Collection[str] = ()) -> pa.Schema:
    """Columns of a shard; a missing modality is null, an unknown label too; a multi-label head has a list."""
    labels = [(head, pa.list_(pa.int32()) if head in multi_label else pa.int32()) for head in heads]
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            ("rgb", pa.list_(pa.binary())),
            ("flow", pa.list_(pa.binary())),
            ("audio", pa.binary()),
            ("boxes", pa.list_(pa.list_(BOX))),
            pa.field("num_frames", pa.int32(), nullable=False),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("labels", pa.struct(labels)),
            ("fps", pa.float32()),
            ("start", pa.float32()),
            ("stop", pa.float32()),
            ("meta", pa.map_(pa.string(), pa.string())),
        ]
    )


@dataclass
class Manifest:
    """The light columns of one split, and where each clip's row lies.

    Attributes:
        clip_ids: [clips], in shard order.
        num_frames: int32 [clips].
        labels: head to int64 [clips], NO_LABEL where unknown; of a multi-label head int8 [clips, classes] of 0 and 1, a
            row of NO_LABEL where unknown, and of less where a class is out of range.
        file, group, row: int32 [clips]: shard, row group in it, row in that.
    """

    folder: str
    files: list[str]
    clip_ids: list[str]
    num_frames: NDArray[np.int32]
    labels: dict[str, NDArray[Any]]
    file: NDArray[np.int32]
    group: NDArray[np.int32]
    row: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.clip_ids)


def read_manifest(folder: StrPath, split: str, limit: int = 0) -> Manifest:
    """Read the manifest of a split; `limit` > 0 keeps the first clips only.

    Raises:
        ValueError: there is no such split, it is empty, a shard is missing or damaged, or a clip_id occurs twice.
    """
    dataset = open_dataset(folder)
    if split not in dataset.splits:
        raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(sorted(dataset.splits))}.")
    files = sorted(dataset.splits[split]["shards"])
    clip_ids: list[str] = []
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("num_frames", "file", "group", "row")}
    labels: dict[str, list[NDArray[Any]]] = {head: [] for head in dataset.heads}
    for number, name in enumerate(files):
        path = join(folder, split, name)
        shard, light = _shard(path), ["clip_id", "num_frames", "labels"]
        if lacking := set(labels) - {field.name for field in shard.schema_arrow.field("labels").type}:
            raise ValueError(f"{path} has no labels of {', '.join(sorted(lacking))}; pack the data set again.")
        for group in range(shard.num_row_groups):
            check_group(shard, group, light)
        table = shard.read(light, use_threads=False)
        clip_ids += table["clip_id"].to_pylist()
        parts["num_frames"].append(table["num_frames"].to_numpy())
        known = table["labels"].combine_chunks()
        for head in labels:
            column = known.field(head) if isinstance(known, pa.StructArray) else known.chunk(0).field(head)
            if head in dataset.multi_label:
                labels[head].append(_many_hot(column, len(dataset.heads[head])))
            else:
                labels[head].append(column.fill_null(NO_LABEL).to_numpy(zero_copy_only=False).astype(np.int64))
        sizes = [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)]
        if sum(sizes) != table.num_rows:
            raise ValueError(f"{path} says that it has {sum(sizes)} rows and has {table.num_rows}.")
        parts["file"].append(np.full(table.num_rows, number, np.int32))
        parts["group"].append(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
        parts["row"].append(np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]))
    if not clip_ids:
        raise ValueError(f"split {split!r} of {folder} is empty.")
    if len(set(clip_ids)) < len(clip_ids):
        twice = Counter(clip_ids).most_common(1)[0][0]
        raise ValueError(f"split {split!r} of {folder} holds clip_id {twice!r} more than once; pack it again.")
    keep = limit or None
    columns = {name: np.concatenate(arrays)[:keep] for name, arrays in parts.items()}
    return Manifest(
        join(folder, split),
        files,
        clip_ids[:keep],
        labels={head: np.concatenate(arrays)[:keep] for head, arrays in labels.items()},
        **columns,
    )


def read_meta(manifest: Manifest, key: str) -> list[str]:
    """What the `meta` column says under a key of each clip of a manifest; empty where it says nothing."""
    found: list[str] = []
    for name in manifest.files:
        shard = _shard(join(manifest.folder, name))
        for group in range(shard.num_row_groups):
            check_group(shard, group, ["meta"])
        column = shard.read(["meta"], use_threads=False)["meta"]
        found += [dict(entries or ()).get(key) or "" for entries in column.to_pylist()]
    return found[: len(manifest)]


def read_rows(
    manifest: Manifest, clips: Iterable[int], modalities: Sequence[str]
) -> Iterable[dict[str, Any] | OSError]:
    """Rows of the given clips with only the columns of the modalities; an error instead of a row that cannot
    be read."""
    columns = ("clip_id", "fps", "width", "height", *modalities)
    for clip in clips:
        path = join(manifest.folder, manifest.files[manifest.file[clip]])
        try:
            size, group = _size(path), int(manifest.group[clip])
            _check_once(path, size, group, columns)
            rows = _open_shard(path, size, get_ident()).read_row_group(group, columns=columns, use_threads=False)
            row = row_of(rows, int(manifest.row[clip]))
            if row["clip_id"] != manifest.clip_ids[clip]:
                raise OSError(f"{path} holds clip {row['clip_id']!r} where {manifest.clip_ids[clip]!r} was packed")
        except (OSError, pa.ArrowException, IndexError, ValueError) as error:
            _open_shard.cache_clear()
            _check_once.cache_clear()
            yield error if isinstance(error, OSError) else OSError(str(error))
        else:
            yield row


def _many_hot(column: Any, classes: int) -> NDArray[np.int8]:
    out = np.zeros((len(column), classes), np.int8)
    for row, chosen in enumerate(column.to_pylist()):
        if chosen is None:
            out[row] = NO_LABEL
        elif all(number is not None and 0 <= number < classes for number in chosen):
            out[row, chosen] = 1
        else:
            out[row] = NO_LABEL - 1
    return out


class ShardWriter:
    """Writes rows to a Parquet file as they come; the file is there when it is closed, whole, and not before.

    JPEG and FLAC do not shrink further, so nothing is compressed; row groups are small because training reads clips in
    random order.
    """

    def __init__(self, path: StrPath, heads: Sequence[str], row_group: int, multi_label: Collection[str] = ()):
        self.schema, self.row_group, self.rows = schema(heads, multi_label), row_group, 0
        self._system, self._path = locate(path)
        # An object in a remote store appears when its upload is complete.
        self._writing = self._path if is_remote(path) else f"{self._path}.partial"
        self._digest, self._waiting, self._bytes = hashlib.sha256(), list[Row](), 0
        self._file: pq.ParquetWriter | None = None

    def add(self, row: Row) -> None:
        add_to_hash(self._digest, row)
        self._waiting.append(row)
        self._bytes += _bytes_of(row)
        self.rows += 1
        if len(self._waiting) == self.row_group or self._bytes > MAX_GROUP_BYTES:
            self._flush()

    def close(self) -> str:
        """Finish the file, which is left out where no row came; returns the SHA-256 of its rows."""
        self._flush()
        if self._file is not None:
            self._file.close()
            if self._writing != self._path:
                Path(self._writing).replace(self._path)
        return self._digest.hexdigest()

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._file is None:
            if self._writing != self._path:
                Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._file = pq.ParquetWriter(
                self._writing,
                self.schema,
                filesystem=self._system,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
            )
        self._file.write_table(pa.Table.from_pylist(self._waiting, schema=self.schema))
        self._waiting, self._bytes = [], 0


def _bytes_of(row: Row) -> int:
    """About what a row takes in a shard."""
    images = [*(row["rgb"] or ()), *(row["flow"] or ()), row["audio"]]
    return sum(map(len, filter(None, images))) + BOX_BYTES * sum(map(len, filter(None, row["boxes"] or ())))


def write_shard(
    path: StrPath, rows: Iterable[Row], heads: Sequence[str], row_group: int, multi_label: Collection[str] = ()
) -> str:
    """Write rows to a Parquet file, whole or not at all, and return the SHA-256 of their content."""
    writer = ShardWriter(path, heads, row_group, multi_label)
    for row in rows:
        writer.add(row)
    return writer.close()


def hash_rows(rows: Iterable[Row]) -> str:
    """SHA-256 of the content of rows, whatever the Parquet version that holds them."""
    digest = hashlib.sha256()
    for row in rows:
        add_to_hash(digest, row)
    return digest.hexdigest()


def add_to_hash(digest: Any, row: Row) -> None:
    """Go on with the hash of :func:`hash_rows` by one row."""
    for key in sorted(row):
        digest.update(key.encode())
        value = row[key]
        for part in value if key in ("rgb", "flow") and value is not None else [value]:
            digest.update(part if isinstance(part, bytes) else repr(part).encode())


def _shard(path: str) -> pq.ParquetFile:
    """An open shard, opened again if its size has changed: reading past the end of a mapped file ends the process."""
    return _open_shard(path, _size(path), get_ident())


def _size(path: str) -> int:
    """Bytes of a shard; -1 in a store, where files are not mapped and do not change."""
    return -1 if is_remote(path) else Path(path).stat().st_size


@lru_cache(maxsize=256)
def _open_shard(path: str, size: int, thread: int) -> pq.ParquetFile:
    """A thread's own, as two may not read from one at a time.

    Raises:
        ValueError: it has other columns than a shard.
    """
    shard = open_parquet(path)
    there = {field.name: field.type for field in shard.schema_arrow}
    for wanted in schema([]):
        given = there.get(wanted.name)
        if given != wanted.type and not (wanted.name == "labels" and isinstance(given, pa.StructType)):
            raise ValueError(f"{path} has no column {wanted.name} of {wanted.type}; pack the data set again.")
    return shard


@lru_cache(maxsize=1 << 14)
def _check_once(path: str, size: int, group: int, columns: tuple[str, ...]) -> None:
    """As :func:`mmkd.storage.check_group`, which takes as long as a tenth of a clip's reading."""
    check_group(_open_shard(path, size, get_ident()), group, columns)
