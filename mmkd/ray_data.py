"""The plan as one ordered Ray Data execution: units -> read and decode -> teachers -> RGB, labels and logits.

What Ray does for a block takes as long as the work on some clips, so that some consecutive units of a worker travel
together, as the one row of a block, from the first stage to the last; with `preserve_order` and n workers, worker r is
given blocks r, r + n, ... which are the plan's units for it.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from mmkd.config import Resources, Settings, Teachers
from mmkd.pipeline import TeacherStage, Work, read
from mmkd.reader import Block
from mmkd.resources import Node, cluster_nodes, shared_memory, teachers_read, widest_stage

BLOCK_BYTES, BLOCK_CLIPS, MOST_BLOCK_BYTES = 16 << 20, 32, 64 << 20
"""Frames of a block, about; or as many clips, where those are more and not above the last of these."""
FEW_PROCESSES, LARGEST_BLOCK_BYTES = 2, 1 << 30
"""Readers or actors for which such blocks are large enough. More of them have larger blocks in proportion, as all
blocks pass through one process that schedules them; but none above the last of these."""
BLOCKS_SHARE = 0.1
"""Of a process's part of the object store, for the frames of a block, at most: it has one at hand, one or more ahead,
and one that waits for its turn, and what only teachers see beside them."""
EPOCH_BLOCKS = 8
"""Blocks that a worker is given in an epoch, at least, and two for each process of a stage, so that all have something
to do."""


def quiet(library: str) -> None:
    """Keep a Ray library's messages in its log files, off the screen."""
    for handler in logging.getLogger(library).handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)


def configure_context(settings: Settings) -> None:
    """Set Ray Data up for whole, ordered blocks in the process that builds and runs the dataset."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.target_max_block_size = None
    context.execution_options.preserve_order = True
    context.execution_options.locality_with_output = False
    context.execution_no_progress_timeout_s = settings.resources.no_progress_seconds
    context.enable_progress_bars = False
    context.enable_rich_progress_bars = False
    if not settings.run.ray_logs:
        quiet("ray.data")


def steps_together(work: Work, num_workers: int, nodes: Sequence[Node]) -> int:
    """Steps of the plan whose units of a worker make a block, at most.

    Args:
        nodes: of the cluster.
    """
    if asked := work.settings.resources.steps_per_block:
        return asked
    views, processes = work.settings.views, widest_stage(work.settings, work.live_teachers)
    clip = views.frames * views.size**2 * 3 * views.test_clips * views.test_crops  # validation has them all
    times = max(1.0, processes / FEW_PROCESSES)
    room = BLOCKS_SHARE * shared_memory(work.settings, nodes, max(num_workers, processes))
    most = min(times * MOST_BLOCK_BYTES, LARGEST_BLOCK_BYTES, room)
    clips = min(times * max(BLOCK_BYTES // clip, BLOCK_CLIPS), most // clip)
    blocks = max(EPOCH_BLOCKS, 2 * processes // num_workers)
    return max(1, min(int(clips // work.plan.share(num_workers)), work.plan.train_steps // blocks))


def build_dataset(work: Work, start: int, num_workers: int) -> Any:
    """The rest of the plan from step `start` as a lazy Ray dataset."""
    from mmkd.units import read_units

    pools = work.settings.teachers.each_pool() if work.live_teachers else {}
    # The first step travels alone, so that training starts when it is read.
    together = steps_together(work, num_workers, cluster_nodes())
    groups = [range(start, start + 1), *work.plan.groups(start + 1, together)]
    shares = [(steps.start, steps.stop, rank) for steps in groups for rank in range(num_workers)]
    teachers_read_them = teachers_read(work.settings, work.live_teachers)
    if teachers_read_them:
        first = next(iter(pools.values()))
        dataset = read_units(_share, shares, readers=None, num_cpus=first.num_cpus, **place_of(first))
    else:
        dataset = read_units(partial(_read_share, work, num_workers), shares, **of_readers(work.settings.resources))
    for number, (name, pool) in enumerate(pools.items()):
        reads = teachers_read_them and number == 0
        arguments = {"work": work, "pool": name, "num_workers": num_workers if reads else 0}
        stage = type(f"Pool_{name}", (PoolStage,), {})  # the dashboard shows a stage by its class
        dataset = in_teacher_pool(dataset, pool, stage, arguments, None if reads else 1, pool.actors)
    return dataset


def _share(share: tuple[int, int, int]) -> Block:
    """First step, end and rank of a worker's units, for actors that read them."""
    return {"share": np.array([share], np.int64)}


def _read_share(work: Work, num_workers: int, share: tuple[int, int, int]) -> Block:
    first, end, rank = share
    return as_row([read(work, num_workers, rank, range(first, end))])


def of_readers(resources: Resources) -> dict[str, Any]:
    """Arguments of read_units for reading tasks: how many, what each reserves, and on which nodes they may run."""
    where = {"label_selector": resources.reader_labels} if resources.reader_labels else {}
    return {"readers": resources.reading_tasks, "num_cpus": resources.cpus_per_reader, **where}


def place_of(teachers: Teachers) -> dict[str, Any]:
    """Arguments of Ray Data that say on which nodes a pool may run."""
    where: dict[str, Any] = {"accelerator_type": teachers.accelerator_type} if teachers.accelerator_type else {}
    return where | ({"label_selector": teachers.labels} if teachers.labels else {})


def in_teacher_pool(
    dataset: Any, teachers: Teachers, stage: type, arguments: dict[str, Any], rows: int | None, actors: int
) -> Any:
    """Pass whole blocks through a pool of actors that hold an ensemble.

    Args:
        rows: of each block; None, for blocks whatever they have, which Ray refuses on GPUs. Without it Ray puts this
            stage into one with the reading tasks before it, where these are given the same resources and no limit.
        actors: of the pool.
    """
    from ray.data import ActorPoolStrategy

    return dataset.map_batches(
        stage,
        fn_constructor_kwargs=arguments,
        batch_size=rows,  # as every block has as many rows, none are merged
        num_cpus=teachers.num_cpus,
        num_gpus=teachers.num_gpus,
        compute=ActorPoolStrategy(size=actors),
        **place_of(teachers),
    )


class PoolStage(TeacherStage):
    """Teachers in an actor on Ray.

    Args:
        num_workers: of the training, where the actor reads what its teachers see; 0: it is given blocks that were read.
    """

    def __init__(self, work: Work, pool: str, num_workers: int = 0):
        super().__init__(work, pool)
        self.work, self.num_workers = work, num_workers
        cv2.setNumThreads(1)

    def __call__(self, row: Block) -> Block:
        answer = super().__call__
        if self.num_workers:
            first, end, rank = row["share"][0].tolist()
            each = (read(self.work, self.num_workers, rank, range(step, step + 1)) for step in range(first, end))
            return as_row([answer(unit) for unit in each])
        if self.ensemble.device.type == "cuda":  # is faster at more clips at once than a unit may have
            return as_row([answer(of_row(row))])
        return as_row([answer(unit) for unit in units_of(of_row(row))])


def units_of(block: Block) -> Iterator[Block]:
    """The units that a block was made of, in order; nothing is copied."""
    ends = [*(np.flatnonzero(np.diff(block["step"])) + 1).tolist(), len(block["step"])]
    for start, end in pairwise([0, *ends]):
        yield {name: values[start:end] for name, values in block.items()}


def as_row(units: Sequence[Block]) -> Block:
    """Units, one after the other, as the one row that travels on Ray. A unit that a bank answered may lack what others
    have, which nobody will look at, and has zeros for it."""
    if len(units) == 1:
        return {name: values[None] for name, values in units[0].items()}
    like = {name: values for unit in units for name, values in unit.items()}
    row = {}
    for name, values in like.items():
        there = (unit.get(name) for unit in units)
        row[name] = np.concatenate([np.zeros_like(values) if each is None else each for each in there])[None]
    return row


def of_row(row: Block) -> Block:
    return {name: values[0] for name, values in row.items()}
