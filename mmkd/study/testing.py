"""Testing a study's models: their answers on test, val and unseen, kept clip by clip, and those of the ensembles."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkd.config import Settings
from mmkd.evaluation.answers import Answers, Grid
from mmkd.evaluation.split import split_logits
from mmkd.models import load_model
from mmkd.pipeline import cached_dataset
from mmkd.study.arms import BAD, corrupted
from mmkd.study.results import Arm, Tested
from mmkd.study.tasks import Task, of_task
from mmkd.study.teaching import TeacherSet
from mmkd.study.training import Student

AT_ONCE = 6
"""Models that a task asks about a clip that it has read."""
ENSEMBLES = {
    "ensemble": Arm("ensemble", "the multimodal ensemble itself", "ensemble"),
    "ensemble-uniform": Arm("ensemble-uniform", "the ensemble, uniformly weighted", "ensemble", "ensemble"),
    "bad-ensemble-uniform": Arm(
        "bad-ensemble-uniform", "the ensemble with a corrupted teacher, uniformly weighted", "ensemble", "ensemble"
    ),
    "bad-ensemble-held-out": Arm(
        "bad-ensemble-held-out",
        "the ensemble with a corrupted teacher, weighted by held-out clips",
        "ensemble",
        "bad-ensemble-uniform",
    ),
}


def grids_up_to(text: str) -> list[Grid]:
    """The grids of test views that a study compares: one view, and the smallest and largest in time and in space."""
    clips, crops = (int(part) for part in text.split("x"))
    return list(dict.fromkeys([(1, 1), (1, crops), (clips, 1), (clips, crops)]))


def splits_of(settings: Settings, grids: Sequence[Grid]) -> dict[str, list[Grid]]:
    """Splits that models are tested on, and in which views."""
    splits = {settings.data.test: list(grids), settings.data.val: [(1, 1)]}
    if "unseen" in cached_dataset(settings.data_folder()).splits:
        splits["unseen"] = [(1, 1)]
    return splits


def student_test_tasks(settings: Settings, students: Sequence[Student], run: Path) -> list[Task]:
    """Asking the students, those of the primary arms in a grid of views."""
    tasks = []
    for primary in (True, False):
        mine = [each for each in students if (each.recipe.arm.group == "primary") == primary]
        grids = grids_up_to(settings.study.views) if primary else [(1, 1)]
        for start in range(0, len(mine), AT_ONCE):
            some = mine[start : start + AT_ONCE]
            arguments = {
                "models": {each.name: each.model for each in some},
                "splits": splits_of(settings, grids),
                "folder": str(run / "answers"),
            }
            title = f"testing {some[0].name} to {some[-1].name}"
            product = run / "answers" / settings.data.test / f"{some[-1].name}.parquet"
            tasks.append(Task(title, test_models, of_task(settings), product, arguments, len(some) * len(grids)))
    return tasks


def test_models(settings: Settings, models: Mapping[str, str], splits: Mapping[str, list[Grid]], folder: str) -> None:
    """Keep the answers of models of one modality, in FOLDER/SPLIT/NAME.parquet."""
    sizes = [load_model(model).num_parameters for model in models.values()]
    for split, grids in splits.items():
        logits = split_logits(settings, list(models.values()), split, grids=[(a, b) for a, b in grids])
        for number, name in enumerate(models):
            logits.answers(number, name, sizes[number]).save(Path(folder) / split / f"{name}.parquet")


def teacher_test_tasks(
    settings: Settings, sets: Sequence[TeacherSet], students: Sequence[Student], run: Path
) -> list[Task]:
    """Asking the teachers that saw all clips, and what their ensembles say."""
    tasks = []
    for teachers in (each for each in sets if each.share == 1):
        arguments = {
            "teachers": teachers.folders,
            "number": teachers.number,
            "weights": _weights(teachers, students),
            "splits": splits_of(settings, grids_up_to(settings.study.views)),
            "folder": str(run / "answers"),
        }
        product = run / "answers" / settings.data.test / f"ensemble-{teachers.number}.parquet"
        title = f"testing teachers of set {teachers.name}"
        tasks.append(Task(title, test_teachers, of_task(settings), product, arguments, 30.0))
    return tasks


def _weights(teachers: TeacherSet, students: Sequence[Student]) -> dict[str, dict[str, list[float]]]:
    """Ensemble to head to the weight of each of the set's teachers: measured when a student of the set was taught."""
    names = list(teachers.folders)
    sound = [name for name in names if name != BAD]
    spoilt = [BAD if name == corrupted(sound) else name for name in sound]
    measured = {}
    for ensemble, arm, members in (("ensemble", "distilled", sound), ("bad-ensemble-held-out", "bad-held-out", spoilt)):
        runs = [each.run for each in students if each.recipe.arm.name == arm and each.teachers is teachers]
        if runs:
            weight = json.loads((runs[0] / "competence.json").read_text())["weight"]
            measured[ensemble] = {head: _spread(names, members, each) for head, each in weight.items()}
    heads = list(measured["ensemble"])
    even = [1 / len(sound)] * len(sound)
    measured["ensemble-uniform"] = {head: _spread(names, sound, even) for head in heads}
    if "bad-ensemble-held-out" in measured:
        measured["bad-ensemble-uniform"] = {head: _spread(names, spoilt, even) for head in heads}
    return measured


def _spread(names: Sequence[str], members: Sequence[str], weights: Sequence[float]) -> list[float]:
    own = dict(zip(members, weights, strict=True))
    return [own.get(name, 0.0) for name in names]


def test_teachers(
    settings: Settings,
    teachers: Mapping[str, str],
    number: int,
    weights: Mapping[str, dict[str, list[float]]],
    splits: Mapping[str, list[Grid]],
    folder: str,
) -> None:
    """Keep the answers of a set's teachers, teacher-NAME-SET, and of its ensembles, ENSEMBLE-SET."""
    sizes = [load_model(model).num_parameters for model in teachers.values()]
    for split, grids in splits.items():
        logits = split_logits(settings, list(teachers.values()), split, grids=[(a, b) for a, b in grids])
        kept = {f"teacher-{name}": logits.answers(i, name, sizes[i]) for i, name in enumerate(teachers) if name != BAD}
        members = sum(size for name, size in zip(teachers, sizes, strict=True) if name != BAD)
        kept |= {name: logits.ensemble(each, name, members) for name, each in weights.items()}
        # The ensemble last: it says that the others are there.
        for name in sorted(kept, key=lambda name: name == "ensemble"):
            kept[name].save(Path(folder) / split / f"{name}-{number}.parquet")


def read_tested(
    settings: Settings, arm: str, name: str, seed: int, teacher_set: int, run: Path, facts: dict[str, Any]
) -> Tested:
    """A model's answers, read back."""

    def load(split: str) -> Answers:
        return Answers.load(run / "answers" / split / f"{name}.parquet")

    test = load(settings.data.test)
    unseen = run / "answers" / "unseen" / f"{name}.parquet"
    return Tested(
        arm,
        seed,
        teacher_set,
        {f"{clips}x{crops}": test.predictions((clips, crops)) for clips, crops in test.grids},
        load(settings.data.val).predictions(),
        load("unseen").predictions() if unseen.is_file() else None,
        facts,
    )
