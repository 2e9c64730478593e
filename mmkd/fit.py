"""A network in training: its parts, where it stands in the plan, and where its records go."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmkd.bank.use import Keeper
from mmkd.checkpoint import read_checkpoint
from mmkd.competence import Competence
from mmkd.config import Settings
from mmkd.interruptions import Interruptions
from mmkd.models import Recogniser
from mmkd.objective import Objective
from mmkd.optimizing import Updater
from mmkd.plan import Plan
from mmkd.reader import Block


class Recorder(Protocol):
    """Where a run's records go; called by every worker, at the same steps."""

    def train(self, row: dict[str, Any]) -> None:
        """A line of metrics about recent optimiser steps."""

    def trace(self, row: dict[str, Any]) -> None:
        """What this worker saw in a step, where run.trace asks for it."""

    def competence(self, competence: Competence) -> None:
        """The teachers were judged."""

    def notice(self, text: str) -> None:
        """Something that the person who runs this should know."""

    def broken(self, clips: list[tuple[str, int, str]]) -> None:
        """Broken clips met since the last call: split, number in its manifest, reason."""

    def checkpoint(self, fit: "Fit", position: int) -> None:
        """Keep a checkpoint that resumes from a position of the plan."""

    def epoch(self, row: dict[str, Any], fit: "Fit", answers: Block, is_best: bool) -> None:
        """An epoch is over and validated: keep a checkpoint, and the best model with its answers on val
        (`clip`, `label/HEAD`, `logits/HEAD`)."""


@dataclass
class Fit:
    """A network in training, and where it stands.

    Attributes:
        network: what is called in training; it exchanges gradients between workers.
        recogniser: the model in it.
        clip_id: from (split, number in its manifest) to a clip's id.
        answers_computed, answers_replayed: of one teacher to one view of one clip each, by live teachers and from a
            bank.
        keeper: keeps what live teachers answer; None: nothing is kept.
        interruptions: what makes it keep a checkpoint or stop between two steps; None: nothing does.
    """

    network: nn.Module
    recogniser: Recogniser
    updater: Updater
    objective: Objective
    settings: Settings
    plan: Plan
    device: torch.device
    clip_id: Callable[[str, int], str]
    teacher_names: list[str] = field(default_factory=list)
    frozen: bool = False
    position: int = 0
    best: float = -1.0
    best_epoch: int = -1
    best_val: dict[str, float] = field(default_factory=dict)
    competence: dict[str, Any] | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    clips_read: int = 0
    clips_broken: int = 0
    answers_computed: int = 0
    answers_replayed: int = 0
    keeper: Keeper | None = None
    interruptions: Interruptions | None = None

    @property
    def model(self) -> Recogniser:
        """What is validated and kept: the moving average where there is one, else the model in training."""
        if self.updater.ema is None:
            return self.recogniser
        average = self.updater.ema.module
        return getattr(average, "recogniser", average)

    @property
    def heads(self) -> list[str]:
        return list(self.recogniser.spec.heads)

    def state(self) -> dict[str, Any]:
        """All of the state that is not tensors; `position` is the only place in the plan that is kept."""
        names = ["position", "best", "best_epoch", "best_val", "competence", "clips_read", "clips_broken"]
        names += ["answers_computed", "answers_replayed"]
        return {name: getattr(self, name) for name in names}

    def resume(self, checkpoint: Path) -> None:
        state = read_checkpoint(checkpoint, self.updater)
        for name in self.state():
            setattr(self, name, state.get(name, getattr(self, name)))
        if self.competence:
            self.use_competence(Competence(**self.competence))

    def use_competence(self, competence: Competence) -> None:
        self.competence = competence.as_dict()
        self.weights = {
            head: torch.tensor(weights, dtype=torch.float32, device=self.device)
            for head, weights in competence.weight.items()
        }
