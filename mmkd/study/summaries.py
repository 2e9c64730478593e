"""The figures of each arm of a study: means over its seeds."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mmkd.calibration import fit_temperatures
from mmkd.report.predictions import Predictions, outcomes
from mmkd.report.table import main_head
from mmkd.scoring import score
from mmkd.study.results import StudyResults, Summary, Tested
from mmkd.study.statistics import answers, clip_table, measured

FIGURES = {
    "accuracy": "top1",
    "standard_error": "top1_se",
    "top5": "top5",
    "mean_class": "mean_class",
    "ece": "ece",
    "ece_floor": "ece_floor",
    "nll": "nll",
    "brier": "brier",
}
"""A figure's name in a summary to its name in `mmkd.scoring.score`."""
SCALED = {f"scaled_{name}": name for name in ("ece", "ece_floor", "nll", "brier")}
UNSEEN = ("accuracy", "standard_error", "ece", "nll", "brier")


def summarise(results: StudyResults) -> list[Summary]:
    """The arms that have a model, in their order."""
    return [summary_of(results, arm.name) for arm in results.arms if results.of(arm.name)]


def summary_of(results: StudyResults, name: str) -> Summary:
    """The figures of one arm that has a model; NaN for what cannot be had, e.g. without labels."""
    arm = next(arm for arm in results.arms if arm.name == name)
    models = results.of(name)
    scores = [score_of(model, results) for model in models]
    heads = {}
    for head in scores[0]:
        heads[head] = figures = _means(each[head] for each in scores)
        accuracy = [each[head].get("top1", np.nan) for each in scores]
        figures["accuracy_sd"] = float(np.std(accuracy, ddof=1)) if len(models) > 1 else float("nan")
    unseen: dict[str, dict[str, float]] = {}
    if all(model.unseen is not None for model in models):
        strangers = [score(each.logits, each.labels) for each in (answers(model, "unseen") for model in models)]
        for head in strangers[0]:
            figures = _means(each[head] for each in strangers)
            unseen[head] = {figure: figures[figure] for figure in (*UNSEEN, "n")}
    views = {grid: float(np.mean([_main_accuracy(model.grids[grid]) for model in models])) for grid in models[0].grids}
    return Summary(arm, [model.seed for model in models], heads, unseen, views)


def score_of(model: Tested, results: StudyResults) -> dict[str, dict[str, Any]]:
    """All figures of a model on split test, in the first grid, and after temperature scaling fitted on val."""
    predictions = answers(model, "test")
    tail = {head: classes for head, classes in results.tail.items() if head in predictions.logits}
    return score(predictions.logits, predictions.labels, tail=tail, temperatures=temperatures(model))


def temperatures(model: Tested) -> dict[str, float]:
    """Head to the temperature fitted on split val; heads without a labelled clip there are left out."""
    return fit_temperatures(model.val.logits, model.val.labels)


def measures_of(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Head (and action) to accuracy, nll, brier and ece; NaN without a labelled clip."""
    result = {}
    for head, table in clip_table(predictions, predictions).items():
        means = table.mean(axis=0) if len(table) else np.full(table.shape[1], np.nan)
        result[head] = {measure: float(value) for measure, value in measured(means).items()}
    return result


def _means(scores: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    rows = []
    for each in scores:
        scaled = each.get("scaled", {})
        row = {figure: each.get(name, np.nan) for figure, name in FIGURES.items()}
        row |= {figure: scaled.get(name, np.nan) for figure, name in SCALED.items()}
        temperature = scaled.get("temperature", np.nan)
        # The action has one for each of its heads, and none of its own.
        row["temperature"] = np.nan if isinstance(temperature, Mapping) else temperature
        rows.append(row | {"n": each["n"]})
    return {figure: float(np.mean([row[figure] for row in rows])) for figure in rows[0]}


def _main_accuracy(predictions: Predictions) -> float:
    judged = outcomes(predictions)
    each = judged[main_head(judged)]
    return float(each.correct[each.known].mean()) if each.known.any() else float("nan")
