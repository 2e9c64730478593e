"""The costs of models side by side, with what makes their inputs, and of an ensemble of them."""

import platform
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmkd.config import Settings, Views
from mmkd.cost.inputs import measure_inputs
from mmkd.cost.network import LARGEST_BATCH, measure_cost
from mmkd.cost.record import Cost
from mmkd.devices import device_of
from mmkd.models import load_model
from mmkd.pipeline import cached_dataset
from mmkd.reader import sound_rate
from mmkd.report.table import WIDTH, parameters_text, shortened


def cost_table(
    settings: Settings,
    folders: Sequence[str],
    names: Sequence[str],
    split: str,
    *,
    ensemble: Sequence[str] = (),
    seconds: float = 2.0,
) -> tuple[list[Cost], list[str]]:
    """Measure models, and what must be done for their inputs, on the device that the settings give teachers.

    All see one view, as :func:`mmkd.matching.check_teachers` sees to.

    Args:
        folders, names: of the models.
        split: whose clips the inputs are made of.
        ensemble: names of those that make up an ensemble, which then is the last of the costs.
        seconds: about how long to measure a network, and each step of the inputs.

    Returns:
        a cost for each model, each with that of its inputs; and notes for people, a sentence or two each.
    """
    threads, device = settings.teachers.threads, device_of(settings.teachers.num_gpus).type
    precision = settings.teachers.precision if device == "cuda" else "fp32"
    dataset = cached_dataset(settings.data_folder())
    models = [load_model(folder) for folder in folders]
    given: dict[str, Any] = {}
    for model in reversed(models):
        given |= {key: value for key, value in model.spec.input.items() if key in Views.model_fields}
    views = settings.views.model_copy(update=given)
    seen = {name: getattr(views, name) for name in ("frames", "size", "boxes", "audio_seconds")}
    seen["sample_rate"] = sound_rate(dataset, views)
    networks = {
        name: measure_cost(
            model,
            seen | model.spec.input,
            name=name,
            device=device,
            threads=threads,
            precision=precision,
            seconds=seconds,
        )
        for name, model in zip(names, models, strict=True)
    }
    modality = {name: model.modality for name, model in zip(names, models, strict=True)}
    inputs = measure_inputs(settings, views, split, set(modality.values()), threads=threads, seconds=seconds)
    costs = [ensemble_cost([networks[name]], inputs.steps[modality[name]], name) for name in names]
    if ensemble:
        steps = {step.name: step for name in ensemble for step in inputs.steps[modality[name]]}
        costs.append(ensemble_cost([networks[name] for name in ensemble], list(steps.values()), "ensemble"))
    return costs, [_about(views, device, threads, precision), *_about_sound(costs), *inputs.notes]


def ensemble_cost(costs: Sequence[Cost], inputs: Sequence[Cost], name: str = "ensemble") -> Cost:
    """Cost of networks with that of the steps that make their inputs, each done once, all one after the other.

    Parameters, GFLOPs, latencies and the times of a clip at the best batch add up. In memory are the weights of all
    (float32), and what else the one needs that needs most.
    """
    every = [*costs, *inputs]
    parts = {step.name: step.latency_ms for step in inputs}
    for network in costs:
        for part, milliseconds in network.parts.items():
            parts[part] = parts.get(part, 0.0) + milliseconds
    weights = [4 * each.parameters / 1e6 for each in every]
    more = np.array([each.peak_mb for each in every]) - weights
    return Cost(
        name,
        sum(each.parameters for each in every),
        sum(each.gflops for each in every),
        sum(each.latency_ms for each in every),
        1 / sum(1 / each.clips_per_second for each in every),
        sum(weights) + float(more.max()),
        parts,
        costs[0].batch if len(costs) == 1 else 0,
    )


def cost_lines(costs: Sequence[Cost], notes: Sequence[str]) -> list[str]:
    """A table for the terminal, a column for each part of the latency; an ensemble at its end set against the first
    model; and the notes."""
    parts = list(dict.fromkeys(part for cost in costs for part in cost.parts))
    columns = [[" ", "params"], [" ", "GFLOPs"], ["latency", "ms"], ["of it", "network"]]
    columns += [[*part.rpartition(" ")[::2]] for part in parts]
    columns += [[" ", "clips/s"], ["at", "batch"], ["peak", "MB"]]
    for cost in costs:
        cells = [parameters_text(cost.parameters), f"{cost.gflops:.3g}", f"{cost.latency_ms:,.1f}"]
        cells += [f"{cost.latency_ms - sum(cost.parts.values()):,.1f}"]
        cells += [f"{cost.parts[part]:,.1f}" if part in cost.parts else "-" for part in parts]
        cells += [f"{cost.clips_per_second:,.0f}", str(cost.batch or "-"), f"{cost.peak_mb:,.1f}"]
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    names = ["", "model", *(shortened(cost.name, 16) for cost in costs)]
    columns = [[f"{cell:>{max(map(len, column))}}" for cell in column] for column in columns]
    width = max(map(len, names))
    gap = "  " if width + sum(2 + len(column[0]) for column in columns) <= WIDTH else " "
    rows = zip(names, zip(*columns, strict=True), strict=True)
    lines = [gap.join([f"{name:<{width}}", *row]) for name, row in rows]
    said = [_against(costs[-1], costs[0])] if len(costs) > 1 and costs[-1].name == "ensemble" else []
    return [*lines, "", *(line for note in [*said, *notes] for line in textwrap.wrap(note, WIDTH))]


def _against(ensemble: Cost, one: Cost) -> str:
    more = {
        "parameters": (ensemble.parameters, one.parameters),
        "GFLOPs": (ensemble.gflops, one.gflops),
        "latency": (ensemble.latency_ms, one.latency_ms),
        "time in best batches": (one.clips_per_second, ensemble.clips_per_second),
    }
    said = [f"{large / small:.1f} times the {what}" for what, (large, small) in more.items() if small]
    return f"The ensemble takes {', '.join(said[:-1])} and {said[-1]} that {one.name} does."


def _about(views: Views, device: str, threads: int, precision: str) -> str:
    on = f"{_processor()}, {threads} thread{'s' * (threads != 1)}"
    if device == "cuda":
        on = f"{torch.cuda.get_device_name()} in {precision}, and {on} for the inputs"
    return (
        f"One view of {views.frames} frames, from the stored clip in memory to the logits, step by step, on {on}; "
        "medians. GFLOPs: 10^9 operations of convolutions, matrix products and attention, a multiplication and an "
        "addition being 2. clips/s: with inputs made one by one and networks in their best batch of up to "
        f"{LARGEST_BATCH}. Peak: weights, and what else networks hold at a time for a batch of 1."
    )


def _about_sound(costs: Sequence[Cost]) -> list[str]:
    if not any("spectrogram" in cost.parts for cost in costs):
        return []
    said = (
        "Spectrogram: what the network for sound does before its first layer; its Fourier transform is not among the "
    )
    return [f"{said}GFLOPs."]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
