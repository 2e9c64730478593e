"""The main job from data to report: a student taught by the ensemble, the same network on labels, both on test."""

import json
import time
from pathlib import Path
from typing import Any

from mmkd.config import Settings
from mmkd.evaluation.split import split_logits
from mmkd.jobs import distill, ensure_data, session
from mmkd.pipeline import cached_dataset
from mmkd.progress import say
from mmkd.report.mistakes import confident_mistakes
from mmkd.report.page import Curve, Report, write_report
from mmkd.report.predictions import Predictions
from mmkd.report.table import comparison, difference, format_table
from mmkd.run_report import clip_strips, example_strips, facts
from mmkd.runs import RunFolder, read_metrics
from mmkd.storage import name_of
from mmkd.teachers import teacher_names


def demo(settings: Settings) -> dict[str, Any]:
    """Data, baseline, student and test in one Ray session; resumes, and says so when it is finished."""
    name = settings.run.name or "demo"
    if settings.run.dry_run:
        runs = {"baseline": _labels_only(_named(settings, f"{name}-baseline")), "student": settings}
        runs["student"] = _named(settings, f"{name}-student")
        return {"dry_run": True} | {which: distill(own) for which, own in runs.items()}
    with RunFolder(settings.home / "runs" / name) as run:
        if (result := run.result()) is not None:
            say(f"run {run.path} is finished; delete it, or choose another run.name, to run it again")
            say((run.path / "table.txt").read_text())
            return result
        began = time.monotonic()
        with session(settings):
            ensure_data(settings)
            baseline = distill(_labels_only(_named(settings, f"{name}-baseline")))
            student = distill(_named(settings, f"{name}-student"))
            say(f"testing teachers, baseline and student on split {settings.data.test}")
            competence = json.loads((Path(student["run_folder"]) / "competence.json").read_text())
            predictions = _test(settings, baseline, student, competence)
        for one in predictions:
            one.save(run.path / "predictions" / f"{one.name.replace(' ', '-')}.parquet")
        gain = difference(predictions[-1], predictions[-2])
        rows = comparison(predictions)
        table = format_table(rows, {"student - baseline": gain})
        (run.path / "table.txt").write_text(table + "\n")
        settings.save(run.path / "config.yaml")
        _report(settings, run.path, predictions, {"baseline": baseline, "student": student}, competence)
        result = {
            "run_folder": str(run.path),
            "report": str(run.path / "report.html"),
            "model": student["model"],
            "test": {row["name"]: {h: round(m["accuracy"], 4) for h, m in row["metrics"].items()} for row in rows},
            "seconds": round(time.monotonic() - began, 1),
        }
        run.finish(result)
        say("\n" + table + f"\n\nreport: {result['report']}")
        return result


def _named(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"run": settings.run.model_copy(update={"name": name})})


def _labels_only(settings: Settings) -> Settings:
    return settings.model_copy(update={"loss": settings.loss.labels_only()})


def _test(settings: Settings, baseline: dict, student: dict, competence: dict) -> list[Predictions]:
    """Test answers of each teacher, the ensemble, the baseline and the student, in this order."""
    from mmkd.models import load_model

    teachers = student["teachers"]
    folders = [*teachers, baseline["model"], student["model"]]
    sizes = [load_model(folder).num_parameters for folder in folders]
    logits = split_logits(settings, folders, settings.data.test)
    names = [f"teacher {name}" for name in teacher_names(teachers)]
    last = len(teachers)
    return [
        *(logits.of_model(number, name, sizes[number]) for number, name in enumerate(names)),
        logits.of_ensemble(competence["weight"], "ensemble", sum(sizes[:last])),
        logits.of_model(last, "baseline", sizes[last]),
        logits.of_model(last + 1, "student", sizes[last + 1]),
    ]


def _report(
    settings: Settings, run: Path, predictions: list[Predictions], results: dict[str, dict], competence: dict
) -> None:
    dataset, student = cached_dataset(settings.data_folder()), predictions[-1]
    report = Report(
        title="Distillation against labels",
        lead=f"One RGB network, trained twice on {dataset.splits[settings.data.train]['clips']} clips for "
        f"{settings.optim.epochs} epochs: taught by an ensemble that also sees flow, sound and boxes (student), and on "
        f"labels (baseline). Figures are on split {settings.data.test} of {name_of(settings.data_folder())}.",
        facts=facts(settings, results),
        heads=dataset.heads,
        predictions=predictions,
        curves=[Curve(name, read_metrics(Path(result["run_folder"]))) for name, result in results.items()],
        strips=example_strips(settings, settings.data.test, 6),
        difference=("student", "baseline"),
        competence=competence,
        mistakes_of=student.name,
        mistakes=clip_strips(settings, settings.data.test, confident_mistakes(student, 6)),
        settings_yaml=(run / "config.yaml").read_text(),
    )
    write_report(run / "report.html", report)
