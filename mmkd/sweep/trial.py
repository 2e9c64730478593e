"""A trial: a run of its own with some settings changed, and what its run folder tells afterwards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmkd.config import Settings
from mmkd.config.changes import apply
from mmkd.metrics import headline
from mmkd.report.sweep_page import TrialRow
from mmkd.runs import read_epochs, write_json
from mmkd.sweep.search import in_one_process


def run_trial(config: dict[str, Any], settings: Settings, folder: str) -> None:
    """Carry out a trial in this process, which Tune started; its id names its run.

    A trial that is refused, whose settings cannot go together for one, leaves failure.json in its run folder: to run it
    again would end the same way.

    Args:
        config: `values`, setting to value.
        settings: of the sweep.
        folder: of the sweep, relative to HOME/runs.
    """
    import cv2
    import ray.tune

    from mmkd.jobs import distill

    trial = ray.tune.get_context().get_trial_id()
    run = settings.home / "runs" / folder / "trials" / trial
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "values.json", config["values"])
    (run / "failure.json").unlink(missing_ok=True)
    alone = in_one_process(settings)
    if alone:
        cv2.setNumThreads(settings.resources.threads)
    try:
        own = trial_settings(settings, config["values"], f"{folder}/trials/{trial}", alone)
        # Tune may not know of epochs that were trained just before a sweep was killed.
        if (known := best_so_far(run)) is not None:
            ray.tune.report(known)
        distill(own, report=ray.tune.report)
    except ValueError as error:
        write_json(run / "failure.json", {"error": str(error)})


def best_so_far(run: Path) -> dict[str, Any] | None:
    """What a run with checkpoints reported at its last epoch; None before the first one."""
    epochs = read_epochs(run)
    if not epochs:
        return None
    best = max(epochs, key=lambda row: row["score"])
    return {"score": epochs[-1]["score"], "epoch": epochs[-1]["epoch"], **headline(best["val"])}


def trial_settings(settings: Settings, values: Mapping[str, Any], name: str, alone: bool) -> Settings:
    """The settings of a trial's run.

    Args:
        alone: the trial is one process.

    Raises:
        SettingsError: the values cannot go together.
    """
    own = apply(settings, values)
    run = own.run.model_copy(update={"name": name, "local": alone})
    return own.model_copy(update={"run": run})


def trial_row(run: Path, name: str, seconds: float, error: str) -> TrialRow:
    """What a trial came to, from its run folder.

    Args:
        name: in the report.
        seconds: that Tune gave it.
        error: what Tune knows of its failure.
    """
    epochs = read_epochs(run)
    best = max(epochs, key=lambda row: row["score"], default=None)
    measures = headline(best["val"]) if best else {}
    failure = run / "failure.json"
    error = json.loads(failure.read_text())["error"] if failure.is_file() else error
    finished = (run / "result.json").is_file()
    return TrialRow(
        name=name,
        values=json.loads((run / "values.json").read_text()),
        status="finished" if finished else "failed" if error else "stopped",
        epochs=len(epochs),
        accuracy=measures.get("accuracy"),
        ece=measures.get("ece"),
        nll=measures.get("nll"),
        curve=[(row["epoch"], headline(row["val"])["accuracy"]) for row in epochs],
        seconds=seconds,
        run_folder=str(run),
        error="" if finished else error,
    )


def answers_replayed(run: Path) -> int:
    """Teachers' answers that a trial took from the bank."""
    rows = [row for row in read_epochs(run) if "teacher_answers" in row]
    return int(rows[-1]["teacher_answers"]["replayed"]) if rows else 0
