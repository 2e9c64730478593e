"""Sweeps on Ray Tune: the teachers are asked once, trials are runs, deaths cost nothing, and all that was reserved is
given back."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmkd.bank.store import Bank
from mmkd.config import Settings, SettingsError
from mmkd.jobs import distill
from mmkd.runs import read_metrics
from mmkd.sweep.job import sweep
from tests.small import small_settings, write_dataset, write_teachers

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
SPACE = {"loss.temperature": {"loguniform": [1, 8]}, "optim.lr": {"choice": [0.001, 0.01]}}


@pytest.fixture(scope="module")
def cluster():
    """One Ray for the file, with more logical CPUs than the machine has, and a GPU that it has not."""
    import ray

    memory = 300 * 2**20
    # As jobs start it: without the dashboard, what stopped Ray Train runs reserved is never given back.
    ray.init("local", num_cpus=4, num_gpus=1, include_dashboard=True, log_to_driver=False, object_store_memory=memory)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    home = tmp_path_factory.mktemp("sweeps")
    write_dataset(home / "data" / "small")
    write_teachers(home)
    return home


def settings_of(home, name, space=SPACE, **sections):
    file = home / f"{name}.yaml"
    file.write_text(yaml.safe_dump(space, sort_keys=False))
    chosen = {"space": str(file), "trials": 4, "search": "random", "scheduler": "none"} | sections.pop("sweep", {})
    run = {"name": name, "local": False} | sections.pop("run", {})
    return small_settings(home, sweep=chosen, run=run, **sections)


def trials_of(home, name):
    return sorted((home / "runs" / name / "trials").iterdir())


def all_free():
    """Every resource is there again, and no placement group is left."""
    import ray
    from ray.util import placement_group_table

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        have, free = ray.cluster_resources(), ray.available_resources()
        groups = [each for each in placement_group_table().values() if each["state"] != "REMOVED"]
        if not groups and all(free.get(kind, 0) == have[kind] for kind in ("CPU", "GPU")):
            return True
        time.sleep(0.5)
    print("left:", groups, free, have)
    return False


@pytest.fixture(scope="module")
def swept(cluster, root):
    result = sweep(settings_of(root, "swept"))
    assert all_free()
    return result


def test_teachers_are_asked_once_and_every_trial_is_a_run(swept, root):
    runs = trials_of(root, "swept")
    assert len(runs) == 4 and swept["trials"] == {"finished": 4, "stopped": 0, "failed": 0}
    rows = Bank(Path(swept["bank"])).rows
    assert swept["teacher_answers"]["computed"] == 3 * rows
    assert swept["teacher_answers"]["replayed"] == 4 * 3 * rows
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        assert result["teacher_answers"]["computed"] == 0 and (run / "best" / "model.json").is_file()
        assert (run / "report.html").is_file() and list((run / "tensorboard").iterdir())
        kept = yaml.safe_load((run / "config.yaml").read_text())
        assert kept["loss"]["temperature"] == json.loads((run / "values.json").read_text())["loss.temperature"]
    assert len({(run / "values.json").read_text() for run in runs}) == 4


def test_the_best_trial_is_the_most_accurate_on_val_and_distill_takes_its_settings(swept, root):
    accuracy = {}
    for run in trials_of(root, "swept"):
        epochs = [row for row in read_metrics(run) if row["kind"] == "epoch"]
        accuracy[str(run)] = max(row["val"]["action"]["accuracy"] for row in epochs)
    assert swept["val"]["accuracy"] == max(accuracy.values()) == accuracy[swept["best_run"]]
    best = Settings.model_validate(yaml.safe_load(Path(swept["best"]).read_text()))
    assert best.loss.temperature == swept["values"]["loss.temperature"]
    again = distill(best.model_copy(update={"run": best.run.model_copy(update={"local": True})}))
    assert again["teacher_answers"]["computed"] == 0
    losses = [[r["loss"] for r in read_metrics(Path(run)) if r["kind"] == "train"]
              for run in (again["run_folder"], swept["best_run"])]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    page = Path(swept["report"]).read_text()
    assert f"{swept['values']['loss.temperature']:.3g}" in page and "<script" not in page


def test_the_same_command_again_says_that_it_is_finished_and_another_space_is_refused(swept, root, capsys):
    assert sweep(settings_of(root, "swept")) == swept
    assert "is finished" in capsys.readouterr().err
    other = settings_of(root, "swept", space=SPACE | {"loss.label_weight": {"uniform": [0, 1]}})
    with pytest.raises(SettingsError, match=r"space\.loss\.label_weight was None"):
        sweep(other)


@pytest.mark.faults
def test_stopped_failed_and_killed_trials_give_back_all_they_reserved(cluster, root):
    """Ray Train runs as trials: one is stopped early, one cannot be, and the process of one is killed."""
    weights = [{"verb": 1.0, "noun": 1.0}, {"verb": 0.0, "noun": 0.0}]
    space = {"loss.head_weights": {"grid": weights}, "optim.lr": {"grid": [1e-9, 0.01]}}
    chosen = {"search": "grid", "scheduler": "asha", "grace_epochs": 1, "reduction": 2, "trial": "train"}
    resources = {"workers": 1, "cpus_per_worker": 1}
    settings = settings_of(root, "hurt", space, sweep=chosen, optim={"epochs": 6}, resources=resources)
    killed = []

    def kill():
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            for trace in (root / "runs" / "hurt" / "trials").glob("*/trace-0.jsonl"):
                rows = [json.loads(line) for line in trace.read_text().splitlines()[:1]]
                if rows and not killed:
                    os.kill(rows[0]["process"], signal.SIGKILL)
                    killed.append(trace.parent)
            time.sleep(0.05)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    result = sweep(settings)
    thread.join()
    assert killed and all_free()
    assert result["trials"]["failed"] == 2 and result["trials"]["finished"] + result["trials"]["stopped"] == 2
    failed = [run for run in trials_of(root, "hurt") if (run / "failure.json").is_file()]
    assert len(failed) == 2 and all(
        "weight" in json.loads((run / "failure.json").read_text())["error"] for run in failed
    )
    assert "failed" in Path(result["report"]).read_text()


def test_conditions_pareto_and_another_number_of_epochs(cluster, root):
    space = {
        "loss.kind": {"choice": ["kl", "dkd"]},
        "loss.dkd_beta": {"uniform": [1, 8], "when": {"loss.kind": "dkd"}},
        "optim.epochs": {"integer": [1, 3]},
        "loss.temperature_schedule": {"choice": ["constant", "cosine"]},
    }
    chosen = {"search": "optuna", "objective": "accuracy_and_ece", "trials": 6, "scheduler": "median"}
    teachers = {"folders": ["rgb", "flow", "boxes"], "drop_near_chance": False, "bank": "pareto"}
    result = sweep(settings_of(root, "pareto", space, sweep=chosen, teachers=teachers))
    values = [json.loads((run / "values.json").read_text()) for run in trials_of(root, "pareto")]
    assert len(values) == 6 and all(("loss.dkd_beta" in v) == (v["loss.kind"] == "dkd") for v in values)
    every = np.arange(37)
    bank = Bank(Path(result["bank"]))  # has views for the longest trial that there can be
    assert bank.has(every, np.full(37, 2)).all() and not bank.has(every, np.full(37, 3)).any()
    assert "ECE" in Path(result["report"]).read_text()


def test_a_sweep_in_which_no_trial_reports_anything_fails_and_says_why(cluster, root):
    space = {"loss.head_weights": {"choice": [{"verb": 0.0, "noun": 0.0}]}}
    with pytest.raises(ValueError, match=r"none of 1 trials reported an accuracy .* \(trial 01: .*weight"):
        sweep(settings_of(root, "nothing", space, sweep={"search": "grid"}))


def test_what_cannot_be_searched_is_refused_before_anything_starts(root):
    for space, said in [
        ({"loss.temprature": {"uniform": [1, 2]}}, "loss.temprature"),
        ({"loss.temperature": {"uniform": [2, 1]}}, "loss.temperature"),
        ({"views.size": {"choice": [16, 24]}}, "views.size"),
    ]:
        with pytest.raises(SettingsError, match=said):
            sweep(settings_of(root, "refused", space))
    assert not (root / "runs" / "refused").exists()


@pytest.mark.faults
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    import ray

    if ray.is_initialized():
        ray.shutdown()
    write_dataset(tmp_path / "data" / "small")
    write_teachers(tmp_path)
    settings = settings_of(tmp_path, "cut", sweep={"trials": 5, "concurrent": 1}, optim={"epochs": 8})
    settings.save(tmp_path / "sweep-settings.yaml")
    command = [sys.executable, "tuning/sweep.py", "--config", str(tmp_path / "sweep-settings.yaml")]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "runs" / "cut" / "trials"
    deadline = time.monotonic() + 150
    while len(list(folder.glob("*/result.json"))) < 2 and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.1)
    job.kill()
    _, err = job.communicate(timeout=30)
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    assert 2 <= len(done) < 5, err
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    assert "resuming sweep" in again.stderr
    result = json.loads(again.stdout.splitlines()[-1])
    assert result["trials"] == {"finished": 5, "stopped": 0, "failed": 0}
    assert len(list(folder.iterdir())) <= 6  # one that began just before the kill may be unknown to Tune
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert result["teacher_answers"]["computed"] == 3 * Bank(Path(result["bank"])).rows
