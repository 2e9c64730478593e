"""An evaluation in words: a text for the terminal, whose columns, cells and notes the page takes too."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from mmkd.cost.record import Cost
from mmkd.cost.table import cost_lines
from mmkd.evaluation.scores import Evaluation, ModelScores
from mmkd.report.table import WIDTH, nats, parameters_text, percent, shortened

Figures = Mapping[str, Any]
"""What :func:`mmkd.scoring.score` says of a head, or of its logits after temperature scaling."""

ACCURACY = {"top-1": "top1", "top-5": "top5", "mean class": "mean_class", "tail": "tail", "unseen": "unseen"}
CALIBRATION = {
    "ECE": "ece", "equal-mass ECE": "ece_mass", "class-wise ECE": "ece_class", "NLL": "nll", "Brier": "brier",
}  # fmt: skip
COMPARED = {title: CALIBRATION[title] for title in ("ECE", "NLL", "Brier")}
"""Titles of columns to keys of the figures."""


def evaluation_text(evaluation: Evaluation) -> str:
    """Scores, views and costs of all models, in lines of at most 120 columns."""
    head = main_head(evaluation)
    if head is None:
        blocks = [_unscored(evaluation)]
    else:
        blocks = [_comparison(evaluation, head)] if len(evaluation.models) > 1 else []
        blocks += [_model(evaluation, model, head) for model in evaluation.models]
    blocks.append([line for note in notes(evaluation) for line in textwrap.wrap(note, WIDTH)])
    if evaluation.costs:
        blocks.append(["Cost of one view of a clip", *cost_lines(evaluation.costs, evaluation.cost_notes)])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def main_head(evaluation: Evaluation) -> str | None:
    """The head that models are compared by: the action, else the first with one label a clip, else the first with
    several; None where no head has a labelled clip."""
    scored = {head: own for model in evaluation.models for head, own in first_grid(model).items() if own["n"]}
    single = [head for head, own in scored.items() if "top1" in own]
    return "action" if "action" in single else next(iter(single or scored), None)


def first_grid(model: ModelScores) -> dict[str, dict[str, Any]]:
    """Head to its figures in the views that were asked for."""
    return next(iter(model.grids.values()))


def columns_of(evaluation: Evaluation, titles: Mapping[str, str]) -> dict[str, str]:
    """Those of the columns for which some head of some model has a figure."""
    every = [own for model in evaluation.models for own in first_grid(model).values()]
    return {title: key for title, key in titles.items() if any(key in own for own in every)}


def cell(own: Figures, key: str) -> str:
    """A figure with its standard error (accuracy) or, in brackets, its floor (calibration error); - where there is
    none. Shares are in %."""
    value = own.get(key)
    if isinstance(value, Mapping):
        return cell(value, "top1")
    if value is None or math.isnan(value):
        return "-"
    if key == "top1":
        return f"{percent(value)} ±{percent(own['top1_se'])}"
    if key == "nll":
        return nats(value)
    if key == "brier":
        return f"{value:.3f}"
    return f"{percent(value)} ({percent(own[f'{key}_floor'])})" if f"{key}_floor" in own else percent(value)


def main_cell(own: Figures) -> str:
    """The accuracy of a head, or the mean average precision of a multi-label one."""
    return cell(own, measure_key(own))


def measure_key(own: Figures) -> str:
    return "mean_average_precision" if "mean_average_precision" in own else "top1"


def measure_name(evaluation: Evaluation, head: str) -> str:
    several = any("mean_average_precision" in first_grid(model).get(head, {}) for model in evaluation.models)
    return "mean average precision" if several else "top-1"


def clips_text(model: ModelScores) -> str:
    """ "1,000 clips", or "980 to 1,000 clips" where heads have labels of different ones."""
    counts = [own["n"] for own in first_grid(model).values()]
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{high:,} clip{'s' * (high != 1)}" if low == high else f"{low:,} to {high:,} clips"


def cost_of(evaluation: Evaluation, model: ModelScores) -> Cost | None:
    """What a model costs; ensembles cost the same under every weighting."""
    named = {cost.name: cost for cost in evaluation.costs}
    return named.get(model.name) or (named.get("ensemble") if model.name.startswith("ensemble ") else None)


def views_in(grid: str) -> int:
    """Views of a grid such as "3x1"."""
    return math.prod(int(part) for part in grid.split("x"))


def gflops_text(gflops: float) -> str:
    return f"{gflops:,.0f}" if gflops >= 100 else f"{gflops:.3g}"


def notes(evaluation: Evaluation) -> list[str]:
    """What the figures are and which clips they are of; a sentence or two each, the most needed first."""
    models = evaluation.models
    every = {head: own for model in reversed(models) for head, own in first_grid(model).items() if own["n"]}
    single = {head: own for head, own in every.items() if "top1" in own}
    said = []
    if single:
        said = [
            "Accuracy in %, ± one standard error over clips; another training run is not in it. ECE: expected "
            "calibration error in points; in brackets its floor, what a perfectly calibrated model scores at this many "
            "clips. NLL: negative log-likelihood in nats. Brier: squared error of the probabilities, 0 to 2. Of all "
            "but accuracy, less is better.",
            "Equal-mass ECE: in bins of equally many clips. Class-wise ECE: of each class's probability, mean over "
            "classes.",
            _mean_class(single, evaluation.heads),
        ]
    if "action" in single:
        said.append("Action: all heads right at once; its probability is the product of theirs.")
    for key, what in (("tail", "of rare classes"), ("unseen", "of people whom training did not see")):
        counts = ", ".join(f"{head} {own[key]['n']:,}" for head, own in single.items() if key in own)
        said += [f"{key.capitalize()}: top-1 of clips {what} ({counts})."] if counts else []
    if any(len(evaluation.heads.get(head, ())) <= 5 for head in single if head != "action"):
        said.append("Top-5 is 100 in a head of five classes or fewer.")
    if any("mean_average_precision" in own for own in every.values()):
        said.append("Mean average precision in %, for heads with several labels a clip, over classes that occur.")
    if any(model.temperatures for model in models) and single:
        said.append(
            "Scaled: after temperature scaling, the logits divided by a temperature T that was fitted on the "
            "validation split; the classes that are chosen stay the same."
        )
    if every and any(model.name == "ensemble per sample" for model in models):
        said.append("The ensemble per sample weighs its models by each clip's label: a bound, not a model to use.")
    if every and len({clips_text(model) for model in models}) > 1:
        said.append("Models answered different clips: differences between them are of the clips too.")
    if number := len(evaluation.broken):
        said.append(f"{number:,} broken clip{'s are' if number > 1 else ' is'} left out.")
    return said


def _mean_class(single: Mapping[str, Figures], heads: Mapping[str, Sequence[str]]) -> str:
    absent = {head: own["classes_without_clips"] for head, own in single.items() if own.get("classes_without_clips")}
    if not absent:
        return "Mean class: mean of the accuracies of the classes."
    counts = ", ".join(f"{head} {number:,} of {len(heads[head]):,}" for head, number in absent.items())
    return f"Mean class: mean of the accuracies of the classes, without those that have no clip here ({counts})."


def _unscored(evaluation: Evaluation) -> list[str]:
    names = [f"{shortened(each.name, 60)}: {parameters_text(each.parameters)} parameters" for each in evaluation.models]
    return [*names, "", *textwrap.wrap(unscored_text(evaluation), WIDTH)]


def unscored_text(evaluation: Evaluation) -> str:
    return (
        f"Split {evaluation.split} has no labels here, so there is nothing to score. The models' logits are in the run "
        "folder, under logits; files to submit, where the data set has a form for them, under submissions."
    )


def _comparison(evaluation: Evaluation, head: str) -> list[str]:
    """A line a model."""
    own = [first_grid(model).get(head, {"n": 0}) for model in evaluation.models]
    measure = measure_name(evaluation, head)
    plain = COMPARED if measure == "top-1" else {}
    scaled = plain if any("scaled" in each for each in own) else {}
    clips = ["clips"] if len({each["n"] for each in own}) > 1 else []
    rows = [["model", "params", *clips, f"{shortened(head, 24)} {measure}", *plain, *(f"scaled {x}" for x in scaled)]]
    for model, each in zip(evaluation.models, own, strict=True):
        row = [model.name, parameters_text(model.parameters), *(f"{each['n']:,}" for _ in clips), main_cell(each)]
        row += [cell(each, key) for key in plain.values()]
        rows.append([*row, *(cell(each.get("scaled", {}), key) for key in scaled.values())])
    return _table(rows)


def _model(evaluation: Evaluation, model: ModelScores, main: str) -> list[str]:
    """What a model is, its heads, and its main head in fewer views."""
    heads, (grid, *fewer) = first_grid(model), model.grids
    several = {head: own for head, own in heads.items() if "mean_average_precision" in own}
    single = {head: own for head, own in heads.items() if head not in several}
    views = f"{grid} views in time x space" if views_in(grid) > 1 else "1 view"
    about = (
        f": {parameters_text(model.parameters)} parameters, {clips_text(model)} of split "
        f"{shortened(evaluation.split, 20)}, {views}"
    )
    lines = [shortened(model.name, WIDTH - len(about)) + about]
    if single:
        lines += _heads(evaluation, model, single)
    for head, own in several.items():
        lines.append(f"{shortened(head, 40)}: mean average precision {main_cell(own)} ({own['n']:,} clips)")
    if fewer and main in heads:
        lines += ["", *_views(evaluation, model, main)]
    return lines


def _heads(evaluation: Evaluation, model: ModelScores, single: Mapping[str, Figures]) -> list[str]:
    accuracy, calibration = columns_of(evaluation, ACCURACY), columns_of(evaluation, CALIBRATION)
    counts = {own["n"] for own in single.values()}
    rows = [["", *(["clips"] if len(counts) > 1 else []), *accuracy, *calibration]]
    for head, own in single.items():
        cells = [cell(own, key) for key in (*accuracy.values(), *calibration.values())]
        rows.append([head, *([f"{own['n']:,}"] if len(counts) > 1 else []), *cells])
    scaled = {head: own["scaled"] for head, own in single.items() if "scaled" in own}
    blank = [""] * (len(rows[0]) - 1 - len(calibration))
    rows += [[head, *blank, *(cell(own, key) for key in calibration.values())] for head, own in scaled.items()]
    lines = _table(rows)
    if scaled:
        fitted = ", ".join(f"{head} {value:.2f}" for head, value in model.temperatures.items())
        said = f"after temperature scaling (T {fitted}, fitted on the validation split)"
        lines[-len(scaled) : -len(scaled)] = textwrap.wrap(said, WIDTH)
    return lines


def _views(evaluation: Evaluation, model: ModelScores, head: str) -> list[str]:
    cost = cost_of(evaluation, model)
    name = f"{shortened(head, 24)} {measure_name(evaluation, head)}"
    calibration = {"ECE": "ece", "NLL": "nll"} if measure_key(first_grid(model)[head]) == "top1" else {}
    rows = [["grid", "views", name, *calibration, *(["GFLOPs/clip"] if cost else [])]]
    for grid in sorted(model.grids, key=views_in):
        own, views = model.grids[grid][head], views_in(grid)
        row = [grid, str(views), main_cell(own), *(cell(own, key) for key in calibration.values())]
        rows.append([*row, *([gflops_text(views * cost.gflops)] if cost else [])])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first row are titles, on two lines where some have two words or more. The first column is
    shortened to the room there is."""
    titles = [title.rpartition(" ")[::2] for title in rows[0]]
    if any(above for above, _ in titles):
        rows = [*zip(*titles, strict=True), *rows[1:]]
    columns = [[f"{text:>{max(map(len, column))}}" for text in column] for column in list(zip(*rows, strict=True))[1:]]
    taken = sum(len(column[0]) for column in columns)
    gap = "  " if taken + 2 * len(columns) <= WIDTH - 12 else " "
    room = WIDTH - taken - len(gap) * len(columns)
    names = [shortened(row[0], room) for row in rows]
    width = max(map(len, names))
    lines = zip(names, zip(*columns, strict=True), strict=True)
    return [gap.join([f"{name:<{width}}", *row]).rstrip() for name, row in lines]
