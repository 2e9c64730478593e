"""A study's teachers: trained in sets, one of each corrupted, and their answers kept in banks that students share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmkd.bank.record import record
from mmkd.config import MODALITIES, Modality, Network, Settings
from mmkd.config.changes import apply
from mmkd.jobs import train_teacher
from mmkd.models import load_model, save_model
from mmkd.resolve import teacher_folders
from mmkd.study.arms import BAD, corrupted, longer
from mmkd.study.tasks import Task, of_task

PARTS = 2
"""Tasks that fill a bank."""


@dataclass(frozen=True)
class TeacherSet:
    """Teachers that were trained on the same clips, with one seed.

    Attributes:
        name: e.g. "0", "1-10" (set 1 on 10 % of the clips).
        folders: name of each teacher (what it sees, or BAD) to its model folder.
        bank: name of the bank of their answers.
    """

    name: str
    number: int
    share: float
    folders: dict[str, str]
    bank: str


def plan_set(settings: Settings, study: str, modalities: Sequence[Modality], number: int, share: float) -> TeacherSet:
    """Where a set's teachers and answers are, or will be; those of teachers.folders where it names any."""
    name = str(number) if share == 1 else f"{number}-{100 * share:g}"
    if settings.teachers.folders:
        folders: dict[str, str] = dict(zip(modalities, teacher_folders(settings), strict=True))
    else:
        runs = settings.home / "runs" / study / "teachers"
        folders = {str(modality): str(runs / f"{name}-{modality}" / "best") for modality in modalities}
    if share == 1 and "weighting" in settings.study.groups:
        folders[BAD] = str(settings.home / "runs" / study / "teachers" / f"{name}-{BAD}" / "best")
    return TeacherSet(name, number, share, folders, f"{study}-{name}")


def of_share(settings: Settings, share: float) -> Settings:
    """Settings in which only a share of the training clips has labels. The fewer there are, the more of them are held
    out, and nobody is judged near chance on so few."""
    if share == 1:
        return settings
    weigh = min(0.3, settings.data.weigh_share * share**-0.5)
    changes = {"data.labelled_share": share, "data.weigh_share": weigh, "teachers.drop_near_chance": False}
    return apply(settings, changes)


def teacher_tasks(settings: Settings, study: str, teachers: TeacherSet) -> list[Task]:
    """Training a set's teachers, unless they were given."""
    if settings.teachers.folders:
        return []
    tasks = []
    for modality in (name for name in MODALITIES if name in teachers.folders):
        epochs = round(settings.study.teacher_epochs * longer(teachers.share))
        own = of_share(settings, teachers.share).model_copy(update={"loss": settings.loss.labels_only()})
        own = own.model_copy(update={"teacher": Network(modality=modality, **_given(settings, modality))})
        changes = {
            "run.name": f"{study}/teachers/{teachers.name}-{modality}",
            "run.seed": 1000 + teachers.number,
            "optim.epochs": epochs,
            "optim.lr": settings.study.teacher_lr.get(modality, settings.optim.lr),
        }
        size = epochs * teachers.share * (1.0 if modality in ("rgb", "flow") else 0.6)
        title = f"teacher {teachers.name} {modality}"
        product = Path(teachers.folders[modality]) / "model.json"
        tasks.append(Task(title, train_teacher, of_task(apply(own, changes)), product, {}, size, accuracy_text))
    return tasks


def _given(settings: Settings, modality: Modality) -> dict[str, Any]:
    """What the settings say of a teacher's network, where they say it for this modality."""
    network = settings.teacher
    return network.model_dump(exclude={"modality"}) if network.modality == modality else {}


def bank_tasks(settings: Settings, teachers: TeacherSet) -> list[Task]:
    """Asking all of a set's teachers about every view that a student is shown."""
    own = of_share(settings, teachers.share)
    # The bank's answers are for every arm: which teachers count in which is decided there.
    changes: dict[str, Any] = {
        "teachers.folders": list(teachers.folders.values()),
        "teachers.bank": teachers.bank,
        "teachers.drop_near_chance": False,
        "optim.epochs": round(max(settings.study.search_epochs) * longer(teachers.share)),
    }
    tasks = []
    for part in range(1, PARTS + 1):
        each = of_task(apply(own, changes | {"teachers.bank_part": f"{part}/{PARTS}"}))
        title = f"answers of set {teachers.name}, part {part}"
        tasks.append(Task(title, record, each, settings.below_banks(teachers.bank) / "bank.json", tell=_recorded))
    return tasks


def corrupt(teachers: TeacherSet, heads: Sequence[str]) -> None:
    """Make the corrupted copy: a sound network whose classes are mixed up, so that it is sure and wrong."""
    if BAD not in teachers.folders or (Path(teachers.folders[BAD]) / "model.json").is_file():
        return
    source = corrupted([name for name in teachers.folders if name != BAD])
    model = load_model(teachers.folders[source])
    rng = np.random.default_rng(teachers.number)
    with torch.no_grad():
        for head in heads:
            linear = model.heads[head]
            assert isinstance(linear, torch.nn.Linear)
            order = _derangement(linear.out_features, rng)
            linear.weight.copy_(linear.weight[order])
            linear.bias.copy_(linear.bias[order])
    about = dict(model.spec.training) | {"corrupted": f"the classes of {teachers.folders[source]} in another order"}
    save_model(model, teachers.folders[BAD], about)


def _derangement(n: int, rng: np.random.Generator) -> list[int]:
    """A random order in which nothing keeps its place: a turn of random neighbours."""
    order = rng.permutation(n)
    turned = np.empty(n, np.int64)
    turned[order] = np.roll(order, 1)
    return turned.tolist()


def accuracy_text(result: dict[str, Any]) -> str:
    """What a training came to on val, for people."""
    return "val " + ", ".join(f"{head} {100 * share:.1f} %" for head, share in result["val"].items())


def _recorded(result: dict[str, Any]) -> str:
    return f"{result['computed']} computed, {result['missing']} missing"
