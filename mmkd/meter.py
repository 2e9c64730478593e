"""What a training keeps count of: clips per second, time spent waiting for data, broken clips; rows of all workers."""

import time
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np

from mmkd.bank.use import answered
from mmkd.plan import Plan, Step
from mmkd.reader import PADDED, REAL, STATUS, Block
from mmkd.workers import gather


class Collector:
    """Gathers rows of many blocks, from all workers when it is emptied."""

    def __init__(self) -> None:
        self.parts: list[Block] = []

    def add(self, columns: Block) -> None:
        self.parts.append(columns)

    def pop(self) -> Block:
        parts = [part for worker in gather(self.parts) for part in worker]
        self.parts = []
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Meter:
    """Clips per second, time spent waiting for data, and broken clips."""

    def __init__(self, workers: int):
        self.workers = workers
        self.start = self.mark = time.monotonic()
        self.wait = self.mark_wait = 0.0
        self.clips = self.mark_clips = self.mark_taught = self.mark_replayed = self.steps = self.mark_steps = 0
        self.epoch_start, self.epoch_wait, self.epoch_clips = self.start, 0.0, 0
        self.first_wait, self.under_way = 0.0, False
        self.read = self.computed = self.replayed = 0
        self.new_broken: list[tuple[str, int, str]] = []
        self.all_broken: set[tuple[str, int, str]] = set()

    @contextmanager
    def _waiting(self) -> Any:
        before = time.monotonic()
        yield
        waited = time.monotonic() - before
        if self.under_way:
            self.wait += waited
        else:  # start-up is told apart from a pipeline that cannot keep up
            self.first_wait += waited
            self.start = self.mark = self.epoch_start = time.monotonic()

    def timed(self, blocks: Iterable[Block]) -> Iterable[Block]:
        iterator = iter(blocks)
        while True:
            with self._waiting():
                block = next(iterator, None)
            if block is None:
                return
            yield block

    def count(self, step: Step, block: Block, real: np.ndarray) -> None:
        self.under_way = True
        self.steps += 1
        self.read += int((block["status"] != PADDED).sum())
        split = "val" if step.phase == "val" else "train"
        for row in np.flatnonzero((block["status"] != REAL) & (block["status"] != PADDED)):
            self.new_broken.append((split, int(block["clip"][row]), STATUS[int(block["status"][row])]))
        if step.phase == "train":
            self.clips += int(real.sum())
        if step.phase != "val" and "teacher_present" in block:
            computed, replayed = answered(block)
            self.mark_taught += computed
            self.mark_replayed += replayed
            self.computed += computed
            self.replayed += replayed

    def rates(self, plan: Plan, position: int) -> dict[str, float]:
        now = time.monotonic()
        elapsed = max(now - self.mark, 1e-9)
        rates: dict[str, float] = {
            "clips_per_second": self.workers * (self.clips - self.mark_clips) / elapsed,
            "teacher_clips_per_second": self.workers * self.mark_taught / elapsed,
            "bank_clips_per_second": self.workers * self.mark_replayed / elapsed,
            "wait_share": (self.wait - self.mark_wait) / elapsed,
            "step_seconds": (elapsed - self.wait + self.mark_wait) / max(self.steps - self.mark_steps, 1),
            "seconds_left": (plan.num_steps - position - 1) * (now - self.start) / max(self.steps, 1),
        }
        self.mark, self.mark_wait, self.mark_clips, self.mark_steps = now, self.wait, self.clips, self.steps
        self.mark_taught = self.mark_replayed = 0
        return rates

    def epoch(self) -> dict[str, float]:
        now = time.monotonic()
        elapsed = now - self.epoch_start
        row: dict[str, float] = {
            "seconds": elapsed,
            "clips_per_second": self.workers * (self.clips - self.epoch_clips) / elapsed,
            "wait_share": (self.wait - self.epoch_wait) / elapsed,
            "first_wait_seconds": self.first_wait,
        }
        self.epoch_start, self.epoch_wait, self.epoch_clips = now, self.wait, self.clips
        self.all_broken = set()  # a clip that could not be read in one epoch may be read in the next
        return row

    def take_counts(self) -> tuple[list[tuple[str, int, str]], int, int, int]:
        """Broken clips of all workers since the last call, and how many clips were read, answers of teachers computed,
        and replayed."""
        parts = gather((self.new_broken, (self.read, self.computed, self.replayed)))
        broken = sorted({clip for clips, _ in parts for clip in clips})
        self.all_broken |= set(broken)
        self.new_broken, self.read, self.computed, self.replayed = [], 0, 0, 0
        read, computed, replayed = (sum(column) for column in zip(*(counts for _, counts in parts), strict=True))
        return broken, read, computed, replayed
