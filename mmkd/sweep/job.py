"""A sweep from settings to result: one recording pass of the teachers, then trials on Ray Tune that replay it."""

import os
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmkd.bank.choose import choose_bank
from mmkd.bank.record import fill_bank
from mmkd.config import Settings, SettingsError
from mmkd.dry_run import describe_recording
from mmkd.jobs import ensure_data, session
from mmkd.pipeline import cached_dataset
from mmkd.progress import say
from mmkd.resolve import check_folders, plan_student, teacher_folders
from mmkd.runs import RunFolder, write_json
from mmkd.storage import name_of
from mmkd.sweep.progress import Progress
from mmkd.sweep.report import write_results
from mmkd.sweep.search import (
    concurrent_trials,
    in_one_process,
    max_epochs,
    number_of_trials,
    search_algorithm,
    stopper,
    trial_resources,
)
from mmkd.sweep.space import SearchSpace, read_space
from mmkd.sweep.trial import run_trial

DEFAULT_SPACE = Path(__file__).parents[2] / "tuning" / "space.yaml"


def sweep(settings: Settings) -> dict[str, Any]:
    """Search the settings that the space names; resumes, and says so when it is finished.

    Raises:
        ValueError: the space does not fit the settings, or no trial reported anything.
    """
    space = _space(settings)
    if not settings.loss.distils:
        raise SettingsError("loss.distill_weight is 0, so there are no teachers; only the space may go down to 0.")
    if settings.teachers.retrain:
        raise SettingsError("teachers.retrain: train the teachers first, and name them in teachers.folders.")
    check_folders(settings)
    name = settings.run.name or f"sweep-{name_of(settings.data_folder())}"
    if settings.run.dry_run:
        return _describe(settings, space)
    with RunFolder(settings.home / "runs" / name) as run, session(settings):
        ensure_data(settings)
        started = _prepared(settings, space)
        run.claim(settings, _identity(settings, space))
        if (result := run.result()) is not None:
            say(f"sweep {run.path} is finished; delete it, or choose another run.name, to sweep again")
            return result
        bank = _record(started, run.path)
        own = _trial_settings(started, bank["bank"])
        began = time.monotonic()
        outcomes = _tune(own, space, run.path, name)
        result = write_results(own, space, run.path, outcomes, bank, time.monotonic() - began)
        run.finish(result)
        return result


def _space(settings: Settings) -> SearchSpace:
    path = Path(settings.sweep.space).expanduser() if settings.sweep.space else DEFAULT_SPACE
    space = read_space(path)
    space.check(settings)
    if settings.sweep.search == "grid":
        space.combinations()  # raises where there are ranges
    return space


def _identity(settings: Settings, space: SearchSpace) -> dict[str, Any]:
    searched = settings.sweep.model_dump(exclude={"concurrent", "space", "trial"})
    described = {dimension.name: [dimension.kind, dimension.values, dimension.when] for dimension in space.dimensions}
    data = cached_dataset(settings.data_folder()).fingerprint
    # As JSON tells it, to be compared with what was written.
    return yaml.safe_load(yaml.safe_dump({"kind": "sweep", "sweep": searched, "space": described, "data": data}))


def _prepared(settings: Settings, space: SearchSpace) -> Settings:
    """The sweep's settings with the epochs of its longest trial, so that the bank has views for all."""
    optim = settings.optim.model_copy(update={"epochs": max_epochs(settings, space)})
    return settings.model_copy(update={"optim": optim})


def _record(settings: Settings, run: Path) -> dict[str, Any]:
    """Fill the bank; what was computed is summed over the sittings of a sweep that was resumed."""
    if not settings.teachers.only_in_bank:
        settings = settings.model_copy(update={"teachers": settings.teachers.model_copy(update={"mode": "auto"})})
    work, hashes = plan_student(settings, teacher_folders(settings))
    done = fill_bank(choose_bank(work, hashes))
    path = run / "recorded.json"
    if path.is_file():
        before = yaml.safe_load(path.read_text())
        done = done | {
            "computed": before["computed"] + done["computed"],
            "there_before": before["there_before"],
            "seconds": round(before["seconds"] + done["seconds"], 1),
        }
    done |= {"teachers": len(hashes), "mode": settings.teachers.mode}
    write_json(path, done)
    return done


def _trial_settings(settings: Settings, bank: str) -> Settings:
    """What all trials have in common."""
    teachers = settings.teachers.model_copy(update={"mode": "replay", "bank": bank})
    resources = settings.resources
    if in_one_process(settings) and not resources.threads:
        resources = resources.model_copy(update={"threads": resources.reserved_threads})
    # `distinct` is kept, so that a trial of fewer epochs shows the first of the bank's views.
    return settings.model_copy(update={"teachers": teachers, "resources": resources})


@dataclass
class Outcome:
    """What Tune knows of a trial: its id, the order of its start, the seconds that it took, its error."""

    trial_id: str
    number: int
    seconds: float
    error: str


def _tune(settings: Settings, space: SearchSpace, run: Path, name: str) -> list[Outcome]:
    """Run, or go on with, the trials."""
    import ray
    from ray import tune

    # A trial that was refused ends without having reported anything.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    # What Tune has not written down when it is killed it does again; by default it does so every ten seconds or more.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")
    trials, concurrent = number_of_trials(settings, space), concurrent_trials(settings, ray.cluster_resources())
    how = "one process each" if in_one_process(settings) else "a Ray Train run each"
    say(f"{trials} trials of up to {max_epochs(settings, space)} epochs, {concurrent} at a time, {how}; all replay")
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, settings=settings, folder=name), trial_resources(settings)
    )
    folder = run / "tune"
    if tune.Tuner.can_restore(str(folder)):
        say(f"resuming sweep {run}")
        tuner = tune.Tuner.restore(str(folder), trainable, restart_errored=True)
    else:
        algorithm, parameters = search_algorithm(settings, space, concurrent)
        tuner = tune.Tuner(
            trainable,
            param_space=parameters,
            tune_config=tune.TuneConfig(
                search_alg=algorithm,
                scheduler=stopper(settings, space),
                num_samples=1 if settings.sweep.search == "grid" else trials,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(run),
                failure_config=tune.FailureConfig(max_failures=settings.run.max_restarts),
                callbacks=[Progress(trials, max_epochs(settings, space))],
                verbose=0,
            ),
        )
    with open(run / "tune.log", "a") as log, redirect_stdout(log):
        results = tuner.fit()
    found = []
    for number in range(len(results)):
        result = results[number]
        metrics = result.metrics or {}
        error = str(result.error).strip().splitlines()[-1] if result.error else ""
        found.append(Outcome(Path(result.path).name, number + 1, float(metrics.get("time_total_s", 0.0)), error))
    return found


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


def _describe(settings: Settings, space: SearchSpace) -> dict[str, Any]:
    facts = describe_recording(_prepared(settings, space))
    for setting, text in space.describe(settings):
        say(f"search    {setting}: {text}")
    kind = "one process" if in_one_process(settings) else "a Ray Train run"
    trials = number_of_trials(settings, space)
    say(f"trials    {trials} of up to {max_epochs(settings, space)} epochs, {kind} each; {settings.sweep.search}")
    return facts | {"trials": trials}
