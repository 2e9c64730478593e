"""The axes of a sweep's pictures: where trials stand on them, and their ticks."""

import math
import numbers
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mmkd.report.sweep_trials import Trials, standing, value_text
from mmkd.report.table import shortened

ABSENT = object()
ASIDE = -0.2
"""Where trials without a value stand on an axis that goes from 0 to 1."""


@dataclass
class Scale:
    """An axis from 0 to 1: where each trial stands (without a value: at ASIDE), and (place, text) of the ticks."""

    places: list[float]
    ticks: list[tuple[float, str]]

    @property
    def limits(self) -> tuple[float, float]:
        return (ASIDE - 0.08 if ASIDE in self.places else -0.08), 1.08


def is_numeric(trials: Trials, setting: str) -> bool:
    """Whether all values of a setting are finite numbers."""
    return _are_numbers([trial.values[setting] for trial in trials if setting in trial.values])


def setting_scale(trials: Trials, setting: str, log: Collection[str]) -> Scale:
    """Trials by the value of a setting; `log`: the settings on a logarithmic scale."""
    return _scale([trial.values.get(setting, ABSENT) for trial in trials], setting in log, "not used")


def accuracy_scale(trials: Trials) -> Scale:
    """Trials by accuracy, in %."""
    return _scale([100 * standing(t) if standing(t) >= 0 else ABSENT for t in trials], False, "none")


def set_ticks(axes: Axes, across: Scale, up: Scale, room: int) -> None:
    """Ticks of both axes; those below are slanted where they would need more than `room` letters."""
    texts = [shortened(text, 18) for _, text in across.ticks]
    axes.set_xticks([place for place, _ in across.ticks], texts)
    if len(texts) * max(map(len, texts)) > room:
        axes.tick_params("x", rotation=30)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks([place for place, _ in up.ticks], [shortened(text, 18) for _, text in up.ticks])
    axes.set(xlim=across.limits, ylim=up.limits)


def _are_numbers(values: Sequence[Any]) -> bool:
    return bool(values) and all(
        isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )


def _scale(values: Sequence[Any], log: bool, absent: str) -> Scale:
    """Numbers stand by size, anything else in equal shares of the axis, those in one share side by side."""
    there = [value for value in values if value is not ABSENT]
    if _are_numbers(there):
        bend: Callable[[float], float] = math.log10 if log and min(there) > 0 else float
        low, high = bend(min(there)), bend(max(there))

        def place(value: float) -> float:
            return (bend(value) - low) / (high - low) if high > low else 0.5

        ticks = [(place(tick), _tick_text(tick)) for tick in _round_numbers(min(there), max(there), bend is math.log10)]
        places = [ASIDE if value is ABSENT else place(value) for value in values]
    else:
        texts = [None if value is ABSENT else value_text(value) for value in values]
        names = sorted({text for text in texts if text is not None})
        places = [ASIDE] * len(values)
        for at, name in enumerate(names):
            own = [i for i, text in enumerate(texts) if text == name]
            for turn, i in enumerate(own):
                places[i] = (at + 0.5 + 0.5 * ((turn + 0.5) / len(own) - 0.5)) / len(names)
        shown = range(0, len(names), math.ceil(len(names) / 12) or 1)
        ticks = [((at + 0.5) / len(names), names[at]) for at in shown]
    return Scale(places, [(ASIDE, absent), *ticks] if ASIDE in places else ticks)


def _round_numbers(low: float, high: float, log: bool) -> list[float]:
    """Three to eight round numbers between two, or what there is."""
    if low == high:
        return [low]
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for parts in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
            found = [float(f"{part}e{power}") for power in decades for part in parts]
            found = [each for each in found if low <= each <= high]
            if len(found) >= 3:
                return found[:: math.ceil(len(found) / 8)]
    found = [each for each in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= each <= high]
    return found if len(found) > 1 else [low, high]


def _tick_text(value: float) -> str:
    """In full where that is short, else to three digits."""
    text = f"{value:.10g}"
    return text if len(text) <= 6 else f"{value:.3g}"
