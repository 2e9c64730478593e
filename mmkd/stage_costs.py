"""Sizes of a job by themselves: what its stages cost on the cluster is measured, for some seconds before it starts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mmkd.config import JobError, SettingsError
from mmkd.config.changes import apply
from mmkd.cores import available_cores
from mmkd.pipeline import TeacherStage, Work, read
from mmkd.progress import say
from mmkd.reader import Block
from mmkd.resources import Demand, check_demands, check_fits, cluster_nodes, grown_nodes, shared_memory, total
from mmkd.sizing import FEW_ROWS, LEAST_ROWS, Costs, choose, chosen_values, explain

if TYPE_CHECKING:
    import torch

SECONDS = 4.0
"""That each figure is measured for; it is a median, so that few repeats do."""
BATCHES = (8, 16, 32, 64)
"""Clips given to a teacher at once that are tried."""
MOST_ROWS = 64
"""Clips that are read at once, as a worker's share of a global batch, all of which may not fit one process."""


def size_job(work: Work, run: Path, longest: float = SECONDS) -> Work:
    """The work with sizes that fit it and the cluster which this process has joined.

    They are kept in RUN/resources.yaml, which --config takes, and which counts when the run goes on.

    Args:
        longest: seconds that each figure is measured for.

    Raises:
        SettingsError: its teachers are in several pools, or what is chosen, or measuring, does not fit the cluster.
    """
    settings, kept = work.settings, run / "resources.yaml"
    if settings.teachers.pools:
        raise SettingsError("resources.auto does not divide accelerators among teachers.pools; give their sizes.")
    if kept.is_file():
        sections = yaml.safe_load(kept.read_text())
        values = {f"{section}.{name}": value for section, fields in sections.items() for name, value in fields.items()}
        say(f"sizes: those of {kept}")
        return replace(work, settings=apply(settings, values))
    nodes = grown_nodes()
    cpus, gpus = total(nodes).values()
    most = max(node.resources.get("CPU", 0.0) for node in nodes)
    say("sizes: measuring what reading, teachers and student cost here (about 30 s)")
    costs = measure(work, gpus, longest)
    resources = settings.resources
    may_inline = not (settings.apart() or resources.labels or resources.custom or resources.accelerator_type)
    sizes = choose(costs, cpus, gpus, settings.optim.batch_size, may_inline, most)
    values = chosen_values(settings, costs, sizes, cpus, most, shared_memory(settings, cluster_nodes(), 1))
    sized = apply(settings, values)
    check_fits(sized, work.live_teachers)
    sections = {"resources": {}, "teachers": {}}
    for name, value in values.items():
        section, _, field = name.partition(".")
        sections[section][field] = value
    kept.write_text(yaml.safe_dump(sections, sort_keys=False))
    for line in [*explain(costs, sizes, cpus, gpus), f"kept in {kept}, which --config takes"]:
        say(f"sizes: {line}")
    return replace(work, settings=sized)


def measure(work: Work, gpus: float, longest: float) -> Costs:
    """Costs of a job's stages on the cluster that this process has joined; student and teachers on a GPU where there
    is one.

    Raises:
        JobError: a stage failed, for example for want of memory.
    """
    import ray

    on_gpu = gpus >= 1
    kind = work.settings.resources.accelerator_type if on_gpu else ""
    check_demands(work.settings, [Demand("measuring for resources.auto", 1, 1.0, float(on_gpu), kind)])
    # The process ends with its task, and gives back the memory that it keeps.
    measured = ray.remote(max_calls=1)(_costs).options(num_cpus=1, num_gpus=float(on_gpu))
    if kind:
        measured = measured.options(accelerator_type=kind)
    try:
        return Costs(**ray.get(measured.remote(work, max(1, int(gpus)), on_gpu, longest)))
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise JobError(
            f"the stages could not be measured for resources.auto: {reason} Without it, resources and teachers take "
            "the sizes that the settings give."
        ) from error


def _costs(work: Work, workers: int, on_gpu: bool, longest: float) -> dict[str, Any]:
    import torch

    from mmkd.devices import device_of

    torch.set_num_threads(1)
    if work.live_teachers:
        work = replace(work, bank=None)  # which may have the answers of the first steps, and not those of the others
    batch = work.plan.batch_size
    shares = max(1, min(max(workers, -(-batch // MOST_ROWS)), batch // LEAST_ROWS))
    train = (step for step in range(work.plan.num_steps) if work.plan.step(step).phase == "train")
    units = cycle([range(step, step + 1) for step in islice(train, 64)])
    block = read(work, shares, 0, next(units))  # manifests are read, and files come into memory
    rows = len(block["clip"])
    seconds: dict[str, Any] = {"read": _seconds(lambda: read(work, shares, 0, next(units)), longest) / rows}
    seconds["teachers"] = {}
    if work.live_teachers:
        stage = TeacherStage(_where(work, on_gpu), watched=False)
        # On GPUs they are given blocks of several steps at once.
        asked = np.arange(max(rows, MOST_ROWS) if on_gpu else rows) % rows
        many = {name: values[asked] for name, values in block.items()}
        for size in BATCHES:
            stage.ensemble.batch_size = size
            seconds["teachers"][size] = _seconds(lambda: stage(many), longest) / len(asked)
            if size >= len(asked):
                break
        block = stage(block)
        del stage, many
    seconds["student"], normalised = _student(work, block, device_of(on_gpu), longest)
    seconds["least_rows"] = LEAST_ROWS if on_gpu or normalised else FEW_ROWS
    seconds["clip_mb"] = sum(array.nbytes for array in block.values()) / rows / 1e6
    return seconds


def _where(work: Work, on_gpu: bool) -> Work:
    """The same work with its teachers on the GPU, or on one thread."""
    teachers = work.settings.teachers.model_copy(update={"num_gpus": float(on_gpu), "threads": 1})
    return replace(work, settings=work.settings.model_copy(update={"teachers": teachers}))


def _student(work: Work, block: Block, device: "torch.device", longest: float) -> tuple[dict[int, float], bool]:
    """Threads to seconds a clip of a training step (forward, backward, AdamW); and whether it has batch norm."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from mmkd.inputs import inputs_of
    from mmkd.optimizing import Updater
    from mmkd.worker import adapt, make_network

    on_cpu, model, optim = device.type == "cpu", make_network(work), work.settings.optim
    adapt(model, optim)
    model.to(device).train()
    updater, most = Updater(model, model, work.settings, work.plan, device), len(block["clip"])
    rows = np.arange(min(most, max(LEAST_ROWS, -(-most // optim.accumulate))))

    def step() -> None:
        with updater.autocast():
            logits = model(inputs_of(block, model.modality, rows, device))
        updater.backward(torch.stack([each.float().logsumexp(dim=-1).mean() for each in logits.values()]).sum())
        updater.step(0)
        if not on_cpu:
            torch.cuda.synchronize()

    found = {}
    for threads in _thread_counts() if on_cpu else [1]:
        torch.set_num_threads(threads)
        found[threads] = _seconds(step, longest) / len(rows)
    return found, any(isinstance(module, _BatchNorm) for module in model.modules())


def _thread_counts() -> Sequence[int]:
    """1, 2, 4, ... up to this machine's cores."""
    return [2**power for power in range(available_cores().bit_length())]


def _seconds(work: Callable[[], Any], longest: float) -> float:
    """Median seconds of a call, after one that does not count; of one, where a call takes longer than all should."""
    work()
    times: list[float] = []
    least, began = 1, time.perf_counter()
    while len(times) < least or (time.perf_counter() - began < longest and len(times) < 50):
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
        least = 3 if times[0] < longest else 1
    return float(np.median(times))
