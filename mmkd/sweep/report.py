"""What a sweep leaves: best.yaml, which distill.py takes as it is, and sweep.html."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmkd.config import Settings
from mmkd.metrics import headline
from mmkd.pipeline import cached_dataset
from mmkd.progress import say
from mmkd.report.sweep_page import Cost, SweepReport, TrialRow, write_sweep_page
from mmkd.run_report import data_facts
from mmkd.runs import read_metrics
from mmkd.sweep.progress import values_text
from mmkd.sweep.space import SearchSpace
from mmkd.sweep.trial import answers_replayed, trial_row, trial_settings

if TYPE_CHECKING:
    from mmkd.sweep.job import Outcome


def write_results(
    settings: Settings, space: SearchSpace, run: Path, outcomes: "list[Outcome]", bank: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Choose the best trial, and write best.yaml and sweep.html into the sweep's folder.

    Args:
        settings: what all trials have in common.
        bank: what the recording pass did.
        seconds: that the trials took altogether.

    Raises:
        ValueError: no trial reported an accuracy.
    """
    rows = [
        trial_row(run / "trials" / each.trial_id, f"{each.number:02d}", each.seconds, each.error) for each in outcomes
    ]
    best = best_trial(rows)
    changed = dict(best.values)
    own = trial_settings(settings, changed, f"{run.name}-best", alone=False)
    own = own.model_copy(update={"teachers": own.teachers.model_copy(update={"mode": bank["mode"]})})
    own.save(run / "best.yaml")
    replayed = sum(answers_replayed(Path(row.run_folder)) for row in rows)
    cost = Cost(
        teachers=bank["teachers"],
        computed=bank["computed"],
        banked=bank["there_before"] * bank["teachers"],
        replayed=replayed,
        independent=replayed,
        teacher_seconds=bank["seconds"],
        trial_seconds=sum(row.seconds for row in rows),
        wall_seconds=bank["seconds"] + seconds,
        bank_megabytes=bank["megabytes"],
    )
    _write_page(settings, space, run, rows, best, cost)
    counts = {status: sum(row.status == status for row in rows) for status in ("finished", "stopped", "failed")}
    say(f"best: trial {best.name}, {values_text(changed)}: {100 * (best.accuracy or 0):.1f} % on {settings.data.val}")
    say(f"python rayjobs/distill.py --config {run / 'best.yaml'} trains it again; all of it: {run / 'sweep.html'}")
    return {
        "run_folder": str(run),
        "report": str(run / "sweep.html"),
        "best": str(run / "best.yaml"),
        "best_run": best.run_folder,
        "values": changed,
        "val": {"accuracy": best.accuracy, "ece": best.ece, "nll": best.nll},
        "trials": counts,
        "teacher_answers": {"computed": cost.computed, "banked": cost.banked, "replayed": replayed},
        "bank": bank["bank"],
        "seconds": round(cost.wall_seconds, 1),
        "teacher_seconds": bank["seconds"],
    }


def best_trial(rows: list[TrialRow]) -> TrialRow:
    """The most accurate trial; of equals, the better calibrated one.

    Raises:
        ValueError: none reported an accuracy.
    """
    told = [row for row in rows if row.accuracy is not None]
    if not told:
        errors = [f"trial {row.name}: {row.error}" for row in rows if row.error]
        why = f" ({errors[0]})" if errors else ""
        raise ValueError(f"none of {len(rows)} trials reported an accuracy on the validation split{why}.")
    return max(told, key=lambda row: (row.accuracy, -(row.ece if row.ece is not None else 0.0)))


def _write_page(
    settings: Settings, space: SearchSpace, run: Path, rows: list[TrialRow], best: TrialRow, cost: Cost
) -> None:
    dataset, sweep = cached_dataset(settings.data_folder()), settings.sweep
    metrics = read_metrics(Path(best.run_folder))
    last = next(row for row in reversed(metrics) if row["kind"] == "epoch")
    measure = "action" if "action" in last["val"] else next(iter(last["val"]))
    single = "accuracy" in last["val"][measure] and "ece" in headline(last["val"])
    clips = dataset.splits[settings.data.val]["clips"]
    how = {"asha": "ASHA stops trials early", "median": "the median rule stops trials early", "none": "none is stopped"}
    searched = {"optuna": "TPE (Optuna)", "random": "random search", "grid": "grid search"}[sweep.search]
    report = SweepReport(
        title=f"mmkd sweep {run.name}",
        lead=f"{len(rows)} trials of up to {settings.optim.epochs} epochs by {searched}, seed {sweep.seed}; "
        f"{how[sweep.scheduler]}. Accuracy is on {clips} clips of split {settings.data.val}.",
        facts=[*data_facts(settings), ("sweep", str(run)), ("run seed", str(settings.run.seed))],
        space=space.describe(settings),
        log_scale={dimension.name for dimension in space.dimensions if dimension.kind == "loguniform"},
        trials=rows,
        best=best.name,
        measure=f"{measure} accuracy" if single else "mean average precision",
        pareto=sweep.objective == "accuracy_and_ece",
        cost=cost,
        best_rows=metrics,
        best_values_yaml=yaml.safe_dump(best.values, sort_keys=False),
        settings_yaml=yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False),
    )
    write_sweep_page(run / "sweep.html", report)
