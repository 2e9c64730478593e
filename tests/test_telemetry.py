"""What is told while a run trains: the rows go to every board, and the Grafana board asks for what is told."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mmkd.config import SettingsError
from mmkd.jobs import distill
from mmkd.runs import read_epochs, read_metrics
from mmkd.telemetry.boards import check_tracker
from mmkd.telemetry.ray_metrics import ACCURACY, REJECTS, TEACHER_CLIPS, TEACHER_SECONDS, TRAINING
from tests.small import small_settings

BOARD = Path(__file__).parents[1] / "deploy" / "grafana.json"


def test_the_grafana_board_shows_every_metric_and_asks_for_no_other():
    board = json.loads(BOARD.read_text())
    text = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    asked = set(re.findall(r"ray_(mmkd_\w+)", text))
    told = {f"mmkd_{name}" for name in TRAINING} | {ACCURACY, REJECTS}
    assert asked == told | {f"{TEACHER_SECONDS}_bucket", f"{TEACHER_CLIPS}_total"}
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(set(places)) == len(places) and len({panel["id"] for panel in board["panels"]}) == len(places)


def test_training_rows_have_what_ray_is_told(home):
    distill(small_settings(home, run={"name": "told"}))
    rows = [row for row in read_metrics(home / "runs" / "told") if row["kind"] == "train"]
    assert set(TRAINING) - {"feature"} <= set(rows[-1])
    assert 0 <= rows[-1]["agreement"] <= 1 and rows[-1]["step_seconds"] > 0


class FakeMLflow(types.ModuleType):
    """Takes what MLflow is told."""

    def __init__(self):
        super().__init__("mlflow")
        self.logged, self.started = [], []

    def set_experiment(self, name): ...

    def start_run(self, run_id=None, run_name=None):
        self.started.append((run_id, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

    def log_artifact(self, path): ...

    def log_metrics(self, figures, step):
        self.logged.append((step, figures))

    def end_run(self): ...


def test_a_tracker_is_told_the_rows_and_a_resumed_run_is_the_same_one(home, monkeypatch):
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    run = home / "runs" / "tracked"
    distill(small_settings(home, run={"name": "tracked", "tracker": "mlflow"}))
    rows = [row for row in read_metrics(run) if row["kind"] == "train"]
    told = [(step, figures["train/loss"]) for step, figures in fake.logged if "train/loss" in figures]
    assert told == [(row["step"], row["loss"]) for row in rows]
    verb = [figures["val/verb_accuracy"] for _, figures in fake.logged if "val/verb_accuracy" in figures]
    assert verb == [row["val"]["verb"]["accuracy"] for row in read_epochs(run)]
    (run / "result.json").unlink()
    max((run / "checkpoints").iterdir()).rename(run / "lost")
    distill(small_settings(home, run={"name": "tracked", "tracker": "mlflow"}))
    assert fake.started == [(None, "tracked"), ("abc", None)]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_starts(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingsError, match=r"run\.tracker is wandb, which is not installed: pip install 'mmkd\[wandb"):
        check_tracker("wandb")
    with pytest.raises(SettingsError, match=r"pip install"):
        distill(small_settings(home, run={"name": "untracked", "tracker": "wandb"}))
    assert not (home / "runs" / "untracked" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_profile_traces_some_steps(home):
    settings = small_settings(home, run={"name": "profiled", "profile": True})
    settings.save(home / "profiled.yaml")
    subprocess.run([sys.executable, "rayjobs/distill.py", "--config", str(home / "profiled.yaml")], check=True)
    trace = json.loads((home / "runs" / "profiled" / "profile" / "steps-0.json").read_text())
    assert any("conv" in str(event.get("name")) for event in trace["traceEvents"])
