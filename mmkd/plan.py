"""The plan: who sees what, when. A pure function of the settings; everything else only carries it out.

A run is a list of *steps*. A step is one global batch; with n workers it is n units, unit (step, rank) being the
rank-th share of it. A run with teachers begins with `weigh` steps (the teachers are judged on clips that none of them
was trained on); then every epoch has its `train` steps and, or every few epochs, `val` steps. The position in a run is
one integer, the number of steps done, so what is left is `range(position, plan.num_steps)`, for any number of workers.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

PADDING = -1
TEST_VIEW = -1
Clips = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """One global batch: `phase` is weigh, train or val; `number` counts within the phase of this epoch."""

    index: int
    phase: str
    epoch: int
    number: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Order of all clips of a run.

    Attributes:
        train, val, weigh: indices of clips in their split's manifest (`weigh` are clips of the train split).
        batch_size: the global batch.
        seed: run_seed, of the order.
        distinct_views: view numbers are taken modulo this; 0: new views in every epoch.
        repeats: views of each clip in a training batch, side by side.
        validate_every: epochs in a round, which ends with validation; the last round may have fewer.

    Raises:
        ValueError: repeats does not divide batch_size.
    """

    train: Clips
    val: Clips
    weigh: Clips
    epochs: int
    batch_size: int
    seed: int = 0
    distinct_views: int = 0
    repeats: int = 1
    validate_every: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.repeats:
            raise ValueError(
                f"views.repeats {self.repeats} does not divide optim.batch_size {self.batch_size}; a batch holds all "
                "views of a clip, so it must."
            )

    @property
    def weigh_steps(self) -> int:
        return _ceil(len(self.weigh), self.batch_size)

    @property
    def train_steps(self) -> int:
        """Optimiser steps in an epoch."""
        return _ceil(len(self.train) * self.repeats, self.batch_size)

    @property
    def val_steps(self) -> int:
        return _ceil(len(self.val), self.batch_size)

    def ends_phase(self, step: "Step") -> bool:
        """Whether a step is the last of its phase in its epoch."""
        return step.number == self._phase_steps(step) - 1

    def _phase_steps(self, step: "Step") -> int:
        """Steps of its phase in an epoch."""
        return {"weigh": self.weigh_steps, "train": self.train_steps, "val": self.val_steps}[step.phase]

    @property
    def num_steps(self) -> int:
        return (
            self.weigh_steps + self.epochs * self.train_steps + _ceil(self.epochs, self.validate_every) * self.val_steps
        )

    @property
    def optimizer_steps(self) -> int:
        return self.epochs * self.train_steps

    def share(self, num_workers: int) -> int:
        """Rows of a unit: a worker's share of the global batch."""
        return _ceil(self.batch_size, num_workers)

    def step(self, index: int) -> Step:
        """What step `index` of the run is."""
        if not 0 <= index < self.num_steps:
            raise IndexError(f"step {index} is not in a plan of {self.num_steps} steps")
        if index < self.weigh_steps:
            return Step(index, "weigh", 0, index)
        first, epochs, done = self._round(index)
        epoch, number = divmod(done, self.train_steps)
        if epoch < epochs:
            return Step(index, "train", first + epoch, number)
        return Step(index, "val", first + epochs - 1, done - epochs * self.train_steps)

    def optimizer_step(self, index: int) -> int:
        """Optimiser steps done before step `index`."""
        if index <= self.weigh_steps:
            return 0
        first, epochs, done = self._round(index)
        return first * self.train_steps + min(done, epochs * self.train_steps)

    def _round(self, index: int) -> tuple[int, int, int]:
        """The round of a step after the weighing: its first epoch, its epochs, and its steps before this one."""
        whole = self.validate_every * self.train_steps + self.val_steps
        number, done = divmod(index - self.weigh_steps, whole)
        first = number * self.validate_every
        return first, min(self.validate_every, self.epochs - first), done

    def groups(self, start: int, most: int) -> list[range]:
        """The rest of the run from step `start` in groups of at most `most` consecutive steps, each of one phase of one
        epoch."""
        groups = []
        while start < self.num_steps:
            step = self.step(start)
            end = start + min(most, self._phase_steps(step) - step.number)
            groups.append(range(start, end))
            start = end
        return groups

    def unit(self, index: int, rank: int, num_workers: int) -> tuple[Step, Clips, Clips]:
        """What one worker sees in a step.

        Returns:
            the step; indices of its clips, int64 [ceil(batch_size / num_workers)], PADDING where there is none; and
            their view numbers, as many (TEST_VIEW outside training).
        """
        step = self.step(index)
        share = self.share(num_workers)
        place = np.arange(step.number * self.batch_size, (step.number + 1) * self.batch_size)
        place = place[rank * share : (rank + 1) * share]
        clips = np.full(share, PADDING, dtype=np.int64)
        views = np.full(share, TEST_VIEW, dtype=np.int64)
        if step.phase == "train":
            order = _epoch_order(self, step.epoch)
            number = step.epoch * self.repeats + place % self.repeats
            views[: len(place)] = number % self.distinct_views if self.distinct_views else number
            place = place // self.repeats
        else:
            order = self.weigh if step.phase == "weigh" else self.val
        place = place[place < len(order)]
        clips[: len(place)] = order[place]
        return step, clips, views


@lru_cache(maxsize=4)
def _epoch_order(plan: Plan, epoch: int) -> Clips:
    return np.random.default_rng([plan.seed, epoch]).permutation(plan.train)


def hold_out(clip_ids: list[str], share: float, seed: int) -> tuple[Clips, Clips]:
    """Divide the train split into what teachers learn on and what they are weighed on.

    By a hash of the clip's id, so that a clip's part does not change when others are added.

    Returns:
        teach, weigh: indices into `clip_ids`; weigh has about `share` of them.
    """
    held = np.array([_unit_interval(f"{seed}/{clip_id}") < share for clip_id in clip_ids], dtype=bool)
    return np.flatnonzero(~held), np.flatnonzero(held)


def chosen_share(clip_ids: list[str], share: float) -> NDArray[np.bool_]:
    """Which clips a share (0..1) of the train split holds, [clips], by a hash of their ids; a larger share holds a
    smaller one, and what is held out of them is spread evenly."""
    return np.array([_unit_interval(f"share/{clip_id}") < share for clip_id in clip_ids], dtype=bool)


def _unit_interval(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
