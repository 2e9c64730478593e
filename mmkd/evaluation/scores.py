"""What is said of evaluated models: computed from the answers that were kept, without any model."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmkd.calibration import fit_temperatures
from mmkd.config import Settings
from mmkd.cost.record import Cost
from mmkd.evaluation.answers import Answers, answers_path
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.report.predictions import Predictions
from mmkd.runs import read_lines, write_json
from mmkd.scoring import score
from mmkd.shards import read_meta


@dataclass
class ModelScores:
    """One model, or an ensemble, on the split.

    Attributes:
        grids: "3x3", ...: (test views in time x in space) to what :func:`mmkd.scoring.score` says; the first is the one
            that was asked for, the others are smaller ones.
        predictions: the averaged answers in that grid; None where all heads are multi-label.
        temperatures: head to the temperature fitted on split val; empty where none was.
        labelled: whether the split has labels.
    """

    name: str
    parameters: int
    grids: dict[str, dict[str, dict[str, Any]]]
    predictions: Predictions | None
    temperatures: dict[str, float]
    labelled: bool


@dataclass
class Evaluation:
    """All that an evaluation's report is made of.

    Attributes:
        split: name of the split.
        models: in the order that they were named in, ensembles last.
        heads: head to class names.
        costs: of the models that are no ensembles, and last of all together where they are an ensemble; with notes.
        broken: (clip_id, reason) of the clips that were left out.
        facts: name and value.
    """

    split: str
    models: list[ModelScores]
    heads: dict[str, list[str]]
    costs: list[Cost] = field(default_factory=list)
    cost_notes: list[str] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    settings_yaml: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For scores.json."""
        models = {
            each.name: {"parameters": each.parameters, "temperatures": each.temperatures, "views": each.grids}
            for each in self.models
        }
        return {"split": self.split, "models": models, "costs": [asdict(cost) for cost in self.costs]}


def describe_split(settings: Settings, split: str, run: Path) -> None:
    """Keep what the data set knows of the split, so that the report can be made again without it."""
    dataset = cached_dataset(settings.data_folder())
    manifest = cached_manifest(settings.data_folder(), split, settings.data.limit)
    unseen = set(dataset.notes.get("unseen", {}).get(split, ()))
    people = read_meta(manifest, "participant") if unseen else []
    write_json(
        run / "split.json",
        {
            "split": split,
            "val": settings.data.val,
            "heads": dataset.heads,
            "tail": dataset.notes.get("tail", {}),
            "unseen": [clip for clip, person in zip(manifest.clip_ids, people, strict=False) if person in unseen],
            "clips": len(manifest),
        },
    )


def read_evaluation(run: Path) -> Evaluation:
    """Everything computed again from the logits in a run folder.

    Raises:
        ValueError: a file of logits is missing or damaged.
    """
    about = json.loads((run / "split.json").read_text())
    split, val = about["split"], about["val"]
    models = []
    for name in json.loads((run / "models.json").read_text()):
        answers = Answers.load(answers_path(run, split, name))
        fitting = answers_path(run, val, name)
        temperatures = _temperatures(Answers.load(fitting)) if fitting.is_file() and val != split else {}
        models.append(_scored(answers, temperatures, about))
    costs = json.loads(path.read_text()) if (path := run / "costs.json").is_file() else {"costs": [], "notes": []}
    rejects = read_lines(run / "rejects.jsonl")
    return Evaluation(
        split,
        models,
        about["heads"],
        [Cost(**row) for row in costs["costs"]],
        costs["notes"],
        [(row["clip_id"], row["reason"]) for row in rejects if row["split"] == split],
        settings_yaml=(run / "config.yaml").read_text(),
    )


def _temperatures(answers: Answers) -> dict[str, float]:
    return fit_temperatures(answers.mean_logits(), answers.labels)


def _scored(answers: Answers, temperatures: dict[str, float], about: dict[str, Any]) -> ModelScores:
    unseen = np.isin(answers.clip_ids, about["unseen"]) if about["unseen"] else None
    grids: dict[str, dict[str, dict[str, Any]]] = {}
    for clips, crops in answers.grids:
        own = temperatures if not grids else None  # they were fitted in the first grid
        logits = answers.mean_logits((clips, crops))
        tail = about["tail"] or None
        grids[f"{clips}x{crops}"] = score(logits, answers.labels, tail=tail, unseen=unseen, temperatures=own or None)
    single = any(labels.ndim == 1 for labels in answers.labels.values())
    return ModelScores(
        answers.name,
        answers.parameters,
        grids,
        answers.predictions() if single else None,
        temperatures,
        any((labels >= 0).any() for labels in answers.labels.values()),
    )
