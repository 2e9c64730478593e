"""One training worker: makes the network, finds its place in the plan, and carries out the rest of it."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmkd.allocator import keep_freed_memory
from mmkd.bank.use import Keeper
from mmkd.checkpoint import newest_checkpoint, position_of
from mmkd.config import Optim
from mmkd.fit import Fit
from mmkd.interruptions import Interruptions
from mmkd.models import Recogniser, create_model, describe_model, load_model, start_from
from mmkd.models.blocks import checkpoint_blocks
from mmkd.models.features import FeatureStudent, layer_width
from mmkd.objective import Objective
from mmkd.optimizing import Updater
from mmkd.pipeline import Work, cached_dataset
from mmkd.reader import Block, sound_rate
from mmkd.recording import FolderRecorder, Report
from mmkd.runs import RunFolder
from mmkd.telemetry.profile import profiled
from mmkd.training import fit_blocks
from mmkd.upload import uploaded
from mmkd.workers import gather, rank

ARCHS = {"rgb": "r2plus1d_tiny", "flow": "r2plus1d_tiny", "audio": "melnet", "boxes": "stlt"}
"""Small defaults that learn on two cores."""
OPTIONS = {"boxes": {"width": 64, "depth": 2, "num_heads": 4, "norm_eps": 1e-5}}


def make_network(work: Work) -> Recogniser:
    """The network to train, seeded by run.seed; its spec says what it takes.

    Raises:
        ValueError: its weights to start from do not fit it.
    """
    settings, network = work.settings, work.network
    modality = network.modality
    dataset = cached_dataset(work.data_folder)
    torch.manual_seed(settings.run.seed)
    arch, options, models = network.arch, dict(network.options), settings.home / "models"
    if network.init and not arch:
        known = describe_model(models / network.init)
        arch, options = known["arch"], known["options"] | options
    elif not arch:
        arch, options = ARCHS[modality], options or OPTIONS.get(modality, {})
    if modality == "boxes":
        options = {"num_frames": settings.views.frames} | options
    elif modality == "audio":
        options = {"sample_rate": sound_rate(dataset, settings.views)} | options
    pretrained: bool | str = network.weights == "default"
    if network.weights and not pretrained:
        pretrained = str(models / network.weights)
    model = create_model(
        arch, dataset.heads, modality, multi_label=dataset.multi_label, pretrained=pretrained, **options
    )
    if network.init:
        start_from(model, models / network.init)
    if network.freeze_backbone:
        model.backbone.requires_grad_(False)
    model.spec.input = view_geometry(work)
    return model


def adapt(model: Recogniser, optim: Optim) -> None:
    """Let activations be computed again, and the network be compiled, where the settings ask for it."""
    if optim.checkpoint_activations:
        checkpoint_blocks(model.backbone)
    if optim.compile:
        model.compile()


def with_features(model: Recogniser, work: Work) -> nn.Module:
    """The network that is trained: the model, with a projection to a teacher's features where the loss compares them.

    Raises:
        ValueError: there is no such teacher or layer.
    """
    loss = work.settings.loss
    if not (loss.feature_weight and work.teachers):
        return model
    names = work.teacher_names
    if loss.feature_teacher not in names:
        raise ValueError(f"loss.feature_teacher is {loss.feature_teacher!r}; the teachers are {', '.join(names)}.")
    teacher = load_model(work.teachers[names.index(loss.feature_teacher)])
    return FeatureStudent(model, loss.feature_layer, layer_width(teacher, loss.feature_teacher_layer))


def view_geometry(work: Work) -> dict[str, Any]:
    """The settings of the views that a model depends on, kept in its model.json."""
    views, dataset = work.settings.views, cached_dataset(work.data_folder)
    geometry: dict[str, Any] = {"frames": views.frames, "sampling": views.sampling}
    if views.sampling == "strided":
        geometry["stride"] = views.stride
    if work.network.modality in ("rgb", "flow"):
        geometry["size"] = views.size
    elif work.network.modality == "boxes":
        geometry["boxes"] = views.boxes
    else:
        geometry |= {"audio_seconds": views.audio_seconds, "sample_rate": sound_rate(dataset, views)}
    return geometry


def run_worker(
    work: Work,
    run: Path,
    facts: dict[str, Any],
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module],
    blocks: Callable[[int], Iterable[Block]],
    report: Report | None,
    node_goes: Callable[[], bool] = lambda: False,
) -> None:
    """Train to the end of the plan, from the newest whole checkpoint in the run folder if there is one.

    Args:
        facts: about the training, kept in the model folder.
        wrap: puts the network on its device and makes it exchange gradients.
        blocks: from a position to this worker's blocks from there on; called before the network is made, so that
            whoever fetches the first can begin.
        report: see :class:`mmkd.recording.FolderRecorder`.
        node_goes: see :class:`mmkd.interruptions.Interruptions`.
    """
    keep_freed_memory()
    settings, folder = work.settings, RunFolder(run)
    # Rank 0 alone chooses, so that all workers and the dataset start from one place.
    found = newest_checkpoint(folder.checkpoints) if rank() == 0 else (None, [])
    checkpoint, torn = gather(found)[0]
    position = position_of(checkpoint) if checkpoint else 0
    if rank() == 0:
        folder.cut_metrics(position)
        folder.go_on_at(position)
    mine = blocks(position) if position < work.plan.num_steps else None
    model = make_network(work)
    trained = with_features(model, work)
    adapt(model, settings.optim)
    network = wrap(trained)
    manifests = work.manifests()
    fit = Fit(
        network,
        model,
        Updater(trained, model, settings, work.plan, device),
        Objective(settings, model.spec.heads, device),
        settings,
        work.plan,
        device,
        clip_id=lambda split, number: manifests[split].clip_ids[number],
        teacher_names=list(work.teacher_names),
        frozen=work.network.freeze_backbone,
        interruptions=Interruptions(settings.run, run, device, node_goes),
    )
    if checkpoint is not None:
        fit.resume(checkpoint)
    if mine is not None:
        recorder = FolderRecorder(settings.run, run, manifests, facts, report)
        for path in torn:
            recorder.notice(f"checkpoint {path} is torn and passed over")
            if rank() == 0:
                shutil.rmtree(path, ignore_errors=True)  # else it would count as one of the newest
        if work.bank is not None and work.bank.writes:
            stop = settings.teachers.if_bank_fails == "stop"
            label = f"{run.name}-{rank()}"
            fit.keeper = Keeper(work.bank, settings.views, manifests["train"], label, stop, recorder.notice)
        try:
            here = uploaded(mine, model.modality, device)
            fit_blocks(fit, profiled(here, run / "profile", rank()) if settings.run.profile else here, recorder)
        finally:
            try:
                if fit.keeper is not None:
                    fit.keeper.flush()
            finally:
                recorder.close()
