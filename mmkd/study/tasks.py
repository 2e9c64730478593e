"""Carrying out a study's parts: each in a process of its own, as many at a time as fit the machine or the cluster."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkd.config import Settings
from mmkd.progress import duration, say
from mmkd.runs import write_json
from mmkd.sweep.search import concurrent_trials, in_one_process, trial_resources


@dataclass(frozen=True)
class Task:
    """A part of a study.

    Attributes:
        title: for people.
        function: of settings and arguments; it must be able to go on with what a killed process left.
        product: a file that is there when it is done.
        size: of the work in it, in any unit; the time left is told by it.
        tell: what came of it, for the line that says that it is done.
    """

    title: str
    function: Callable[..., Any]
    settings: Settings
    product: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    size: float = 1.0
    tell: Callable[[Any], str] = lambda result: ""


def carry_out(what: str, tasks: Sequence[Task], settings: Settings, records: Path) -> None:
    """Carry out the tasks that are not done, and say how far they are.

    Args:
        records: folder of what each task came to, so that none is carried out twice.

    Raises:
        ValueError: some failed; the others were carried out first.
    """
    left = [task for task in tasks if not (_record(records, task).is_file() and task.product.exists())]
    if left:
        there = f" ({len(tasks) - len(left)} more are there)" if len(left) < len(tasks) else ""
        say(f"{what}: {len(left)} to do{there}")
    progress = _Progress(what, sum(task.size for task in left), len(left))
    failures: list[str] = []

    def done(task: Task, result: Any) -> None:
        records.mkdir(parents=True, exist_ok=True)
        write_json(_record(records, task), result)
        progress.count(task, task.tell(result))

    def failed(task: Task, error: BaseException) -> None:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        failures.append(f"{task.title}: {last}")
        progress.count(task, f"FAILED: {last}")

    if settings.run.local:
        for task in left:
            try:
                done(task, _run(task.function, task.settings, dict(task.arguments)))
            except (ValueError, OSError) as error:
                failed(task, error)
    elif left:
        _carry_out_on_ray(left, settings, done, failed)
    if failures:
        raise ValueError(
            f"{what}: {len(failures)} of {len(left)} failed: {'; '.join(failures)}. The others are done; the same "
            "command again goes on."
        )


def _record(records: Path, task: Task) -> Path:
    plain = re.sub(r"[^\w.+-]+", "-", task.title)
    return records / f"{plain}.json"


def of_task(settings: Settings) -> Settings:
    """The settings of a part of a study: one process with as many threads as it reserves CPUs, or a job on Ray."""
    if not (settings.run.local or in_one_process(settings)):
        return settings
    resources = settings.resources
    threads = resources.threads or resources.reserved_threads
    changes = {
        "run": settings.run.model_copy(update={"local": True}),
        "resources": resources.model_copy(update={"threads": threads}),
        "teachers": settings.teachers.model_copy(update={"threads": threads}),
    }
    return settings.model_copy(update=changes)


def _carry_out_on_ray(
    tasks: Sequence[Task],
    settings: Settings,
    done: Callable[[Task, Any], None],
    failed: Callable[[Task, BaseException], None],
) -> None:
    import ray

    own = settings.model_copy(
        update={"sweep": settings.sweep.model_copy(update={"concurrent": settings.study.concurrent})}
    )
    at_once, reserved = concurrent_trials(own, ray.cluster_resources()), trial_resources(own)
    run = ray.remote(_run)
    how = {"num_cpus": reserved["CPU"], "num_gpus": reserved.get("GPU", 0), "max_retries": settings.run.max_restarts}
    # The longest first, so that none is left alone at the end.
    waiting = sorted(tasks, key=lambda task: task.size)
    running: dict[Any, Task] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            task = waiting.pop()
            reference = run.options(name=task.title, **how).remote(task.function, task.settings, dict(task.arguments))
            running[reference] = task
        ready, _ = ray.wait(list(running), num_returns=1)
        for reference in ready:
            task = running.pop(reference)
            try:
                done(task, ray.get(reference))
            except ray.exceptions.RayError as error:
                failed(task, getattr(error, "cause", None) or error)


def _run(function: Callable[..., Any], settings: Settings, arguments: dict[str, Any]) -> Any:
    if settings.run.local:
        import cv2
        import torch

        cv2.setNumThreads(settings.resources.threads or 1)
        torch.set_num_threads(settings.resources.threads or 1)
    return function(settings, **arguments)


class _Progress:
    """Says what is done and how long the rest will take."""

    def __init__(self, what: str, size: float, number: int):
        self.what, self.size, self.number = what, size, number
        self.began, self.covered, self.counted = time.monotonic(), 0.0, 0

    def count(self, task: Task, text: str) -> None:
        self.covered += task.size
        self.counted += 1
        left = (self.size - self.covered) * (time.monotonic() - self.began) / max(self.covered, 1e-9)
        said = f": {text}" if text else ""
        rest = f"; about {duration(left)} left" if self.counted < self.number else ""
        say(f"{self.what} {self.counted}/{self.number}: {task.title}{said}{rest}")
