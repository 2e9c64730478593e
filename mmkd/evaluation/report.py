"""An evaluation's report: scores.json, scores.txt, report.html, and submission files where a split has no labels."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmkd.config import Settings
from mmkd.cost.table import cost_table
from mmkd.evaluation.answers import answers_path
from mmkd.evaluation.models import Evaluated
from mmkd.evaluation.scores import Evaluation, ModelScores, read_evaluation
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.progress import say
from mmkd.report.evaluation_page import shown_model, write_evaluation_page
from mmkd.report.evaluation_text import evaluation_text
from mmkd.report.mistakes import confident_mistakes
from mmkd.report.strips import Strip
from mmkd.run_report import clip_strips, data_facts
from mmkd.runs import write_json
from mmkd.submission import write_submission

MISTAKES = 6


def measure_costs(settings: Settings, models: Sequence[Evaluated], split: str, together: bool, run: Path) -> None:
    """Keep what the models cost on this machine, alone and, where they are an ensemble, together."""
    names = [each.name for each in models]
    say("measuring what the models and their inputs cost")
    costs, notes = cost_table(
        settings, [each.folder for each in models], names, split, ensemble=names if together and len(names) > 1 else ()
    )
    write_json(run / "costs.json", {"costs": [asdict(cost) for cost in costs], "notes": notes})


def report(settings: Settings, run: Path) -> dict[str, Any]:
    """Write everything that is said of the answers in a run folder, and return its result."""
    evaluation = read_evaluation(run)
    there = Path(settings.data_folder(), "dataset.json").is_file() or "://" in settings.data_folder()
    if there:
        evaluation.facts = data_facts(settings)
    text = evaluation_text(evaluation)
    (run / "scores.txt").write_text(text + "\n")
    write_json(run / "scores.json", evaluation.as_dict())
    write_evaluation_page(run / "report.html", evaluation, _mistakes(settings, evaluation) if there else [])
    submissions = _submissions(settings, evaluation, run) if there else []
    say("\n" + text + f"\n\nreport: {run / 'report.html'}")
    for path in submissions:
        say(f"submission: {path}")
    return {
        "run_folder": str(run),
        "report": str(run / "report.html"),
        "split": evaluation.split,
        "broken_clips": len(evaluation.broken),
        "scores": {each.name: _headline(each) for each in evaluation.models},
        **({"submissions": [str(path) for path in submissions]} if submissions else {}),
    }


def _headline(model: ModelScores) -> dict[str, Any]:
    first = next(iter(model.grids.values()))
    keys = ("n", "top1", "top1_se", "ece", "ece_floor", "nll", "brier", "mean_average_precision")
    return {head: {key: each[key] for key in keys if key in each} for head, each in first.items()}


def _mistakes(settings: Settings, evaluation: Evaluation) -> list[Strip]:
    """Frames of the mistakes that the model of the page was surest of."""
    shown = shown_model(evaluation)
    if shown.predictions is None or not shown.labelled:
        return []
    return clip_strips(settings, evaluation.split, confident_mistakes(shown.predictions, MISTAKES))


def _submissions(settings: Settings, evaluation: Evaluation, run: Path) -> list[Path]:
    """A file for each model, where nobody here knows the labels."""
    written = []
    dataset = cached_dataset(settings.data_folder())
    clip_ids = cached_manifest(settings.data_folder(), evaluation.split, settings.data.limit).clip_ids
    for model in evaluation.models:
        if model.labelled or model.predictions is None:
            continue
        folder = run / "submissions" / answers_path(run, evaluation.split, model.name).stem
        folder.mkdir(parents=True, exist_ok=True)
        path = write_submission(folder, model.predictions, dataset, clip_ids=clip_ids)
        if path is not None:
            written.append(path)
    return written
