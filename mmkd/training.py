"""The training loop: blocks in plan order in, a fitted network out. One loop for students, baselines and teachers.

It knows nothing of Ray: blocks come from an iterator, workers talk through torch.distributed where it is set up, and
what leaves goes through a `Recorder`.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mmkd.checkpoint import read_checkpoint
from mmkd.config import Settings
from mmkd.losses import active_heads, row_sums
from mmkd.meter import Collector, Meter
from mmkd.metrics import evaluate_heads, topk_accuracy
from mmkd.models import Recogniser
from mmkd.plan import Plan, Step
from mmkd.reader import REAL, Block
from mmkd.teachers import Competence, combine, inputs_of, judge, present_weights
from mmkd.workers import rank, total, world_size


class Recorder(Protocol):
    """Where a run's records go; called by every worker, at the same steps."""

    def train(self, row: dict[str, Any]) -> None:
        """A line of metrics about recent optimiser steps."""

    def trace(self, row: dict[str, Any]) -> None:
        """What this worker saw in a step, where run.trace asks for it."""

    def competence(self, competence: Competence) -> None:
        """The teachers were judged."""

    def broken(self, clips: list[tuple[str, int, str]]) -> None:
        """Broken clips met since the last call: split, number in its manifest, reason."""

    def epoch(self, row: dict[str, Any], fit: "Fit", answers: Block, is_best: bool) -> None:
        """An epoch is over and validated: keep a checkpoint, and the best model with its answers on val
        (`clip`, `label/HEAD`, `logits/HEAD`)."""


@dataclass
class Fit:
    """A network in training, and where it stands."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    settings: Settings
    plan: Plan
    device: torch.device
    teacher_names: list[str] = field(default_factory=list)
    position: int = 0
    best: float = -1.0
    best_epoch: int = -1
    competence: dict[str, Any] | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    clips_read: int = 0
    clips_broken: int = 0

    @property
    def model(self) -> Recogniser:
        """The network without what DDP wraps around it."""
        return getattr(self.network, "module", self.network)  # type: ignore[arg-type]

    @property
    def heads(self) -> list[str]:
        return list(self.model.spec.heads)

    def state(self) -> dict[str, Any]:
        """All of the state that is not tensors; `position` is the only place in the plan that is kept."""
        names = ("position", "best", "best_epoch", "competence", "clips_read", "clips_broken")
        return {name: getattr(self, name) for name in names}

    def resume(self, checkpoint: Path) -> None:
        state = read_checkpoint(checkpoint, self.model, self.optimizer)
        for name in self.state():
            setattr(self, name, state[name])
        if self.competence:
            self.use_competence(Competence(**self.competence))

    def use_competence(self, competence: Competence) -> None:
        self.competence = competence.as_dict()
        self.weights = {
            head: torch.tensor(weights, dtype=torch.float32, device=self.device)
            for head, weights in competence.weight.items()
        }


def make_optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW; weight decay is not for norms and biases."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.optim.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.optim.lr)


def learning_rate(settings: Settings, plan: Plan, step: int) -> float:
    """Rate of optimiser step `step` (from 0): linear warm-up, then decay towards zero, which no step reaches."""
    warmup = min(round(settings.optim.warmup_epochs * plan.train_steps), plan.optimizer_steps - 1)
    if step < warmup:
        return settings.optim.lr * (step + 1) / warmup
    progress = (step - warmup) / (plan.optimizer_steps - warmup)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if settings.optim.schedule == "cosine" else 1 - progress
    return settings.optim.lr * shape


def fit_blocks(fit: Fit, blocks: Iterable[Block], recorder: Recorder) -> None:
    """Carry out the rest of the plan from fit.position; `blocks` yields this worker's units of it, in order.

    Raises:
        RuntimeError: a block is not the one that the plan has at this place, or the blocks end early.
        ValueError: the teachers are refused, or too many clips are broken.
    """
    weigh, validation = Collector(), Collector()
    meter = Meter(world_size())
    for block in meter.timed(blocks):
        step = fit.plan.step(fit.position)
        _check_place(block, step)
        real = block["status"] == REAL
        meter.count(step, block, real)
        if fit.settings.run.trace:
            seen = {"phase": step.phase, "epoch": step.epoch + 1, "clips": block["clip"][real].tolist()}
            recorder.trace({"position": fit.position + 1, "process": os.getpid(), **seen})
        if step.phase == "weigh":
            weigh.add({name: block[name][real] for name in _weigh_columns(fit)})
            if step.number == fit.plan.weigh_steps - 1:
                _judge(fit, weigh.pop(), recorder)
        elif step.phase == "train":
            terms = _train_step(fit, step, block, real)
            done = fit.plan.optimizer_step(fit.position + 1)
            if done % fit.settings.run.log_every == 0 or step.number == fit.plan.train_steps - 1:
                recorder.train(_train_row(fit, step, done, terms, meter))
        else:
            validation.add(_predict(fit, block, real))
        fit.position += 1
        at_end = step.phase == "val" and step.number == fit.plan.val_steps - 1
        if at_end or (step.phase == "weigh" and step.number == fit.plan.weigh_steps - 1):
            _count_broken(fit, meter, recorder)
        if at_end:
            _end_epoch(fit, step, validation.pop(), meter, recorder)
    if fit.position < fit.plan.num_steps:
        raise RuntimeError(f"the data ended at step {fit.position} of {fit.plan.num_steps}; the run can be resumed.")


def _check_place(block: Block, step: Step) -> None:
    if not ((block["step"] == step.index).all() and (block["rank"] == rank()).all()):
        got = f"step {np.unique(block['step']).tolist()} of rank {np.unique(block['rank']).tolist()}"
        raise RuntimeError(f"worker {rank()} expected step {step.index} of the plan and was given {got}.")


def _train_step(fit: Fit, step: Step, block: Block, real: np.ndarray) -> dict[str, Tensor]:
    """One optimiser step; returns the loss and its terms over the global batch."""
    settings, number = fit.settings, fit.plan.optimizer_step(fit.position)
    # Seeded by place, so that dropout is the same after a resume without any generator state being kept.
    torch.manual_seed(hash((settings.run.seed, fit.position, rank())) & 0x7FFFFFFF)
    for group in fit.optimizer.param_groups:
        group["lr"] = learning_rate(settings, fit.plan, number)
    # A worker whose share is all padding still has to take part in the others' gradient exchange.
    rows = np.flatnonzero(real) if real.any() else np.zeros(1, np.int64)
    fit.network.train(bool(real.any()))
    logits = _forward(fit, block, rows)
    heads = active_heads(logits, settings.loss.head_weights)
    logits = {head: logits[head] if real.any() else 0.0 * logits[head] for head in heads}
    labels = {head: _labels(block, head, rows, fit.device, real) for head in heads}
    teacher, taught = _teacher(fit, block, heads, rows, real)
    sums = row_sums(logits, teacher, taught, labels, settings.loss.temperature)
    loss, terms = _global_loss(fit, sums, heads)
    fit.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if settings.optim.clip_norm:
        nn.utils.clip_grad_norm_(fit.network.parameters(), settings.optim.clip_norm)
    fit.optimizer.step()
    return terms


def _global_loss(fit: Fit, sums: dict[str, dict[str, Tensor]], heads: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of this worker's rows over the *global* counts, and the global loss and terms for the record.

    DDP averages gradients over workers, so each worker's share is multiplied by their number.
    """
    loss_settings = fit.settings.loss
    zero = torch.zeros((), device=fit.device)
    names = ("kd", "taught"), ("ce", "labelled")
    numbers = total(
        torch.stack([sums[part].get(head, zero).detach().float() for pair in names for part in pair for head in heads])
    ).reshape(2, 2, len(heads))
    share, record = zero, {}
    for (name, _), weight, (term, count) in zip(
        names, (loss_settings.distill_weight, loss_settings.label_weight), numbers, strict=True
    ):
        scale = torch.ones(len(heads), device=fit.device)
        if name == "ce":
            scale = torch.tensor([loss_settings.head_weights.get(head, 1.0) for head in heads], device=fit.device)
        each = scale / count.clamp_min(1) / len(heads)
        record[name] = (term * each).sum()
        if weight and sums[name]:
            share = share + weight * (torch.stack([sums[name][head] for head in heads]) * each).sum()
    record["loss"] = loss_settings.distill_weight * record["kd"] + loss_settings.label_weight * record["ce"]
    return share * world_size(), record


def _teacher(
    fit: Fit, block: Block, heads: list[str], rows: np.ndarray, real: np.ndarray
) -> tuple[dict[str, Tensor] | None, Tensor | None]:
    if not fit.weights:
        return None, None
    present = torch.from_numpy(block["teacher_present"][rows] & real[rows, None]).to(fit.device)
    combined, taught = {}, []
    for head in heads:
        weights = present_weights(fit.weights[head], present)
        combined[head] = combine(torch.from_numpy(block[f"teacher_logits/{head}"][rows]).to(fit.device), weights)
        taught.append(weights.sum(dim=1) > 0)
    return combined, torch.stack(taught, dim=1)


def _forward(fit: Fit, block: Block, rows: np.ndarray) -> dict[str, Tensor]:
    inputs = inputs_of(block, fit.model.modality, rows, fit.device)
    enabled = fit.device.type == "cuda" and fit.settings.optim.precision == "bf16"
    with torch.autocast(fit.device.type, torch.bfloat16, enabled=enabled):
        return fit.network(inputs)


def _labels(block: Block, head: str, rows: np.ndarray, device: torch.device, real: np.ndarray) -> Tensor:
    labels = np.where(real[rows], block[f"label/{head}"][rows], -1)
    return torch.from_numpy(labels).to(device)


@torch.inference_mode()
def _predict(fit: Fit, block: Block, real: np.ndarray) -> Block:
    fit.model.eval()
    rows = np.flatnonzero(real)
    heads = fit.heads
    out = {"clip": block["clip"][rows]} | {f"label/{head}": block[f"label/{head}"][rows] for head in heads}
    if len(rows):
        inputs = inputs_of(block, fit.model.modality, rows, fit.device)
        logits = {head: values.float().cpu().numpy() for head, values in fit.model(inputs).items()}
    else:
        logits = {head: np.zeros((0, len(classes)), np.float32) for head, classes in fit.model.spec.heads.items()}
    return out | {f"logits/{head}": values for head, values in logits.items()}


def _weigh_columns(fit: Fit) -> list[str]:
    heads = fit.heads
    return ["clip", "teacher_present", *(f"{part}/{head}" for part in ("label", "teacher_logits") for head in heads)]


def _judge(fit: Fit, columns: Block, recorder: Recorder) -> None:
    heads = fit.heads
    competence = judge(
        fit.teacher_names,
        {head: columns[f"teacher_logits/{head}"] for head in heads},
        columns["teacher_present"],
        {head: columns[f"label/{head}"] for head in heads},
        weighting=fit.settings.teachers.weighting,
        gamma=fit.settings.teachers.gamma,
        drop_near_chance=fit.settings.teachers.drop_near_chance,
    )
    fit.use_competence(competence)
    recorder.competence(competence)


def _end_epoch(fit: Fit, step: Step, columns: Block, meter: Meter, recorder: Recorder) -> None:
    broken = [clip for split, clip, _ in meter.all_broken if split == "val"]
    expected = np.setdiff1d(fit.plan.val, broken)
    if not np.array_equal(np.sort(columns["clip"]), np.sort(expected)):
        raise RuntimeError(f"validation saw {len(columns['clip'])} clips where the plan has {len(expected)}.")
    logits = {head: columns[f"logits/{head}"] for head in fit.heads}
    labels = {head: columns[f"label/{head}"] for head in fit.heads}
    metrics = evaluate_heads(logits, labels)
    score = selection_score(metrics, logits, labels)
    is_best = score > fit.best
    if is_best:
        fit.best, fit.best_epoch = score, step.epoch
    row = {"epoch": step.epoch + 1, "position": fit.position, "score": score, "val": metrics, **meter.epoch()}
    recorder.epoch(row, fit, columns, is_best)


def selection_score(
    metrics: Mapping[str, Mapping[str, float]], logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> float:
    """What the best model is chosen by: action accuracy, or with one head the mean of top-1 and top-5."""
    if "action" in metrics and len(metrics) > 1:
        return metrics["action"]["accuracy"]
    (head,) = logits
    known = labels[head] >= 0
    return (metrics[head]["accuracy"] + topk_accuracy(logits[head][known], labels[head][known], 5)) / 2


def _count_broken(fit: Fit, meter: Meter, recorder: Recorder) -> None:
    new, read = meter.take_broken()
    fit.clips_read += read
    fit.clips_broken += len(new)
    recorder.broken(new)
    share = fit.clips_broken / max(fit.clips_read, 1)
    if share > fit.settings.data.max_broken_share:
        examples = "; ".join(f"{split} clip number {clip}: {reason}" for split, clip, reason in new[:3])
        raise ValueError(
            f"{fit.clips_broken} of {fit.clips_read} clips read are broken ({100 * share:.1f} %), more than "
            f"data.max_broken_share allows ({examples}). rejects.jsonl in the run folder lists them."
        )


def _train_row(fit: Fit, step: Step, done: int, terms: dict[str, Tensor], meter: Meter) -> dict[str, Any]:
    row: dict[str, Any] = {"step": done, "position": fit.position + 1, "epoch": step.epoch + 1}
    row |= {name: float(value) for name, value in terms.items()}
    row["lr"] = fit.optimizer.param_groups[0]["lr"]
    return row | meter.rates(fit.plan, fit.position)
