"""Competence: how good each teacher is on clips that none was trained on, and what weight that gives it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from mmkd.losses import ce_per_row
from mmkd.metrics import expected_calibration_error, mean_average_precision
from mmkd.teachers import teacher_weights


@dataclass
class Competence:
    """How good each teacher is on `weigh`, per head, and what weight that gives it.

    Attributes:
        names: of the teachers.
        accuracy, ece, cross_entropy, weight: head to [teachers]; a teacher dropped from a head has weight 0 there. Of
            a multi-label head, accuracy is the mean average precision and there is no ece (NaN).
        count: head to the number of clips each teacher was judged on.
        chance: head to the share of the commonest class; of a multi-label head, to the mean share of a class.
    """

    names: list[str]
    accuracy: dict[str, list[float]]
    ece: dict[str, list[float]]
    cross_entropy: dict[str, list[float]]
    count: dict[str, list[int]]
    chance: dict[str, float]
    weight: dict[str, list[float]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """A table for people: accuracy, calibration error (points), cross-entropy and weight of each teacher per head,
        and who was left out."""
        table = [f"{'teacher':<12}" + "".join(f"{head + ' acc':>14}   ECE    CE  weight" for head in self.accuracy)]
        left_out = []
        for k, name in enumerate(self.names):
            line = f"{name:<12}"
            for head, weights in self.weight.items():
                ece = 100 * self.ece[head][k]
                line += f"{100 * self.accuracy[head][k]:12.1f} %" + (f"{ece:6.1f}" if ece == ece else "     -")
                line += f" {self.cross_entropy[head][k]:5.2f}  {weights[k]:6.2f}"
                if not weights[k]:
                    left_out.append(f"{name} is near chance on {head} and is left out of it")
            table.append(line)
        return table + left_out


def judge(
    names: Sequence[str],
    logits: Mapping[str, np.ndarray],
    present: np.ndarray,
    labels: Mapping[str, np.ndarray],
    *,
    weighting: str,
    gamma: float,
    drop_near_chance: bool,
) -> Competence:
    """Judge and weigh teachers on clips that none of them was trained on.

    Near chance: the accuracy, less two standard errors, is not above the share of the commonest class.

    Args:
        logits: head to [clips, teachers, classes].
        present: bool [clips, teachers].
        labels: head to [clips] or, of a multi-label head, [clips, classes]; -1 where unknown.
        weighting: uniform, else weights from the held-out cross-entropy.

    Raises:
        ValueError: a teacher has no head left, or a head no teacher, or no clip to be judged on.
    """
    table = Competence(list(names), {}, {}, {}, {}, {}, {})
    for head, scores in logits.items():
        truth = labels[head]
        known = truth.reshape(len(truth), -1)[:, 0] >= 0
        if not (known[:, None] & present).any(axis=0).all():
            raise ValueError(f"a teacher has no labelled clip of head {head} to be weighed on; see data.weigh_share.")
        table.chance[head] = _chance(truth[known])
        each = [_judge_one(scores[rows, k], truth[rows]) for k, rows in enumerate((known[:, None] & present).T)]
        columns = zip(*each, strict=True)
        for part in (table.accuracy, table.ece, table.cross_entropy, table.count):
            part[head] = list(next(columns))
        accuracy = np.array(table.accuracy[head])
        error = np.sqrt(accuracy * (1 - accuracy) / table.count[head])
        left = (accuracy - 2 * error > table.chance[head]) | (not drop_near_chance)
        if not left.any():
            raise ValueError(f"no teacher is better than chance on head {head}: " + _said(names, table.accuracy[head]))
        losses = torch.tensor(table.cross_entropy[head], dtype=torch.float64)
        judged = losses.masked_fill(torch.from_numpy(~left), float("inf"))
        uniform = torch.from_numpy(left / left.sum())
        table.weight[head] = (uniform if weighting == "uniform" else teacher_weights(judged, gamma)).tolist()
    weight = table.weight
    useless = [name for k, name in enumerate(names) if not any(weight[head][k] for head in weight)]
    if useless:
        raise ValueError(
            f"teacher {', '.join(useless)} is near chance on every head; leave it out of teachers.folders or train it "
            "longer (teachers.drop_near_chance false takes it as it is)."
        )
    return table


def _judge_one(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, float, int]:
    """Accuracy, calibration error, mean cross-entropy and number of clips of one teacher on one head."""
    own, truth = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    loss = float(ce_per_row(own, truth if truth.ndim == 2 else truth.long()).mean())
    if truth.ndim == 2:
        return mean_average_precision(logits, labels), float("nan"), loss, len(labels)
    return (
        float((own.argmax(1) == truth).double().mean()),
        expected_calibration_error(logits, labels),
        loss,
        len(labels),
    )


def _chance(labels: np.ndarray) -> float:
    """What one who knows only how common the classes are would reach."""
    return float(labels.mean() if labels.ndim == 2 else np.bincount(labels).max() / len(labels))


def _said(names: Sequence[str], shares: Sequence[float]) -> str:
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in zip(names, shares, strict=True))
