"""Settings of a sweep: what is searched how, and what decides."""

from typing import Annotated, Literal

from pydantic import Field

from mmkd.config.base import Positive, Section


class Sweep(Section):
    """A search over settings, every trial of which is a run; docs/sweeps.md."""

    space: str = ""
    """YAML file of the search space; also as --space FILE; empty: tuning/space.yaml, temperature and loss weights."""
    trials: Positive = 16
    """Trials; search grid tries every combination whatever this says."""
    search: Literal["optuna", "random", "grid"] = "optuna"
    """optuna: its TPE sampler, which learns from the trials before; random; grid: all combinations of a space that has
    only choices."""
    scheduler: Literal["asha", "median", "none"] = "asha"
    """Which trials are stopped early: asha, all but the best share at 2, 6, 18, ... epochs; median: those below the
    median of the others so far."""
    grace_epochs: Positive = 2
    """Epochs that every trial is given."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """asha: one of this many trials goes on at each rung."""
    objective: Literal["accuracy", "accuracy_and_ece"] = "accuracy"
    """What is searched for, on split val: accuracy (of the action, where there is more than one head), or the Pareto
    front of it and the calibration error, from which best.yaml takes the most accurate trial."""
    concurrent: Annotated[int, Field(ge=0)] = 0
    """Trials at a time; 0: as many as fit."""
    trial: Literal["auto", "process", "train"] = "auto"
    """process: a trial reads, and trains, in one process with resources.threads threads, which is best for small
    networks on few cores; train: each is a Ray Train run with workers and readers; auto: process where a trial has one
    worker and no GPU."""
    seed: int = 0
    """Of the search."""
