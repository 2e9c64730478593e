"""The plan in the process of the student, which reads its units and asks the teachers itself; no Ray Data."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import torch

from mmkd.pipeline import TeacherStage, Work, leave_failure, read
from mmkd.reader import Block
from mmkd.together import made_together
from mmkd.watchdog import HANGS, Watchdog
from mmkd.workers import rank, world_size


def blocks_in_process(work: Work, start: int, watched: bool = False) -> Iterator[Block]:
    """The same blocks for this worker, in its process: what Ray Data has to agree with.

    With `resources.ahead` other threads read and ask ahead of it; whoever does, on one core, so that a step is the same
    whoever made it.

    Args:
        watched: whether reading or a teacher that hangs ends the process; where none is started anew a debugger may
            stop.
    """
    threads, settings = torch.get_num_threads(), work.settings
    helpers, trains = settings.resources.ahead, threading.get_ident()
    cv2.setNumThreads(1 if helpers else threads)
    teachers = settings.teachers.model_copy(update={"threads": threads})  # of the process, which are the student's
    beside = replace(work, settings=settings.model_copy(update={"teachers": teachers}))
    stage = TeacherStage(beside, watched=watched) if work.live_teachers else None
    watchdog = Watchdog(settings.resources.no_progress_seconds if watched else 0, Path(work.run_folder) / HANGS)

    def unit(step: int) -> Block:
        try:
            with watchdog.over(f"the reading of step {step} of the plan, worker {rank()}"):
                return read(work, world_size(), rank(), range(step, step + 1))
        except TimeoutError as error:
            leave_failure(work.run_folder, error)
            raise

    def block(step: int) -> Block:
        if helpers:
            torch.set_num_threads(1)
        try:
            return stage(unit(step)) if stage else unit(step)
        finally:
            if threading.get_ident() == trains:
                torch.set_num_threads(threads)

    yield from made_together(block, range(start, work.plan.num_steps), helpers, settings.resources.prefetch)
