"""The pictures of a study's report; each is a `Picture`, to be had as data: URI for the page and as PNG file.

Where a point has a bar, it goes from the lowest to the highest of the arm's models (seeds, or sets of teachers).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmkd.report.figures import COLOURS, INK, MARKERS, draw_reliability, picture, ring, small_text
from mmkd.report.predictions import Predictions, outcomes
from mmkd.report.study_axes import (
    GROUPS,
    OTHER_LOOK,
    compared,
    cost_of,
    extra_inputs,
    head_of,
    is_student,
    key,
    label_points,
    log_axis,
    look,
    mean,
    models_of,
    shares_of,
    spread_point,
)
from mmkd.report.table import minus, shortened
from mmkd.study.results import Contrast, StudyResults, Summary

WEIGHTINGS = {
    "students": {
        "uniformly": ("uniform", "bad-uniform"),
        "by held-out clips": ("distilled", "bad-held-out"),
        "by each clip's label": ("per-sample", "bad-per-sample"),
    },
    "ensembles": {
        "uniformly": ("ensemble-uniform", "bad-ensemble-uniform"),
        "by held-out clips": ("ensemble", "bad-ensemble-held-out"),
    },
}
"""How teachers are weighted, to the arms with good teachers and with a corrupted one."""


@picture(8.4, 5.6)
def accuracy_ece(figure: Figure, results: StudyResults, summaries: Sequence[Summary]) -> None:
    """Accuracy against calibration error, a point an arm; grey: errors that a calibrated model would show too."""
    axes, head, points, named = figure.subplots(), head_of(summaries), [], 0
    shown = [summary for summary in summaries if head in summary.heads]
    floor = 100 * mean([each.heads[head]["ece_floor"] for each in shown if is_student(each.arm)])
    for summary in sorted(shown, key=lambda each: (each.arm.exploratory, each.arm.name != "ensemble")):
        arm, own = summary.arm, summary.heads[head]
        accuracy, ece = models_of(results, arm.name, head)
        x, y, size = 100 * own["ece"], 100 * own["accuracy"], 6 if arm.exploratory else 10
        spread_point(axes, x, y, look(arm), size, across=ece, up=accuracy, faint=arm.exploratory)
        points.append((x, y, arm.name))
        named += not arm.exploratory
    axes.set_xlim(left=0)
    axes.margins(y=0.08)
    if math.isfinite(floor):
        axes.axvspan(0, floor, color="#eeeeee", zorder=0)
        small_text(axes, "floor", (floor, 0), (-3, 4), xycoords=("data", "axes fraction"), ha="right", va="bottom")
    axes.set(xlabel="ECE (points)", ylabel=f"{head} accuracy (%)")
    entries = {arm.name if arm.group == "primary" else arm.group: look(arm) for arm in (each.arm for each in shown)}
    key(figure, [(*style, GROUPS.get(name, name)) for name, style in entries.items()], 4)
    label_points(figure, axes, points, named)


@picture(9.6, 3.7)
def reliability_panels(figure: Figure, panels: Sequence[tuple[str, Sequence[Predictions], str]], head: str) -> None:
    """Reliability diagrams side by side; panels are (title, models, colour), the models of one taken together."""
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False)
    for (upper, lower), (title, models, colour) in zip(axes.T, panels, strict=True):
        judged = [outcomes(each)[head] for each in models]
        confidence = np.concatenate([each.confidence[each.known] for each in judged])
        correct = np.concatenate([each.correct[each.known] for each in judged])
        draw_reliability(upper, lower, confidence, correct, colour)
        upper.set_title(title)
        lower.set_xlabel("confidence (%)")
    axes[0, 0].set_ylabel(f"{head} accuracy (%)")
    axes[1, 0].set_ylabel("clips (%)")


@picture(4.8, 3.9)
def accuracy_gflops(figure: Figure, results: StudyResults, summaries: Sequence[Summary]) -> None:
    """Accuracy against the computation for one view: the students, the ensemble, the teachers."""
    axes, head, points = figure.subplots(), head_of(summaries), []
    for summary in summaries:
        arm, cost = summary.arm, cost_of(results.costs, summary.arm)
        if cost is None or head not in summary.heads or (arm.group == "ensemble" and arm.name != "ensemble"):
            continue
        x, y = cost.gflops, 100 * summary.heads[head]["accuracy"]
        if is_student(arm) and arm.exploratory:
            axes.plot(x, y, "_", color="#9aa3ab", markersize=14, markeredgewidth=1.4, zorder=1)
            continue
        spread_point(axes, x, y, look(arm), 9, up=models_of(results, arm.name, head)[0], faint=not is_student(arm))
        extra = [f"+ {said}" for said in extra_inputs(cost, results.costs)]
        points.append((x, y, "\n".join([arm.name, *extra])))
    log_axis(axes, "GFLOPs for one view")
    axes.margins(x=0.3, y=0.12)
    axes.set_ylabel(f"{head} accuracy (%)")
    label_points(figure, axes, points, len(points))


@picture(4.8, 3.9)
def accuracy_views(figure: Figure, results: StudyResults, summaries: Sequence[Summary]) -> None:
    """Accuracy against what the test views cost, a line an arm through the means of grids with as many views."""
    axes, head, ends = figure.subplots(), head_of(summaries), []
    grids = sorted({grid for summary in summaries for grid in summary.views}, key=lambda grid: (_views(grid), grid))
    markers = dict(zip(grids, MARKERS * len(grids), strict=False))
    costs = {summary.arm.name: cost_of(results.costs, summary.arm) for summary in summaries}
    for summary in summaries:
        cost, colour = costs[summary.arm.name], look(summary.arm)[0]
        unit = cost.gflops if cost is not None and None not in costs.values() else 1.0
        at: dict[float, list[float]] = {}
        for grid, share in summary.views.items():
            at.setdefault(unit * _views(grid), []).append(100 * share)
            axes.plot(unit * _views(grid), 100 * share, markers[grid], color=colour, markersize=7, zorder=3)
        line = [(x, mean(values)) for x, values in sorted(at.items())]
        axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.8)
        ends.append((*line[-1], summary.arm.name))
    counted = None not in costs.values()
    log_axis(axes, "GFLOPs for one clip (views × GFLOPs for one view)" if counted else "views of one clip")
    axes.margins(x=0.28, y=0.12)
    axes.set_ylabel(f"{head} accuracy (%)")
    entries = [("#767676", marker, grid.replace("x", "×")) for grid, marker in markers.items()]
    key(figure, entries, 6, "test views in time × in space")
    label_points(figure, axes, ends, 0)


def has_weighting(summaries: Sequence[Summary]) -> bool:
    """Whether there is a student or an ensemble of which one teacher was corrupted."""
    names = {summary.arm.name for summary in summaries}
    return any(bad in names for rows in WEIGHTINGS.values() for _, bad in rows.values())


@picture(8.4, 2.8)
def weighting(figure: Figure, results: StudyResults, summaries: Sequence[Summary]) -> None:
    """Accuracy with good teachers and with one corrupted, for each way to weight them."""
    head, of = head_of(summaries), {summary.arm.name: summary for summary in summaries}
    panels = {
        title: {said: pair for said, pair in rows.items() if any(name in of for name in pair)}
        for title, rows in WEIGHTINGS.items()
        if any(bad in of for _, bad in rows.values())
    }
    looks = ((COLOURS["student"], "o"), (COLOURS["baseline"], "X"))
    all_axes = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for axes, (title, rows) in zip(all_axes, panels.items(), strict=True):
        for place, pair in enumerate(rows.values()):
            values = [100 * of[name].heads[head]["accuracy"] if name in of else math.nan for name in pair]
            for name, value, own in zip(pair, values, looks, strict=True):
                spread_point(axes, value, place, own, 9, across=models_of(results, name, head)[0])
            axes.plot(values, [place, place], color="#cccccc", linewidth=5, zorder=1, solid_capstyle="butt")
            if not math.isnan(sum(values)):
                middle = (sum(values) / 2, place)
                small_text(axes, minus(f"{values[1] - values[0]:+.1f}"), middle, (0, 9), ha="center")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set(ylim=(len(rows) - 0.4, -0.6), title=title, xlabel=f"{head} accuracy (%)")
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)
    all_axes[0].set_ylabel("teachers weighted")
    key(figure, [(*looks[0], "all teachers good"), (*looks[1], "one corrupted")], 2)


@picture(9.6, 4.0)
def differences(figure: Figure, results: StudyResults, contrasts: Sequence[Contrast], head: str) -> None:
    """Each arm less its reference, on split test: accuracy, NLL and ECE with their 95 % intervals, cut off where they
    are so wide that nothing else could be seen."""
    rows = compared(results, contrasts, head)
    figure.set_figheight(1.1 + 0.235 * len(rows))
    measures = (("accuracy", 100, "accuracy (points)"), ("nll", 1, "NLL (nats)"), ("ece", 100, "ECE (points)"))
    all_axes = figure.subplots(1, 3, sharey=True, width_ratios=(1.5, 1, 1))
    for axes, (measure, factor, said) in zip(all_axes, measures, strict=True):
        found = {place: row[1].outcomes[head].get(measure) for place, row in enumerate(rows)}
        given = {place: interval for place, interval in found.items() if interval is not None}
        named = [bound for i, each in given.items() if not rows[i][0].exploratory for bound in (each.low, each.high)]
        reach = np.abs([*named, *(each.difference for each in given.values())])
        limit = 1.4 * factor * float(np.nanmax(reach, initial=0)) or 1.0
        for place, interval in given.items():
            arm, (colour, marker) = rows[place][0], look(rows[place][0])
            low, high = (factor * bound for bound in (interval.low, interval.high))
            wide = 1.6 if arm.exploratory else 3.0
            axes.plot([max(low, -limit), min(high, limit)], [place] * 2, color=colour, linewidth=wide)
            for beyond, edge, arrow in ((low < -limit, -limit, "<"), (high > limit, limit, ">")):
                if beyond:
                    axes.plot(edge, place, arrow, color=colour, markersize=5, clip_on=False)
            axes.plot(factor * interval.difference, place, marker, color=colour, markersize=4 + wide)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(xlim=(-limit, limit), xlabel=f"{said}\nbetter {'→' if measure == 'accuracy' else '←'}")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", visible=False)
        for place in range(1, len(rows)):
            if rows[place][0].group != rows[place - 1][0].group:
                axes.axhline(place - 0.5, color="#d0d0d0", linewidth=0.8)
    names = [f"{shortened(arm.name, 26)} − {shortened(arm.reference, 26)}" for arm, _ in rows]
    all_axes[0].set_yticks(range(len(rows)), names)
    all_axes[0].set_ylim(len(rows) - 0.4, -0.6)
    for label, (arm, _) in zip(all_axes[0].get_yticklabels(), rows, strict=True):
        label.set_fontweight("normal" if arm.exploratory else "bold")


@picture(8.4, 3.2)
def search(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    """Validation accuracy against the epochs of a run, a line a learning rate, an arm a panel; chosen: ringed."""
    arms, rates = list(dict.fromkeys(row["arm"] for row in rows)), sorted({row["lr"] for row in rows})
    shades = ("#9ecae1", "#4292c6", "#08519c", "#041f4a", "#6a51a3", "#3f007d")
    looks = {rate: (shades[i % len(shades)], MARKERS[i % len(MARKERS)]) for i, rate in enumerate(rates)}
    all_axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
    for axes, arm in zip(all_axes, arms, strict=True):
        for rate, (colour, marker) in looks.items():
            own = sorted((row for row in rows if (row["arm"], row["lr"]) == (arm, rate)), key=lambda row: row["epochs"])
            values = [100 * row["accuracy"] for row in own]
            axes.plot([row["epochs"] for row in own], values, color=colour, marker=marker, linewidth=1.6)
            for row in own:
                if row["chosen"]:
                    ring(axes, row["epochs"], 100 * row["accuracy"], COLOURS["best"])
        axes.set(title=shortened(arm, 30), xlabel="epochs")
        axes.set_xticks(sorted({row["epochs"] for row in rows}))
        axes.margins(0.1)
    all_axes[0].set_ylabel("validation accuracy (%)")
    key(figure, [(*own, f"{rate:g}") for rate, own in looks.items()], 6, "learning rate")


@picture(4.8, 3.9)
def data_share(figure: Figure, results: StudyResults, summaries: Sequence[Summary]) -> None:
    """Accuracy against the share of the training clips that are used with their labels."""
    axes, head, lines = figure.subplots(), head_of(summaries), shares_of(summaries)
    looks = {"labels": (COLOURS["baseline"], "o"), "distilled": (COLOURS["student"], "s")}
    looks["unlabelled"] = (COLOURS["ensemble"], "^")
    for place, (base, rows) in enumerate(lines.items()):
        own = looks.get(base, OTHER_LOOK)
        shares = sorted(rows)
        values = [100 * rows[share].heads[head]["accuracy"] for share in shares]
        nudged = [share * 1.02 ** (place - 1) for share in shares]  # bars that coincide would be one
        said = "distilled, the other clips without labels" if base == "unlabelled" else shortened(base, 30)
        axes.plot(nudged, values, "--" if base == "unlabelled" else "-", color=own[0], linewidth=1.8)
        axes.plot([], [], marker=own[1], color=own[0], label=said)
        for share, x, y in zip(shares, nudged, values, strict=True):
            spread_point(axes, x, y, own, 8, up=models_of(results, rows[share].arm.name, head)[0])
    axes.set_xscale("log")
    ticks = sorted({share for rows in lines.values() for share in rows})
    axes.set_xticks(ticks, [f"{share:g} %" for share in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="share of the training clips, logarithmic", ylabel=f"{head} accuracy (%)")
    axes.legend(loc="upper left")


def _views(grid: str) -> int:
    return math.prod(int(part) for part in grid.split("x"))
