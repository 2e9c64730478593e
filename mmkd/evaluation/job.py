"""The evaluation as one job: models over a split, their answers kept, and from those all that is said of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkd.config import Settings, SettingsError
from mmkd.config.yaml_text import load_yaml
from mmkd.evaluation.answers import Grid, answers_path, load_if_made
from mmkd.evaluation.ensembles import ensembles
from mmkd.evaluation.models import Evaluated, evaluated_models, views_of
from mmkd.evaluation.report import measure_costs, report
from mmkd.evaluation.scores import describe_split
from mmkd.evaluation.split import SplitLogits, split_logits
from mmkd.jobs import ensure_data, session
from mmkd.models import load_model
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.progress import say
from mmkd.runs import RunFolder, add_lines, write_json
from mmkd.storage import name_of
from mmkd.views import parse_grid

FEWER = (1, 2, 3, 5, 10, 20)
"""Views in time that smaller grids have."""


def evaluate(settings: Settings) -> dict[str, Any]:
    """Run the models over the split, or take the logits that were kept, and report.

    Raises:
        ValueError: the models do not fit the data, a logit is not finite, or too many clips are broken.
    """
    if settings.evaluate.logits:
        return _from_logits(settings)
    if settings.run.dry_run:
        return _describe(settings)
    with session(settings):
        ensure_data(settings)
        models = evaluated_models(settings)
        settings = views_of(settings, models)
        split = settings.evaluate.split or settings.data.test
        cached_manifest(settings.data_folder(), split, settings.data.limit)  # raises where there is none
        with RunFolder(_run_folder(settings, models, split)) as run:
            run.claim(settings, _identity(settings, models, split))
            if (result := run.result()) is not None:
                say(f"evaluation {run.path} is finished; delete it, or choose another run.name, to evaluate again")
                say((run.path / "scores.txt").read_text())
                return result
            grids = grids_of(settings)
            _answers(settings, models, split, grids, run.path)
            val = split
            if settings.evaluate.scale and settings.data.val != split:
                val = settings.data.val
                _answers(settings, models, val, grids[:1], run.path)
            together = settings.evaluate.ensemble or not settings.evaluate.models
            names = [each.name for each in models]
            if together:
                names += ensembles(settings, models, list(dict.fromkeys((split, val))), run.path)
            write_json(run.path / "models.json", names)
            describe_split(settings, split, run.path)
            if settings.evaluate.cost and not (run.path / "costs.json").is_file():
                measure_costs(settings, models, split, together, run.path)
            result = report(settings, run.path)
            run.finish(result)
            return result


def grids_of(settings: Settings) -> list[Grid]:
    """The grid of test views that was asked for, and the smaller ones."""
    text = settings.evaluate.views
    clips, crops = parse_grid(text) if text else settings.views.test_grid
    fewer = [n for n in FEWER if n < clips] + [clips]
    smaller = [(n, m) for n in fewer for m in dict.fromkeys((1, crops)) if (n, m) != (clips, crops)]
    return [(clips, crops), *sorted(smaller, key=lambda grid: grid[0] * grid[1])]


def _run_folder(settings: Settings, models: Sequence[Evaluated], split: str) -> Path:
    data = name_of(settings.data_folder())
    named = models[0].name.replace(" ", "-") if len(models) == 1 else f"{len(models)}-models"
    if not settings.evaluate.models:
        named = "teachers"
    return settings.home / "runs" / (settings.run.name or f"evaluate-{named}-{data}-{split}")


def _identity(settings: Settings, models: Sequence[Evaluated], split: str) -> dict[str, Any]:
    return {
        "kind": "evaluation",
        "data": cached_dataset(settings.data_folder()).fingerprint,
        "models": {each.name: each.description["weights_hash"] for each in models},
        "split": split,
        "grids": [list(grid) for grid in grids_of(settings)],
        "ensemble": settings.evaluate.ensemble,
        "scale": settings.evaluate.scale,
    }


def _answers(settings: Settings, models: Sequence[Evaluated], split: str, grids: Sequence[Grid], run: Path) -> None:
    """Keep each model's answers on a split, but for those that are there already."""
    missing = [
        each
        for each in models
        if load_if_made(answers_path(run, split, each.name), _about(settings, each, split, grids)) is None
    ]
    if missing:
        clips = len(cached_manifest(settings.data_folder(), split, settings.data.limit))
        smaller = f" and {len(grids) - 1} smaller grids" if len(grids) > 1 else ""
        said = f"{grids[0][0]}x{grids[0][1]} views{smaller}"
        say(f"split {split}: {len(missing)} model(s) on {clips} clips, {said}")
        logits = split_logits(
            settings, [each.folder for each in missing], split, grids=grids, actors=settings.evaluate.actors
        )
        _check_broken(settings, logits, split, run)
        for number, each in enumerate(missing):
            parameters = load_model(each.folder).num_parameters
            answers = logits.answers(number, each.name, parameters)
            answers.about = _about(settings, each, split, grids)
            answers.save(answers_path(run, split, each.name))


def _about(settings: Settings, model: Evaluated, split: str, grids: Sequence[Grid]) -> dict[str, Any]:
    return {
        "model": model.description["weights_hash"],
        "data": cached_dataset(settings.data_folder()).fingerprint,
        "split": split,
        "limit": settings.data.limit,
        "grids": [list(grid) for grid in grids],
        "views": settings.views.model_dump(mode="json", include={"box_score", "whole_frame_boxes"}),
    }


def _check_broken(settings: Settings, logits: SplitLogits, split: str, run: Path) -> None:
    if not logits.broken:
        return
    rows = [{"split": split, "clip_id": clip_id, "reason": reason} for clip_id, reason in logits.broken]
    add_lines(run / "rejects.jsonl", rows)
    total = len(logits.clip_ids) + len(logits.broken)
    say(f"split {split}: {len(logits.broken)} of {total} clips are broken and left out; rejects.jsonl lists them")
    if len(logits.broken) > settings.data.max_broken_share * total:
        raise ValueError(
            f"{len(logits.broken)} of {total} clips of split {split} are broken, more than data.max_broken_share "
            f"allows (the first: {logits.broken[0][0]}: {logits.broken[0][1]}). {run}/rejects.jsonl lists them."
        )


def _from_logits(settings: Settings) -> dict[str, Any]:
    """Report again on the logits in an evaluation's folder."""
    folder = Path(settings.evaluate.logits).expanduser()
    folder = folder if folder.is_absolute() else settings.home / "runs" / folder
    if not (folder / "models.json").is_file():
        raise SettingsError(f"--logits {folder} is no folder of an evaluation: it has no models.json.")
    with RunFolder(folder) as run:
        result = report(Settings.model_validate(load_yaml((run.path / "config.yaml").read_text())), run.path)
        run.finish(result)
        return result


def _describe(settings: Settings) -> dict[str, Any]:
    models = evaluated_models(settings)
    settings = views_of(settings, models)
    split = settings.evaluate.split or settings.data.test
    clips = len(cached_manifest(settings.data_folder(), split, settings.data.limit))
    grids = ", ".join(f"{a}x{b}" for a, b in grids_of(settings))
    say(f"models    {', '.join(each.name for each in models)}")
    say(f"data      {settings.data_folder()}, split {split}: {clips} clips, in {grids} views")
    say(f"run       {_run_folder(settings, models, split)}")
    return {"dry_run": True, "models": [each.folder for each in models], "clips": clips}
