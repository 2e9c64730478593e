"""Traces of a run: what a worker does in a few steps, and what all of Ray's tasks and actors did when."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from mmkd.reader import Block

SKIPPED, WARM_UP, STEPS = 3, 2, 5
"""Steps before the trace begins, steps that the profiler needs to settle, and steps in the trace."""


def profiled(blocks: Iterable[Block], folder: Path, rank: int) -> Iterator[Block]:
    """The same blocks; what happens between them is traced by torch's profiler, into FOLDER/steps-RANK.json."""
    import torch.profiler as profiler

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"steps-{rank}.json"
    with profiler.profile(
        schedule=profiler.schedule(skip_first=SKIPPED, wait=0, warmup=WARM_UP, active=STEPS, repeat=1),
        on_trace_ready=lambda trace: trace.export_chrome_trace(str(path)),
    ) as trace:
        for block in blocks:
            yield block
            trace.step()


def save_timeline(folder: Path) -> None:
    """Ray's timeline of this session's tasks and actors, into FOLDER/ray-timeline.json."""
    import ray

    folder.mkdir(parents=True, exist_ok=True)
    ray.timeline(filename=str(folder / "ray-timeline.json"))
