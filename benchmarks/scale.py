"""How far the pipeline itself carries, simulated: stages that take a set time, on logical GPUs of one machine.

    python benchmarks/scale.py [--actors 64] [--students 8] [--batches 8] [--out FILE] [--run.home /abs]

The plan, the manifests, the order, the blocks and Ray Data are those of a distillation on HOME/data/tabletop. What
takes time in it sleeps instead: an actor of the teacher pool 50 ms a batch of 32 clips, a student a set time a step;
nothing is decoded, and a clip's frames are a few bytes. A student's share of a global batch is --batches teacher
batches. So this machine's cores carry what is the pipeline's own, and nothing else.

    teachers   the students take no time: the pool should never be idle
    stragglers the same, and about one actor in 16, at random, takes twice as long
    students   four times as many teachers as the students need: the students should never be idle
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
from mmkd.pipeline import Work, configure_context, in_teacher_pool
from mmkd.plan import PADDING
from mmkd.progress import say
from mmkd.reader import PADDED, REAL, Block
from mmkd.resolve import plan_student, teacher_folders
from mmkd.units import read_units

BATCH, BATCH_SECONDS = 32, 0.05
READERS, FRAME_BYTES, CLASSES = 8, 64, 16
PARTS = ("teachers", "stragglers", "students", "ceiling", "long")


@dataclass(frozen=True)
class Shape:
    """What is simulated; times in seconds."""

    actors: int
    students: int
    batch_seconds: float
    step_seconds: float
    straggling: int = 0
    planned_steps: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, default=64)
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--batches", type=int, default=8, help="teacher batches in a student's share")
    parser.add_argument("--seconds", type=float, default=30.0, help="about how long each part goes on")
    parser.add_argument("--units", type=int, default=100_000, help="of part long")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", help="JSON file to write")
    own, rest = parser.parse_known_args(argv)
    flags = ["--optim.batch_size", str(BATCH * own.batches * own.students), "--views.distinct", "1", *rest]
    settings = load_settings(flags, job="distill", about="", program="python benchmarks/scale.py")
    ensure_data(settings)
    work, _ = plan_student(settings, teacher_folders(settings))
    block_seconds = own.batches * BATCH_SECONDS
    rate = own.actors / block_seconds / own.students  # blocks a second and student that the pool answers
    shapes = {
        "teachers": Shape(own.actors, own.students, BATCH_SECONDS, 0.0),
        "stragglers": Shape(own.actors, own.students, BATCH_SECONDS, 0.0, straggling=16),
        "students": Shape(own.actors, own.students, BATCH_SECONDS, 4 / rate),
        "ceiling": Shape(4, own.students, 0.0, 0.0),
        "long": Shape(1, own.students, 0.0, 0.0, planned_steps=own.units // own.students),
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
        step = max(block_seconds / (shape.actors / shape.students) * bool(shape.batch_seconds), shape.step_seconds)
        steps = round(own.seconds / step) if step else 200
        epochs = -(-max(steps, shape.planned_steps) // work.plan.train_steps)
        found[part] = simulate(replace(work, plan=replace(work.plan, epochs=epochs)), shape, steps)
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


def simulate(work: Work, shape: Shape, steps: int) -> Facts:
    """Carry out the first steps of a plan; shares of the time in which all stages are under way."""
    import ray

    configure_context(work.settings)
    teachers = work.settings.teachers.model_copy(update={"num_gpus": 1.0, "num_cpus": 0.1})
    planned = max(steps, shape.planned_steps) * shape.students
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        dataset = read_units(partial(glance, work, shape.students), range(planned), readers=READERS, num_cpus=0.1)
        arguments = {"folder": folder, "seconds": shape.batch_seconds, "straggling": shape.straggling}
        dataset = in_teacher_pool(dataset, teachers, Sleeping, arguments, work.plan.share(shape.students), shape.actors)
        parts = dataset.streaming_split(shape.students, equal=True)
        student = ray.remote(num_cpus=0.1)(study)
        spans = ray.get([student.remote(part, shape.step_seconds, steps) for part in parts])
        students = np.array(spans)  # [students, steps, (asked, came, done)]
        pool = [np.loadtxt(path, ndmin=2) for path in Path(folder).iterdir()]
    came = np.sort(students[:, :, 1].max(axis=0))
    window = came[steps // 4], came[-steps // 8]
    seconds, blocks = window[1] - window[0], int(((came >= window[0]) & (came < window[1])).sum()) * shape.students
    return {
        "first_block": float(students[:, 0, 1].min() - began),
        "pool_busy": sum(overlap(spans, window) for spans in pool) / (shape.actors * seconds),
        "students_busy": sum(overlap(spans[:, 1:], window) for spans in students) / (shape.students * seconds),
        "blocks_per_second": blocks / seconds,
        "clips_per_second": blocks * work.plan.share(shape.students) / seconds,
        "seconds": float(seconds),
    }


def overlap(spans: np.ndarray, window: tuple[float, float]) -> float:
    """Seconds of spans [n, (from, until)] that lie in a window."""
    return float((np.minimum(spans[:, 1], window[1]) - np.maximum(spans[:, 0], window[0])).clip(min=0).sum())


def glance(work: Work, num_workers: int, unit: int) -> Block:
    """A unit of the plan with a few bytes in place of its clips' frames."""
    index, rank = divmod(unit, num_workers)
    step, clips, views = work.plan.unit(index, rank, num_workers)
    manifest = work.manifests()["val" if step.phase == "val" else "train"]
    place = {"step": np.full(len(clips), index, np.int64), "rank": np.full(len(clips), rank, np.int64), "view": views}
    labels = {f"label/{head}": values[clips] for head, values in manifest.labels.items()}
    status = np.where(clips == PADDING, PADDED, REAL).astype(np.int8)
    return {"clip": clips, "status": status, **place, **labels, "rgb": np.zeros((len(clips), FRAME_BYTES), np.uint8)}


class Sleeping:
    """An ensemble that takes a set time for each batch of a block."""

    def __init__(self, folder: str, seconds: float, straggling: int):
        self.seconds = seconds
        if straggling and int.from_bytes(os.urandom(2), "big") % straggling == 0:
            self.seconds *= 2
        self.spans = Path(folder) / str(os.getpid())

    def __call__(self, block: Block) -> Block:
        began = time.time()
        time.sleep(self.seconds * -(-len(block["clip"]) // BATCH))
        logits = np.zeros((len(block["clip"]), 1, CLASSES), np.float32)
        with self.spans.open("a") as file:
            file.write(f"{began} {time.time()}\n")
        return block | {"teacher_logits/action": logits}


def study(part: Any, seconds: float, steps: int) -> list[tuple[float, float, float]]:
    """A student: when it asked for each block, had it, and was done with it."""
    spans, asked = [], time.time()
    for block in part.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=4):
        came = time.time()
        assert len(set(block["step"].tolist())) == 1
        if seconds:
            time.sleep(seconds)
        spans.append((asked, came, time.time()))
        asked = time.time()
        if len(spans) == steps:
            break
    return spans


if __name__ == "__main__":
    sys.exit(main())
