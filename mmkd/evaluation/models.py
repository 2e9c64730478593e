"""Which models an evaluation is of: their folders, names and hashes, and the views that they were trained to see."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd.config import Settings, SettingsError
from mmkd.config.changes import apply
from mmkd.config.training import GEOMETRY
from mmkd.models import describe_model, find_model
from mmkd.pipeline import cached_dataset
from mmkd.resolve import teacher_folders
from mmkd.teachers import class_columns, teacher_names


@dataclass(frozen=True)
class Evaluated:
    """A model to evaluate: its folder, its name for people, its model.json."""

    folder: str
    name: str
    description: dict[str, Any]


def evaluated_models(settings: Settings) -> list[Evaluated]:
    """The models that the settings name, or the teachers; those of classes that the data has not are refused.

    Raises:
        SettingsError: a folder is no model, a model lacks a class or a head, or the data lacks what it sees.
        ValueError: a name occurs twice.
    """
    if settings.evaluate.models:
        folders = [_folder(settings, name) for name in settings.evaluate.models]
        names = [Path(folder).parent.name if Path(folder).name == "best" else Path(folder).name for folder in folders]
    else:
        folders = list(teacher_folders(settings))
        names = [f"teacher {name}" for name in teacher_names(folders)]
    if len(set(folders)) < len(folders):
        raise SettingsError(f"evaluate.models names a folder twice: {', '.join(folders)}.")
    names = [name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}" for i, name in enumerate(names)]
    found = [Evaluated(folder, name, describe_model(folder)) for folder, name in zip(folders, names, strict=True)]
    dataset = cached_dataset(settings.data_folder())
    for each in found:
        if each.description["modality"] not in dataset.modalities:
            raise SettingsError(
                f"{settings.data_folder()} has no {each.description['modality']}, which {each.name} sees."
            )
        for head, classes in dataset.heads.items():
            theirs = each.description["heads"]
            if head not in theirs:
                raise SettingsError(f"model {each.folder} has no head {head!r}; it has {', '.join(theirs)}.")
            try:
                class_columns(theirs[head], classes)
            except ValueError as error:
                raise SettingsError(f"model {each.folder} has other classes in head {head!r}: {error}.") from None
    return found


def _folder(settings: Settings, name: str) -> str:
    try:
        return str(find_model(name, [settings.home / part for part in ("models", "runs")]))
    except FileNotFoundError as error:
        raise SettingsError(f"evaluate.models: {error}") from None


def views_of(settings: Settings, models: Sequence[Evaluated]) -> Settings:
    """The settings with the views that the models were trained to see.

    Raises:
        SettingsError: they were trained to see different ones.
    """
    changes: dict[str, Any] = {}
    for each in models:
        seen = each.description["input"]
        for field in (name for name in GEOMETRY if name in seen):
            if changes.setdefault(f"views.{field}", seen[field]) != seen[field]:
                raise SettingsError(
                    f"{each.name} was trained with views.{field} {seen[field]} and another model with "
                    f"{changes[f'views.{field}']}; evaluate them apart."
                )
    return apply(settings, changes)
