"""The recording pass: teachers fill a bank, each asked once about each view, and nothing is trained."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmkd.asking import Questions, ask
from mmkd.bank.choose import choose_bank, missing_answers
from mmkd.bank.store import Bank
from mmkd.bank.use import Keeper, answered
from mmkd.config import Settings, SettingsError
from mmkd.dry_run import describe_recording
from mmkd.jobs import ensure_data, session
from mmkd.pipeline import Work
from mmkd.plan import PADDING
from mmkd.progress import duration, say
from mmkd.reader import REAL, UNREADABLE
from mmkd.resolve import check_folders, plan_student, teacher_folders


def record(settings: Settings) -> dict[str, Any]:
    """Fill the bank that a training with these settings would ask; the same command again goes on.

    Raises:
        ValueError: nothing is distilled, the teachers do not fit the data, or too many clips are broken.
    """
    settings = settings.model_copy(update={"teachers": settings.teachers.model_copy(update={"mode": "auto"})})
    if not settings.loss.distils:
        raise SettingsError("loss.distill_weight is 0, so there are no teachers to record.")
    check_folders(settings)
    if settings.run.dry_run:
        return describe_recording(settings)
    with session(settings):
        ensure_data(settings)
        work, hashes = plan_student(settings, teacher_folders(settings))
        return fill_bank(choose_bank(work, hashes))


def fill_bank(work: Work) -> dict[str, Any]:
    """Ask live teachers for all that a training of this work asks for and its bank lacks; returns what was done."""
    settings, use = work.settings, work.bank
    assert use is not None
    began, bank = time.monotonic(), Bank(Path(use.folder))
    if not use.complete:  # else its answers were found sound when it was chosen
        bank.forget(*bank.unsound())
    bank.forget(*bank.of_status(UNREADABLE))  # shards that could not be read may be back
    clips, views, missing = missing_answers(work, bank)
    part, parts = (int(x) for x in settings.teachers.bank_part.split("/"))
    if part > parts:
        raise SettingsError(f"teachers.bank_part is {part}/{parts}; the first number counts up to the second.")
    mine = missing[clips[missing] % parts == part - 1]
    share = f", part {part} of {parts}" if parts > 1 else ""
    before = len(clips) - len(missing)
    say(
        f"bank {use.folder}: {before} of {len(clips)} answers are there; asking {len(work.teachers)} teachers for "
        f"{len(mine)}{share}"
    )
    computed = broken = done = 0
    if len(mine):
        keeper = Keeper(replace(use, complete=False), settings.views, work.manifests()["train"], f"record-{part}")
        questions = Questions(
            settings,
            work.teachers,
            settings.data.train,
            clips[mine],
            views[mine],
            work.modalities("train"),
            partners=work.plan.train,
        )
        told = first = time.monotonic()
        for block in ask(questions):
            first = first if done else time.monotonic()
            keeper.add(block)
            real = block["clip"] != PADDING
            done += int(real.sum())
            broken += int((block["status"][real] != REAL).sum())
            computed += answered(block)[0]
            if time.monotonic() - told > settings.run.progress_seconds:
                told = time.monotonic()
                rate = done / max(told - first, 1e-3)
                left = duration((len(mine) - done) / rate)
                say(f"recorded {done}/{len(mine)} views, {rate:.0f} a second, {left} left")
        keeper.flush()
    coverage = bank.save_coverage()
    say(f"bank {use.folder}: {coverage['answers']} answers, {coverage['megabytes']} MB")
    if broken > settings.data.max_broken_share * max(done, 1):
        raise ValueError(
            f"{broken} of {done} views could not be read, more than data.max_broken_share allows; rayjobs/pack.py "
            "--check lists what is broken."
        )
    return {
        "bank": use.folder,
        "answers": len(clips),
        "missing": len(clips) - int(bank.has(clips, views).sum()),
        "there_before": before,
        "computed": computed,
        "broken": broken,
        "megabytes": coverage["megabytes"],
        "seconds": round(time.monotonic() - began, 1),
    }
