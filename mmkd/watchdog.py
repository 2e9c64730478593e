"""Work that hangs: its process ends itself, Ray starts it anew, and after a few times the job fails and says so."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ATTEMPTS = 3
HANGS = "hangs.jsonl"
"""In a run folder: what hung, a line each time."""
NOTE_SECONDS = 5.0
"""That writing such a line may take."""


class Watchdog:
    """Ends this process when a piece of work takes longer than it may.

    Args:
        seconds: that a piece of work may take; 0: any.
        record: JSON Lines file that notes, for all processes, what hung.
    """

    def __init__(self, seconds: float, record: Path):
        self.seconds, self.record = seconds, record

    @contextmanager
    def over(self, what: str) -> Iterator[None]:
        """Watch over the work in the block.

        Raises:
            TimeoutError: it has hung in ATTEMPTS processes already.
        """
        if not self.seconds:
            yield
            return
        timer = threading.Timer(self.seconds, self._end, [what])
        timer.daemon = True
        timer.start()
        try:
            if self.record.is_file() and self.record.read_text().splitlines().count(json.dumps(what)) >= ATTEMPTS:
                raise TimeoutError(f"{what} did not come within {self.seconds:g} s in {ATTEMPTS} processes")
            yield
        finally:
            timer.cancel()

    def _end(self, what: str) -> None:
        # The file system of the record may be what hangs.
        noting = threading.Thread(target=self._note, args=[what], daemon=True)
        noting.start()
        noting.join(NOTE_SECONDS)
        os._exit(1)

    def _note(self, what: str) -> None:
        with open(self.record, "a") as file:
            file.write(json.dumps(what) + "\n")
