"""Jobs from settings: resolve data, teachers and plan, carry it out in a run folder, and say what came of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mmkd import __version__
from mmkd.bank.choose import choose_bank
from mmkd.bank.store import Bank
from mmkd.bank.use import BankUse
from mmkd.checkpoint import kept_position
from mmkd.cluster import automatic_threads, ray_session
from mmkd.config import MODALITIES, Network, Settings, SettingsError, StoppedError
from mmkd.dry_run import describe_packing, describe_training
from mmkd.interruptions import stop_on_sigterm, was_stopped
from mmkd.pipeline import Work, cached_dataset
from mmkd.progress import follow, say
from mmkd.resolve import check_folders, plan_student, plan_teacher, run_folder, teacher_folders
from mmkd.resources import check_fits
from mmkd.runs import RunFolder, read_epochs
from mmkd.storage import is_file, join, name_of
from mmkd.telemetry.boards import check_tracker

Report = Callable[[dict[str, Any]], None]


@contextmanager
def session(settings: Settings) -> Iterator[None]:
    """Ray for the length of a job, unless it runs in this process."""
    if settings.run.local:
        yield
        return
    with ray_session(settings) as dashboard:
        if dashboard:
            say(f"Ray dashboard: {dashboard}")
        yield


def ensure_data(settings: Settings, built_in: str = "") -> None:
    """Make the built-in data if the settings name no other, but perhaps `built_in`, and it is missing."""
    folder, ours = settings.data_folder(), settings.data.folder in ("", built_in)
    if not is_file(join(folder, "dataset.json")) and ours and settings.source.kind == "tabletop":
        say(f"no data set in {folder}: making the built-in one, tabletop (docs/tabletop.md)")
        from mmkd.packing import pack

        summary = pack(settings, say, on_ray=not settings.run.local)
        say(f"made {summary['clips']} clips in {summary['seconds']} s, {summary['megabytes']} MB")
    cached_dataset(folder)  # raises if it is no data set


def pack_data(settings: Settings) -> dict[str, Any]:
    """Make the data set that the settings describe, or look through one (pack.check)."""
    if settings.pack.check:
        from mmkd.check import check_dataset

        return check_dataset(settings.below_data(settings.pack.check), say)
    from mmkd.packing import pack

    if settings.run.dry_run:
        return describe_packing(settings)
    with session(settings):
        return pack(settings, say, on_ray=not settings.run.local)


def distill(settings: Settings, report: Report | None = None) -> dict[str, Any]:
    """Train a student from an ensemble, from labels, or from both; resumes, and says so when it is finished.

    Args:
        report: of a trial of Ray Tune, which is told how good the best epoch so far is after each.
    """
    if settings.student.modality != "rgb":
        raise SettingsError(f"student.modality is {settings.student.modality!r}; a student sees rgb.")
    check_folders(settings)
    if settings.run.dry_run:
        return describe_training(settings, teach=False)
    with session(settings):
        ensure_data(settings)
        if settings.teachers.retrain and settings.loss.distils:
            settings = _retrain_teachers(settings)
        folders = teacher_folders(settings)
        if not folders:
            say("no teachers: the student learns from labels alone")
        elif not settings.teachers.folders and not settings.teachers.only_in_bank:
            say("teachers: the tabletop teachers shipped with mmkd (teachers.retrain trains new ones)")
        work, hashes = plan_student(settings, folders)
        return _carry_out(work, hashes, "distill" if folders else "labels", report)


def train_teacher(settings: Settings) -> dict[str, Any]:
    """Train one teacher on labels, on the clips of `train` that are not held out."""
    if settings.loss.distils:
        which = "distill_weight" if settings.loss.distill_weight else "distill_weight_end"
        raise SettingsError(f"loss.{which} must be 0 for a teacher: it learns from labels.")
    check_folders(settings)
    if settings.run.dry_run:
        return describe_training(settings, teach=True)
    with session(settings):
        ensure_data(settings)
        work = plan_teacher(settings)
        return _carry_out(work, {}, f"teacher-{settings.teacher.modality}")


def _retrain_teachers(settings: Settings) -> Settings:
    folders = []
    for modality in MODALITIES:
        own = settings.model_copy(
            update={
                "loss": settings.loss.labels_only(),
                "teacher": Network(modality=modality),
                "run": settings.run.model_copy(update={"name": ""}),
            }
        )
        folders.append(str(Path(train_teacher(own)["run_folder"]) / "best"))
    teachers = settings.teachers.model_copy(update={"folders": folders, "retrain": False})
    return settings.model_copy(update={"teachers": teachers})


def _carry_out(work: Work, teacher_hashes: dict[str, str], kind: str, report: Report | None = None) -> dict[str, Any]:
    """Train in the run folder, or say that it is done already."""
    settings, dataset = work.settings, cached_dataset(work.data_folder)
    identity = {"kind": kind, "data": dataset.fingerprint, "teachers": teacher_hashes}
    if settings.run.tracker:
        check_tracker(settings.run.tracker)
    with RunFolder(run_folder(work, kind)) as run:
        work = replace(work, run_folder=str(run.path))
        run.claim(settings, identity)
        if (result := run.result()) is not None:
            say(f"run {run.path} is finished; delete it, or choose another run.name, to train again")
            return result
        work = choose_bank(work, teacher_hashes)
        if settings.resources.auto and not settings.run.local:
            from mmkd.stage_costs import size_job

            work = size_job(work, run.path)
            settings = work.settings
        if not settings.run.local:
            check_fits(settings, work.live_teachers)
        threads = automatic_threads(settings, work.live_teachers)
        if (run.path / "metrics.jsonl").is_file():
            say(f"resuming run {run.path}")
        plan = work.plan
        say(
            f"run {run.path}: {len(plan.train)} clips x {plan.epochs} epochs in {plan.optimizer_steps} steps of "
            f"{plan.batch_size}; validation on {len(plan.val)}"
            + (f"; {len(work.teacher_names)} teachers, weighed on {len(plan.weigh)}" if work.teacher_names else "")
        )
        if work.bank is not None:
            say(f"teachers' answers: {_bank_text(work.bank)}")
        if len(dataset.heads) == 1 and (few := min(map(len, dataset.heads.values()))) < 5:
            say(f"with {few} classes, top-5 accuracy is top-{few}, which is 1: top-1 alone chooses the best model")
        began = time.monotonic()
        with (
            stop_on_sigterm(run.path),
            follow(run.path, kind, plan.epochs, plan.optimizer_steps, settings.run.progress_seconds),
        ):
            _train(work, run.path, _facts(work, identity), threads, report)
        if was_stopped(run.path) and (done := kept_position(run.checkpoints)) < plan.num_steps:
            steps = f"{plan.optimizer_step(done)} of {plan.optimizer_steps}"
            raise StoppedError(f"stopped on SIGTERM after step {steps}; the same command goes on from there")
        result = _result(work, run.path, kind, time.monotonic() - began)
        if work.bank is not None and work.bank.writes:
            Bank(Path(work.bank.folder)).save_coverage()
        run.finish(result)
        from mmkd.run_report import write_run_report  # draws pictures: no need to wait for that at the start

        write_run_report(settings, run.path)
        _write_card(work, run.path / "best")
        return result


def _write_card(work: Work, model: Path) -> None:
    from mmkd.card import write_card

    try:
        write_card(model, trust=[work.network.arch])
    except (ValueError, OSError) as error:  # the training is done, and what is wrong is a record of another run
        say(f"no model card was written: {error}")


def _train(work: Work, run: Path, facts: dict[str, Any], threads: int, report: Report | None) -> None:
    if not work.settings.run.local:
        from mmkd.ray_train import train_on_ray

        train_on_ray(work, run, facts, threads, in_trial=report is not None)
        return
    import torch

    from mmkd import inline
    from mmkd.worker import run_worker

    torch.set_num_threads(threads)
    device = torch.device("cuda" if work.settings.resources.use_gpu else "cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError("resources.use_gpu asks for a GPU, and torch sees none on this machine; leave it out.")
    blocks = partial(inline.blocks_in_process, work)
    run_worker(work, run, facts, device, lambda model: model.to(device), blocks, report)


def _bank_text(use: BankUse) -> str:
    if not use.reads:
        return f"live, and kept in {use.folder}"
    if use.complete:
        return f"all from {use.folder}; no teacher is started"
    return f"from {use.folder} where it has them, the rest live and kept"


def _facts(work: Work, identity: dict[str, Any]) -> dict[str, Any]:
    """What a model folder tells of how it was trained."""
    settings = work.settings
    dataset = cached_dataset(work.data_folder)
    kind_of_teacher = identity["kind"].startswith("teacher")
    return {
        "mmkd": __version__,
        "kind": identity["kind"],
        "data": {
            "name": name_of(work.data_folder),
            "fingerprint": dataset.fingerprint,
            "made_by": dataset.made_by,
            "clips": len(work.plan.train),
            "weigh_share": settings.data.weigh_share,
            "weigh_seed": settings.data.weigh_seed,
            "train": settings.data.train,
            "saw_held_out": not kind_of_teacher,
        },
        "teachers": identity["teachers"],
        "settings": settings.model_dump(mode="json", include={"views", "loss", "optim"}),
        "seed": settings.run.seed,
    }


def _result(work: Work, run: Path, kind: str, seconds: float) -> dict[str, Any]:
    rows = read_epochs(run)
    best = max(rows, key=lambda row: row["score"])
    rejects = run / "rejects.jsonl"
    bank = {"bank": work.bank.folder} if work.bank is not None else {}
    return {
        "run_folder": str(run),
        "model": str(run / "best"),
        "kind": kind,
        "teachers": list(work.teachers),
        **bank,
        **({"teacher_answers": rows[-1]["teacher_answers"]} if work.teacher_names else {}),
        "epochs": rows[-1]["epoch"],
        "best_epoch": best["epoch"],
        "val": {
            head: round(metrics.get("accuracy", metrics.get("mean_average_precision")), 4)
            for head, metrics in best["val"].items()
        },
        "seconds": round(seconds, 1),
        "clips_per_second": round(sum(row["clips_per_second"] for row in rows) / len(rows), 1),
        "wait_share": round(sum(row["wait_share"] for row in rows) / len(rows), 3),
        "broken_clips": len(rejects.read_text().splitlines()) if rejects.is_file() else 0,
    }
