"""From settings to work: data, teachers and plan looked up and checked, before anything is started."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkd.config import MODALITIES, Settings, SettingsError
from mmkd.dataset import Dataset
from mmkd.pipeline import Work, cached_dataset, cached_manifest
from mmkd.plan import Clips, Plan, chosen_share, hold_out
from mmkd.reader import sound_rate
from mmkd.shards import Manifest
from mmkd.storage import name_of


def teacher_folders(settings: Settings) -> tuple[str, ...]:
    """Folders of the ensemble; none where nothing is distilled."""
    from mmkd.teachers import SHIPPED

    if not settings.loss.distils:
        return ()
    if settings.teachers.folders:
        from mmkd.models import find_model

        places = (settings.home / "models", settings.home / "runs")
        if settings.teachers.retrain or settings.teachers.only_in_bank:  # they need not be there
            return tuple(str(places[0] / folder) for folder in settings.teachers.folders)
        return tuple(str(find_model(folder, places)) for folder in settings.teachers.folders)
    return tuple(str(SHIPPED / modality) for modality in MODALITIES)


def check_folders(settings: Settings) -> None:
    """Refuse a data set or a teacher that is not there before anything is started."""
    from mmkd.models import describe_model

    if settings.data.folder:
        cached_dataset(settings.data_folder())
    unneeded = settings.teachers.retrain or settings.teachers.only_in_bank
    for folder in () if unneeded else teacher_folders(settings):
        describe_model(folder)


def plan_teacher(settings: Settings) -> Work:
    """A teacher's work: it learns on the clips of `train` that are not held out."""
    teach, _ = teach_and_weigh(settings)
    return Work(settings, settings.data_folder(), _plan(settings, teach, np.zeros(0, np.int64)), settings.teacher)


def plan_student(settings: Settings, folders: tuple[str, ...]) -> tuple[Work, dict[str, str]]:
    """The student's work, and the hash of each teacher, after checking that they fit the data.

    Where a bank answers for teachers whose folders are not given, they are the bank's.
    """
    data = settings.data
    dataset, train = cached_dataset(settings.data_folder()), _manifest(settings, data.train)
    descriptions: list[dict[str, Any]] = []
    hashes: dict[str, str] = {}
    weigh = np.zeros(0, np.int64)
    if folders and settings.teachers.only_in_bank:
        from mmkd.bank.description import read_description

        folders = ()
        hashes = read_description(settings.below_banks(settings.teachers.bank)).teachers
    elif folders:
        from mmkd.teachers import teacher_names

        descriptions = matched_teachers(settings, dataset, folders)
        hashes = {n: d["weights_hash"] for n, d in zip(teacher_names(folders), descriptions, strict=True)}
    if hashes:
        _, weigh = teach_and_weigh(settings)
        if not len(weigh):
            raise SettingsError("no clip is held out to weigh the teachers on; raise data.weigh_share.")
    if folders:
        settings.teachers.members(tuple(hashes))  # raises where pools do not fit the teachers
    seen = tuple(description["modality"] for description in descriptions)
    plan = _plan(settings, np.flatnonzero(chosen_share(train.clip_ids, data.train_share)), weigh)
    work = Work(settings, settings.data_folder(), plan, settings.student, folders, tuple(hashes), seen)
    return work, hashes


def teach_and_weigh(settings: Settings) -> tuple[Clips, Clips]:
    """Numbers of the labelled clips of the train split that teachers learn on, and of those they are weighed on."""
    data = settings.data
    clip_ids = _manifest(settings, data.train).clip_ids
    known = chosen_share(clip_ids, min(data.train_share, data.labelled_share))
    teach, weigh = hold_out(clip_ids, data.weigh_share, data.weigh_seed)
    return teach[known[teach]], weigh[known[weigh]]


def matched_teachers(settings: Settings, dataset: Dataset, folders: Sequence[str]) -> list[dict[str, Any]]:
    """The model.json of each teacher, after checking that it fits the data and the views, and saw no held-out clip.

    Raises:
        ValueError: one does not.
    """
    from mmkd.matching import check_teachers

    data, views, teachers = settings.data, settings.views, settings.teachers
    seen = {
        "frames",
        "size",
        "sampling",
        "boxes",
        "audio_seconds",
        *(("stride",) if views.sampling == "strided" else ()),
    }
    expected = views.model_dump(include=seen) | {"sample_rate": sound_rate(dataset, views)}
    split = {"fingerprint": dataset.fingerprint, "weigh_share": data.weigh_share, "weigh_seed": data.weigh_seed}
    judged = teachers.weighting != "uniform" or teachers.drop_near_chance
    return check_teachers(folders, dataset.heads, expected, split, needs_held_out=judged)


def run_folder(work: Work, kind: str) -> Path:
    """Where the run of some work lives, after checking that the data has what it sees.

    Raises:
        SettingsError: a modality is missing.
    """
    missing = {work.network.modality, *work.teacher_modalities} - set(cached_dataset(work.data_folder).modalities)
    if missing:
        raise SettingsError(f"{work.data_folder} has no {', '.join(sorted(missing))}.")
    name = work.settings.run.name or f"{kind}-{name_of(work.data_folder)}"
    return work.settings.home / "runs" / name


def _manifest(settings: Settings, split: str) -> Manifest:
    return cached_manifest(settings.data_folder(), split, settings.data.limit)


def _plan(settings: Settings, train: np.ndarray, weigh: np.ndarray) -> Plan:
    val = _manifest(settings, settings.data.val)
    return Plan(
        train=train,
        val=np.arange(len(val), dtype=np.int64),
        weigh=weigh,
        epochs=settings.optim.epochs,
        batch_size=settings.optim.batch_size,
        seed=settings.run.seed,
        distinct_views=settings.views.distinct,
        repeats=settings.views.repeats,
        validate_every=settings.optim.validate_every,
    )
