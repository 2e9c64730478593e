"""The pictures of a sweep's page: small SVG panels of its trials, each returned as a data: URI.

In all of them a darker colour is a higher accuracy, a marker tells how a trial ended, and the best trial has a colour
of its own.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmkd.report.figures import COLOURS, INK, epoch_axes, picture, ring, small_text
from mmkd.report.sweep_axes import accuracy_scale, set_ticks, setting_scale
from mmkd.report.sweep_trials import TrialRow, Trials, known, standing, status_text, statuses
from mmkd.report.table import shortened

MARKERS = {"finished": "o", "stopped": "v", "failed": "X"}
MARKER_OF_OTHERS = "s"
BEST = COLOURS["best"]
GREY, FRONT = "#9aa3ab", "#0b5d4f"
# Viridis from its light end, since the ground is white; its lightest yellow would not be seen there.
SHADES = ListedColormap(matplotlib.colormaps["viridis_r"](np.linspace(0.06, 1, 256)))


@picture(5.6, 3.8)
def accuracy_map(
    figure: Figure, trials: Trials, best: str, pair: Sequence[str], log: Collection[str], measure: str
) -> None:
    """Trials over two settings, coloured by accuracy; only trials, nothing between them is guessed."""
    trials, axes = sorted(trials, key=standing), figure.subplots()
    colour = _colouring(trials)
    across, up = (setting_scale(trials, setting, log) for setting in pair)
    _dots(axes, trials, best, across.places, up.places, [_shade(colour, trial) for trial in trials], 60)
    set_ticks(axes, across, up, 60)
    axes.set(xlabel=_said(pair[0], log), ylabel=_said(pair[1], log))
    _colour_bar(figure, axes, colour, trials, measure)
    _key(figure, trials)


@picture(3.6, 2.9)
def setting_panel(figure: Figure, trials: Trials, best: str, setting: str, log: Collection[str], measure: str) -> None:
    """Accuracy of the trials against one setting; those without an accuracy stand below the others."""
    trials, axes = sorted(trials, key=standing), figure.subplots()
    across, up = setting_scale(trials, setting, log), accuracy_scale(trials)
    colour = ["#4d7ea8" if trial.status == "finished" else GREY for trial in trials]
    _dots(axes, trials, best, across.places, up.places, colour, 32)
    set_ticks(axes, across, up, 36)
    axes.set(xlabel=_said(setting, log), ylabel=f"{measure} (%)")


@picture(9.0, 4.0)
def parallel_lines(
    figure: Figure, trials: Trials, best: str, settings: Sequence[str], log: Collection[str], measure: str
) -> None:
    """One vertical axis a setting and the accuracy at the right, one line a trial; wider for many settings."""
    figure.set_figwidth(max(9.0, 1.3 * (len(settings) + 2)))
    trials, axes = sorted(trials, key=standing), figure.subplots()
    colour = _colouring(trials)
    scales = [*(setting_scale(trials, setting, log) for setting in settings), accuracy_scale(trials)]
    for i, trial in enumerate(trials):
        how: dict[str, Any] = {"color": _shade(colour, trial), "linestyle": "-" if standing(trial) >= 0 else ":"}
        how["linewidth"] = (1.6 if trial.status == "finished" else 0.8) * (1 if len(trials) <= 40 else 0.5)
        how |= {"color": BEST, "linewidth": 4, "zorder": 3} if trial.name == best else {}
        axes.plot([scale.places[i] for scale in scales], alpha=0.9, **how)
    for at, (name, scale) in enumerate(zip([*settings, measure], scales, strict=True)):
        axes.plot([at, at], [0, 1], color=INK, linewidth=1, zorder=4)
        for place, text in scale.ticks:
            axes.plot(at, place, "_", color=INK, markersize=5, zorder=4)
            small_text(axes, shortened(text, 14), (at, place), (5, 0), va="center", zorder=5)
        parts = [*name.replace(".", ".\n").split("\n"), *["(logarithmic)"] * (name in log)]
        title = "\n".join(shortened(part, 18) for part in parts)
        axes.annotate(title, (at, 1.06), ha="center", va="bottom", annotation_clip=False)
    axes.set(xlim=(-0.15, len(settings) + 0.5), ylim=(min(scale.limits[0] for scale in scales), 1.06))
    axes.axis("off")
    _colour_bar(figure, axes, colour, trials, measure)


@picture(5.6, 3.8)
def pareto_picture(figure: Figure, trials: Trials, best: str, front: Sequence[str], measure: str) -> None:
    """Accuracy against calibration error; the step line is the best accuracy to be had at that error or less.
    Trials less accurate than all that finished and all on the front are left out."""
    rows = [trial for trial in sorted(trials, key=standing) if standing(trial) >= 0 and math.isfinite(known(trial.ece))]
    least = min(standing(trial) for trial in rows if trial.name in front or trial.status == "finished")
    rows = [trial for trial in rows if standing(trial) >= least]
    ece, accuracy = [100 * known(trial.ece) for trial in rows], [100 * standing(trial) for trial in rows]
    axes = figure.subplots()
    axes.margins(0.1)
    _dots(axes, rows, best, ece, accuracy, [FRONT if trial.name in front else GREY for trial in rows], 44)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    on_front = sorted((i for i in range(len(rows)) if rows[i].name in front), key=lambda i: (ece[i], accuracy[i]))
    first, last = on_front[0], on_front[-1]
    steps = [(ece[first], low), *((ece[i], accuracy[i]) for i in on_front), (right, accuracy[last])]
    axes.plot(*zip(*steps, strict=True), color=FRONT, drawstyle="steps-post", linewidth=1.2, zorder=1)
    taken: list[tuple[float, float, float]] = []
    for i in sorted(on_front, key=lambda i: rows[i].name != best):
        text = shortened(rows[i].name, 14)
        place = (320 * (ece[i] - left) / (right - left), 200 * (accuracy[i] - low) / (high - low))
        for offset in ((-8, 6), (8, -14), (-8, -14), (8, 6)):
            wide = 6 * len(text)
            box = (place[0] + offset[0] - wide * (offset[0] < 0), place[1] + offset[1], wide)
            if 0 < box[0] < 320 - wide and all(_apart(box, other) for other in taken):
                small_text(axes, text, (ece[i], accuracy[i]), offset, ha="left" if offset[0] > 0 else "right")
                taken.append(box)
                break
    axes.set(xlim=(left, right), ylim=(low, high), xlabel="ECE (points)", ylabel=f"{measure} (%)")
    _key(figure, rows)


@picture(4.4, 3.0)
def learning_curves(figure: Figure, trials: Trials, best: str, measure: str) -> None:
    """Accuracy of all trials after each epoch; a marker at the end tells why there is no more."""
    axes = figure.subplots()
    faint = 0.7 if len(trials) <= 40 else 0.3
    for trial in sorted(trials, key=standing):
        if trial.curve:
            epochs, values = [epoch for epoch, _ in trial.curve], [100 * share for _, share in trial.curve]
            chosen = trial.name == best
            colour, width = (BEST, 2.4) if chosen else (GREY, 0.9)
            axes.plot(epochs, values, color=colour, linewidth=width, alpha=1 if chosen else faint, zorder=2 + chosen)
            axes.plot(epochs[-1], values[-1], _marker(trial.status), color=colour, markersize=4, zorder=2 + chosen)
            if chosen:
                top = int(np.nanargmax(values))
                ring(axes, epochs[top], values[top], colour)
    epoch_axes(axes)
    axes.set_ylabel(f"validation {measure} (%)")
    _key(figure, trials)


def _marker(status: str) -> str:
    return MARKERS.get(status, MARKER_OF_OTHERS)


def _dots(
    axes: Axes, trials: Trials, best: str, x: Sequence[float], y: Sequence[float], colour: Sequence[Any], size: float
) -> None:
    """A marker a trial, with a ring around the best."""
    for status in statuses(trials):
        rows = [i for i, trial in enumerate(trials) if trial.status == status]
        own = size if status == "finished" else 0.6 * size
        how: dict[str, Any] = {"marker": _marker(status), "edgecolors": INK, "linewidths": 0.5, "zorder": 3}
        axes.scatter([x[i] for i in rows], [y[i] for i in rows], own, [colour[i] for i in rows], **how)
    for i, trial in enumerate(trials):
        if trial.name == best:
            axes.scatter([x[i]], [y[i]], s=4 * size, facecolors="none", edgecolors=BEST, linewidths=2.4, zorder=4)


def _key(figure: Figure, trials: Trials) -> None:
    """What markers and ring mean, above the picture."""
    look: dict[str, Any] = {"linestyle": "none", "color": GREY, "markeredgecolor": INK, "markeredgewidth": 0.5}
    lines = [Line2D([], [], marker=_marker(each), label=status_text(each), **look) for each in statuses(trials)]
    around: dict[str, Any] = {"linestyle": "none", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 2}
    lines.append(Line2D([], [], marker="o", markeredgecolor=BEST, label="best", **around))
    figure.legend(handles=lines, loc="outside upper center", ncols=4, handletextpad=0.3, columnspacing=1.2)


def _colouring(trials: Trials) -> ScalarMappable:
    """Colours up to the best accuracy, in %, from what a quarter of the finished trials fall short of.

    Trials that were stopped early are less accurate for that alone; a range that holds them all leaves few colours to
    the others.
    """
    reported = [trial for trial in trials if standing(trial) >= 0]
    chosen = [trial for trial in reported if trial.status == "finished"]
    values = [100 * standing(trial) for trial in (chosen if len(chosen) > 1 else reported)]
    low, high = float(np.percentile(values, 25, method="lower")), max(100 * standing(trial) for trial in reported)
    apart = 0.5 * (high == low)
    return ScalarMappable(Normalize(low - apart, high + apart), SHADES)


def _shade(colour: ScalarMappable, trial: TrialRow) -> Any:
    return colour.to_rgba(np.array(100 * standing(trial))) if standing(trial) >= 0 else GREY


def _colour_bar(figure: Figure, axes: Axes, colour: ScalarMappable, trials: Trials, measure: str) -> None:
    beyond = any(0 <= 100 * standing(trial) < colour.get_clim()[0] for trial in trials)
    bar = figure.colorbar(colour, ax=axes, extend="min" if beyond else "neither", pad=0.02, fraction=0.05)
    bar.set_label(f"{measure} (%)")
    bar.ax.grid(False)


def _said(setting: str, log: Collection[str]) -> str:
    return shortened(setting, 40) + (" (logarithmic)" if setting in log else "")


def _apart(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    """Whether two texts at (left, bottom, width) do not touch, in points."""
    return abs(a[1] - b[1]) > 11 or a[0] + a[2] < b[0] or b[0] + b[2] < a[0]
