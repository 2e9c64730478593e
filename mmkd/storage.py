"""Files and folders by path, local or remote (s3://, gs://), through pyarrow's filesystems.

A remote path may carry what its filesystem needs to know, as `s3://bucket/data?endpoint_override=http://host:9000`;
credentials come from where its own tools look for them, and are refused in a path: paths are shown and written down.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

if TYPE_CHECKING:  # it takes a while to import, and prediction from local files does without
    from pyarrow import fs

StrPath = str | os.PathLike[str]
Returned = TypeVar("Returned")
MAX_BYTES = 1 << 31
"""Of a file that is read whole: the tables of the largest data sets have a few hundred megabytes."""
MAX_READ_BYTES, MAX_VALUES = 1 << 32, 1 << 24
"""Of a row group that is read, and of one of its columns: null costs no byte, and a list may have millions of it."""
MAX_IN_LISTS = 1 << 21
"""Frames, or boxes of all frames, of one clip: 10 hours of video."""
ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED"}
"""How shards have values written (the last two say where null is). By others, as by compression, a file of a few bytes
could fill the memory."""
_SECRET = re.compile(
    r"://[^/?@]*:[^/?@]*@|^(?:s3|gs|gcs)://(?!anonymous@)[^/?@]*@"
    r"|[?&][^=&]*(?:key|secret|token|password|signature|sas)[^=&]*=",
    re.IGNORECASE,
)
"""A password, what stands before @ in a store that takes a key there, and settings that are named as secrets are."""
ATTEMPTS = 10
"""How often a call of a store is tried, with longer and longer pauses between."""


def is_remote(path: StrPath) -> bool:
    return "://" in os.fspath(path)


def join(folder: StrPath, *names: str) -> str:
    """A path below a folder; what follows `?` in a remote one stays at its end.

    Raises:
        ValueError: a name has a `?`, after which a remote path says which server to ask.
    """
    if is_remote(folder) and any("?" in name for name in names):
        raise ValueError(f"{'/'.join(names)!r} has a '?', which names in a store must not have")
    base, mark, query = os.fspath(folder).partition("?") if is_remote(folder) else (os.fspath(folder), "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + query


def name_of(path: StrPath) -> str:
    """The last part of a path."""
    text = os.fspath(path)
    return (text.partition("?")[0] if is_remote(path) else text).rstrip("/").rpartition("/")[2]


def locate(path: StrPath) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path, and the path in it.

    Raises:
        ValueError: no filesystem is known for it, or it holds a secret.
    """
    if not is_remote(path):
        return _local(), str(Path(path).absolute())
    refuse_secrets(path)
    try:
        base, mark, query = os.fspath(path).partition("?")
        scheme, _, inner = base.partition("://")
        bucket, _, key = inner.partition("/")
        system, root = _remote(scheme, bucket, mark + query)
        return system, f"{root}/{key}".rstrip("/")
    except (ValueError, OSError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be reached: {error}") from error


def refuse_secrets(path: StrPath) -> None:
    """Refuse a remote path with a user name, password or key in it, without showing them.

    Raises:
        ValueError: it has one.
    """
    text = unquote(os.fspath(path))
    if is_remote(path) and _SECRET.search(text):
        scheme = text.partition("://")[0]
        raise ValueError(
            f"the {scheme}:// path holds credentials. Paths are shown in messages and written into run folders and "
            f"data sets, so give {scheme}://BUCKET/..., and the credentials by the environment (for s3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), by the store's own files or by the role of the machine."
        )


@lru_cache(maxsize=1)
def _local() -> fs.FileSystem:
    from pyarrow import fs

    return fs.LocalFileSystem()


@lru_cache(maxsize=16)
def _remote(scheme: str, bucket: str, query: str) -> tuple[fs.FileSystem, str]:
    from pyarrow import fs

    system, root = fs.FileSystem.from_uri(f"{scheme}://{bucket}{query}")
    if system.type_name == "s3":
        # A URI cannot say how often a call is tried; in pyarrow it is three times, too few for a job of days.
        _, (options,) = system.__reduce__()
        system = fs.S3FileSystem(**options, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS))
    return system, root


def is_file(path: StrPath) -> bool:
    return _info(path).is_file


def is_folder(path: StrPath) -> bool:
    return _info(path).type.name == "Directory"


def size_of(path: StrPath) -> int:
    """Bytes of a file; -1 where it is not there."""
    info = _info(path)
    return int(info.size) if info.is_file else -1


def _info(path: StrPath) -> fs.FileInfo:
    system, inner = locate(path)
    return system.get_file_info(inner)


def open_input(path: StrPath) -> IO[bytes]:
    """A file to read from anywhere in it.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read, or is no file but a pipe or a device, which may never end.
    """
    if is_remote(path):
        system, inner = locate(path)
        return system.open_input_file(inner)
    return open(path, "rb", opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    opened = os.open(path, flags | os.O_NONBLOCK)  # else a pipe waits for somebody to write
    if stat.S_ISFIFO(mode := os.fstat(opened).st_mode) or stat.S_ISCHR(mode):
        os.close(opened)
        raise OSError(f"{path} is no regular file")
    return opened


def read_bytes(path: StrPath, most: int = MAX_BYTES) -> bytes:
    """All of a file.

    Raises:
        OSError: it cannot be read, or has more than `most` bytes.
    """
    with open_input(path) as file:
        if (size := file.seek(0, os.SEEK_END)) > most:
            raise OSError(f"{os.fspath(path)} has {size} bytes, more than {most} are not read at once")
        file.seek(0)
        return file.read()


def read_text(path: StrPath) -> str:
    return read_bytes(path).decode()


def write_bytes(path: StrPath, content: bytes) -> None:
    """Write a file whole or not at all."""

    def write(system: fs.FileSystem, inner: str) -> None:
        with system.open_output_stream(inner) as out:
            out.write(content)

    write_whole(path, write)


def write_whole(path: StrPath, write: Callable[[fs.FileSystem, str], Returned]) -> Returned:
    """Let `write` make a file of that path, which is there when it is whole and not before."""
    system, inner = locate(path)
    if is_remote(path):  # an object appears when its upload is complete
        return write(system, inner)
    partial = Path(f"{inner}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    result = write(system, str(partial))
    partial.replace(inner)
    return result


def list_files(folder: StrPath, recursive: bool = False) -> list[str]:
    """Paths of the files in a folder, relative to it and in order; none where there is no folder."""
    from pyarrow import fs

    system, inner = locate(folder)
    found = system.get_file_info(fs.FileSelector(inner, allow_not_found=True, recursive=recursive))
    return sorted(info.path[len(inner) :].lstrip("/") for info in found if info.is_file)


def list_folders(folder: StrPath) -> list[str]:
    """Names of the folders in a folder, in order."""
    from pyarrow import fs

    system, inner = locate(folder)
    found = system.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def delete_folder(folder: StrPath) -> None:
    """Delete a folder and all that is in it, if it is there."""
    system, inner = locate(folder)
    if is_folder(folder):
        system.delete_dir(inner)


def inside(folder: StrPath, name: str) -> str:
    """The path of a file that data names, which must lie in `folder`.

    Raises:
        ValueError: it is an absolute path elsewhere, or leads out of the folder by `..` or by a link.
    """
    if is_remote(name) or "\0" in name:
        raise ValueError(f"{name!r} is no path in {os.fspath(folder)}")
    if is_remote(folder):
        normal = posixpath.normpath(name)
        if normal.startswith(("/", "..")):
            raise ValueError(f"{name!r} leads out of {os.fspath(folder)}")
        return join(folder, normal)
    root = Path(folder).resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ValueError(f"{name!r} leads out of {os.fspath(folder)}")
    return str(path)


def open_parquet(path: StrPath, texts: Collection[str] = ()) -> Any:
    """A Parquet file; a local one is mapped into memory.

    Args:
        texts: columns to be read as dictionaries, so that a text that occurs in many rows is in memory once.
    """
    import pyarrow.parquet as pq

    if not is_remote(path):
        # What is in memory need not be fetched by other threads first, which takes longer than to read it.
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False, read_dictionary=list(texts))
    return pq.ParquetFile(open_input(path), read_dictionary=list(texts))


def check_group(shard: Any, number: int, columns: Collection[str]) -> None:
    """Refuse to read columns of a row group that are not as shards are written, or that are absurdly large.

    Raises:
        ValueError: they are not.
    """
    group, size = shard.metadata.row_group(number), 0
    for column in (group.column(i) for i in range(group.num_columns)):
        name = column.path_in_schema
        if name.partition(".")[0] not in columns:
            continue
        if column.compression != "UNCOMPRESSED" or not ENCODINGS.issuperset(column.encodings):
            raise ValueError(f"column {name} is compressed or encoded as no shard is; pack the data set again")
        size += column.total_uncompressed_size
        if column.num_values > MAX_VALUES or size > MAX_READ_BYTES:
            raise ValueError(f"column {name} of a row group has {column.num_values} values in {size} bytes, too many")


def row_of(rows: Any, number: int) -> dict[str, Any]:
    """A row of a table.

    Raises:
        IndexError: there is no such row.
        ValueError: it has absurdly many frames or boxes.
    """
    import pyarrow as pa

    for name in {"rgb", "flow", "boxes"}.intersection(rows.column_names):
        values = rows[name][number].values
        while values is not None:
            if len(values) > MAX_IN_LISTS:
                raise ValueError(f"it has {len(values)} {name}, more than {MAX_IN_LISTS}")
            values = values.flatten() if isinstance(values, pa.ListArray) else None
    return rows.slice(number, 1).to_pylist()[0]
