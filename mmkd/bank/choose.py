"""From settings to a bank: which one, whether it fits the training, and whether it holds what the training asks for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmkd import __version__
from mmkd.bank.description import Description, check_identity, make_bank, read_description, teacher_columns
from mmkd.bank.rows import keys_of, needed_views, view_type
from mmkd.bank.store import Bank, state_of
from mmkd.bank.use import BankUse
from mmkd.config import Settings, SettingsError
from mmkd.pipeline import Work, cached_dataset
from mmkd.plan import Clips
from mmkd.reader import sound_rate
from mmkd.storage import name_of

NOT_OF_A_VIEW = {"distinct", "repeats", "test_clips", "test_crops"}


def describe_bank(work: Work, hashes: Mapping[str, str]) -> Description:
    """What a bank for this training is made of.

    Args:
        hashes: name of each teacher to the hash of its weights.
    """
    settings, dataset = work.settings, cached_dataset(work.data_folder)
    views, split = settings.views, settings.data.train
    kept = views.model_dump(mode="json", exclude=NOT_OF_A_VIEW)
    if views.sampling == "uniform":
        del kept["stride"]
    kept["sample_rate"] = sound_rate(dataset, views)
    if views.mixup or views.cutmix:
        kept["mixed_clips"] = len(work.plan.train)
        if settings.data.train_share < 1:
            kept["train_share"] = settings.data.train_share
    else:
        del kept["mix_probability"]
    manifest = work.manifests()["train"]
    precision = settings.teachers.precision if settings.teachers.num_gpus else "fp32"  # see there
    return Description(
        teachers=dict(hashes),
        data={
            "name": name_of(work.data_folder),
            "fingerprint": dataset.fingerprint,
            "split": split,
            "clips": dataset.splits[split]["clips"],
        },
        heads={head: len(classes) for head, classes in dataset.heads.items()},
        views=kept,
        parameters=view_type(views, int(manifest.num_frames.max())).descr,
        kept_views=needed_views(settings.optim.epochs, views.repeats, views.distinct),
        made_by={"mmkd": __version__, "precision": precision, "numpy": np.__version__},
    )


def bank_folder(settings: Settings, description: Description) -> Path:
    """The folder that the settings name, or one named after what the bank is made of."""
    name = settings.teachers.bank or f"{description.data['name']}-{description.seal()}"
    return settings.below_banks(name)


def choose_bank(work: Work, hashes: Mapping[str, str]) -> Work:
    """The work with the bank that its settings ask for, which is made where it is to be written.

    Raises:
        SettingsError: the bank is of other teachers, data or views; or it has to answer alone and lacks answers.
    """
    settings = work.settings
    mode = settings.teachers.mode
    if mode == "live" or not hashes:
        return work
    if mode != "record" and settings.loss.feature_weight:
        raise SettingsError(
            f"loss.feature_weight needs live teachers, whose features no bank keeps; teachers.mode is {mode!r}."
        )
    description = describe_bank(work, hashes)
    folder = bank_folder(settings, description)
    if mode == "replay":
        there = read_description(folder)
        check_identity(folder, there, description)
    else:
        there = make_bank(folder, description)
    columns = teacher_columns(folder, there.teachers, hashes, whole=mode != "replay")
    use = BankUse(str(folder), mode, columns, state=state_of(folder))
    if use.reads:
        bank = Bank(folder)
        clips, views, missing = missing_answers(work, bank)
        if not len(missing):
            # No teacher will be there to ask, so that a damaged answer has to be known of now.
            bank.forget(*bank.unsound())
            clips, views, missing = missing_answers(work, bank)
        if mode == "replay" and len(missing):
            raise SettingsError(_lacking(work, bank, clips, views, missing))
        use = replace(use, complete=not len(missing))
    return replace(work, bank=use)


def foresee_bank(work: Work, hashes: Mapping[str, str]) -> tuple[Path, Description, int, int]:
    """The bank that :func:`choose_bank` would choose, without making it: folder, description, answers that the training
    asks for, and how many of them it lacks.

    Raises:
        SettingsError: as there.
    """
    description = describe_bank(work, hashes)
    folder = bank_folder(work.settings, description)
    answers = len(work.plan.weigh) + description.kept_views * len(work.plan.train)
    if work.settings.teachers.mode == "replay":
        choose_bank(work, hashes)  # writes nothing
        return folder, description, answers, 0
    if not (folder / "bank.json").is_file():
        return folder, description, answers, answers
    there = read_description(folder)
    check_identity(folder, there, description)
    teacher_columns(folder, there.teachers, hashes, whole=True)
    return folder, description, answers, len(missing_answers(work, Bank(folder))[2])


def missing_answers(work: Work, bank: Bank) -> tuple[Clips, Clips, NDArray[np.int64]]:
    """Clips and views of all answers that a training asks for, and the places of those that the bank lacks."""
    plan = work.plan
    clips, views = keys_of(plan.weigh, plan.train, needed_views(plan.epochs, plan.repeats, plan.distinct_views))
    return clips, views, np.flatnonzero(~bank.has(clips, views))


def _lacking(work: Work, bank: Bank, clips: Clips, views: Clips, missing: NDArray[np.int64]) -> str:
    row = missing[0]
    clip_id = work.manifests()["train"].clip_ids[clips[row]]
    damaged = "".join(f" Part {name} cannot be read: {reason}." for name, reason in list(bank.damaged.items())[:3])
    kept, wanted = bank.description.kept_views, int(views.max()) + 1
    fewer = f" It keeps {kept} views of each clip: --views.distinct {kept} uses these." if wanted > kept > 0 else ""
    return (
        f"bank {bank.folder} lacks {len(missing)} of the {len(clips)} answers that this training asks for (the first: "
        f"clip {clip_id}, view {int(views[row])}).{damaged}{fewer} --teachers.mode auto asks live teachers for what is "
        "missing, and keeps it."
    )
