"""Run folders: what a run leaves behind, how it is resumed, and what keeps two jobs out of one."""

import fcntl
import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from mmkd.config import Settings, SettingsError

FREE_TO_CHANGE = (
    "run.home",
    "run.dry_run",
    "run.progress_seconds",
    "run.max_restarts",
    "run.ray_logs",
    "run.tracker",
    "run.profile",
    "run.trace",
    "run.keep_checkpoints",
    "run.checkpoint_",
    "resources.",
    "teachers.actors",
    "teachers.num_",
    "teachers.accelerator_type",
    "teachers.labels",
    "teachers.pools",
    "teachers.threads",
    "teachers.batch_size",
    "teachers.timeout_seconds",
    "teachers.retrain",
    "teachers.mode",
    "teachers.bank",
    "teachers.bank_part",
    "teachers.if_bank_fails",
    "data.max_broken_share",
    "source.",
    "pack.",
    "sweep.",
    "evaluate.",
    "study.",
    "predict.",
)
"""Settings that a resumed run may have otherwise: they decide how it is carried out, not what comes out."""


class RunFolder:
    """A run's folder, locked for this process while the object is in a `with` block."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: Any = None

    def __enter__(self) -> "RunFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / ".lock", "a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            raise SettingsError(
                f"run folder {self.path} is in use by {self._lock.read().strip() or 'another job'}; wait for it, or "
                "choose another run.name."
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else None."""
        path = self.path / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def finish(self, result: dict[str, Any]) -> None:
        write_json(self.path / "result.json", result)

    def claim(self, settings: Settings, identity: dict[str, Any]) -> None:
        """Save the settings and what the run is made of, or refuse to go on with others.

        Args:
            identity: hashes of the data and the teachers.

        Raises:
            SettingsError: the folder holds a run with other settings, data or teachers; each difference is named.
        """
        config, known = self.path / "config.yaml", self.path / "identity.json"
        if config.is_file() and known.is_file():
            before = Settings.model_validate(yaml.safe_load(config.read_text())).model_dump(mode="json")
            changed = [
                f"{name} was {old!r} and is {new!r}"
                for name, old, new in differences(before, settings.model_dump(mode="json"))
                if not name.startswith(FREE_TO_CHANGE)
            ]
            changed += [
                f"{name} was {old!r} and is {new!r}"
                for name, old, new in differences(json.loads(known.read_text()), identity)
            ]
            if changed:
                raise SettingsError(
                    f"run folder {self.path} holds a run with other settings: {'; '.join(changed)}. Use those to "
                    "resume it, or another run.name."
                )
        settings.save(config)
        write_json(known, identity)

    def go_on_at(self, position: int) -> None:
        """Say where in the plan the workers go on, for the process that makes the dataset."""
        write_json(self.path / "position.json", {"position": position})

    def goes_on_at(self) -> int:
        """What :meth:`go_on_at` said last."""
        return int(json.loads((self.path / "position.json").read_text())["position"])

    def cut_metrics(self, position: int) -> None:
        """Drop what was recorded beyond a position of the plan, so that a reader sees each step once."""
        for path in [self.path / "metrics.jsonl", *self.path.glob("trace-*.jsonl")]:
            rows = [row for row in read_lines(path) if row["position"] <= position]
            partial = path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
            partial.replace(path)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's metrics.jsonl."""
    return read_lines(folder / "metrics.jsonl")


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's finished epochs."""
    return [row for row in read_metrics(folder) if row["kind"] == "epoch"]


def add_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append the rows that a JSON Lines file does not have yet."""
    known = set(path.read_text().splitlines()) if path.is_file() else set()
    with open(path, "a") as file:
        file.writelines(line + "\n" for line in map(json.dumps, rows) if line not in known)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file, none if it is not there; a half-written last line is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Tail:
    """The rows that come to a JSON Lines file from now on, each read once; it need not be there yet.

    Where the file is cut back, those after its new end come.
    """

    def __init__(self, path: Path):
        self.path = path
        self.place = self._size()

    def fresh(self) -> list[dict[str, Any]]:
        """The whole rows that were added since the last call."""
        size = self._size()
        self.place = min(self.place, size)
        if self.place == size:
            return []
        with open(self.path, "rb") as file:
            file.seek(self.place)
            whole = file.read().rpartition(b"\n")[0]
        self.place += len(whole) + 1 if whole else 0
        rows = []
        for line in whole.splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the rest of a row, where the file was cut and has grown again
                continue
        return rows

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all; of several processes that do so at once, one has its way."""
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted name, old and new value of each difference between two trees."""
    found = []
    for key in [*a, *(key for key in b if key not in a)]:
        old, new = a.get(key), b.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append((f"{prefix}{key}", old, new))
    return found
