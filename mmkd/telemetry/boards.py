"""Boards: whatever shows the figures of a run while it trains. Each is told the rows that metrics.jsonl has."""

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from mmkd.config import Run, SettingsError
from mmkd.telemetry.ray_metrics import RayMetrics

OF_EPOCH = ("accuracy", "mean_average_precision", "ece", "nll")
NO_FIGURES = ("step", "position", "epoch", "seconds_left")


class Board(Protocol):
    """Told of training rows, of epochs and of clips that were found broken."""

    def train(self, row: Mapping[str, Any]) -> None: ...

    def epoch(self, row: Mapping[str, Any]) -> None: ...

    def broken(self, clips: int) -> None: ...

    def close(self) -> None: ...


def make_boards(settings: Run, run: Path, rank: int) -> list[Board]:
    """The boards of a worker; those that have one line a run are rank 0's.

    Raises:
        SettingsError: run.tracker is not installed.
    """
    boards: list[Board] = [WorkerLog(run.name, rank), RayMetrics(run.name, rank)]
    if rank == 0:
        boards.append(TensorBoard(run))
        if settings.tracker:
            check_tracker(settings.tracker)
            boards.append(MLflow(run) if settings.tracker == "mlflow" else WandB(run))
    return boards


def check_tracker(name: str) -> None:
    """Raise SettingsError if a tracker is not installed."""
    try:
        __import__(name)
    except ImportError:
        raise SettingsError(f"run.tracker is {name}, which is not installed: pip install 'mmkd[{name}]'.") from None


def train_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """`train/NAME` of a training row."""
    return {f"train/{name}": value for name, value in row.items() if name not in (*NO_FIGURES, "kind")}


def epoch_figures(row: Mapping[str, Any]) -> dict[str, float]:
    """`val/HEAD_NAME` of an epoch's row."""
    return {
        f"val/{head}_{name}": values[name] for head, values in row["val"].items() for name in OF_EPOCH if name in values
    }


class WorkerLog:
    """Lines with the run, the rank and the step, in the worker's log: the dashboard shows it with the worker."""

    def __init__(self, run: str, rank: int):
        self.start = f"run={run} rank={rank}"

    def train(self, row: Mapping[str, Any]) -> None:
        shown = ("loss", "lr", "clips_per_second", "wait_share", "step_seconds")
        self._say(f"step={row['step']} " + " ".join(f"{name}={row[name]:.4g}" for name in shown))

    def epoch(self, row: Mapping[str, Any]) -> None:
        figures = " ".join(f"{name}={value:.4f}" for name, value in epoch_figures(row).items())
        self._say(f"epoch={row['epoch']} position={row['position']} {figures}")

    def broken(self, clips: int) -> None:
        if clips:
            self._say(f"broken_clips={clips}")

    def close(self) -> None:
        self._say("end")

    def _say(self, text: str) -> None:
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.start} {text}", flush=True)


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: Path):
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))

    def train(self, row: Mapping[str, Any]) -> None:
        for name, value in train_figures(row).items():
            self.writer.add_scalar(name, value, row["step"])

    def epoch(self, row: Mapping[str, Any]) -> None:
        for name, value in epoch_figures(row).items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def broken(self, clips: int) -> None:
        """rejects.jsonl has them."""

    def close(self) -> None:
        self.writer.close()


class Tracker(ABC):
    """A service that has figures by optimiser step; those of epochs come at the last step that was told."""

    step = 0

    def train(self, row: Mapping[str, Any]) -> None:
        self.step = row["step"]
        self.log(train_figures(row))

    def epoch(self, row: Mapping[str, Any]) -> None:
        self.log(epoch_figures(row))

    def broken(self, clips: int) -> None:
        if clips:
            self.log({"broken_clips": clips})

    @abstractmethod
    def log(self, figures: dict[str, float]) -> None:
        """Tell the service of figures at `step`."""


class MLflow(Tracker):
    """A run of MLflow, where MLFLOW_TRACKING_URI says; a resumed run goes on with the one it had."""

    def __init__(self, run: Path):
        import mlflow

        known = run / "mlflow.json"
        self.mlflow = mlflow
        if known.is_file():
            mlflow.start_run(run_id=json.loads(known.read_text())["run_id"])
        else:
            mlflow.set_experiment("mmkd")
            started = mlflow.start_run(run_name=run.name)
            known.write_text(json.dumps({"run_id": started.info.run_id}) + "\n")
            mlflow.log_artifact(str(run / "config.yaml"))

    def log(self, figures: dict[str, float]) -> None:
        self.mlflow.log_metrics(figures, step=self.step)

    def close(self) -> None:
        self.mlflow.end_run()


class WandB(Tracker):
    """A run of Weights & Biases, with the credentials and the mode of its own environment variables; a resumed run
    goes on with the one it had."""

    def __init__(self, run: Path):
        import wandb
        import yaml

        known = run / "wandb.json"
        name = json.loads(known.read_text())["id"] if known.is_file() else uuid4().hex[:8]
        known.write_text(json.dumps({"id": name}) + "\n")
        settings = yaml.safe_load((run / "config.yaml").read_text())
        self.run = wandb.init(project="mmkd", name=run.name, id=name, resume="allow", dir=str(run), config=settings)

    def log(self, figures: dict[str, float]) -> None:
        self.run.log(figures, step=self.step)

    def close(self) -> None:
        self.run.finish()
