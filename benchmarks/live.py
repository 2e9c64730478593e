"""The live pipeline beside a plain PyTorch loop: clips a second, CPU seconds a clip, and the limit.

    python benchmarks/live.py [--size tabletop|large] [--repeats 3] [--sides ray,auto,local,plain-0,plain-1]

Each side carries out the same job on HOME/data/tabletop: the same plan, views, teachers, student, batch and precision.
`ray` is rayjobs/distill.py, `auto` the same with --resources auto, `local` with --run.local, and `plain-N` a torch
DataLoader with N workers that read and decode, with the teachers in the process that trains, which is what most people
write. By turns, --repeats times. Rates are of all epochs but the first, in which things start. Size `large` is a
Video Swin-T at 224 px on few clips, with the teachers that are there.

The limit is what the stages (reading, teachers, student) take by themselves on one thread, added up and divided by the
machine's cores: no pipeline of the same stages can be faster. As cores share caches and memory, and may be halves of
one, it is measured twice: `stages` with the machine to itself, and `busy` with the same on each of the other cores.
(With --resources.use_gpu it is left out.)

The table goes to standard error, and the same as one JSON object to the last line of standard output, and to a file
with --out. Any setting of the job can follow.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import CORES, CpuClock, ensure_data, figure, finish, watched

from mmkd import inline, jobs
from mmkd.cli import load_settings
from mmkd.pipeline import TeacherStage, Work, read
from mmkd.progress import say
from mmkd.reader import Block
from mmkd.runs import read_epochs

LOADERS = sorted({0, 1, 2, CORES // 2, CORES - 1})
SIDES = ",".join(["ray", "auto", "local", *(f"plain-{workers}" for workers in LOADERS)])
SIZES = {
    "tabletop": ["--data.limit", "1000", "--optim.epochs", "3"],
    "large": [
        *("--student.arch", "torchvision/swin3d_t", "--views.size", "224", "--data.limit", "48"),
        *("--optim.batch_size", "8", "--optim.epochs", "2", "--teachers.no-drop-near-chance"),
    ],
}
OURS, LIMITS = ("ray", "auto"), ("stages", "busy")


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


def timed_blocks(seconds: dict[str, float]) -> Any:
    """As mmkd.inline.blocks_in_process; adds up what reading and the teachers take of CPU time."""

    def blocks(work: Work, start: int) -> Iterator[Block]:
        stage = TeacherStage(work, watched=False)
        for unit in range(start, work.plan.num_steps):
            began = time.process_time()
            block = read(work, 1, 0, range(unit, unit + 1))
            done = time.process_time()
            answered = stage(block)
            if work.plan.step(unit).phase == "train":
                seconds["read"] += done - began
                seconds["teachers"] += time.process_time() - done
                seconds["clips"] += len(block["clip"])
            yield answered

    return blocks


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tabletop")
    parser.add_argument("--repeats", type=int, default=3)
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
    if not settings.resources.use_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that --resources auto has what the other sides have
    sides = own.sides.split(",") + list(LIMITS) * (not settings.resources.use_gpu)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(own.repeats):
        for side, rows in found.items():
            rows.append(measure(side, settings.home / "runs" / f"live-{side}", ["--size", own.size, *rest]))
            say(f"{side:<10}" + "  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()))
    limits = {name: [CORES / row["cpu_seconds_per_clip"] for row in found[name]] for name in LIMITS if name in found}
    say("\nside        clips/s (least to most)   of the limit   CPU ms/clip   waited")
    top = median(limits["stages"]) if limits else float("nan")
    for side, rows in found.items():
        rates = [row["clips_per_second"] for row in rows]
        say(
            f"{side:<10}{median(rates):8.1f} ({min(rates):.1f} to {max(rates):.1f})"
            f"{median(rates) / top:12.2f}"
            f"{1000 * median(row['cpu_seconds_per_clip'] for row in rows):14.1f}"
            f"{100 * median(row['wait_share'] for row in rows):9.0f} %"
        )
    for name, values in limits.items():
        say(f"limit     {median(values):8.1f} clips/s ({name})")
    facts = {"size": own.size, "cores": CORES, "torch": torch.__version__, "limits": limits, "sides": found}
    finish(facts, figures(found, limits), own.out)


def figures(found: dict[str, list[dict[str, float]]], limits: dict[str, list[float]]) -> list[dict[str, Any]]:
    """What was asked: the better of ours beside the better plain loop, and beside the limit, in the same repeat."""

    def rates(side: str) -> list[float]:
        return [row["clips_per_second"] for row in found[side]]

    def best(sides: list[str]) -> str:
        return max(sides, key=lambda side: median(rates(side)))

    shown = []
    ours, plain = [side for side in found if side in OURS], [side for side in found if side.startswith("plain")]
    if ours:
        side = best(ours)
        if plain:
            ratios = [a / b for a, b in zip(rates(side), rates(best(plain)), strict=True)]
            shown.append(figure(f"{side} over {best(plain)}, clips/s", ratios, least=1.1))
        for name, values in limits.items():
            shares = [a / b for a, b in zip(rates(side), values, strict=True)]
            asked = 0.9 if name == "stages" else None
            shown.append(figure(f"{side} over the limit ({name}), clips/s", shares, least=asked))
        shown.append(figure(f"{side}: share of time the student waits", [row["wait_share"] for row in found[side]]))
    return shown


def measure(side: str, run: Path, flags: Sequence[str]) -> dict[str, float]:
    """Carry out a side in a process of its own, and watch the CPU time of all that it starts."""
    shutil.rmtree(run, ignore_errors=True)
    clock, cpu = CpuClock(), dict[int, float]()  # epochs done to CPU seconds until then
    looked = time.monotonic()

    def look(pid: int) -> None:
        nonlocal looked
        done, now = len(read_epochs(run)), time.monotonic()
        if (done and done not in cpu) or now - looked > 1:  # not more often, as looking takes time, too
            looked, seconds = now, clock.seconds(pid)
            if done:
                cpu.setdefault(done, seconds)

    command = [sys.executable, __file__, "--side", side, *flags]
    names = [f"live-{side}-{core}" for core in range(1, CORES)] if side == "busy" else []
    for name in names:
        shutil.rmtree(run.with_name(name), ignore_errors=True)
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    others = [subprocess.Popen([*command, "--run.name", name], **quiet) for name in names]
    try:
        facts = watched(command, look)
    finally:
        for other in others:
            other.kill()
            other.wait()
    rows, last = read_epochs(run)[1:], max(cpu)
    return {
        "clips_per_second": facts["clips"] * len(rows) / sum(row["seconds"] for row in rows),
        "cpu_seconds_per_clip": (cpu[last] - cpu[1]) / (facts["clips"] * (last - 1)),
        "wait_share": sum(row["wait_share"] for row in rows) / len(rows),
        **{name: value for name, value in facts.items() if name != "clips"},
    }


def one_side(side: str, settings: Any) -> None:
    """Carry out a side; prints its number of clips an epoch, and of the stages their CPU seconds a clip."""
    run = settings.run.model_copy(update={"local": side not in OURS})
    resources, teachers = settings.resources, settings.teachers
    seconds = {"read": 0.0, "teachers": 0.0, "clips": 0.0}
    if side.startswith("plain"):
        inline.blocks_in_process = plain_blocks(int(side.partition("-")[2]))
        # Student and teachers take turns in one process, so that either may have all cores.
        resources = resources.model_copy(update={"threads": resources.threads or CORES})
        teachers = teachers.model_copy(update={"threads": resources.threads})
    elif side in LIMITS:
        inline.blocks_in_process = timed_blocks(seconds)
        resources = resources.model_copy(update={"threads": 1})
        teachers = teachers.model_copy(update={"threads": 1})
    update = {"run": run, "resources": resources, "teachers": teachers}
    result = jobs.distill(settings.model_copy(update=update))
    facts = json.loads((Path(result["run_folder"]) / "best" / "model.json").read_text())["training"]["data"]
    clips = seconds.pop("clips")
    each = {f"{name}_seconds_per_clip": value / clips for name, value in seconds.items()} if clips else {}
    print(json.dumps({"clips": facts["clips"], **each}))


if __name__ == "__main__":
    main()
