"""The numbers of a study as CSV files, for other programs: shares are 0..1, nll is in nats, empty is unknown."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkd.cost.record import Cost
from mmkd.report.table import main_head
from mmkd.storage import write_bytes
from mmkd.study.results import Arm, Claim, Contrast, Interval, StudyResults, Summary, Tested
from mmkd.study.summaries import measures_of

Row = dict[str, Any]


def write_tables(
    folder: Path,
    results: StudyResults,
    summaries: Sequence[Summary],
    contrasts: Sequence[Contrast],
    claims: Sequence[Claim],
) -> None:
    """Write students.csv (a row for an arm and head), models.csv (for a model), contrasts.csv, claims.csv, costs.csv,
    views.csv and search.csv into the folder, each whole or not at all; without rows, the file is empty."""
    arms = {arm.name: arm for arm in results.arms}
    tables: dict[str, list[Row]] = {
        "students": [row for summary in summaries for row in _arm_rows(summary)],
        "models": [_model_row(model, arms[model.arm]) for model in results.tested],
        "contrasts": [row for contrast in contrasts for row in _contrast_rows(contrast)],
        "claims": [_claim_row(claim) for claim in claims],
        "costs": [_cost_row(cost) for cost in results.costs],
        "views": [
            {"arm": summary.arm.name, "head": main_head(summary.heads), "grid": grid, "accuracy": accuracy}
            for summary in summaries
            for grid, accuracy in summary.views.items()
        ],
        "search": [dict(row) for row in results.search],
    }
    for name, rows in tables.items():
        write_bytes(Path(folder) / f"{name}.csv", _csv(rows).encode())


def _arm_rows(summary: Summary) -> list[Row]:
    arm = summary.arm
    about = {
        "arm": arm.name,
        "title": arm.title,
        "group": arm.group,
        "reference": arm.reference,
        "exploratory": arm.exploratory,
        "seeds": len(summary.seeds),
    }
    return [
        about
        | {"head": head}
        | figures
        | {f"unseen_{name}": value for name, value in summary.unseen.get(head, {}).items()}
        for head, figures in summary.heads.items()
    ]


def _model_row(model: Tested, arm: Arm) -> Row:
    grid = next(iter(model.grids))
    row: Row = {"arm": arm.name, "group": arm.group, "seed": model.seed, "teacher_set": model.teacher_set}
    row |= {name.replace(" ", "_"): value for name, value in model.facts.items()} | {"grid": grid}
    for prefix, predictions in (("", model.grids[grid]), ("unseen_", model.unseen)):
        if predictions is not None:
            for head, measures in measures_of(predictions).items():
                row |= {f"{prefix}{head}_{measure}": value for measure, value in measures.items()}
    return row


def _contrast_rows(contrast: Contrast) -> list[Row]:
    return [
        {"first": contrast.first, "second": contrast.second, "where": contrast.where, "clips": contrast.clips}
        | {"head": head, "measure": measure}
        | _interval(interval)
        | {"seeds": contrast.seeds, "each_seed": contrast.each_seed[head][measure]}
        for head, measures in contrast.outcomes.items()
        for measure, interval in measures.items()
    ]


def _claim_row(claim: Claim) -> Row:
    row: Row = {"claim": claim.text, "verdict": claim.verdict, "deciding": claim.deciding}
    row |= _interval(claim.interval) if claim.interval else {}
    return row | {"adjusted_p": claim.adjusted_p, "said": " ".join(claim.said)}


def _cost_row(cost: Cost) -> Row:
    row: Row = {**vars(cost)}
    parts: Mapping[str, float] = row.pop("parts")
    return row | {f"{name.replace(' ', '_')}_ms": value for name, value in parts.items()}


def _interval(interval: Interval) -> Row:
    return {"difference": interval.difference, "low": interval.low, "high": interval.high, "p": interval.p}


def _csv(rows: Sequence[Row]) -> str:
    """Columns in the order that they first come; what a row lacks is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if columns:
        writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.8g}"
    return " ".join(map(_cell, value)) if isinstance(value, list) else str(value)
