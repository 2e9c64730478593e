"""The live pipeline beside a plain PyTorch loop: clips a second, CPU seconds a clip, and the limit.

    python benchmarks/live.py [--size tabletop|large] [--rounds 6] [--sides auto,ray,plain-0,plain-1,local]

Each side carries out the same job on HOME/data/tabletop: the same plan, views, teachers, student, batch and precision.
`ray` is rayjobs/distill.py, `auto` the same with --resources auto, `local` with --run.local, and `plain-N` a torch
DataLoader with N workers that read and decode, with the teachers in the process that trains, which is what most people
write. Size `large` is a Video Swin-T at 224 px on few clips, with two of its kind as teachers, of RGB and flow, which
learn for one epoch first (only their speed counts).

The speed of a machine that is shared changes from one minute to the next, so sides take turns: all are started, and
carry out an epoch each in every round, while the processes of the others are stopped. What is compared is of the same
round. Epochs in which things start do not count. As each of the first two has a Ray of its own, they do not run at the
same time: the second takes turns with the better plain loop only. All sides keep their memory while they are stopped;
where that is too much (on one GPU, say), name fewer --sides.

`stages` is the limit: what reading, the teachers and the student take by themselves, on one thread, while each other
core does the same, added up and divided by the cores; no pipeline of the same stages can be faster. (With
--resources.use_gpu it is left out.)

The table goes to standard error, and the same as one JSON object to the last line of standard output, and to a file
with --out. Any setting of the job can follow.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from common import CORES, ROOT, Facts, ensure_data, figure, finish
from turns import Row, take_turns

from mmkd import inline, jobs
from mmkd.cli import load_settings
from mmkd.pipeline import TeacherStage, Work, read
from mmkd.progress import say
from mmkd.reader import Block
from mmkd.runs import write_json

PLAIN = [f"plain-{workers}" for workers in sorted({0, 1, 2, CORES // 2, CORES - 1})]
OURS, LIMIT, LARGE = ("auto", "ray"), "stages", "torchvision/swin3d_t"
SIDES = [*OURS, *PLAIN, "local"]
SIZES = {
    "tabletop": ["--data.limit", "1000"],
    "large": [
        *("--student.arch", LARGE, "--views.size", "224", "--data.limit", "16", "--optim.batch_size", "4"),
        *("--teachers.weighting", "uniform", "--teachers.no-drop-near-chance"),
    ],
}
LEAST = {"tabletop": 1.1, "large": None}
"""Times the clips a second of a plain loop, which was asked for."""
PARTS = "stages.json"
"""In the run folder of the stages: CPU seconds a clip of reading and of the teachers."""


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
    """As mmkd.inline.blocks_in_process; the stages and nothing else, and what they take of CPU time."""
    stage, clips, seconds = TeacherStage(work, watched=False), 0, {"reading": 0.0, "teachers": 0.0}
    for step in range(start, work.plan.num_steps):
        began = time.process_time()
        block = read(work, 1, 0, range(step, step + 1))
        done = time.process_time()
        answered = stage(block)
        if work.plan.step(step).phase == "train":
            seconds["reading"] += done - began
            seconds["teachers"] += time.process_time() - done
            clips += len(block["clip"])
        elif clips and work.plan.ends_phase(work.plan.step(step)):
            each = {name: value / clips for name, value in seconds.items()}
            write_json(Path(work.run_folder) / PARTS, each)
        yield answered


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tabletop")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sides", default=",".join(SIDES))
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
    sides = list(dict.fromkeys(own.sides.split(",")))
    if unknown := [side for side in sides if side not in SIDES]:
        parser.error(f"--sides {', '.join(unknown)}: there are {', '.join(SIDES)}")
    ensure_data(settings)
    if own.size == "large" and not settings.teachers.folders:
        rest += ["--teachers.folders", *(large_teacher(settings.home, modality, rest) for modality in ("rgb", "flow"))]
    limits = [LIMIT] * (not settings.resources.use_gpu)
    if limits:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that --resources auto has what the other sides have
    ours, others = ([side for side in sides if (side in OURS) == own_side] for own_side in (True, False))
    runs, turns = settings.home / "runs", list[Facts]()
    for side in ours or [""]:
        if turns:
            plain = best_plain(turns[0]["rows"])
            others = [plain] if plain else []
        names = [*([side] if side else []), *others, *limits]
        commands = {name: [sys.executable, __file__, "--side", name, "--size", own.size, *rest] for name in names}
        turns.append(take_turns(commands, own.rounds, runs, {LIMIT: CORES - 1}))
    for each in turns:
        show_turns(**each)
    facts = {"size": own.size, "cores": CORES, "torch": torch.__version__, "turns": turns}
    facts["over_plain"] = over_plain(turns)
    if "auto" in ours:
        facts["auto"] = yaml.safe_load((runs / "live-auto" / "resources.yaml").read_text())
        chosen = (f"{part}.{name} {value}" for part, values in facts["auto"].items() for name, value in values.items())
        say(f"auto chose {', '.join(chosen)}")
    if limits:
        facts["stages_cpu_seconds_per_clip"] = parts = json.loads((runs / f"live-{LIMIT}" / PARTS).read_text())
        say("stages, CPU ms/clip: " + ", ".join(f"{name} {1000 * value:.1f}" for name, value in parts.items()))
    finish(facts, figures(turns, LEAST[own.size]), own.out)


def large_teacher(home: Path, modality: str, flags: Sequence[str]) -> str:
    """Folder of a teacher as large as the student, trained for an epoch where it is missing, by a process that leaves
    its memory to the sides."""
    name = f"live-teacher-{modality}"
    model = home / "runs" / name / "best"
    if (model / "model.json").is_file():
        return str(model)
    size = [*SIZES["large"], "--teacher.arch", LARGE, "--teacher.modality", modality]
    own = ["--run.local", "--run.name", name, "--optim.epochs", "1"]
    command = [sys.executable, ROOT / "rayjobs" / "train_teacher.py", *size, *flags, *own]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return str(model)


def best_plain(rows: dict[str, list[Row]]) -> str:
    """The plain loop with the best median; "" where there is none."""
    plain = [name for name in rows if name in PLAIN]
    return max(plain, key=lambda name: median(rates(rows, name)), default="")


def rates(rows: dict[str, list[Row]], side: str) -> list[float]:
    """A side's clips a second in each round; of the stages, what all cores could carry."""
    if side == LIMIT:
        return [CORES / row["cpu_seconds_per_clip"] for row in rows[side]]
    return [row["clips_per_second"] for row in rows[side]]


def ratios(rows: dict[str, list[Row]], side: str, of: str) -> list[float]:
    """A side's clips a second over another's in each round."""
    return [ours / theirs for ours, theirs in zip(rates(rows, side), rates(rows, of), strict=True)]


def over_plain(turns: Sequence[Facts]) -> dict[str, list[float]]:
    """Each side's clips a second, and those of the limit, over those of the better plain loop."""
    found: dict[str, list[float]] = {}
    for rows in [each["rows"] for each in turns]:
        if plain := best_plain(rows):
            found |= {name: ratios(rows, name, plain) for name in rows if name not in found}
    return found


def show_turns(rows: dict[str, list[Row]], waited: dict[str, float]) -> None:
    say("\nside        clips/s (least to most)   of the limit   CPU ms/clip   waited")
    for side in rows:
        each = rates(rows, side)
        share = f"{median(ratios(rows, side, LIMIT)):.2f}" if LIMIT in rows else ""
        cpu = 1000 * median(row["cpu_seconds_per_clip"] for row in rows[side])
        name = "limit" if side == LIMIT else side
        spread = f"({min(each):.3g} to {max(each):.3g})"
        say(f"{name:<10}{median(each):8.3g} {spread:<18}{share:>12}{cpu:14.4g}{100 * waited[side]:9.0f} %")


def figures(turns: Sequence[Facts], least: float | None = 1.1) -> list[Facts]:
    """What was asked: the better of ours beside the better plain loop, and beside the limit, in the same rounds; and
    the other of ours.

    Args:
        least: times the plain loop's clips a second that are asked for.
    """
    found = list[Facts]()
    ours = {side: each for each in turns for side in each["rows"] if side in OURS}
    beside = {side: best_plain(each["rows"]) or LIMIT for side, each in ours.items()}

    def share(side: str) -> float:
        rows = ours[side]["rows"]
        return median(ratios(rows, side, beside[side])) if beside[side] in rows else 0.0

    better = max(ours, key=share, default="")
    for side, each in ours.items():
        rows, asked = each["rows"], side == better
        if beside[side] in PLAIN:
            over = ratios(rows, side, beside[side])
            found.append(figure(f"{side} over {beside[side]}, clips/s", over, least=least if asked else None))
        if LIMIT in rows:
            over = ratios(rows, side, LIMIT)
            found.append(figure(f"{side} over the limit, clips/s", over, least=0.9 if asked else None))
        found.append(figure(f"{side}: share of time the student waits", each["waited"][side]))
    return found


def one_side(side: str, settings: Any) -> None:
    """Carry out a side."""
    run = settings.run.model_copy(update={"local": side not in OURS})
    resources, teachers = settings.resources, settings.teachers
    if side in PLAIN:
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
