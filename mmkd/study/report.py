"""A study's report: what the runs left read back, judged, and written as a page, pictures and tables."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmkd.config import Settings
from mmkd.cost.record import Cost
from mmkd.cost.table import cost_table
from mmkd.pipeline import cached_dataset
from mmkd.progress import say
from mmkd.report.study_page import write_study_page, write_study_pictures
from mmkd.runs import read_epochs, write_json
from mmkd.study.arms import BAD, Recipe
from mmkd.study.claims import claims, primary, teachers_said
from mmkd.study.markdown import write_markdown
from mmkd.study.results import Arm, Contrast, StudyResults, Tested
from mmkd.study.statistics import contrast
from mmkd.study.summaries import summarise
from mmkd.study.tables import write_tables
from mmkd.study.teaching import TeacherSet
from mmkd.study.testing import ENSEMBLES, read_tested
from mmkd.study.training import Student


def write_report(
    settings: Settings,
    run: Path,
    arms: Sequence[Recipe],
    sets: Sequence[TeacherSet],
    students: Sequence[Student],
    search: list[dict[str, Any]],
    facts: list[tuple[str, str]],
) -> dict[str, Any]:
    """Write study.html, study.md, figures/, tables/; returns the verdicts."""
    results = StudyResults(
        arms=[recipe.arm for recipe in arms],
        tested=[_student(settings, each, run) for each in students],
        heads=cached_dataset(settings.data_folder()).heads,
        search=search,
        facts=facts,
        settings_yaml=(run / "config.yaml").read_text(),
        quick=settings.study.quick,
        tail=cached_dataset(settings.data_folder()).notes.get("tail", {}),
    )
    whole = [each for each in sets if each.share == 1]
    for teachers in whole:
        _add_teachers(settings, results, teachers, run)
        judged = next(
            (each.run for each in students if each.recipe.arm.name == "distilled" and each.teachers is teachers), None
        )
        if judged is not None:
            results.competence.append(_json(judged / "competence.json"))
    results.costs = _costs(settings, whole[0], students[0], run)
    summaries = summarise(results)
    contrasts = _contrasts(results)
    judged_claims = claims(results)
    main = primary(results)
    if main is None:
        raise ValueError("the study has no primary comparison to report")
    write_tables(run / "tables", results, summaries, contrasts, judged_claims)
    write_markdown(run / "study.md", results, summaries, contrasts, judged_claims)
    page = (results, summaries, contrasts, judged_claims, main, teachers_said(results))
    write_study_page(run / "study.html", *page)
    write_study_pictures(run / "figures", *page)
    for claim in judged_claims:
        say(f"{claim.verdict:>15}: {claim.text}")
        for sentence in claim.said:
            say(f"{'':>17}{sentence}")
    return {"claims": {claim.text: claim.verdict for claim in judged_claims}}


def _student(settings: Settings, student: Student, run: Path) -> Tested:
    best = max(read_epochs(student.run), key=lambda row: row["score"])
    facts = {"run_folder": str(student.run), "best_epoch": best["epoch"], "epochs": len(read_epochs(student.run))}
    teacher_set = student.teachers.number if student.recipe.teachers else -1
    return read_tested(settings, student.recipe.arm.name, student.name, student.seed, teacher_set, run, facts)


def _add_teachers(settings: Settings, results: StudyResults, teachers: TeacherSet, run: Path) -> None:
    """The ensembles of a set and its teachers, which are no students."""
    known = {arm.name for arm in results.arms}
    names = [name for name in teachers.folders if name != BAD]
    singles = {f"teacher-{name}": Arm(f"teacher-{name}", f"teacher {name}", "teacher") for name in names}
    for name, arm in (ENSEMBLES | singles).items():
        path = run / "answers" / settings.data.test / f"{name}-{teachers.number}.parquet"
        if not path.is_file():
            continue
        if name not in known:
            results.arms.append(arm)
        tested = read_tested(settings, name, f"{name}-{teachers.number}", teachers.number, teachers.number, run, {})
        results.tested.append(tested)


def _contrasts(results: StudyResults) -> list[Contrast]:
    """Each arm against its reference, on test and where there is one on unseen."""
    found = []
    there = {each.arm for each in results.tested}
    places = ["test", *(["unseen"] if all(each.unseen is not None for each in results.of("labels")) else [])]
    for arm in results.arms:
        if arm.name in there and arm.reference in there:
            found += [contrast(results, arm.name, arm.reference, where) for where in places]
    return found


def _costs(settings: Settings, teachers: TeacherSet, student: Student, run: Path) -> list[Cost]:
    """Measured once, on the machine that writes the first report."""
    path = run / "costs.json"
    if path.is_file():
        return [Cost(**row) for row in _json(path)]
    names = [name for name in teachers.folders if name != BAD]
    folders = [student.model, *(teachers.folders[name] for name in names)]
    called = ["student", *(f"teacher {name}" for name in names)]
    costs, _ = cost_table(settings, folders, called, settings.data.test, ensemble=called[1:])
    write_json(path, [asdict(cost) for cost in costs])
    return costs


def _json(path: Path) -> Any:
    return json.loads(path.read_text())
