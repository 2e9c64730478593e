"""Jobs that take turns, an epoch each, while the processes of the others are stopped.

The speed of a machine that is shared changes from one minute to the next; what ran within the same minute can be
compared.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common import CpuClock, Facts

from mmkd.progress import say
from mmkd.runs import read_epochs
from tests.processes import descendants

STARTING = 2
"""Epochs before the rounds: one in which things start, and one without a pause, in which the wait share is taken."""
PATIENT = [
    *("--teachers.timeout_seconds", "1000000", "--resources.no_progress_seconds", "1000000"),
    *("--run.checkpoint_minutes", "0", "--run.max_restarts", "0"),
]
"""Settings of a job whose clocks go on while it is stopped."""
ENDING = 60.0
"""Seconds in which a job has to end when it is asked to."""

Row = dict[str, float]


class Side:
    """A job's processes, which are stopped but for its turns.

    Args:
        command: that carries it out, less the number of epochs.
        copies: of it on other cores, which are kept busy meanwhile.

    Attributes:
        clips: of an epoch.
        waited: share of the time that its student waited for blocks, in an epoch without a pause.
    """

    def __init__(self, run: Path, epochs: int, command: Sequence[str], copies: int = 0):
        self.run, self.clips, self.waited, self.clock = run, 0, 0.0, CpuClock()
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (open as long as the processes run)
        beside = [f"{run.name}-{number}" for number in range(1, copies + 1)]
        for name in [run.name, *beside]:
            shutil.rmtree(run.with_name(name), ignore_errors=True)
        environment = {**os.environ, "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "1000000"}
        out: Any = {"stdout": subprocess.DEVNULL, "stderr": self.said, "env": environment}
        command = [*command, *PATIENT, "--optim.epochs"]
        self.process = subprocess.Popen([*command, str(epochs)], **out)
        # They must not come to their end before it.
        self.others = [subprocess.Popen([*command, str(9 * epochs), "--run.name", name], **out) for name in beside]

    def start(self) -> None:
        """Carry out the epochs before the rounds."""
        self._go_on(STARTING)
        self.waited = read_epochs(self.run)[-1]["wait_share"]
        self.clips = json.loads((self.run / "best" / "model.json").read_text())["training"]["data"]["clips"]

    def turn(self) -> Row:
        """Carry out an epoch; clips a second, and CPU seconds a clip."""
        began, before = time.monotonic(), self.clock.seconds(self.process.pid)
        self._go_on(1)
        seconds, cpu = time.monotonic() - began, self.clock.seconds(self.process.pid) - before
        return {"clips_per_second": self.clips / seconds, "cpu_seconds_per_clip": cpu / self.clips}

    def end(self) -> None:
        self._signal(signal.SIGCONT)
        everyone = [self.process, *self.others]
        for process in everyone:
            process.terminate()  # which asks a job to stop after its step
        try:
            for process in everyone:
                process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)

    def _go_on(self, epochs: int) -> None:
        done, looked = len(read_epochs(self.run)) + epochs, time.monotonic()
        self._signal(signal.SIGCONT)
        while len(read_epochs(self.run)) < done:
            if any(process.poll() is not None for process in [self.process, *self.others]):
                self.said.seek(0)
                raise SystemExit(f"{''.join(self.said.readlines()[-20:])}{self.run.name} failed")
            if time.monotonic() - looked > 1:  # for processes that come and go; not more often, as it takes time, too
                self.clock.seconds(self.process.pid)
                looked = time.monotonic()
            time.sleep(0.2)
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        told, roots = set[int](), [process.pid for process in [self.process, *self.others]]
        while new := {pid for root in roots for pid in [root, *descendants(root)]} - told:
            for pid in new:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= new


def take_turns(jobs: Mapping[str, Sequence[str]], rounds: int, runs: Path, copies: Mapping[str, int]) -> Facts:
    """Rows of every job, one a round, and the shares of time that their students waited.

    Args:
        jobs: name to the command that carries it out.
        runs: folder of their runs, which are called live-NAME.
        copies: name to the number of copies of it on other cores.
    """
    sides: dict[str, Side] = {}
    rows: dict[str, list[Row]] = {name: [] for name in jobs}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing may be left stopped
    try:
        for name, command in jobs.items():
            say(f"{name}: starting")
            sides[name] = Side(runs / f"live-{name}", STARTING + rounds + 2, command, copies.get(name, 0))
            sides[name].start()
        for number in range(1, rounds + 1):
            for name, side in sides.items():
                rows[name].append(side.turn())
            rates = "  ".join(f"{name} {each[-1]['clips_per_second']:.3g}" for name, each in rows.items())
            say(f"round {number} of {rounds}, clips/s: {rates}")
        return {"rows": rows, "waited": {name: side.waited for name, side in sides.items()}}
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for side in sides.values():
            side.end()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
