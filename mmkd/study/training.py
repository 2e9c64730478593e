"""A study's students: the search for each primary arm's learning rate and epochs, and the run of every arm and seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd.config import Settings
from mmkd.config.changes import apply
from mmkd.jobs import distill
from mmkd.metrics import headline
from mmkd.runs import read_epochs
from mmkd.study.arms import Recipe
from mmkd.study.tasks import Task, carry_out, of_task
from mmkd.study.teaching import TeacherSet, accuracy_text, of_share

Tuned = Mapping[str, Mapping[str, float]]
"""Primary arm to its lr and epochs."""


@dataclass(frozen=True)
class Student:
    """A run of an arm: the recipe, its seed, the set of teachers, the model folder."""

    recipe: Recipe
    seed: int
    teachers: TeacherSet
    run: Path

    @property
    def name(self) -> str:
        return f"{self.recipe.arm.name}-{self.seed}"

    @property
    def model(self) -> str:
        return str(self.run / "best")


def student_settings(
    settings: Settings, recipe: Recipe, teachers: TeacherSet, seed: int, lr: float, epochs: int, name: str
) -> Settings:
    """The settings of a student's run, whose teachers answer from their set's bank."""
    own = of_share(settings, recipe.share)
    changes: dict[str, Any] = {"run.name": name, "run.seed": seed, "optim.lr": lr}
    changes["optim.epochs"] = round(epochs * recipe.stretch)
    if not recipe.unlabelled:
        changes |= {"data.train_share": recipe.share}
    if recipe.teachers:
        folders = [teachers.folders[teacher] for teacher in recipe.teachers]
        changes |= {"teachers.mode": "replay", "teachers.bank": teachers.bank, "teachers.folders": folders}
    else:
        own = own.model_copy(update={"loss": own.loss.labels_only()})
    return of_task(apply(own, changes | dict(recipe.changes)))


def search(
    settings: Settings, study: str, primary: Sequence[Recipe], teachers: TeacherSet, records: Path
) -> tuple[Tuned, list[dict[str, Any]]]:
    """The learning rate and the number of epochs of both primary arms, by the same search: every rate at the first
    number of epochs, then every number of epochs at the best rate; by accuracy on split val over the last quarter of
    the epochs.

    Returns:
        what was found, and the rows of :class:`mmkd.study.results.StudyResults`.
    """
    first, *more = settings.study.search_epochs
    rows: list[dict[str, Any]] = []

    def trials(lrs: Mapping[str, Sequence[float]], epochs: Sequence[int]) -> None:
        asked = [(recipe, lr, n) for n in epochs for recipe in primary for lr in lrs[recipe.arm.name]]
        tasks = [_trial(settings, study, recipe, teachers, lr, n) for recipe, lr, n in asked]
        carry_out("search", tasks, settings, records)
        for (recipe, lr, n), task in zip(asked, tasks, strict=True):
            ran = read_epochs(task.product.parent)
            best = max(ran, key=lambda row: row["score"])["epoch"]
            # The mean of the last quarter is steadier than the best epoch.
            last = [headline(row["val"]) for row in ran[-max(1, len(ran) // 4) :]]
            measures = {name: sum(row[name] for row in last) / len(last) for name in ("accuracy", "nll")}
            row = {"arm": recipe.arm.name, "lr": lr, "epochs": n, "best_epoch": best, "chosen": False}
            rows.append(row | measures)

    names = [recipe.arm.name for recipe in primary]
    trials(dict.fromkeys(names, settings.study.search_lr), [first])
    trials({name: [_best(rows, name)["lr"]] for name in names}, more)
    tuned = {}
    for name in names:
        best = _best(rows, name)
        best["chosen"] = True
        tuned[name] = {"lr": best["lr"], "epochs": best["epochs"]}
    return tuned, rows


def _best(rows: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    return max((row for row in rows if row["arm"] == arm), key=lambda row: row["accuracy"])


def _trial(settings: Settings, study: str, recipe: Recipe, teachers: TeacherSet, lr: float, epochs: int) -> Task:
    name = f"{study}/search/{recipe.arm.name}-{lr:g}-{epochs}"
    own = student_settings(settings, recipe, teachers, settings.study.search_seed, lr, epochs, name)
    return _task(own, f"{recipe.arm.name}, lr {lr:g}, {epochs} epochs")


def _task(settings: Settings, title: str) -> Task:
    run = settings.home / "runs" / settings.run.name
    # Clips shown to the network; reading a bank is next to nothing.
    size = settings.optim.epochs * settings.data.train_share
    return Task(title, distill, settings, run / "result.json", size=size, tell=accuracy_text)


def students(settings: Settings, study: str, arms: Sequence[Recipe], sets: Sequence[TeacherSet]) -> list[Student]:
    """All runs of a study; an arm's seeds alternate between the sets of teachers that saw all clips, and arms of a
    share have its one set."""
    whole = [each for each in sets if each.share == 1]
    runs = settings.home / "runs" / study / "students"
    found = []
    for recipe in arms:
        for seed in range(recipe.seeds):
            own = whole[seed % len(whole)]
            if recipe.share < 1:
                own = next(each for each in sets if each.share == recipe.share)
            found.append(Student(recipe, seed, own, runs / f"{recipe.arm.name}-{seed}"))
    return found


def student_tasks(settings: Settings, study: str, all_students: Sequence[Student], tuned: Tuned) -> list[Task]:
    """Training the students."""
    tasks = []
    for each in all_students:
        found = tuned[each.recipe.like]
        own = student_settings(
            settings,
            each.recipe,
            each.teachers,
            each.seed,
            found["lr"],
            int(found["epochs"]),
            f"{study}/students/{each.name}",
        )
        tasks.append(_task(own, f"{each.recipe.arm.title}, seed {each.seed}"))
    return tasks
