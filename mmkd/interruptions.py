"""What interrupts a run between two steps: a checkpoint that is due, a node about to go, a request to stop."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmkd.config import Run
from mmkd.workers import rank, total, world_size

STOP_FILE = "stop"
"""In a run folder: its workers are asked to keep a checkpoint and end."""
STOP_SECONDS, NODE_SECONDS = 1.0, 5.0
"""How often it is looked for; and how often nodes that are about to go are."""


@contextmanager
def stop_on_sigterm(run: Path) -> Iterator[None]:
    """While this lasts, SIGTERM (a pre-emption notice, `ray job stop`) asks the run's workers to keep a checkpoint and
    end, wherever they are. Outside the main thread, as in a trial of Ray Tune, signals are left alone."""
    request = run / STOP_FILE
    request.unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: request.touch())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def was_stopped(run: Path) -> bool:
    return (run / STOP_FILE).exists()


@dataclass(frozen=True)
class Interruption:
    """What all workers do after a step."""

    checkpoint: bool
    stop: bool


class Interruptions:
    """Of one mind in all workers, as rank 0 has the clock and looks for requests: its flags are summed with those of
    the others, which are not set, while the step is carried out.

    Args:
        node_goes: whether a node of this training is about to be taken away; called by all workers at once.
    """

    def __init__(
        self, settings: Run, run: Path, device: torch.device, node_goes: Callable[[], bool] = lambda: False
    ) -> None:
        self.seconds, self.steps = 60 * settings.checkpoint_minutes, settings.checkpoint_steps
        self.run, self.device, self.node_goes = run, device, node_goes
        self.kept = self.looked = self.looked_at_nodes = time.monotonic()
        self.stopped = self.warned = False
        self._said: Callable[[], Tensor] | None = None

    def ask(self) -> None:
        """Start to tell all workers what rank 0 knows; called before each step."""
        now = time.monotonic()
        if rank() == 0 and now - self.looked >= STOP_SECONDS:
            self.looked, self.stopped = now, was_stopped(self.run)
        due = bool(self.seconds) and now - self.kept >= self.seconds
        nodes = now - self.looked_at_nodes >= NODE_SECONDS
        flags = [due, self.stopped, nodes] if rank() == 0 else [False] * 3
        # One worker tells nobody, and need not wait for its device.
        device = self.device if world_size() > 1 else "cpu"
        self._said = total(torch.tensor(flags, dtype=torch.float32, device=device))

    def after(self, steps: int) -> Interruption:
        """What is to be done after the step that was asked about; `steps`: optimiser steps done, 0 where it was
        none."""
        assert self._said is not None, "ask() comes before the step"
        due, stop, nodes = (bool(flag) for flag in self._said().tolist())
        if nodes:
            self.looked_at_nodes = time.monotonic()
            if not self.warned and self.node_goes():
                due = self.warned = True
        return Interruption(due or bool(self.steps and steps and steps % self.steps == 0), stop)

    def checkpoint_kept(self) -> None:
        self.kept = time.monotonic()
