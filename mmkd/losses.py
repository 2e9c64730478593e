"""The distillation loss of the paper, as pure functions of logits (arXiv 2307.07483; docs/method.md)."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def distillation_loss(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    *,
    temperature: float,
    distill_weight: float,
    label_weight: float,
    head_weights: Mapping[str, float] | None = None,
) -> Tensor:
    """distill_weight * KD + label_weight * CE over a batch in which every row counts.

    KD is the mean over heads of T^2 KL(softmax(teacher/T) || softmax(student/T)), averaged over the batch; CE the sum
    over heads of head weight times cross-entropy, divided by the number of heads. Head weights reach CE only, but a
    head of weight 0 is left out of both.

    Args:
        student, teacher: head to logits [batch, classes].
        labels: head to class indices [batch].

    Raises:
        ValueError: every head has weight 0.
    """
    heads = active_heads(student, head_weights)
    weights = head_weights or {}
    kd = [kl_per_row(student[head], teacher[head], temperature).mean() for head in heads]
    ce = [weights.get(head, 1.0) * F.cross_entropy(student[head], labels[head]) for head in heads]
    return (distill_weight * torch.stack(kd).sum() + label_weight * torch.stack(ce).sum()) / len(heads)


def kl_per_row(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher/T) || softmax(student/T)) of each row: [batch, classes] to [batch]."""
    target = F.log_softmax(teacher / temperature, dim=-1)
    prediction = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * F.kl_div(prediction, target, reduction="none", log_target=True).sum(dim=-1)


def active_heads(heads: Mapping[str, object], head_weights: Mapping[str, float] | None) -> list[str]:
    """The heads that take part in the loss: those whose weight is not 0."""
    unknown = set(head_weights or {}) - set(heads)
    if unknown:
        raise ValueError(f"loss.head_weights names {sorted(unknown)}, but the heads are {sorted(heads)}.")
    active = [head for head in heads if (head_weights or {}).get(head, 1.0) != 0]
    if not active:
        raise ValueError("loss.head_weights is 0 for every head: there is nothing to learn.")
    return active


def row_sums(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor] | None,
    taught: Tensor | None,
    labels: Mapping[str, Tensor],
    temperature: float,
) -> dict[str, dict[str, Tensor]]:
    """Each term of the loss summed over the rows it applies to, for a mean over the *global* batch.

    Args:
        student: head to logits [batch, classes].
        teacher: head to the ensemble's logits [batch, classes]; None: no distillation term.
        taught: bool [batch, heads], in the order of `student`: the ensemble has an answer.
        labels: head to class indices [batch]; -1: no label.

    Returns:
        `kd`, `ce`: head to the sum; `taught`, `labelled`: head to the number of rows in it.
    """
    sums: dict[str, dict[str, Tensor]] = {"kd": {}, "ce": {}, "taught": {}, "labelled": {}}
    for column, (head, logits) in enumerate(student.items()):
        logits = logits.float()
        labelled = labels[head] >= 0
        ce = F.cross_entropy(logits, labels[head].clamp_min(0), reduction="none")
        sums["ce"][head] = torch.where(labelled, ce, 0.0).sum()
        sums["labelled"][head] = labelled.sum()
        if teacher is not None and taught is not None:
            kd = kl_per_row(logits, teacher[head].float(), temperature)
            sums["kd"][head] = torch.where(taught[:, column], kd, 0.0).sum()
            sums["taught"][head] = taught[:, column].sum()
    return sums
