"""The trials of a sweep, as its page shows them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SAID = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}


@dataclass
class TrialRow:
    """One trial.

    Attributes:
        values: searched setting (dotted name) to its value; one whose condition did not hold is absent.
        status: "finished", "stopped" (early, by the scheduler), "failed", or another word, shown as it is.
        epochs: epochs done.
        accuracy: share (0..1) on val in the best epoch; None if none was reported.
        ece: share (0..1), of that epoch.
        nll: nats, of that epoch.
        curve: (epoch, accuracy).
    """

    name: str
    values: dict[str, Any]
    status: str
    epochs: int
    accuracy: float | None
    ece: float | None
    nll: float | None
    curve: list[tuple[int, float]]
    seconds: float
    run_folder: str
    error: str = ""


Trials = Sequence[TrialRow]


def status_text(status: str) -> str:
    """How a trial ended, in words for the page."""
    return SAID.get(status, status)


def statuses(trials: Trials) -> list[str]:
    """How the trials ended: those of SAID in its order, then others as they come."""
    there = dict.fromkeys(trial.status for trial in trials)
    return [*(status for status in SAID if status in there), *(status for status in there if status not in SAID)]


def known(value: float | None) -> float:
    """The value, NaN where there is none."""
    return float("nan") if value is None else value


def value_text(value: Any) -> str:
    """A setting's value as it would stand in YAML, floats to three digits."""
    if value is None or isinstance(value, bool | np.bool_):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def standing(trial: TrialRow) -> float:
    """Its accuracy; -1 where it has none."""
    return known(trial.accuracy) if math.isfinite(known(trial.accuracy)) else -1


def pareto_front(trials: Trials) -> list[str]:
    """Names of the trials that no other is better than in accuracy or ECE without being worse in the other, the most
    accurate first. Trials without an accuracy or an ECE are never among them."""
    shown = [(known(trial.accuracy), known(trial.ece), trial.name) for trial in trials]
    shown = [each for each in shown if math.isfinite(each[0]) and math.isfinite(each[1])]
    front = [
        (accuracy, ece, name)
        for accuracy, ece, name in shown
        if not any(a >= accuracy and e <= ece and (a, e) != (accuracy, ece) for a, e, _ in shown)
    ]
    return [name for _, _, name in sorted(front, key=lambda each: (-each[0], each[1]))]
