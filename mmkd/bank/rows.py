"""Rows of a logit bank as arrays: their layout, the parameters of their views, their checksums, their Parquet files."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmkd.config import Views
from mmkd.plan import TEST_VIEW, Clips
from mmkd.shards import Manifest
from mmkd.views import View, make_view
from mmkd.views.view import PHOTOMETRIC

Rows = dict[str, NDArray[Any]]
"""Columns of some rows: `clip` int32, `view` int32 and `status` int8 [rows], `present` bool [rows, teachers],
`logits/HEAD` float16 [rows, teachers, classes], `parameters` (structured, of the view) [rows]; as they lie in a file
with `crc` uint32 [rows] as well."""

GROUP_BYTES = 1 << 18
"""About as many bytes of rows are in a row group, which is the least that a reader fetches."""
SMALL = 1024
"""Rows with fewer bytes of logits are compressed. Logits hardly shrink, and large ones are read in half the time as
they are; beside small ones the parameters of their views weigh."""
MAX_TEACHERS = 64
MAX_PART_BYTES = 1 << 28
"""Of a part once it is unpacked; they are written at 8 MB."""
SEAL = b"mmkd.bank"


@dataclass(frozen=True)
class Layout:
    """What a row is made of.

    Attributes:
        teachers: number of teachers.
        heads: head to its number of classes.
        parameters: numpy's type of a view's parameters, which bank.json tells as well.
    """

    teachers: int
    heads: dict[str, int]
    parameters: np.dtype

    def logit_bytes(self) -> int:
        """Bytes of a row's logits."""
        return 2 * self.teachers * sum(self.heads.values())

    def row_bytes(self) -> int:
        return self.logit_bytes() + self.parameters.itemsize + 24


def view_type(views: Views, longest: int) -> np.dtype:
    """numpy's type of the parameters of a view (:class:`mmkd.views.View`), for clips of up to `longest` frames."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int]]] = [
        ("indices", "<u2" if longest <= 1 << 16 else "<u4", (views.frames,)),
        ("scale", "<f4"),
        ("left", "<f4"),
        ("top", "<f4"),
        ("flip", "u1"),
        ("jitter", "<f4", (4,)),
    ]
    if views.randaugment:
        fields += [("operation", "u1", (views.randaugment,)), ("amount", "<f4", (views.randaugment,))]
    if views.mixup or views.cutmix:
        fields += [("partner", "<f4"), ("share", "<f4"), ("box", "<f4", (4,))]
    return np.dtype(fields)  # type: ignore[arg-type]


def view_parameters(layout: Layout, views: Views, manifest: Manifest, clips: Clips, numbers: Clips) -> NDArray[Any]:
    """Parameters of the views of these numbers, [rows] of layout.parameters; zeros for a clip without frames."""
    out = np.zeros(len(clips), layout.parameters)
    for row, (clip, number) in enumerate(zip(clips.tolist(), numbers.tolist(), strict=True)):
        if manifest.num_frames[clip] > 0:
            _store(out[row], make_view(views, manifest.clip_ids[clip], int(manifest.num_frames[clip]), number))
    return out


def _store(out: Any, view: View) -> None:
    out["indices"], out["jitter"] = view.indices, view.jitter
    out["scale"], out["left"], out["top"], out["flip"] = view.scale, view.left, view.top, view.flip
    if view.operations:
        out["operation"] = [PHOTOMETRIC.index(name) for name, _ in view.operations]
        out["amount"] = [amount for _, amount in view.operations]
    if "share" in out.dtype.names:
        out["share"] = 1.0
        if view.mix is not None:
            out["partner"], out["share"], out["box"] = view.mix.partner, view.mix.share, view.mix.box or (0, 0, 0, 0)


def checksums(rows: Rows, layout: Layout) -> NDArray[np.uint32]:
    """CRC-32 of each row, over its key as well, so that a row cannot pass for another one's: uint32 [rows]."""
    number = len(rows["clip"])
    parts = [rows["clip"].astype("<i4"), rows["view"].astype("<i4"), rows["status"].astype("i1")]
    parts += [_bits(rows["present"]), *(rows[f"logits/{head}"].astype("<f2") for head in layout.heads)]
    parts.append(rows["parameters"])
    each = [np.frombuffer(np.ascontiguousarray(part).tobytes(), np.uint8).reshape(number, -1) for part in parts]
    content = np.concatenate(each, axis=1)
    return np.array([zlib.crc32(row) for row in content], np.uint32)


def write_part(path: Path, rows: Rows, layout: Layout, seal: str) -> None:
    """Write rows as a Parquet file: clip and view, status, present (a bit a teacher), raw fp16 logits of each head
    [teachers, classes], raw view parameters, crc. `seal` says which bank they are of."""
    order = np.lexsort((rows["clip"], rows["view"]))
    rows = {name: column[order] for name, column in rows.items()}
    logits = [f"logits/{head}" for head in layout.heads]
    columns: dict[str, pa.Array] = {
        "clip": pa.array(rows["clip"].astype(np.int32)),
        "view": pa.array(rows["view"].astype(np.int32)),
        "status": pa.array(rows["status"].astype(np.int8)),
        "present": pa.array(_bits(rows["present"])),
        "crc": pa.array(checksums(rows, layout)),
        "parameters": _binary(rows["parameters"]),
    }
    columns |= {name: _binary(rows[name].astype("<f2")) for name in logits}
    small = layout.logit_bytes() < SMALL
    pq.write_table(
        pa.table(columns, metadata={SEAL: seal.encode()}),
        path,
        row_group_size=max(16, GROUP_BYTES // layout.row_bytes()),
        compression="zstd" if small else "none",
        write_statistics=False,
        use_dictionary=["view", "status", "present"],
        column_encoding={"clip": "DELTA_BINARY_PACKED"}
        | dict.fromkeys(["crc", "parameters", *logits] if small else [], "BYTE_STREAM_SPLIT"),
    )


def check_part(file: pq.ParquetFile, layout: Layout) -> None:
    """Refuse a part that is not as :func:`write_part` writes it, before anything of it is read.

    Raises:
        ValueError: it has other columns, uneven row groups or absurdly many rows.
    """
    logits = {f"logits/{head}": pa.binary(2 * layout.teachers * n) for head, n in layout.heads.items()}
    wanted = {"clip": pa.int32(), "view": pa.int32(), "status": pa.int8(), "present": pa.uint64(), "crc": pa.uint32()}
    wanted |= {"parameters": pa.binary(layout.parameters.itemsize), **logits}
    there = {field.name: field.type for field in file.schema_arrow}
    if wrong := [name for name in {**wanted, **there} if wanted.get(name) != there.get(name)]:
        raise ValueError(f"its column {wrong[0]} is {there.get(wrong[0])} and not {wanted.get(wrong[0])}")
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    if any(size != sizes[0] for size in sizes[:-1]) or any(size > sizes[0] for size in sizes):
        raise ValueError("its row groups are not of one size")
    if sum(sizes) * layout.row_bytes() > MAX_PART_BYTES:
        raise ValueError(f"it has {sum(sizes)} rows of {layout.row_bytes()} bytes")


def read_seal(file: pq.ParquetFile) -> str:
    """Which bank a part is of."""
    return (file.schema_arrow.metadata or {}).get(SEAL, b"").decode()


def read_keys(file: pq.ParquetFile) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Clips and views of all rows of a part.

    Raises:
        ValueError: one is missing.
    """
    table = file.read(["clip", "view"], use_threads=False)
    if table["clip"].null_count or table["view"].null_count:
        raise ValueError("it has rows without clip or view")
    return table["clip"].to_numpy(), table["view"].to_numpy()


def read_group(file: pq.ParquetFile, group: int, layout: Layout) -> Rows:
    """The rows of a row group, as they lie in the file; views of its memory, not copies."""
    table = file.read_row_group(group, use_threads=False).combine_chunks()
    count = table.num_rows
    rows: Rows = {name: table[name].to_numpy() for name in ("clip", "view", "status", "crc")}
    rows["present"] = _unpacked(table["present"].to_numpy(), layout.teachers)
    rows["parameters"] = _raw(table["parameters"], layout.parameters)
    for head, classes in layout.heads.items():
        flat = _raw(table[f"logits/{head}"], np.dtype("<f2"))
        rows[f"logits/{head}"] = flat.reshape(count, layout.teachers, classes)
    return rows


def concatenate(parts: list[Rows]) -> Rows:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def take(rows: Mapping[str, NDArray[Any]], which: Any) -> Rows:
    return {name: column[which] for name, column in rows.items()}


def needed_views(epochs: int, repeats: int, distinct: int) -> int:
    """Number of distinct training views of each clip that a training shows."""
    return min(distinct or epochs * repeats, epochs * repeats)


def keys_of(weigh: Clips, train: Clips, views: int) -> tuple[Clips, Clips]:
    """Clips and view numbers of all answers that a training asks for: the test view of what teachers are weighed on,
    then each training view of each training clip."""
    clips = np.concatenate([weigh, np.tile(train, views)])
    numbers = np.concatenate([np.full(len(weigh), TEST_VIEW), np.repeat(np.arange(views), len(train))])
    return clips.astype(np.int64), numbers.astype(np.int64)


def _bits(present: NDArray[np.bool_]) -> NDArray[np.uint64]:
    powers = np.uint64(1) << np.arange(present.shape[1], dtype=np.uint64)
    return (present * powers).sum(axis=1, dtype=np.uint64)


def _unpacked(bits: NDArray[np.uint64], teachers: int) -> NDArray[np.bool_]:
    return (bits[:, None] >> np.arange(teachers, dtype=np.uint64)) % np.uint64(2) == 1


def _binary(array: NDArray[Any]) -> pa.Array:
    flat = np.ascontiguousarray(array)
    width = flat.dtype.itemsize * int(np.prod(flat.shape[1:], dtype=int))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(flat), [None, pa.py_buffer(flat)])


def _raw(column: pa.ChunkedArray, dtype: np.dtype) -> NDArray[Any]:
    chunk = column.chunk(0) if column.num_chunks else column.combine_chunks()
    width = chunk.type.byte_width
    data = memoryview(chunk.buffers()[1])[chunk.offset * width : (chunk.offset + len(chunk)) * width]
    return np.frombuffer(data, dtype)
