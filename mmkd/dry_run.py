"""Dry runs: what a job would do and reserve, resolved by the same code as the job itself, without doing it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmkd.cluster import available
from mmkd.config import Settings
from mmkd.cost import flops_per_view
from mmkd.models import Recogniser, load_model
from mmkd.optimizing import learning_rate
from mmkd.pipeline import Work, cached_dataset
from mmkd.progress import say
from mmkd.ray_data import steps_together
from mmkd.reader import empty_block
from mmkd.resolve import plan_student, plan_teacher, run_folder, teacher_folders
from mmkd.resources import Node, check_fits, needs, total, widest_stage
from mmkd.runs import read_metrics
from mmkd.storage import is_file, join
from mmkd.worker import make_network, view_geometry


def describe_training(settings: Settings, teach: bool) -> dict[str, Any]:
    """Print the plan of a student's run, or with `teach` of a teacher's, and return its facts.

    Raises:
        ValueError: the job would be refused.
    """
    folder = settings.data_folder()
    where, have = available(settings)
    folders = () if teach else teacher_folders(settings)
    facts: dict[str, Any] = {"dry_run": True, "data_folder": folder}
    lines: list[tuple[str, str]] = []
    if not is_file(join(folder, "dataset.json")):
        source = settings.source
        clips = f"train {source.train}, val {source.val}, test {source.test}"
        lines.append(("data", f"{folder} is not there: {source.kind} would be made first ({clips} clips)"))
        lines.append(("", "run this again when it is, for the plan and the networks"))
    else:
        hashes: dict[str, str] = {}
        if teach:
            work, kind = plan_teacher(settings), f"teacher-{settings.teacher.modality}"
        else:
            work, hashes = plan_student(settings, folders)
            kind = "distill" if folders else "labels"
        lines += _data(work) + _plan(work) + _views(work, have)
        lines += _networks(work, facts) + _objective(work)
        if hashes and settings.teachers.mode != "live":
            lines.append(_bank(work, hashes))
        run = run_folder(work, kind)
        done = read_metrics(run)
        state = f"would be resumed, recorded up to step {done[-1]['position']} of the plan" if done else "new"
        state = "finished already" if (run / "result.json").is_file() else state
        lines.append(("run", f"{run}: {state}"))
        facts |= {
            "run_folder": str(run),
            "state": state,
            "optimizer_steps": work.plan.optimizer_steps,
            "steps_per_epoch": work.plan.train_steps,
            "epochs": work.plan.epochs,
        }
    live = 0 if settings.teachers.mode == "replay" else len(folders)
    lines += _reserves(settings, live, where, have)
    _print(lines)
    if not settings.run.local:
        check_fits(settings, live, have)
    return facts | {"fits": True}


def describe_recording(settings: Settings) -> dict[str, Any]:
    """Print what a recording pass would ask the teachers for, and return it."""
    from mmkd.bank.choose import foresee_bank

    folder = settings.data_folder()
    if not is_file(join(folder, "dataset.json")):
        _print([("data", f"{folder} is not there; run this again when it is")])
        return {"dry_run": True, "data_folder": folder}
    work, hashes = plan_student(settings, teacher_folders(settings))
    bank, description, answers, missing = foresee_bank(work, hashes)
    megabytes = answers * description.layout().logit_bytes() / 1e6
    where, have = available(settings)
    _print(
        [
            ("bank", f"{bank}: {answers - missing} of {answers} answers are there"),
            (
                "",
                f"{description.kept_views} views of {len(work.plan.train)} clips, and {len(work.plan.weigh)} clips "
                "that teachers are weighed on",
            ),
            ("", f"{len(hashes)} teachers: {', '.join(hashes)}; {megabytes:.1f} MB of fp16 logits in all"),
            *_reserves(settings, len(work.teachers), where, have),
        ]
    )
    return {"dry_run": True, "bank": str(bank), "answers": answers, "missing": missing}


def describe_packing(settings: Settings) -> dict[str, Any]:
    """Print what would be packed, and return it.

    Raises:
        ValueError: the folder holds a data set already, or the source cannot be read.
    """
    from mmkd.packing_plan import plan_packing
    from mmkd.rejects import summary

    folder = settings.data_folder()
    if is_file(join(folder, "dataset.json")):
        raise ValueError(f"{folder} holds a data set already; choose another data.folder or delete it.")
    planned = plan_packing(settings)
    clips = {split: sum(task.clips for task in planned.tasks if task.split == split) for split in planned.splits}
    shards = {split: sum(task.split == split for task in planned.tasks) for split in planned.splits}
    heads = ", ".join(f"{head} {len(names)}" for head, names in planned.source.heads.items())
    lines = [("source", f"{planned.source.name} {settings.source.root}".rstrip()), ("heads", f"{heads} classes")]
    lines += [(f"split {split}", f"{clips[split]} clips in {shards[split]} shards") for split in planned.splits]
    if planned.rejects:
        lines.append(("rejected", f"{len(planned.rejects)} clips already: {summary(planned.rejects)}"))
    lines.append(("to", folder))
    _print(lines)
    return {"dry_run": True, "data_folder": folder, "clips": clips, "shards": shards, "rejects": len(planned.rejects)}


def _print(lines: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in lines) + 2
    say("\n".join(f"{name:<{width}}{text}" for name, text in lines))


def _data(work: Work) -> list[tuple[str, str]]:
    dataset, data = cached_dataset(work.data_folder), work.settings.data
    splits = ", ".join(f"{name} {split['clips']}" for name, split in dataset.splits.items())
    held = f"; {len(work.plan.weigh)} of {data.train} held out from teachers" if len(work.plan.weigh) else ""
    heads = ", ".join(
        f"{head} {len(names)}{' (multi-label)' if head in dataset.multi_label else ''}"
        for head, names in dataset.heads.items()
    )
    return [("data", f"{work.data_folder}: {splits} clips{held}"), ("heads", f"{heads} classes")]


def _plan(work: Work) -> list[tuple[str, str]]:
    plan = work.plan
    weigh = f"teachers are weighed in {_steps(plan.weigh_steps)}, then " if plan.weigh_steps else ""
    often = "an epoch" if plan.validate_every == 1 else f"every {plan.validate_every} epochs"
    text = (
        f"{weigh}{plan.epochs} epochs x {_steps(plan.train_steps)} of {plan.batch_size} = {plan.optimizer_steps} "
        f"optimiser steps on {len(plan.train)} clips, and {_steps(plan.val_steps)} of validation {often}"
    )
    return [("plan", text)]


def _steps(number: int) -> str:
    return f"{number} step" + ("s" if number != 1 else "")


def _views(work: Work, nodes: Sequence[Node]) -> list[tuple[str, str]]:
    settings = work.settings
    views, dataset, rows = settings.views, cached_dataset(work.data_folder), work.plan.share(settings.resources.workers)
    stride = f", {views.stride} apart" if views.sampling == "strided" else ""
    lines = [
        (
            "view",
            f"{views.frames} frames ({views.sampling}{stride}) of {views.size} x {views.size} px; tested in "
            f"{views.test_clips} x {views.test_crops} views",
        )
    ]
    total = 0
    for modality in work.modalities("train"):
        block = empty_block(dataset, views, rows, (modality,))
        main = block["boxes/boxes" if modality == "boxes" else modality]
        size = sum(array.nbytes for name, array in block.items() if name.startswith(modality))
        total += size
        lines.append(
            ("", f"{modality:<6}{list(main.shape)} {main.dtype}, {size / 1e6:.1f} MB a worker's share of a step")
        )
    resources = settings.resources
    if resources.inline or settings.run.local:
        if resources.ahead:
            ahead = max(resources.ahead + 1, resources.prefetch)
            lines.append(("", f"about {total * ahead / 1e6:.0f} MB read ahead in each worker"))
        return lines
    if settings.teachers.mode == "replay":
        work = replace(work, teachers=())
    together = steps_together(work, resources.workers, nodes)
    blocks = -(-resources.prefetch // together) * resources.workers
    ahead = together * (blocks + widest_stage(settings, work.live_teachers) + 2)
    lines.append(("", f"about {total * ahead / 1e6:.0f} MB under way in shared memory"))
    return lines


def _networks(work: Work, facts: dict[str, Any]) -> list[tuple[str, str]]:
    facts["networks"] = {}

    def line(name: str, model: Recogniser, seen: dict[str, Any]) -> tuple[str, str]:
        gigaflops = flops_per_view(model, seen) / 1e9
        facts["networks"][name] = {
            "arch": model.spec.arch,
            "modality": model.modality,
            "parameters": model.num_parameters,
            "gflops_per_view": round(gigaflops, 3),
        }
        return name, (
            f"{model.spec.arch} for {model.modality}, {model.num_parameters / 1e6:.2f} M parameters, "
            f"{gigaflops:.3g} GFLOPs a view"
        )

    lines = [line("network", make_network(work), view_geometry(work))]
    for name, folder in zip(work.teacher_names, work.teachers, strict=False):
        model = load_model(folder)
        lines.append(line(f"teacher {name}", model, model.spec.input))
    return [*lines, ("", "(a multiplication and an addition are 2 FLOPs)")]


def _objective(work: Work) -> list[tuple[str, str]]:
    loss, optim, teachers = work.settings.loss, work.settings.optim, work.settings.teachers

    def course(schedule: str, start: float, end: float) -> str:
        return f"{start:g}" if schedule == "constant" or start == end else f"{start:g} to {end:g} ({schedule})"

    terms = []
    if work.teachers:
        weight = course(loss.weight_schedule, loss.distill_weight, loss.distill_weight_end)
        temperature = course(loss.temperature_schedule, loss.temperature, loss.temperature_end)
        terms.append(f"{weight} x {loss.kind} at temperature {temperature}")
    if (weight := course(loss.weight_schedule, loss.label_weight, loss.label_weight_end)) != "0":
        terms.append(f"{weight} x cross-entropy with labels")
    if loss.feature_weight and work.teacher_names:
        terms.append(f"{loss.feature_weight:g} x {loss.feature_kind} of features with teacher {loss.feature_teacher}")
    ensemble = f"; teachers weighted {teachers.weighting} (gamma {teachers.gamma:g})" if work.teacher_names else ""
    steps = work.plan.optimizer_steps
    rates = [learning_rate(work.settings, work.plan, step) for step in (0, steps - 1)]
    return [
        ("loss", " + ".join(terms) + ensemble),
        (
            "optimiser",
            f"{optim.name}, learning rate {rates[0]:.2g} at first, {optim.lr:.2g} at most, {rates[1]:.2g} at last "
            f"({optim.schedule}); weight decay {optim.weight_decay:g}",
        ),
    ]


def _bank(work: Work, hashes: dict[str, str]) -> tuple[str, str]:
    from mmkd.bank.choose import foresee_bank

    folder, _, answers, missing = foresee_bank(work, hashes)
    mode = work.settings.teachers.mode
    return "bank", f"{folder}: {answers - missing} of {answers} answers are there; teachers.mode {mode}"


def _reserves(settings: Settings, teachers: int, where: str, have: Sequence[Node]) -> list[tuple[str, str]]:
    if settings.run.local:
        return [("reserves", "nothing: run.local is one process without Ray")]
    lines: list[tuple[str, str]] = []
    there = total(have)
    for kind, parts in needs(settings, teachers).items():
        asked = {name: amount for name, amount in parts.items() if amount}
        needed = sum(asked.values())
        if asked:
            fits = "fits" if needed <= there[kind] else "DOES NOT FIT"
            text = f"{kind}s: {' + '.join(asked)} = {needed:g} of {there[kind]:g} on {where}: {fits}"
            lines.append(("" if lines else "reserves", text))
    return lines
