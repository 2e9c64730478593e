"""report.html of a run: what its own records tell, gathered for the page."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkd import __version__
from mmkd.config import Settings
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.plan import TEST_VIEW
from mmkd.reader import REAL, read_unit
from mmkd.report.mistakes import confident_mistakes
from mmkd.report.page import Curve, Report, Strip, write_report
from mmkd.report.predictions import Predictions
from mmkd.resources import teachers_read
from mmkd.runs import read_metrics


def write_run_report(settings: Settings, run: Path) -> None:
    """The page of one run, from its records and the best model's answers on val; none where all heads are
    multi-label, which it does not show."""
    if not (run / "predictions-val.parquet").is_file():
        return
    answers = Predictions.load(run / "predictions-val.parquet")
    result = json.loads((run / "result.json").read_text())
    competence = run / "competence.json"
    report = Report(
        title=f"mmkd run {run.name}",
        lead=f"{result['kind']}: the best of {result['epochs']} epochs (epoch {result['best_epoch']}) on "
        f"{len(answers.clip_ids)} clips of split {settings.data.val}.",
        facts=facts(settings, {run.name: result}),
        heads=cached_dataset(settings.data_folder()).heads,
        predictions=[answers],
        curves=[Curve(answers.name, read_metrics(run))],
        strips=example_strips(settings, settings.data.val, 6),
        competence=json.loads(competence.read_text()) if competence.is_file() else None,
        mistakes_of=answers.name,
        mistakes=clip_strips(settings, settings.data.val, confident_mistakes(answers, 6)),
        settings_yaml=(run / "config.yaml").read_text(),
    )
    write_report(run / "report.html", report)


def facts(settings: Settings, results: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """What a reader needs to judge the figures and to repeat them."""
    resources = settings.resources
    rows = [data_facts(settings)[0]]
    rows.append(("seeds", f"run {settings.run.seed}, views {settings.views.seed}, weigh {settings.data.weigh_seed}"))
    for name, result in results.items():
        rows.append(
            (
                name,
                f"{result['run_folder']}: {result['seconds']:.0f} s, {result['clips_per_second']:.0f} clips/s, waited "
                f"for data {100 * result['wait_share']:.1f} % of the time, best epoch {result['best_epoch']} of "
                f"{result['epochs']}, {result['broken_clips']} broken clips",
            )
        )
    actors = sum(pool.actors for pool in settings.teachers.each_pool().values())
    reading = f", {resources.reading_tasks} readers at a time" * (not teachers_read(settings, teachers=1))
    others = (
        ", which read, and ask teachers, themselves" if resources.inline else f", {actors} teacher actor(s){reading}"
    )
    on_ray = f"Ray: {resources.workers} student worker(s){others}"
    ahead = f", {resources.ahead} thread(s) that read and ask ahead in each" * bool(resources.ahead)
    rows.append(("processes", ("one process" if settings.run.local else on_ray) + ahead))
    rows.append(data_facts(settings)[1])
    return rows


def data_facts(settings: Settings) -> list[tuple[str, str]]:
    """The data set, and the versions of what was used."""
    import ray
    import torch

    dataset = cached_dataset(settings.data_folder())
    splits = ", ".join(f"{name} {split['clips']}" for name, split in dataset.splits.items())
    versions = (
        f"mmkd {__version__}, Python {platform.python_version()}, torch {torch.__version__}, ray {ray.__version__}"
    )
    return [("data", f"{settings.data_folder()} ({splits} clips; {dataset.fingerprint})"), ("versions", versions)]


def example_strips(settings: Settings, split: str, number: int) -> list[Strip]:
    """Frames of a few clips, spread evenly over a split."""
    clip_ids = cached_manifest(settings.data_folder(), split, settings.data.limit).clip_ids
    rows = np.unique(np.linspace(0, len(clip_ids) - 1, number).astype(np.int64))
    return clip_strips(settings, split, [clip_ids[row] for row in rows])


def clip_strips(settings: Settings, split: str, clip_ids: Sequence[str]) -> list[Strip]:
    """Frames of clips of a split, in the order given, as a model is tested on them; a broken clip is left out.

    Raises:
        KeyError: a clip is not in the split.
    """
    folder = settings.data_folder()
    manifest = cached_manifest(folder, split, settings.data.limit)
    rows = {clip_id: row for row, clip_id in enumerate(manifest.clip_ids)}
    chosen = np.array([rows[clip_id] for clip_id in clip_ids], np.int64)
    block = read_unit(cached_dataset(folder), manifest, settings.views, chosen, TEST_VIEW, ("rgb",))
    whole = [i for i in range(len(chosen)) if block["status"][i] == REAL]
    return [Strip(clip_ids[i], block["rgb"][i]) for i in whole]
