"""What the benchmarks share: jobs as people start them, watching their processes, medians, and figures with limits."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mmkd import jobs  # noqa: E402
from mmkd.config import Settings  # noqa: E402
from mmkd.cores import available_cores  # noqa: E402
from mmkd.progress import say  # noqa: E402
from mmkd.storage import is_file, join  # noqa: E402
from tests.processes import descendants  # noqa: E402

Facts = dict[str, Any]
TICKS = os.sysconf("SC_CLK_TCK")
CORES = available_cores()


def ensure_data(settings: Settings) -> None:
    """Make the data set where it is missing, on a Ray that is ended again, so that it takes part in no measurement."""
    if not is_file(join(settings.data_folder(), "dataset.json")):
        with jobs.session(settings):
            jobs.ensure_data(settings)


def spread(values: Sequence[float]) -> Facts:
    return {"median": round(median(values), 4), "least": round(min(values), 4), "most": round(max(values), 4)}


def figure(what: str, values: float | Sequence[float], least: float | None = None, most: float | None = None) -> Facts:
    """A measured figure (a median, where there are several values) with its limit, and whether it holds."""
    some = [float(values)] if isinstance(values, (int, float)) else [float(value) for value in values]
    middle = median(some)
    holds = None
    if least is not None or most is not None:
        holds = (least is None or middle >= least) and (most is None or middle <= most)
    return {"what": what, **spread(some), "at_least": least, "at_most": most, "holds": holds}


def show(figures: Sequence[Facts]) -> None:
    """Print figures as a table."""
    width = max((len(each["what"]) for each in figures), default=0) + 2
    for each in figures:
        say(f"{each['what']:<{width}}{measured(each):<28}{limit(each)}")


def measured(each: Facts) -> str:
    """A figure's median, and its spread where there was more than one value."""
    spread = f" ({each['least']:.4g} to {each['most']:.4g})" if each["least"] != each["most"] else ""
    return f"{each['median']:.4g}{spread}"


def limit(each: Facts) -> str:
    """What was asked of a figure, and whether it holds; empty where nothing was."""
    if each["holds"] is None:
        return ""
    asked = f">= {each['at_least']:g}" if each["at_least"] is not None else f"<= {each['at_most']:g}"
    return f"{asked:<9}{'holds' if each['holds'] else 'MISSED'}"


def finish(facts: Facts, figures: Sequence[Facts], out: str | Path | None) -> None:
    """Print figures as a table, and all that was found as one JSON object, also to a file."""
    show(figures)
    text = json.dumps({**facts, "figures": list(figures)})
    if out:
        Path(out).write_text(text + "\n")
    print(text, flush=True)


def job(script: str, flags: Sequence[str]) -> tuple[Facts, float]:
    """Run a job as people do; its result and its seconds."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, ROOT / script, *flags], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(flags)} failed")
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - began


def watched(command: Sequence[str | Path], look: Callable[[int], None], every: float = 0.1) -> Facts:
    """Run a command in a process of its own, and look at its process number every so many seconds until it ends.

    Returns:
        The JSON object of its last line.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        output: list[str] = []
        reader = threading.Thread(target=lambda: output.append(process.stdout.read() if process.stdout else ""))
        reader.start()
        while process.poll() is None:
            look(process.pid)
            time.sleep(every)
        reader.join()
        if process.returncode:
            said.seek(0)
            last = "".join(said.readlines()[-20:])
            raise SystemExit(f"{last}failed: {' '.join(map(str, command))}")
    return json.loads(output[0].splitlines()[-1])


class CpuClock:
    """User and system time of a process and all its descendants, those included that ended since they were last looked
    at."""

    def __init__(self) -> None:
        self.ticks: dict[int, int] = {}

    def seconds(self, pid: int) -> float:
        for each in [pid, *descendants(pid)]:
            self.ticks[each] = max(self.ticks.get(each, 0), _ticks(each))
        return sum(self.ticks.values()) / TICKS


def _ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(stat[11]) + int(stat[12])


def memory_mb(pid: int) -> float:
    """Memory of a process and its descendants, MB, with what several share counted once (PSS)."""
    return sum(map(_pss, [pid, *descendants(pid)])) / 1000


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
