"""How far the pipeline itself carries, simulated: stages that take a set time, on logical GPUs of one machine.

    python benchmarks/scale.py [--actors 64] [--students 8] [--batch-seconds 0.05] [--out FILE] [--run.home /abs]

The plan, the manifests, the order, the blocks and Ray Data are those of a distillation on HOME/data/tabletop, many
times over. What takes time in it sleeps instead: an actor of the teacher pool 50 ms a batch of 8 clips (--batch-seconds
and --teachers.batch_size; 160 clips a second are what a Video Swin-T on a GPU may do), a student 100 ms a step of 32;
nothing is decoded, and a clip's frames are a few bytes. A block has as many clips as it would have if they were of
8 x 224 x 224 px and each actor came with 16 GB of shared memory. So this machine's cores carry what is the pipeline's
own, and the processes: 64 actors that only sleep take about one core.

    teachers   the students take no time: the pool should never be idle
    stragglers the same, and one actor in 16 takes twice as long
    students   they take their time: with an actor or more for each they should never be idle
    ceiling    nobody takes any time: clips and blocks a second, the pipeline's own limit on this machine
    long       a plan of --units units, as of a long run on many workers: seconds until its first block

The table goes to standard error, and the same as one JSON object to the last line of standard output, and to a file
with --out.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import CORES, Facts, ensure_data, figure, finish

from mmkd.cli import load_settings
from mmkd.config import Settings, Views
from mmkd.pipeline import Work
from mmkd.plan import PADDING
from mmkd.progress import say
from mmkd.ray_data import as_row, configure_context, in_teacher_pool, of_row, steps_together, units_of
from mmkd.reader import PADDED, REAL, Block
from mmkd.resolve import plan_student, teacher_folders
from mmkd.resources import STORE, Node
from mmkd.units import read_units

SHARE, STEP_SECONDS = 32, 0.1
READERS, FRAME_BYTES, CLASSES = 8, 64, 16
STORE_PER_ACTOR, EPOCH_CLIPS = 16e9, 200_000
PARTS = ("teachers", "stragglers", "students", "ceiling", "long")


@dataclass(frozen=True)
class Shape:
    """What is simulated; times in seconds."""

    actors: int
    students: int
    batch_seconds: float
    step_seconds: float
    straggling: int = 0
    planned_blocks: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, default=64)
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--batch-seconds", type=float, default=0.05, help="that a teacher takes for a batch")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long each part goes on, if all are busy")
    parser.add_argument("--units", type=int, default=100_000, help="of part long")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", help="JSON file to write")
    own, rest = parser.parse_known_args(argv)
    flags = ["--optim.batch_size", str(SHARE * own.students), "--views.size", "224", "--views.frames", "8"]
    flags += ["--optim.validate_every", "1000000", "--teachers.actors", str(own.actors), "--teachers.batch_size", "8"]
    flags += ["--teachers.num_gpus", "1", "--teachers.num_cpus", "0.1", *rest]
    settings = load_settings(flags, job="distill", about="", program="python benchmarks/scale.py")
    ensure_data(settings)
    work = many_times(settings)
    steps = steps_together(work, own.students, [Node({"CPU": 1.0, STORE: STORE_PER_ACTOR})] * own.actors)
    batches = -(-steps * SHARE // settings.teachers.batch_size)
    say(f"blocks of {steps * SHARE} clips, {batches} batches of a teacher")
    block_seconds = batches * own.batch_seconds
    shapes = {
        "teachers": Shape(own.actors, own.students, own.batch_seconds, 0.0),
        "stragglers": Shape(own.actors, own.students, own.batch_seconds, 0.0, straggling=16),
        "students": Shape(own.actors, own.students, own.batch_seconds, STEP_SECONDS * steps),
        "ceiling": Shape(4, own.students, 0.0, 0.0),
        "long": Shape(1, own.students, 0.0, 0.0, planned_blocks=own.units // own.students // steps),
    }
    import ray

    ray.init(
        address="local",
        num_cpus=8 * own.actors,
        num_gpus=own.actors,
        log_to_driver=False,
        logging_level="ERROR",
        # Without it Ray starts an idle process a CPU at once, 512 of them, which take the cores from all others.
        _system_config={"prestart_worker_first_driver": False},
    )
    found: dict[str, Facts] = {}
    for part in own.parts.split(","):
        shape = shapes[part]
        block = max(block_seconds / (shape.actors / shape.students) * bool(shape.batch_seconds), shape.step_seconds)
        blocks = max(40, round(own.seconds / block)) if block else 100
        epochs = -(-max(blocks, shape.planned_blocks) * steps // work.plan.train_steps)
        found[part] = simulate(replace(work, plan=replace(work.plan, epochs=epochs + 1)), shape, steps, blocks)
        say(f"{part:<11}" + "  ".join(f"{name} {value:.4g}" for name, value in found[part].items()))
    ray.shutdown()
    finish({"cores": CORES, "parts": found}, figures(found), own.out)


def figures(found: dict[str, Facts]) -> list[Facts]:
    shown = []
    if "teachers" in found:
        shown.append(figure("teachers slower: share of time the pool works", found["teachers"]["pool_busy"], least=0.9))
    if "stragglers" in found:
        shown.append(figure("with stragglers: share of time the pool works", found["stragglers"]["pool_busy"]))
    if "students" in found:
        busy = found["students"]["students_busy"]
        shown.append(figure("students slower: share of time they work", busy, least=0.95))
    if "ceiling" in found:
        shown += [figure(f"ceiling, {name}/s", found["ceiling"][f"{name}_per_second"]) for name in ("clips", "blocks")]
    if "long" in found:
        shown.append(figure("a plan of very many units: seconds to its first block", found["long"]["first_block"]))
    return shown


def many_times(settings: Settings) -> Work:
    """The work, whose train split has its clips many times."""
    # Its teachers are not asked, so that they need not see clips as the plan has them.
    usual = settings.model_copy(update={"views": Views()})
    work, _ = plan_student(usual, teacher_folders(settings))
    clips = np.tile(work.plan.train, -(-EPOCH_CLIPS // len(work.plan.train)))
    return replace(work, settings=settings, plan=replace(work.plan, train=clips))


def simulate(work: Work, shape: Shape, steps: int, blocks: int) -> Facts:
    """Carry out a plan until each student has had so many blocks of so many steps; shares of the time in which all
    stages are under way."""
    import ray

    configure_context(work.settings)
    teachers = work.settings.teachers
    groups = work.plan.groups(work.plan.weigh_steps, steps)[: max(blocks, shape.planned_blocks)]
    shares = [(group, rank) for group in groups for rank in range(shape.students)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        dataset = read_units(partial(glance, work, shape.students), shares, readers=READERS, num_cpus=0.1)
        arguments = {"folder": folder, "shape": shape, "batch_size": teachers.batch_size}
        dataset = in_teacher_pool(dataset, teachers, Sleeping, arguments, 1, shape.actors)
        parts = dataset.streaming_split(shape.students, equal=True)
        student = ray.remote(num_cpus=0.1)(study)
        spans = ray.get([student.remote(part, shape.step_seconds, blocks) for part in parts])
        students = np.array(spans)  # [students, blocks, (asked, came, done, clips)]
        pool = [np.loadtxt(path, ndmin=2) for path in Path(folder).iterdir()]
    came = np.sort(students[:, :, 1].max(axis=0))
    window = max(came[blocks // 4], max(spans[0, 0] for spans in pool)), came[-blocks // 8]
    seconds = window[1] - window[0]
    if seconds <= 0:
        raise SystemExit("the actors took so long to start that nothing was left to measure; raise --seconds")
    inside = (students[:, :, 1] >= window[0]) & (students[:, :, 1] < window[1])
    return {
        "first_block": float(students[:, 0, 1].min() - began),
        "pool_busy": sum(overlap(spans, window) for spans in pool) / (shape.actors * seconds),
        "students_busy": sum(overlap(spans[:, 1:3], window) for spans in students) / (shape.students * seconds),
        "blocks_per_second": float(inside.sum() / seconds),
        "clips_per_second": float(students[:, :, 3][inside].sum() / seconds),
        "seconds": float(seconds),
    }


def overlap(spans: np.ndarray, window: tuple[float, float]) -> float:
    """Seconds of spans [n, (from, until)] that lie in a window."""
    return float((np.minimum(spans[:, 1], window[1]) - np.maximum(spans[:, 0], window[0])).clip(min=0).sum())


def glance(work: Work, num_workers: int, share: tuple[range, int]) -> Block:
    """A worker's units of some steps of the plan, with a few bytes in place of their clips' frames."""
    steps, rank = share
    units = [work.plan.unit(step, rank, num_workers) for step in steps]
    clips, views = (np.concatenate([unit[part] for unit in units]) for part in (1, 2))
    place = {"step": np.repeat(steps, len(units[0][1])), "rank": np.full(len(clips), rank), "view": views}
    labels = {f"label/{head}": values[clips] for head, values in work.manifests()["train"].labels.items()}
    status = np.where(clips == PADDING, PADDED, REAL).astype(np.int8)
    rgb = np.zeros((len(clips), FRAME_BYTES), np.uint8)
    return as_row([{"clip": clips, "status": status, **place, **labels, "rgb": rgb}])


class Sleeping:
    """An ensemble that takes a set time for each batch of a block."""

    def __init__(self, folder: str, shape: Shape, batch_size: int):
        before = len(list(Path(folder).iterdir()))
        self.spans, self.batch_size = Path(folder) / str(os.getpid()), batch_size
        self.spans.write_text(f"{time.time()} {time.time()}\n")
        self.seconds = shape.batch_seconds * (2 if shape.straggling and before % shape.straggling == 0 else 1)

    def __call__(self, row: Block) -> Block:
        began, block = time.time(), of_row(row)
        time.sleep(self.seconds * -(-len(block["clip"]) // self.batch_size))
        logits = np.zeros((len(block["clip"]), 1, CLASSES), np.float32)
        with self.spans.open("a") as file:
            file.write(f"{began} {time.time()}\n")
        return as_row([block | {"teacher_logits/action": logits}])


def study(part: Any, seconds: float, blocks: int) -> list[tuple[float, float, float, int]]:
    """A student: when it asked for each block, had it, and was done with it, and the clips in it."""
    spans, asked = [], time.time()
    for row in part.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        came, clips = time.time(), 0
        for unit in units_of(of_row(row)):
            clips += int((unit["status"] == REAL).sum())
        if seconds:
            time.sleep(seconds)
        spans.append((asked, came, time.time(), clips))
        asked = time.time()
        if len(spans) == blocks:
            break
    return spans


if __name__ == "__main__":
    sys.exit(main())
