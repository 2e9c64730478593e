"""The objective: what each row of a block is to be taught, and the loss terms of a student's answer to it.

Beside the loss it measures how often the student's class is the ensemble's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmkd.config import Settings
from mmkd.losses import active_heads, ce_per_row, feature_per_row, is_known, kd_per_row
from mmkd.models.features import FeatureStudent
from mmkd.optimizing import scheduled
from mmkd.reader import Block
from mmkd.teachers import combine, combine_probabilities, per_sample_weights, present_weights


@dataclass
class Targets:
    """What some rows are to be taught, on the device; each tensor has one entry a row.

    Attributes:
        labels: head to labels, see :mod:`mmkd.losses`.
        mixed: of rows that another clip was mixed into, head to that clip's labels; empty where nothing is mixed.
        share: float [rows], share of a row's own clip.
        teacher: head to the ensemble's logits [rows, classes]; empty without teachers.
        taught: head to bool [rows], the ensemble has an answer.
        features: [rows, width] of one teacher, and featured, bool [rows]; None where they are not compared.
    """

    labels: dict[str, Tensor]
    mixed: dict[str, Tensor]
    share: Tensor | None
    teacher: dict[str, Tensor]
    taught: dict[str, Tensor]
    features: Tensor | None = None
    featured: Tensor | None = None

    def take(self, rows: Tensor) -> "Targets":
        """A selection of the rows."""

        def some(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: tensor[rows] for key, tensor in value.items()}
            return value if value is None else value[rows]

        return Targets(**{each.name: some(getattr(self, each.name)) for each in fields(self)})


class Objective:
    """Terms of the loss, by name: `kd/HEAD`, `ce/HEAD` and `feature`; it begins as in the first step of a training.

    `agreement/HEAD`, of heads with one class a clip, is measured with them and has no weight.

    Attributes:
        heads: those whose weight is not 0.
        shares: term to its share in the mean over heads that is recorded, head weights included.
        temperature, distill_weight, label_weight: of the present step, see :meth:`set_progress`.
        weights: term to its weight in the loss of the present step.
    """

    def __init__(self, settings: Settings, heads: Mapping[str, object], device: torch.device):
        self.settings, self.device = settings, device
        loss = settings.loss
        self.heads = active_heads(heads, loss.head_weights)
        if unknown := set(loss.distill_head_weights) - set(heads):
            raise ValueError(f"loss.distill_head_weights names {sorted(unknown)}, but the heads are {sorted(heads)}.")
        number = len(self.heads)
        self.shares = {f"kd/{head}": loss.distill_head_weights.get(head, 1.0) / number for head in self.heads}
        self.shares |= {f"ce/{head}": loss.head_weights.get(head, 1.0) / number for head in self.heads}
        if loss.feature_weight:
            self.shares["feature"] = 1.0
        self.set_progress(0.0)

    def set_progress(self, progress: float) -> None:
        """Take the temperature and the weights that the schedules have at a place in the training, 0 (its first
        optimiser step) to 1 (its last)."""
        loss = self.settings.loss
        self.temperature = scheduled(loss.temperature_schedule, loss.temperature, loss.temperature_end, progress)
        self.distill_weight = scheduled(loss.weight_schedule, loss.distill_weight, loss.distill_weight_end, progress)
        self.label_weight = scheduled(loss.weight_schedule, loss.label_weight, loss.label_weight_end, progress)
        of_kind = {"kd": self.distill_weight, "ce": self.label_weight, "feature": loss.feature_weight}
        self.weights = {term: share * of_kind[term.split("/")[0]] for term, share in self.shares.items()}

    def targets(self, block: Block, rows: np.ndarray, real: np.ndarray, weights: Mapping[str, Tensor]) -> Targets:
        """Targets of the rows; those that are not `real` (bool, all rows of the block) are taught nothing.

        Args:
            weights: head to the teachers' held-out weights [teachers]; empty without teachers.
        """

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(block[name][rows]).to(self.device)

        there = torch.from_numpy(real[rows]).to(self.device)
        labels, mixed = {}, {}
        for head in self.heads:
            own = tensor(f"label/{head}")
            labels[head] = own.masked_fill(~(there if own.ndim == 1 else there[:, None]), -1)
            if f"mix_label/{head}" in block:
                mixed[head] = tensor(f"mix_label/{head}")
        share = tensor("mix/share") if mixed else None
        targets = Targets(labels, mixed, share, {}, {})
        if weights:
            present = tensor("teacher_present") & there[:, None]
            for head in self.heads:
                answers = tensor(f"teacher_logits/{head}").float()  # a bank's are fp16
                own_weights = present_weights(self._weights(weights[head], answers, targets, head), present)
                targets.teacher[head] = self._combine(answers, own_weights, labels[head].ndim == 2)
                targets.taught[head] = own_weights.sum(dim=1) > 0
        if "teacher_features" in block and "feature" in self.weights:
            targets.features, targets.featured = tensor("teacher_features"), tensor("feature_present") & there
        return targets

    def counts(self, targets: Targets) -> dict[str, Tensor]:
        """Term to the number of rows that it applies to."""
        zero = torch.zeros((), device=self.device)
        counts = {f"kd/{head}": targets.taught[head].sum() if targets.taught else zero for head in self.heads}
        counts |= {f"ce/{head}": _labelled(targets, head).sum() for head in self.heads}
        if "feature" in self.weights:
            counts["feature"] = zero if targets.featured is None else targets.featured.sum()
        return counts | {f"agreement/{head}": counts[f"kd/{head}"] for head in self._compared(targets)}

    def rows(self, output: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Term to its value for each row, float32 [rows]; 0 where it does not apply."""
        loss, terms = self.settings.loss, {}
        for head in self.heads:
            logits = output[head].float()
            if targets.teacher:
                kd = kd_per_row(
                    logits,
                    targets.teacher[head],
                    targets.labels[head],
                    kind=loss.kind,
                    temperature=self.temperature,
                    alpha=loss.dkd_alpha,
                    beta=loss.dkd_beta,
                )
                terms[f"kd/{head}"] = torch.where(targets.taught[head], kd, 0.0)
            terms[f"ce/{head}"] = _label_term(logits, targets, head, loss.label_smoothing)
        for head in self._compared(targets):
            same = output[head].detach().argmax(dim=1) == targets.teacher[head].argmax(dim=1)
            terms[f"agreement/{head}"] = (same & targets.taught[head]).float()
        if targets.features is not None and targets.featured is not None:
            each = feature_per_row(output[FeatureStudent.FEATURES].float(), targets.features, loss.feature_kind)
            terms["feature"] = torch.where(targets.featured, each, 0.0)
        return terms

    def record(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss, its kinds of terms, and the share of rows in which student and ensemble agree, from each term's mean
        over the rows that it applies to."""
        record = {"loss": torch.stack([self.weights[term] * means[term] for term in self.weights]).sum()}
        for kind in ("kd", "ce", "feature"):
            parts = [share * means[term] for term, share in self.shares.items() if term.split("/")[0] == kind]
            if parts:
                record[kind] = torch.stack(parts).sum()
        agreement = [mean for term, mean in means.items() if term.startswith("agreement/")]
        return record | ({"agreement": torch.stack(agreement).mean()} if agreement else {})

    def _compared(self, targets: Targets) -> list[str]:
        """Heads in which student and ensemble each have one class."""
        return [head for head in self.heads if targets.teacher and targets.labels[head].ndim == 1]

    def _weights(self, held_out: Tensor, answers: Tensor, targets: Targets, head: str) -> Tensor:
        teachers = self.settings.teachers
        if teachers.weighting != "per_sample":
            return held_out
        losses = [_label_term(answers[:, k], targets, head, 0.0) for k in range(answers.shape[1])]
        return per_sample_weights(torch.stack(losses, dim=1), _labelled(targets, head), held_out, teachers.gamma)

    def _combine(self, answers: Tensor, weights: Tensor, multi_label: bool) -> Tensor:
        if self.settings.teachers.ensemble == "logits":
            return combine(answers, weights)
        return combine_probabilities(answers, weights, self.temperature, multi_label)


def _labelled(targets: Targets, head: str) -> Tensor:
    known = is_known(targets.labels[head])
    if targets.share is not None:
        known = known & (is_known(targets.mixed[head]) | (targets.share == 1))
    return known


def _label_term(logits: Tensor, targets: Targets, head: str, smoothing: float) -> Tensor:
    """Cross-entropy with the label, or with both labels of a mixed row by their shares; 0 where one is unknown."""
    own = ce_per_row(logits, targets.labels[head], smoothing)
    if targets.share is None:
        return own
    both = targets.share * own + (1 - targets.share) * ce_per_row(logits, targets.mixed[head], smoothing)
    return torch.where(_labelled(targets, head), both, 0.0)
