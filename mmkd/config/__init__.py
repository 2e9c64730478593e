"""Settings: one typed tree for every job, saved in the run folder. Each field's docstring is its help text."""

import os
from pathlib import Path

import yaml
from pydantic import model_validator

from mmkd.config.base import MODALITIES, JobError, Modality, Section, SettingsError, StoppedError
from mmkd.config.evaluate import Evaluate
from mmkd.config.jobs import Data, Resources, Run
from mmkd.config.packing import Pack, Source
from mmkd.config.predict import Predict
from mmkd.config.study import Study
from mmkd.config.sweep import Sweep
from mmkd.config.training import Loss, Network, Optim, Teachers, Views

__all__ = [
    "MODALITIES",
    "Data",
    "Evaluate",
    "JobError",
    "Loss",
    "Modality",
    "Network",
    "Optim",
    "Pack",
    "Predict",
    "Resources",
    "Run",
    "Settings",
    "SettingsError",
    "Source",
    "StoppedError",
    "Study",
    "Sweep",
    "Teachers",
    "Views",
]


class Settings(Section):
    """All settings; every job takes the same tree and reads what it needs."""

    run: Run = Run()
    data: Data = Data()
    views: Views = Views()
    student: Network = Network()
    teacher: Network = Network()
    teachers: Teachers = Teachers()
    loss: Loss = Loss()
    optim: Optim = Optim()
    resources: Resources = Resources()
    source: Source = Source()
    pack: Pack = Pack()
    sweep: Sweep = Sweep()
    evaluate: Evaluate = Evaluate()
    study: Study = Study()
    predict: Predict = Predict()

    @model_validator(mode="after")
    def _inline(self) -> "Settings":
        if self.resources.inline and (apart := self.apart()):
            raise ValueError(
                "resources.inline has the workers read and ask all teachers, on CPUs; it does not go with "
                + ", ".join(apart)
            )
        if self.resources.ahead and not (self.resources.inline or self.run.local):
            raise ValueError("resources.ahead goes with resources.inline, or run.local; otherwise actors read ahead")
        return self

    def apart(self) -> list[str]:
        """Those of these settings that give reading or teachers a place of their own, or a GPU."""
        names = {
            "resources": ("readers", "reader_labels", "use_gpu"),
            "teachers": ("pools", "num_gpus", "accelerator_type", "labels"),
        }
        return [
            f"{section}.{name}"
            for section, fields in names.items()
            for name in fields
            if getattr(getattr(self, section), name)
        ]

    @property
    def home(self) -> Path:
        """Root of data, runs, models and banks."""
        home = Path(self.run.home or os.environ.get("MMKD_HOME") or Path.home() / "mmkd").expanduser()
        if not home.is_absolute():
            raise SettingsError(
                f"run.home is {str(home)!r}, which is relative; a job's working directory is a copy, so give an "
                "absolute path (run.home, or MMKD_HOME)."
            )
        return home

    def data_folder(self) -> str:
        """Path of the data set, local or remote."""
        return self.below_data(self.data.folder or self.source.kind)

    def below_data(self, folder: str) -> str:
        """A folder by its name under HOME/data, or by its own path, local or remote."""
        return folder if "://" in folder else str(self.home / "data" / Path(folder).expanduser())

    def below_banks(self, name: str) -> Path:
        """A logit bank by its name under HOME/banks, or by its own path."""
        return self.home / "banks" / Path(name).expanduser()

    def save(self, path: Path) -> None:
        """Write the resolved settings, complete, so that they can be given to --config again."""
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))
