"""The paper's experiment as one job: teachers, their answers, the search, the students, their test, the report."""

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mmkd.config import MODALITIES, Settings, SettingsError
from mmkd.jobs import ensure_data, session
from mmkd.models import describe_model
from mmkd.pipeline import cached_dataset
from mmkd.progress import duration, say
from mmkd.resolve import check_folders, teacher_folders
from mmkd.runs import RunFolder, read_lines, write_json
from mmkd.storage import name_of
from mmkd.study.arms import BAD, Recipe, recipes
from mmkd.study.report import write_report
from mmkd.study.tasks import carry_out
from mmkd.study.teaching import TeacherSet, bank_tasks, corrupt, plan_set, teacher_tasks
from mmkd.study.testing import student_test_tasks, teacher_test_tasks
from mmkd.study.training import search, student_tasks, students

QUICK: dict[str, Any] = {
    "seeds": 2,
    "more_seeds": 1,
    "groups": ["controls", "weighting"],
    "search_lr": [4e-3],
    "teacher_sets": 1,
    "temperatures": [],
    "shares": [],
}
"""What is smaller in a quick study; its students have half the epochs of the search, its teachers half of theirs."""
BUILT_IN = "tabletop-study"
"""The built-in data of a study: tabletop with more clips to test on."""


def study(settings: Settings) -> dict[str, Any]:
    """Train and test all arms, and report what can be said of the paper's claims; resumes, and says when all is there.

    Raises:
        ValueError: the settings do not fit the data, or runs failed.
    """
    settings = _sized(settings)
    if not settings.loss.distils:
        raise SettingsError("loss.distill_weight is 0; the loss of a study is that of its distilled students.")
    if settings.data.folder != BUILT_IN or settings.teachers.folders:
        check_folders(settings)
    name = settings.run.name or f"study-{name_of(settings.data_folder())}" + ("-quick" if settings.study.quick else "")
    if settings.run.dry_run:
        return _describe(settings, name)
    with RunFolder(settings.home / "runs" / name) as run, session(settings):
        ensure_data(settings, built_in=BUILT_IN)
        run.claim(settings, _identity(settings))
        if (result := run.result()) is not None:
            say(f"study {run.path} is finished: {result['runs']} runs are there, and {result['report']}")
            return result
        arms, sets = _arms(settings, name)
        records = run.path / "parts"
        with _sitting(run.path):
            _teach(settings, name, sets, records)
            tuned, rows = search(settings, name, arms[:2], sets[0], records)
            write_json(run.path / "search.json", {"tuned": tuned, "rows": rows})
            each = students(settings, name, arms, sets)
            carry_out("students", student_tasks(settings, name, each, tuned), settings, records)
            tests = [*student_test_tasks(settings, each, run.path), *teacher_test_tasks(settings, sets, each, run.path)]
            carry_out("tests", tests, settings, records)
        say("report: intervals over seeds and clips, pictures, tables")
        report = write_report(settings, run.path, arms, sets, each, rows, _facts(settings, run.path, sets))
        result = {
            "run_folder": str(run.path),
            "report": str(run.path / "study.html"),
            "runs": len(each) + len(rows) + sum(len(s.folders) for s in sets),
            "seconds": round(sum(row["seconds"] for row in read_lines(run.path / "sittings.jsonl")), 1),
            **report,
        }
        run.finish(result)
        say(f"report: {result['report']}")
        return result


def _sized(settings: Settings) -> Settings:
    if not settings.study.quick:
        return settings
    own = settings.study
    shorter = {
        "search_epochs": [max(1, own.search_epochs[0] // 2)],
        "teacher_epochs": max(1, own.teacher_epochs // 2),
    }
    return settings.model_copy(update={"study": own.model_copy(update=QUICK | shorter)})


def _identity(settings: Settings) -> dict[str, Any]:
    described = settings.study.model_dump(mode="json", exclude={"concurrent"})
    return {"kind": "study", "study": described, "data": cached_dataset(settings.data_folder()).fingerprint}


def _arms(settings: Settings, name: str) -> tuple[list[Recipe], list[TeacherSet]]:
    """What is trained, and the sets of teachers that it needs."""
    if settings.teachers.folders:
        names = [describe_model(folder)["modality"] for folder in teacher_folders(settings)]
        if len(set(names)) < len(names):
            raise SettingsError(f"a study's teachers see different things; teachers.folders has {', '.join(names)}.")
        if settings.study.shares and "data" in settings.study.groups:
            raise SettingsError(
                "teachers on a share of the clips have to be trained: leave group data out of study.groups, or "
                "teachers.folders empty."
            )
    else:
        names = [m for m in MODALITIES if m in cached_dataset(settings.data_folder()).modalities]
    arms = recipes(settings, names)
    numbers = 1 if settings.teachers.folders else settings.study.teacher_sets
    whole = [plan_set(settings, name, names, number, 1.0) for number in range(min(numbers, settings.study.seeds))]
    shares = dict.fromkeys(recipe.share for recipe in arms if recipe.share < 1)
    return arms, whole + [plan_set(settings, name, names, 0, share) for share in shares]


def _teach(settings: Settings, name: str, sets: Sequence[TeacherSet], records: Path) -> None:
    tasks = [task for each in sets for task in teacher_tasks(settings, name, each)]
    carry_out("teachers", tasks, settings, records)
    for each in sets:
        corrupt(each, list(cached_dataset(settings.data_folder()).heads))
    carry_out("answers", [task for each in sets for task in bank_tasks(settings, each)], settings, records)


@contextmanager
def _sitting(run: Path) -> Iterator[None]:
    """A study may take several sittings; how long each took is kept."""
    began = time.monotonic()
    try:
        yield
    finally:
        with open(run / "sittings.jsonl", "a") as file:
            file.write(json.dumps({"seconds": round(time.monotonic() - began, 1)}) + "\n")


def _facts(settings: Settings, run: Path, sets: Sequence[TeacherSet]) -> list[tuple[str, str]]:
    from mmkd.run_report import data_facts

    sittings = [row["seconds"] for row in read_lines(run / "sittings.jsonl")]
    own, machine = settings.study, f"{platform.machine()}, {os.cpu_count()} cores"
    trained = "given" if settings.teachers.folders else f"{len(sets)} sets trained, {own.teacher_epochs} epochs"
    data, versions = data_facts(settings)
    return [
        ("date", datetime.now(timezone.utc).strftime("%Y-%m-%d")),
        (
            "took",
            f"{duration(sum(sittings))} in {len(sittings)} sitting(s) on {machine}",
        ),
        data,
        ("teachers", trained),
        (
            "seeds",
            f"students 0 to {own.seeds - 1} (other arms 0 to {own.more_seeds - 1}), search {own.search_seed}, teachers "
            f"1000 and on, views {settings.views.seed}, held-out clips {settings.data.weigh_seed}",
        ),
        versions,
    ]


def _describe(settings: Settings, name: str) -> dict[str, Any]:
    if not Path(settings.data_folder(), "dataset.json").is_file():
        say(f"data      {settings.data_folder()} is not there yet, and would be made")
        return {"dry_run": True}
    arms, sets = _arms(settings, name)
    own = settings.study
    say(f"primary   {arms[0].arm.title} against {arms[1].arm.title}, {own.seeds} seeds each")
    trials = len(own.search_lr) + len(own.search_epochs) - 1
    say(f"search    {trials} trials for each of the two: {own.search_lr}, then {own.search_epochs} epochs")
    for each in sets:
        say(f"teachers  set {each.name}: {', '.join(each.folders)}")
    for recipe in arms[2:]:
        say(f"arm       {recipe.arm.name}: {recipe.arm.title}, {recipe.seeds} seeds")
    runs = sum(recipe.seeds for recipe in arms) + 2 * trials
    say(f"in all    {runs} students, {sum(len([f for f in s.folders if f != BAD]) for s in sets)} teachers")
    return {"dry_run": True, "runs": runs, "arms": [asdict(recipe.arm) for recipe in arms]}
