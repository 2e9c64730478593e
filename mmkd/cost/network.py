"""Measuring one network: latency, throughput and memory, from the raw input of a view to its logits."""

import copy
import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch
from torch import nn

from mmkd.cost.count import example_input, flops_per_view
from mmkd.cost.record import Cost
from mmkd.devices import autocast
from mmkd.models.create import Recogniser

LARGEST_BATCH = 64
MOST_MB = 4096.0
"""No batch is tried whose activations would need more."""


def measure_cost(
    model: Recogniser,
    seen: dict[str, Any],
    *,
    name: str,
    device: str = "cpu",
    threads: int = 1,
    precision: str = "fp32",
    seconds: float = 2.0,
) -> Cost:
    """Measure a network by itself; its input is there, on the CPU, as raw as :func:`example_input` makes it.

    Latency is the median of repeats after a warm-up, with the transfer to the device and until the logits are there.
    Throughput is that of the best batch of 1, 2, 4, ... 64; larger ones are not tried when two in a row gained nothing,
    when they would take longer than `seconds`, or too much memory. What a network for sound does before its first layer
    is the part "spectrogram" of its latency. Peak memory: see :func:`peak_megabytes`; of a batch of 1.

    Args:
        seen: geometry of its view, as `input` of model.json.
        threads: of torch on the CPU.
        precision: fp32, or bf16 or fp16 for autocast on cuda; on the CPU networks run in fp32.
        seconds: about how long to measure.
    """
    own = copy.deepcopy(model).eval().to(device)

    def answer(inputs: Any) -> None:
        with autocast(torch.device(device), precision if device == "cuda" else "fp32"):
            own(_to(inputs, device))
        synchronise(device)

    def duration(batch: int, share: float) -> float:
        inputs = _waiting(example_input(own, seen, batch), device)
        return median_seconds(lambda: answer(inputs), share * seconds)

    with use_threads(threads), torch.inference_mode():
        weights = sum(tensor.nbytes for tensor in (*own.parameters(), *own.buffers())) / 1e6
        one = _waiting(example_input(own, seen), device)
        activations = peak_megabytes(lambda: answer(example_input(own, seen)), device)
        latency = duration(1, 0.3)
        rate, batch = _best_batch(duration, latency, seconds, activations)
        parts = {}
        if own.modality == "audio":
            parts["spectrogram"] = 1000 * latency * _before_first_layer(own, lambda: answer(one), device)
    return Cost(
        name,
        own.num_parameters,
        flops_per_view(own, seen) / 1e9,
        1000 * latency,
        rate,
        weights + activations,
        parts,
        batch,
    )


@contextmanager
def use_threads(number: int) -> Iterator[None]:
    """So many threads for torch and for OpenCV, while the block runs."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(number)
    cv2.setNumThreads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(run: Callable[[], Any], seconds: float, least: int = 3) -> float:
    """Median duration of `run`, repeated for about so many seconds after two runs that do not count."""
    run()
    run()
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < least or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        durations.append(time.perf_counter() - start)
    return median(durations)


def peak_megabytes(run: Callable[[], Any], device: str = "cpu") -> float:
    """The most memory, in MB of 10^6 bytes, that `run` holds at any time beyond what is held before it.

    On cuda, what torch allocates. On the CPU, growth of the process's resident memory, to about half a MB; so what
    libraries take for themselves is in it. A first run, which also loads their code, does not count, and of three more
    the least does, as whatever else goes on only adds to it. NaN where the system (not Linux) cannot tell.
    """
    run()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        synchronise(device)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    try:
        return min(_resident_growth(run) for _ in range(3))
    except (OSError, AttributeError, StopIteration):
        return float("nan")


def _resident_growth(run: Callable[[], Any]) -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed must not serve again unseen
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew from VmRSS
    before = _memory("VmRSS")
    run()
    return max(0.0, _memory("VmHWM") - before)


def _memory(field: str) -> float:
    """A field of /proc/self/status, which has units of 1024 bytes, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024 / 1e6


def _best_batch(
    duration: Callable[[int, float], float], latency: float, seconds: float, activations: float
) -> tuple[float, int]:
    """Clips per second, and in which batch."""
    rate, best, batch, last, in_vain = 1 / latency, 1, 2, latency, 0
    while batch <= LARGEST_BATCH and in_vain < 2 and 2 * last < seconds and not batch * activations > MOST_MB:
        try:
            last = duration(batch, 0.1)
        except torch.cuda.OutOfMemoryError:
            break
        in_vain = 0 if batch / last > 1.02 * rate else in_vain + 1
        if batch / last > rate:
            rate, best = batch / last, batch
        batch *= 2
    return rate, best


def _before_first_layer(model: nn.Module, run: Callable[[], Any], device: str) -> float:
    """Share (0..1) of a run that passes between the calls of the model and of its first module with parameters."""
    started, reached = [0.0], list[float]()

    def start(*_: Any) -> None:
        synchronise(device)
        reached.clear()
        started[0] = time.perf_counter()

    def reach(*_: Any) -> None:
        if not reached:
            synchronise(device)
            reached.append(time.perf_counter() - started[0])

    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [model.register_forward_pre_hook(start)] + [layer.register_forward_pre_hook(reach) for layer in layers]
    shares = []
    for _ in range(12):
        began = time.perf_counter()
        run()
        shares += [each / (time.perf_counter() - began) for each in reached]
    for hook in hooks:
        hook.remove()
    return median(shares[2:]) if shares else 0.0


def _waiting(inputs: Any, device: str) -> Any:
    """Inputs in memory that a GPU can fetch from by itself."""
    if device != "cuda":
        return inputs
    return {name: x.pin_memory() for name, x in inputs.items()} if isinstance(inputs, dict) else inputs.pin_memory()


def _to(inputs: Any, device: str) -> Any:
    if isinstance(inputs, dict):
        return {name: x.to(device, non_blocking=True) for name, x in inputs.items()}
    return inputs.to(device, non_blocking=True)
