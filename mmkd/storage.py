"""Files and folders by path, local or remote (s3://, gs://), through pyarrow's filesystems.

A remote path may carry what its filesystem needs to know, as `s3://bucket/data?endpoint_override=http://host:9000`;
credentials come from where its own tools look for them.
"""

import os
import posixpath
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar

from pyarrow import fs

StrPath = str | os.PathLike[str]
Returned = TypeVar("Returned")
ATTEMPTS = 10
"""How often a call of a store is tried, with longer and longer pauses between."""


def is_remote(path: StrPath) -> bool:
    return "://" in os.fspath(path)


def join(folder: StrPath, *names: str) -> str:
    """A path below a folder; what follows `?` in a remote one stays at its end."""
    base, mark, query = os.fspath(folder).partition("?") if is_remote(folder) else (os.fspath(folder), "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + query


def name_of(path: StrPath) -> str:
    """The last part of a path."""
    text = os.fspath(path)
    return (text.partition("?")[0] if is_remote(path) else text).rstrip("/").rpartition("/")[2]


def locate(path: StrPath) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path, and the path in it.

    Raises:
        ValueError: no filesystem is known for it.
    """
    if not is_remote(path):
        return _local(), str(Path(path).absolute())
    try:
        base, mark, query = os.fspath(path).partition("?")
        scheme, _, inner = base.partition("://")
        bucket, _, key = inner.partition("/")
        system, root = _remote(scheme, bucket, mark + query)
        return system, f"{root}/{key}".rstrip("/")
    except (ValueError, OSError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be reached: {error}") from error


@lru_cache(maxsize=1)
def _local() -> fs.FileSystem:
    return fs.LocalFileSystem()


@lru_cache(maxsize=16)
def _remote(scheme: str, bucket: str, query: str) -> tuple[fs.FileSystem, str]:
    system, root = fs.FileSystem.from_uri(f"{scheme}://{bucket}{query}")
    if system.type_name == "s3":
        # A URI cannot say how often a call is tried; in pyarrow it is three times, too few for a job of days.
        _, (options,) = system.__reduce__()
        system = fs.S3FileSystem(**options, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS))
    return system, root


def is_file(path: StrPath) -> bool:
    return _info(path).type == fs.FileType.File


def is_folder(path: StrPath) -> bool:
    return _info(path).type == fs.FileType.Directory


def size_of(path: StrPath) -> int:
    """Bytes of a file; -1 where it is not there."""
    info = _info(path)
    return int(info.size) if info.type == fs.FileType.File else -1


def _info(path: StrPath) -> fs.FileInfo:
    system, inner = locate(path)
    return system.get_file_info(inner)


def open_input(path: StrPath) -> IO[bytes]:
    """A file to read from anywhere in it.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read.
    """
    if not is_remote(path):
        return open(path, "rb")
    system, inner = locate(path)
    return system.open_input_file(inner)


def read_bytes(path: StrPath) -> bytes:
    with open_input(path) as file:
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
    system, inner = locate(folder)
    found = system.get_file_info(fs.FileSelector(inner, allow_not_found=True, recursive=recursive))
    return sorted(info.path[len(inner) :].lstrip("/") for info in found if info.type == fs.FileType.File)


def list_folders(folder: StrPath) -> list[str]:
    """Names of the folders in a folder, in order."""
    system, inner = locate(folder)
    found = system.get_file_info(fs.FileSelector(inner, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def delete_folder(folder: StrPath) -> None:
    """Delete a folder and all that is in it, if it is there."""
    system, inner = locate(folder)
    if system.get_file_info(inner).type == fs.FileType.Directory:
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


def open_parquet(path: StrPath) -> Any:
    """A Parquet file; a local one is mapped into memory."""
    import pyarrow.parquet as pq

    if not is_remote(path):
        return pq.ParquetFile(path, memory_map=True)
    return pq.ParquetFile(open_input(path))
