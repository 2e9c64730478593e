"""Parquet and JSON that others made, within limits: a few bytes of a file can stand for gigabytes in memory.

Texts of Parquet files are read as numbers into a list of distinct ones, as most files keep them, so that one long text
that occurs in each row is in memory once.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmkd.storage import StrPath, locate, open_parquet

MAX_VALUES, MAX_READ_BYTES = 1 << 29, 1 << 32
"""Values of a row group, all columns and what is in lists together, for null costs no byte; and its bytes unpacked."""
MAX_TEXT = 1 << 17
"""Characters of a cell, the most that Python's csv reads too."""
MAX_DEPTH = 64
"""Of brackets in brackets: what ijson keeps of where it is grows by the square of it, to 20 GB for 200 kB of them."""
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]], _STEPS[[ord("]"), ord("}")]] = 1, -1


class ShallowJson:
    """A JSON file for ijson, which is refused where it is nested deeper than MAX_DEPTH."""

    def __init__(self, file: IO[bytes], name: str):
        self.file, self.name, self.depth, self.inside, self.left = file, name, 0, False, b""

    def read(self, size: int) -> bytes:
        """Raises ValueError where it is nested too deep."""
        data = self.file.read(size)
        text = (self.left + data).replace(rb"\\", b"")
        self.left = text[-1:] if text.endswith(b"\\") else b""  # what it escapes comes next
        plain = np.frombuffer(text.replace(rb"\"", b""), np.uint8)
        if not len(plain):
            return data
        inside = np.logical_xor.accumulate(plain == ord('"')) ^ self.inside
        depths = np.cumsum(_STEPS[plain] * ~inside, dtype=np.int32)
        if self.depth + int(depths.max()) > MAX_DEPTH:
            raise ValueError(f"{self.name} has brackets nested deeper than {MAX_DEPTH}")
        self.depth, self.inside = self.depth + int(depths[-1]), bool(inside[-1])
        return data


def texts_of(path: StrPath, most: int = 0) -> list[str]:
    """The columns of texts of a table, after a look whether it can be read.

    Args:
        most: rows; 0: any number, as they are read bit by bit.

    Raises:
        ValueError: it claims an absurd size.
        OSError, pyarrow.ArrowException: it is no table.
    """
    with open_parquet(path) as file:
        metadata, schema = file.metadata, file.schema
        if most and metadata.num_rows > most:
            raise ValueError(f"it has {metadata.num_rows} rows, more than {most}")
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            values = max(group.num_rows, sum(group.column(i).num_values for i in range(group.num_columns)))
            if values > MAX_VALUES or group.total_byte_size > MAX_READ_BYTES:
                said = f"a row group has {group.num_rows} rows with {values} values in {group.total_byte_size} bytes"
                raise ValueError(f"{said}: write it with smaller row groups")
        columns = (schema.column(number) for number in range(len(schema)))
        kinds = ("STRING", "NONE")
        return [c.path for c in columns if c.physical_type == "BYTE_ARRAY" and c.logical_type.type in kinds]


def read_table(path: StrPath, most: int = 0, filters: Any = None) -> pa.Table:
    """A table, or those of its rows that the filters keep; texts are dictionaries.

    Raises:
        as :func:`texts_of`; ValueError as well where a text is absurdly long.
    """
    texts = texts_of(path, most)
    system, inner = locate(path)
    plain: Any = {"partitioning": None, "use_threads": False, "filters": filters}
    table = pq.read_table(inner, filesystem=system, read_dictionary=texts, **plain)
    for column in table.columns:
        for chunk in column.chunks:
            check_texts(chunk)
    return table


def check_texts(values: pa.Array) -> None:
    """Refuse a column with an absurdly long text.

    Raises:
        ValueError: it has one.
    """
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = values.flatten()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary
    if any(of(values.type) for of in (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string)):
        length = pc.max(pc.binary_length(values)).as_py() or 0
        if length > MAX_TEXT:
            raise ValueError(f"it has a text of {length} bytes, more than {MAX_TEXT}")
