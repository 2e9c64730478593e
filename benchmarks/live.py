"""The live pipeline beside a plain PyTorch loop: clips a second, CPU seconds a clip, and the limit.

    python benchmarks/live.py [--size tabletop|large] [--rounds 6] [--sides auto,ray,local,plain-0,plain-1]

Each side carries out the same job on HOME/data/tabletop: the same plan, views, teachers, student, batch and precision.
`ray` is rayjobs/distill.py, `auto` the same with --resources auto, `local` with --run.local, and `plain-N` a torch
DataLoader with N workers that read and decode, with the teachers in the process that trains, which is what most people
write. Size `large` is a Video Swin-T at 224 px on few clips, with the teachers that are there.

The speed of a machine that is shared changes from one minute to the next, so sides take turns: all are started, and
carry out an epoch each in every round, while the processes of the others are stopped. What is compared is of the same
round. Epochs in which things start do not count. As each of the first two has a Ray of its own, they do not run at the
same time: the second takes turns with the better plain loop only.

`stages` is the limit: what reading, the teachers and the student take by themselves, on one thread, while each other
core does the same, added up and divided by the cores; no pipeline of the same stages can be faster. (With
--resources.use_gpu it is left out.)

The table goes to standard error, and the same as one JSON object to the last line of standard output, and to a file
with --out. Any setting of the job can follow.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import CORES, CpuClock, Facts, ensure_data, figure, finish

from mmkd import inline, jobs
from mmkd.cli import load_settings
from mmkd.pipeline import TeacherStage, Work, read
from mmkd.progress import say
from mmkd.reader import Block
from mmkd.runs import read_epochs
from tests.processes import descendants

LOADERS = sorted({0, 1, 2, CORES // 2, CORES - 1})
SIDES = ",".join(["auto", "ray", *(f"plain-{workers}" for workers in LOADERS), "local"])
SIZES = {
    "tabletop": ["--data.limit", "1000"],
    "large": [
        *("--student.arch", "torchvision/swin3d_t", "--views.size", "224", "--data.limit", "48"),
        *("--optim.batch_size", "8", "--teachers.no-drop-near-chance"),
    ],
}
OURS, LIMIT = ("auto", "ray"), "stages"
STARTING = 2
"""Epochs before the rounds: one in which things start, and one without a pause, in which the wait share is taken."""

Row = dict[str, float]


class Units(torch.utils.data.Dataset):
    """The plan's units for one worker, as tensors, which go between processes in shared memory."""

    def __init__(self, work: Work):
        self.work = work

    def __len__(self) -> int:
        return self.work.plan.num_steps

    def __getitem__(self, unit: int) -> dict[str, Any]:
        return {name: torch.from_numpy(values) for name, values in read(self.work, 1, 0, range(unit, unit + 1)).items()}


def plain_blocks(workers: int) -> Any:
    """As mmkd.inline.blocks_in_process, read by a DataLoader."""

    def blocks(work: Work, start: int) -> Iterator[Block]:
        loader = torch.utils.data.DataLoader(
            Units(work),
            batch_size=None,
            sampler=range(start, work.plan.num_steps),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            collate_fn=_as_it_is,
        )
        stage = TeacherStage(work, watched=False)
        for unit in loader:
            yield stage({name: values.numpy() for name, values in unit.items()})

    return blocks


def _as_it_is(unit: Any) -> Any:
    return unit


def blocks_alone(work: Work, start: int) -> Iterator[Block]:
    """As mmkd.inline.blocks_in_process; the stages and nothing else."""
    stage = TeacherStage(work, watched=False)
    for unit in range(start, work.plan.num_steps):
        yield stage(read(work, 1, 0, range(unit, unit + 1)))


class Side:
    """A side's processes, which are stopped but for its turns.

    Attributes:
        waited: share of the time that its student waited for blocks, in an epoch without a pause.
    """

    def __init__(self, name: str, epochs: int, runs: Path, flags: Sequence[str]):
        self.run = runs / f"live-{name}"
        beside = [f"live-{name}-{core}" for core in range(1, CORES)] if name == LIMIT else []
        for each in [self.run.name, *beside]:
            shutil.rmtree(runs / each, ignore_errors=True)
        command = [sys.executable, __file__, "--side", name, *flags, "--optim.epochs"]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (open as long as the processes run)
        self.process = subprocess.Popen([*command, str(epochs)], stdout=subprocess.DEVNULL, stderr=self.said)
        # They must not come to their end before it.
        self.others = [subprocess.Popen([*command, str(9 * epochs), "--run.name", each], **quiet) for each in beside]
        self.clock, self.clips, self.waited = CpuClock(), 0, 0.0

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
        for process in [self.process, *self.others]:
            process.terminate()  # which asks a job to stop after its step
            process.wait()

    def _go_on(self, epochs: int) -> None:
        done = len(read_epochs(self.run)) + epochs
        self._signal(signal.SIGCONT)
        while len(read_epochs(self.run)) < done:
            if self.process.poll() is not None:
                self.said.seek(0)
                raise SystemExit(f"{''.join(self.said.readlines()[-20:])}{self.run.name} failed")
            time.sleep(0.2)
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        told, roots = set[int](), [process.pid for process in [self.process, *self.others]]
        while new := {pid for root in roots for pid in [root, *descendants(root)]} - told:
            for pid in new:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= new


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tabletop")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sides", default=SIDES)
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    own, rest = parser.parse_known_args(argv)
    flags = [*SIZES[own.size], "--run.name", f"live-{own.side or 'bench'}", *rest]
    if own.side == "auto":
        flags += ["--resources", "auto"]
    settings = load_settings(flags, job="distill", about="", program="python benchmarks/live.py")
    if own.side:
        one_side(own.side, settings)
        return
    ensure_data(settings)
    limits = [LIMIT] * (not settings.resources.use_gpu)
    if limits:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that --resources auto has what the other sides have
    ours = [side for side in own.sides.split(",") if side in OURS]
    others = [side for side in own.sides.split(",") if side not in OURS]
    turns, flags = list[Facts](), ["--size", own.size, *rest]
    for number, side in enumerate(ours or [""]):
        beside = others if not number else [best_plain(turns[0]["rows"])] * any(map(is_plain, others))
        names = [*([side] if side else []), *beside, *limits]
        turns.append(take_turns(names, own.rounds, settings.home / "runs", flags))
    for each in turns:
        show_turns(**each)
    facts = {"size": own.size, "cores": CORES, "torch": torch.__version__, "turns": turns}
    facts["over_plain"] = over_plain(turns)
    finish(facts, figures(turns), own.out)


def take_turns(names: Sequence[str], rounds: int, runs: Path, flags: Sequence[str]) -> Facts:
    """Rows of every side, one a round, and the shares of time that their students waited."""
    sides: dict[str, Side] = {}
    rows: dict[str, list[Row]] = {name: [] for name in names}
    try:
        for name in names:
            say(f"{name}: starting")
            sides[name] = Side(name, STARTING + rounds + 2, runs, flags)
            sides[name].start()
        for number in range(1, rounds + 1):
            for name, side in sides.items():
                rows[name].append(side.turn())
            rates = "  ".join(f"{name} {each[-1]['clips_per_second']:.1f}" for name, each in rows.items())
            say(f"round {number} of {rounds}, clips/s: {rates}")
        return {"rows": rows, "waited": {name: side.waited for name, side in sides.items()}}
    finally:
        for side in sides.values():
            side.end()


def is_plain(name: str) -> bool:
    return name.startswith("plain")


def best_plain(rows: dict[str, list[Row]]) -> str:
    return max(filter(is_plain, rows), key=lambda name: median(row["clips_per_second"] for row in rows[name]))


def shares(rows: dict[str, list[Row]], side: str, of: str) -> list[float]:
    """A side's clips a second over another's, or over the limit, in each round."""
    tops = [CORES / row["cpu_seconds_per_clip"] if of == LIMIT else row["clips_per_second"] for row in rows[of]]
    return [row["clips_per_second"] / top for row, top in zip(rows[side], tops, strict=True)]


def over_plain(turns: Sequence[Facts]) -> dict[str, list[float]]:
    """Each side's clips a second, and those of the limit, over those of the better plain loop."""
    found: dict[str, list[float]] = {}
    for rows in [each["rows"] for each in turns if any(map(is_plain, each["rows"]))]:
        plain = best_plain(rows)
        found = {name: shares(rows, name, plain) for name in rows if name != LIMIT} | found
        if LIMIT in rows:
            found.setdefault(LIMIT, [1 / share for share in shares(rows, plain, LIMIT)])
    return found


def show_turns(rows: dict[str, list[Row]], waited: dict[str, float]) -> None:
    say("\nside        clips/s (least to most)   of the limit   CPU ms/clip   waited")
    for side in rows:
        rates = [row["clips_per_second"] for row in rows[side]]
        limit = f"{median(shares(rows, side, LIMIT)):12.2f}" if LIMIT in rows and side != LIMIT else " " * 12
        say(
            f"{side:<10}{median(rates):8.1f} ({min(rates):.1f} to {max(rates):.1f}){limit}"
            f"{1000 * median(row['cpu_seconds_per_clip'] for row in rows[side]):14.1f}{100 * waited[side]:9.0f} %"
        )


def figures(turns: Sequence[Facts]) -> list[Facts]:
    """What was asked: the better of ours beside the better plain loop, and beside the limit, in the same rounds; and
    the other of ours."""
    found, better = list[Facts](), max(turns, key=lambda turn: median(shares(turn["rows"], *_pair(turn["rows"]))))
    for each in turns:
        rows, asked = each["rows"], each is better
        side, beside = _pair(rows)
        if side not in OURS:
            continue
        ratios = shares(rows, side, beside)
        found.append(figure(f"{side} over {beside}, clips/s", ratios, least=1.1 if asked else None))
        if LIMIT in rows:
            of_limit = shares(rows, side, LIMIT)
            found.append(figure(f"{side} over the limit, clips/s", of_limit, least=0.9 if asked else None))
        found.append(figure(f"{side}: share of time the student waits", each["waited"][side]))
    return found


def _pair(rows: dict[str, list[Row]]) -> tuple[str, str]:
    """The first side, and what it is compared with."""
    side = next(iter(rows))
    return side, best_plain(rows) if any(map(is_plain, rows)) else side


def one_side(side: str, settings: Any) -> None:
    """Carry out a side."""
    run = settings.run.model_copy(update={"local": side not in OURS})
    resources, teachers = settings.resources, settings.teachers
    if is_plain(side):
        inline.blocks_in_process = plain_blocks(int(side.partition("-")[2]))
        # Student and teachers take turns in one process, so that either may have all cores.
        resources = resources.model_copy(update={"threads": resources.threads or CORES})
        teachers = teachers.model_copy(update={"threads": resources.threads})
    elif side == LIMIT:
        inline.blocks_in_process = blocks_alone
        resources = resources.model_copy(update={"threads": 1})
        teachers = teachers.model_copy(update={"threads": 1})
    jobs.distill(settings.model_copy(update={"run": run, "resources": resources, "teachers": teachers}))


if __name__ == "__main__":
    main()
