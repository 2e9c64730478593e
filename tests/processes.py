"""Finding processes, waiting for things to happen, and what a run saw of each clip."""

import os
import signal
import time
from pathlib import Path

from mmkd.runs import read_lines


def descendants(pid: int) -> dict[int, str]:
    """Command line of every process that descends from one."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found, layer = {}, {pid}
    while layer:
        layer = {child for child, parent in parents.items() if parent in layer}
        found.update({child: names[child] for child in layer})
    return found


def named(part: str, ancestor: int = 0) -> list[int]:
    """Ray's processes below an ancestor (this process by default) that do the work of this name just now."""
    below = descendants(ancestor or os.getpid())
    return [pid for pid, name in below.items() if name.startswith("ray::") and part in name]


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def wait_for(what, seconds: float, pause: float = 0.02):
    """What `what` returns, when that is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(pause)
    raise AssertionError("it did not come in time")


def position(run: Path) -> int:
    """The newest place in the plan that a worker of a run saw; 0 before the first."""
    rows = [rows[-1] for path in run.glob("trace-*.jsonl") if (rows := read_lines(path))]
    return max((row["position"] for row in rows), default=0)


def seen(run: Path) -> dict[tuple[str, int], list[int]]:
    """Phase and epoch to the clips that all workers saw in it, in order of their numbers."""
    clips: dict[tuple[str, int], list[int]] = {}
    for path in run.glob("trace-*.jsonl"):
        for row in read_lines(path):
            clips.setdefault((row["phase"], row["epoch"]), []).extend(row["clips"])
    return {key: sorted(numbers) for key, numbers in clips.items()}
