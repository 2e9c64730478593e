"""One training worker: makes the network, finds its place in the plan, and carries out the rest of it."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmkd.checkpoint import newest_checkpoint
from mmkd.models import create_model, load_model
from mmkd.pipeline import Work, cached_dataset
from mmkd.reader import Block
from mmkd.recording import FolderRecorder, Keep
from mmkd.runs import RunFolder, write_json
from mmkd.teachers import teacher_names
from mmkd.training import Fit, fit_blocks, make_optimizer
from mmkd.workers import gather, rank

ARCHS = {"rgb": "r2plus1d_tiny", "flow": "r2plus1d_tiny", "audio": "melnet", "boxes": "stlt"}
"""Small defaults that learn on two cores."""
OPTIONS = {"boxes": {"width": 64, "depth": 2, "num_heads": 4, "norm_eps": 1e-5}}


def make_network(work: Work) -> nn.Module:
    """The network to train, seeded by run.seed; its spec says what it takes."""
    settings = work.settings
    network, modality = work.network, work.network.modality
    dataset = cached_dataset(work.data_folder)
    torch.manual_seed(settings.run.seed)
    if network.init:
        model = load_model(network.init)
    else:
        options = network.options or (OPTIONS.get(modality, {}) if not network.arch else {})
        if modality == "boxes":
            options = {"num_frames": settings.views.frames, **options}
        elif modality == "audio":
            options = {"sample_rate": dataset.sample_rate, **options}
        model = create_model(network.arch or ARCHS[modality], dataset.heads, modality, **options)
    model.spec.input = view_geometry(work)  # type: ignore[union-attr]
    return model


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
        geometry |= {"audio_seconds": views.audio_seconds, "sample_rate": dataset.sample_rate}
    return geometry


def run_worker(
    work: Work,
    run: Path,
    facts: dict[str, Any],
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module],
    blocks: Callable[[int], Iterable[Block]],
    keep: Keep,
) -> None:
    """Train to the end of the plan, from the newest whole checkpoint in the run folder if there is one.

    Args:
        facts: about the training, kept in the model folder.
        wrap: puts the network on its device and makes it exchange gradients.
        blocks: from a position to this worker's blocks from there on.
        keep: keeps a checkpoint, see :class:`mmkd.recording.FolderRecorder`.
    """
    model = make_network(work)
    network = wrap(model)
    fit = Fit(network, make_optimizer(network, work.settings), work.settings, work.plan, device)
    fit.teacher_names = teacher_names(work.teachers)
    folder = RunFolder(run)
    # Rank 0 alone chooses, so that all workers and the dataset start from one place.
    found = newest_checkpoint(folder.checkpoints) if rank() == 0 else (None, [])
    checkpoint, torn = gather(found)[0]
    if checkpoint is not None:
        fit.resume(checkpoint)
    if rank() == 0:
        folder.cut_metrics(fit.position)
        note = {"position": fit.position, "torn": [str(path) for path in torn]}
        write_json(run / "position.json", note)
    if fit.position < work.plan.num_steps:
        fit_blocks(fit, blocks(fit.position), FolderRecorder(run, work.manifests(), facts, keep))


def start_position(run: Path) -> int:
    """Where rank 0 said that the run goes on."""
    return int(json.loads((run / "position.json").read_text())["position"])
