"""Which videos of a share are being read, on disk, so that one that ends its process is known by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmkd.runs import write_json

MOST = 3
"""Times that a video may have been in the reading when its process ended; then it is not read again."""


class Attempts:
    """A note of a share's videos that are being read, and of how often each was when the process ended.

    A process that ends without a word (a decoder that crashes, memory that runs out) leaves the note behind; its
    successor counts the videos that it names. They stay in it until the next is begun, as their clips are answered
    later.

    Args:
        path: of the note; its folder must be there.
    """

    def __init__(self, path: Path):
        self.path = path
        self.again = path.is_file()
        note = json.loads(path.read_text()) if self.again else {"lost": {}, "reading": []}
        self.lost: dict[str, int] = note["lost"]
        for video in note["reading"]:
            self.lost[video] = self.lost.get(video, 0) + 1
        self.reading: list[str] = []

    @contextmanager
    def of(self, video: str) -> Iterator[None]:
        """While this lasts the video is being read.

        Raises:
            ValueError: it was, too often, when the process ended.
        """
        if (times := self.lost.get(video, 0)) >= MOST:
            raise ValueError(f"the process that read it ended without a word, {times} times")
        self.reading.append(video)
        self._save()
        try:
            yield
        finally:
            self.reading.remove(video)

    @contextmanager
    def share(self) -> Iterator[None]:
        """While this lasts the share is worked on; an error, which is a word, leaves no video under suspicion."""
        try:
            yield
        except BaseException:
            self.reading.clear()
            self._save()
            raise
        for left in self.path.parent.glob(f"{self.path.name}*"):  # also what a process that ended had half written
            left.unlink(missing_ok=True)

    def _save(self) -> None:
        write_json(self.path, {"lost": self.lost, "reading": self.reading})
