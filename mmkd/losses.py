"""Losses as pure functions of logits: the paper's distillation loss (arXiv 2307.07483; docs/method.md) and others.

Labels are class indices [batch], -1 where unknown; of a multi-label head they are 0 and 1 [batch, classes], a row of -1
where unknown. That shape alone says whether a head is a softmax or one sigmoid a class.
"""

from collections.abc import Callable, Mapping

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
    kind: str = "kl",
) -> Tensor:
    """distill_weight * KD + label_weight * CE over a batch in which every row counts.

    KD is the mean over heads of the distillation term, averaged over the batch; of the paper's kind, `kl`, that is
    T^2 KL(softmax(teacher/T) || softmax(student/T)). CE is the sum over heads of head weight times cross-entropy,
    divided by the number of heads. Head weights reach CE only, but a head of weight 0 is left out of both.

    Args:
        student, teacher: head to logits [batch, classes].
        labels: head to labels, all known.
        kind: one of :data:`DISTILLATION`.

    Raises:
        ValueError: every head has weight 0, or there is no such kind.
    """
    heads = active_heads(student, head_weights)
    weights = head_weights or {}
    kd = [kd_per_row(student[h], teacher[h], labels[h], kind=kind, temperature=temperature).mean() for h in heads]
    ce = [weights.get(h, 1.0) * ce_per_row(student[h], labels[h]).mean() for h in heads]
    return (distill_weight * torch.stack(kd).sum() + label_weight * torch.stack(ce).sum()) / len(heads)


def kl_per_row(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher/T) || softmax(student/T)) of each row: [batch, classes] to [batch]."""
    target = F.log_softmax(teacher / temperature, dim=-1)
    prediction = F.log_softmax(student / temperature, dim=-1)
    return temperature**2 * F.kl_div(prediction, target, reduction="none", log_target=True).sum(dim=-1)


def soft_cross_entropy_per_row(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the cross-entropy of the student with softmax(teacher/T): kl plus the teacher's entropy, which has no
    gradient (Hinton et al., 2015, arXiv 1503.02531)."""
    return temperature**2 * F.cross_entropy(
        student / temperature, (teacher / temperature).softmax(-1), reduction="none"
    )


def mse_per_row(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the logits over classes (Kim et al., IJCAI 2021, arXiv 2105.08919)."""
    return (student - teacher).square().mean(dim=-1)


def standardized_kl_per_row(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """kl of logits that are standardised over classes, so that the student need not match the teachers' range (Sun et
    al., CVPR 2024, arXiv 2403.01427, with the standard deviation of their equation: over classes, not classes - 1)."""
    return kl_per_row(_standardized(student), _standardized(teacher), temperature)


def decoupled_per_row(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """alpha times the KL of (label, not label) and beta times that of the distribution over the other classes, both
    times T^2 (Zhao et al., CVPR 2022, arXiv 2203.08679). A row without a label takes the teacher's class for it."""
    target = torch.where(labels >= 0, labels, teacher.argmax(dim=-1)).unsqueeze(-1)
    log_p, log_q = (F.log_softmax(x / temperature, dim=-1) for x in (student, teacher))
    own = torch.zeros_like(student, dtype=torch.bool).scatter(-1, target, True)
    ours, theirs = (torch.cat([x.gather(-1, target), _log_rest(x, own)], dim=-1) for x in (log_p, log_q))
    binary = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)
    rest_p, rest_q = ((x - _log_rest(x, own)).masked_fill(own, 0.0) for x in (log_p, log_q))
    rest = (rest_q.exp() * (rest_q - rest_p)).masked_fill(own, 0.0).sum(dim=-1)
    return temperature**2 * (alpha * binary + beta * rest)


def hard_per_row(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the class that the teacher holds most likely."""
    return F.cross_entropy(student, teacher.argmax(dim=-1), reduction="none")


def binary_kl_per_row(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL between the Bernoulli distributions of each class, mean over classes: kl for multi-label heads."""
    x, y = student / temperature, teacher / temperature
    q = y.sigmoid()
    each = q * (F.logsigmoid(y) - F.logsigmoid(x)) + (1 - q) * (F.logsigmoid(-y) - F.logsigmoid(-x))
    return temperature**2 * each.mean(dim=-1)


def binary_soft_cross_entropy_per_row(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The same as cross-entropy with sigmoid(teacher/T): soft_ce for multi-label heads."""
    return temperature**2 * _binary_cross_entropy(student / temperature, (teacher / temperature).sigmoid())


Distill = Callable[[Tensor, Tensor, Tensor, float, float, float], Tensor]
"""(student, teacher, labels, temperature, alpha, beta) to a loss per row."""

DISTILLATION: dict[str, Distill] = {
    "kl": lambda s, t, labels, temperature, *_: kl_per_row(s, t, temperature),
    "soft_ce": lambda s, t, labels, temperature, *_: soft_cross_entropy_per_row(s, t, temperature),
    "mse": lambda s, t, *_: mse_per_row(s, t),
    "dkd": decoupled_per_row,
    "standardized_kl": lambda s, t, labels, temperature, *_: standardized_kl_per_row(s, t, temperature),
    "hard": lambda s, t, *_: hard_per_row(s, t),
}
"""The distillation terms, by the names of loss.kind."""

MULTI_LABEL_DISTILLATION: dict[str, Distill] = {
    "kl": lambda s, t, labels, temperature, *_: binary_kl_per_row(s, t, temperature),
    "soft_ce": lambda s, t, labels, temperature, *_: binary_soft_cross_entropy_per_row(s, t, temperature),
    "mse": lambda s, t, *_: mse_per_row(s, t),
    "hard": lambda s, t, *_: _binary_cross_entropy(s, (t > 0).to(s)),
}
"""The same for multi-label heads; the others need classes that exclude each other."""


def kd_per_row(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    kind: str = "kl",
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """The distillation term of each row: logits [batch, classes] to [batch].

    Args:
        labels: their shape says whether the head is multi-label; `dkd` alone looks at their values.
        alpha, beta: of `dkd`.

    Raises:
        ValueError: no such kind, or it is not for multi-label heads.
    """
    table = MULTI_LABEL_DISTILLATION if labels.ndim == 2 else DISTILLATION
    if kind not in table:
        which = "multi-label heads" if labels.ndim == 2 else "heads"
        raise ValueError(f"loss.kind {kind!r} is not for {which}; it must be one of {', '.join(table)}.")
    return table[kind](student, teacher, labels, temperature, alpha, beta)


def ce_per_row(student: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the label of each row, 0 where it is unknown: [batch, classes] to [batch].

    Of a multi-label head it is the binary one, mean over classes. `smoothing` is the share (0..1) of the target that is
    spread evenly over the classes, or over yes and no.
    """
    known = is_known(labels)
    if labels.ndim == 2:
        target = labels.clamp_min(0).to(student) * (1 - smoothing) + smoothing / 2
        return torch.where(known, _binary_cross_entropy(student, target), 0.0)
    each = F.cross_entropy(student, labels.clamp_min(0), reduction="none", label_smoothing=smoothing)
    return torch.where(known, each, 0.0)


def feature_per_row(student: Tensor, teacher: Tensor, kind: str) -> Tensor:
    """Difference of features [batch, width] of each row: `mse`, mean over the width (Romero et al., ICLR 2015, arXiv
    1412.6550), or `cosine`, one minus the cosine."""
    if kind == "mse":
        return (student - teacher).square().mean(dim=-1)
    return 1 - F.cosine_similarity(student, teacher, dim=-1)


def is_known(labels: Tensor) -> Tensor:
    """Rows that have a label: [batch] or, of a multi-label head, [batch, classes] to bool [batch]."""
    return labels >= 0 if labels.ndim == 1 else labels[:, 0] >= 0


def active_heads(heads: Mapping[str, object], head_weights: Mapping[str, float] | None) -> list[str]:
    """The heads that take part in the loss: those whose weight is not 0."""
    unknown = set(head_weights or {}) - set(heads)
    if unknown:
        raise ValueError(f"loss.head_weights names {sorted(unknown)}, but the heads are {sorted(heads)}.")
    active = [head for head in heads if (head_weights or {}).get(head, 1.0) != 0]
    if not active:
        raise ValueError("loss.head_weights is 0 for every head: there is nothing to learn.")
    return active


def _binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=-1)


def _standardized(logits: Tensor) -> Tensor:
    deviation = logits.std(dim=-1, keepdim=True, correction=0)
    return (logits - logits.mean(dim=-1, keepdim=True)) / deviation.clamp_min(1e-7)


def _log_rest(log_probabilities: Tensor, own: Tensor) -> Tensor:
    return log_probabilities.masked_fill(own, float("-inf")).logsumexp(dim=-1, keepdim=True)
