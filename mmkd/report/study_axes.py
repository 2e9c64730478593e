"""What the pictures of a study share: which models they show, the look of its arms, axes, and labels with room."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mmkd.cost.record import Cost
from mmkd.metrics import binned_calibration_error
from mmkd.report.figures import COLOURS, INK, TEACHER_COLOUR, small_text
from mmkd.report.predictions import Predictions, outcomes
from mmkd.report.table import main_head, percent, shortened
from mmkd.study.results import Arm, Contrast, StudyResults, Summary, Tested
from mmkd.study.summaries import temperatures

GROUPS = {
    "primary": "named before the study was run",
    "controls": "other ways to learn from labels",
    "teachers": "fewer teachers",
    "weighting": "weights of the teachers",
    "loss": "the loss",
    "data": "fewer clips or labels",
    "ensemble": "ensembles of teachers",
    "teacher": "single teachers",
}
"""Groups of arms in words; the last two are no students."""

# Colour and marker: neither alone has to tell groups apart.
LOOKS = {
    "primary": (COLOURS["student"], "o"),
    "controls": ("#CC79A7", "s"),
    "teachers": ("#56B4E9", "v"),
    "weighting": ("#E69F00", "D"),
    "loss": ("#000000", "P"),
    "data": ("#8A5A2B", "X"),
    "ensemble": (COLOURS["ensemble"], "^"),
    "teacher": (TEACHER_COLOUR, "<"),
}
OTHER_LOOK = ("#5B5BD6", "h")
EDGE: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.6}


def is_student(arm: Arm) -> bool:
    return arm.group not in ("ensemble", "teacher")


def look(arm: Arm) -> tuple[str, str]:
    """Colour and marker of an arm; a primary one that others are compared with has the baseline's colour."""
    colour, marker = LOOKS.get(arm.group, OTHER_LOOK)
    return (COLOURS["baseline"] if arm.group == "primary" and not arm.reference else colour), marker


def head_of(summaries: Sequence[Summary]) -> str:
    """The head that arms are compared in."""
    return main_head({head: None for summary in summaries for head in summary.heads})


def models_of(results: StudyResults, arm: str, head: str) -> tuple[list[float], list[float]]:
    """Accuracies in % and calibration errors in points of an arm's models, in the grid that models are compared in."""
    accuracy, ece = [], []
    for tested in results.of(arm):
        judged = outcomes(compared_answers(tested)).get(head)
        if judged is not None and judged.known.any():
            correct = judged.correct[judged.known]
            accuracy.append(100 * float(correct.mean()))
            ece.append(100 * binned_calibration_error(judged.confidence[judged.known], correct))
    return accuracy, ece


def compared_answers(tested: Tested) -> Predictions:
    return next(iter(tested.grids.values()))


def cost_of(costs: Sequence[Cost], arm: Arm) -> Cost | None:
    """What an arm's network costs: every student's is the same, and so is every ensemble's."""
    wanted = "student" if is_student(arm) else "ensemble" if arm.group == "ensemble" else arm.name.replace("-", " ")
    return next((cost for cost in costs if cost.name.replace("-", " ") == wanted), None)


def extra_inputs(cost: Cost, costs: Sequence[Cost]) -> list[str]:
    """What is made for a network besides what is made for the student: "optical flow 37 ms"."""
    usual: Mapping[str, float] = next((each.parts for each in costs if each.name == "student"), {})
    return [f"{name} {ms:.{0 if ms >= 10 else 1}f} ms" for name, ms in cost.parts.items() if name not in usual]


def contrast_of(contrasts: Sequence[Contrast], arm: Arm) -> Contrast | None:
    """An arm less its reference on split test."""
    asked = (arm.name, arm.reference, "test")
    return next((each for each in contrasts if (each.first, each.second, each.where) == asked), None)


def compared(results: StudyResults, contrasts: Sequence[Contrast], head: str) -> list[tuple[Arm, Contrast]]:
    """The arms that were compared with their reference in that head."""
    found = [(arm, contrast_of(contrasts, arm)) for arm in results.arms]
    return [(arm, contrast) for arm, contrast in found if contrast is not None and head in contrast.outcomes]


def reliability_of(results: StudyResults, summaries: Sequence[Summary]) -> list[tuple[str, list[Predictions], str]]:
    """(title, models, colour) of labels, of the same with temperature scaling, of distilled and of the ensemble."""
    head, of = head_of(summaries), {summary.arm.name: summary for summary in summaries}
    panels = []
    for name, prefix in (("labels", ""), ("labels", "scaled_"), ("distilled", ""), ("ensemble", "")):
        own = of[name].heads.get(head, {}) if name in of else {}
        if math.isfinite(own.get(f"{prefix}ece", math.nan)):
            error, floor = percent(own[f"{prefix}ece"]), percent(own.get(f"{prefix}ece_floor", math.nan))
            models = [_scaled(each) if prefix else compared_answers(each) for each in results.of(name)]
            title = f"{name}{', scaled' * bool(prefix)}\nECE {error}, floor {floor}"
            panels.append((title, models, look(of[name].arm)[0]))
    return panels


def shares_of(summaries: Sequence[Summary]) -> dict[str, dict[float, Summary]]:
    """Of arms named like "labels-10": "labels", "distilled", "unlabelled" to {share of the clips in %: arm}.

    Of all clips none is left to go without a label, so that "unlabelled" ends where "distilled" does.
    """
    of, found = {summary.arm.name: summary for summary in summaries}, dict[str, dict[float, Summary]]()
    for summary in summaries:
        match = re.fullmatch(r"(.+)-(\d+(?:\.\d+)?)", summary.arm.name)
        if match and summary.arm.group == "data":
            found.setdefault(match[1], {})[float(match[2])] = summary
    for base, rows in found.items():
        whole = of.get("distilled" if base == "unlabelled" else base)
        rows |= {100.0: whole} if whole else {}
    return found


def spread_point(
    axes: Axes,
    x: float,
    y: float,
    look: tuple[str, str],
    size: float,
    *,
    across: Sequence[float] = (),
    up: Sequence[float] = (),
    faint: bool = False,
) -> None:
    """A marker, with bars from the lowest to the highest of an arm's models where there are several."""
    colour, marker = look
    how: dict[str, Any] = {"color": colour, "linewidth": 1.1, "alpha": 0.45 if faint else 0.9, "zorder": 2}
    if len(across) > 1:
        axes.hlines(y, min(across), max(across), **how)
    if len(up) > 1:
        axes.vlines(x, min(up), max(up), **how)
    axes.plot(x, y, marker=marker, color=colour, markersize=size, zorder=3 if faint else 4, **EDGE)


def log_axis(axes: Axes, label: str) -> None:
    """A logarithmic axis below, with plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{label}, logarithmic")


def label_points(figure: Figure, axes: Axes, points: Sequence[tuple[float, float, str]], far: int) -> None:
    """Text beside points, the first ones first; none where there is no room. The first `far` may also have theirs
    further away, with a line to it."""
    figure.draw_without_rendering()  # before that, axes have neither their size nor their limits
    dots = figure.dpi / 72
    inside = axes.get_window_extent()
    spots = [axes.transData.transform((x, y)) / dots for x, y, _ in points]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    near = [(side * 7, up) for up in (0, 9, -9) for side in (1, -1)]
    away = [(side * out, up) for up in (18, -18, 27, -27, 36, -36) for out in (12, 30) for side in (1, -1)]
    for place, ((x, y), (at_x, at_y, text)) in enumerate(zip(spots, points, strict=True)):
        lines = [shortened(line, 28) for line in text.split("\n")]
        wide, high = 5 * max(map(len, lines)) + 2, 10.5 * len(lines)
        for dx, dy in near + away * (place < far):
            left = x + dx - wide * (dx < 0)
            box = (left, y + dy - high / 2, left + wide, y + dy + high / 2)
            fits = inside.x0 < box[0] * dots and box[2] * dots < inside.x1
            fits = fits and inside.y0 < box[1] * dots and box[3] * dots < inside.y1
            if fits and not any(_meet(box, other) for other in taken):
                how: dict[str, Any] = {"ha": "left" if dx > 0 else "right", "va": "center", "zorder": 5}
                if (dx, dy) in away:
                    how["arrowprops"] = {"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
                small_text(axes, "\n".join(lines), (at_x, at_y), (dx, dy), **how)
                taken.append(box)
                break


def key(figure: Figure, entries: Sequence[tuple[str, str, str]], columns: int, title: str | None = None) -> None:
    """What (colour, marker, text) mean, above the picture."""
    lines = [Line2D([], [], color=colour, marker=marker, label=text, **EDGE) for colour, marker, text in entries]
    figure.legend(
        handles=lines, loc="outside upper center", ncols=columns, title=title, handletextpad=0.2, columnspacing=1.2
    )


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _scaled(tested: Tested) -> Predictions:
    """A model's answers, each head's logits divided by the temperature that was fitted on split val."""
    answers, fitted = compared_answers(tested), temperatures(tested)
    return replace(answers, logits={head: z / fitted.get(head, 1.0) for head, z in answers.logits.items()})


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
