"""Which files are videos, by their names."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import Path

from mmkd.storage import is_remote, list_files

EXTENSIONS = ("mp4", "mov", "mkv", "webm", "avi", "m4v", "mpg", "mpeg", "ts", "wmv", "flv", "3gp", "ogv")
MAX_DEPTH = 64
"""Folders in folders."""


def videos_below(root: str, below: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of the videos below a folder of the root, relative to the root.

    Args:
        above: the folders that it lies in, links followed; a link to one of them would go round for ever.
    """
    if is_remote(root):
        yield from filter(is_video, list_files(root, recursive=True))
        return
    folder = (Path(root) / below).resolve()
    if str(folder) in above:
        return
    if len(above) > MAX_DEPTH:
        raise ValueError(f"{root} has folders that are nested deeper than {MAX_DEPTH}: {below[:80]} ...")
    for entry in folder.iterdir():
        name = posixpath.join(below, entry.name)
        if entry.is_dir() and not entry.name.startswith("."):
            yield from videos_below(root, name, (*above, str(folder)))
        elif is_video(name) and not entry.is_dir():  # a link to nothing too, which is a video that is missing
            yield name


def is_video(name: str) -> bool:
    extension = name.rpartition(".")[2].lower()
    return extension in EXTENSIONS and not any(part.startswith(".") for part in name.split("/"))


def printable(name: str) -> str:
    """A file's name as text that can be printed and written down, where it is not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
