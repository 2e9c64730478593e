"""Everything that is said of one model on one split: accuracy, calibration and their uncertainty, per head and for the
action. Pure functions of logits and labels; what each figure is stands in mmkd.metrics and mmkd.calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.calibration import (
    calibration_floor,
    class_wise_calibration_error,
    class_wise_calibration_floor,
    equal_mass_calibration_error,
    joint_brier_per_clip,
)
from mmkd.metrics import (
    Floats,
    binned_calibration_error,
    mean_average_precision,
    nll_per_clip,
    softmax,
    standard_error,
)

TOP = 5


def score(
    logits: Mapping[str, ArrayLike],
    labels: Mapping[str, ArrayLike],
    *,
    tail: Mapping[str, Sequence[int]] | None = None,
    unseen: ArrayLike | None = None,
    temperatures: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Figures per head and, where there are two single-label heads or more, of the `action` (every head right at once).

    The action is judged by the product of its heads' distributions: its confidence is the product of their highest
    probabilities, its nll the sum of theirs. It is of the tail where the class of any of its heads is (as in
    EPIC-KITCHENS-100: Damen et al., IJCV 2022).

    Args:
        logits: head to [n, classes], finite.
        labels: head to [n], or [n, classes] of 0 and 1 for a multi-label head; a clip with -1 in a head is left out of
            it, and of the action.
        tail: head to its rare classes; of other heads nothing is said.
        unseen: bool [n], whether the clip is of a participant that training did not see.
        temperatures: head to the temperature of :func:`mmkd.calibration.fit_temperature`, fitted on other clips.

    Returns:
        head to what can be written as JSON; shares are 0..1, nll is in nats, *_se are standard errors over clips:

        - n; where it is 0, nothing else.
        - top1, top1_se, top5, top5_se. With five classes or fewer top5 is 1.
        - mean_class, mean_class_se: accuracy averaged over the classes that occur, `classes` in number;
          classes_without_clips: how many do not (not of the action). The standard error takes classes of one clip as
          known, so it is too small where there are many.
        - tail, unseen: {n, top1, top1_se} of those clips; each only where it is given.
        - ece, ece_floor, ece_mass, ece_mass_floor: calibration error over bins of equal width and of equal mass, and
          what a calibrated model has; ece_class, ece_class_floor: class-wise (not of the action).
        - nll, nll_se, brier, brier_se.
        - scaled: temperature (of the action: by head) and the calibration figures, nll and brier of logits /
          temperature; only where each head has one.

        Of a multi-label head: n and mean_average_precision (None where no class has a positive clip).

    Raises:
        ValueError: shapes or values that do not fit; says of which head.
    """
    result: dict[str, dict[str, Any]] = {}
    strangers = None if unseen is None else np.asarray(unseen, bool)
    _same_length(logits, labels, strangers)
    heads = {}
    for name in logits:
        if np.ndim(labels[name]) == 2:
            result[name] = _multi_label(logits[name], labels[name])
        else:
            heads[name] = _head(name, logits[name], labels[name], (tail or {}).get(name))
            result[name] = _judged({name: heads[name]}, strangers, temperatures or {})
    if len(heads) > 1:
        result["action"] = _judged(heads, strangers, temperatures or {})
    return result


@dataclass
class _Head:
    """A head that has one label a clip.

    Attributes:
        logits: [n, classes].
        labels: [n], -1 where unknown.
        tail: bool [n], whether the label is a rare class; None where rare classes are not given.
        top: [n, up to 5], the highest logits, less the very highest; of equal ones the lower class comes first, as
            in argmax.
        hit: bool [n, up to 5], whether that class is the label.
    """

    logits: Floats
    labels: NDArray[np.int64]
    tail: NDArray[np.bool_] | None
    top: Floats
    hit: NDArray[np.bool_]

    def take(self, rows: NDArray[np.bool_]) -> "_Head":
        tail = None if self.tail is None else self.tail[rows]
        return _Head(self.logits[rows], self.labels[rows], tail, self.top[rows], self.hit[rows])


def _head(name: str, logits: ArrayLike, labels: ArrayLike, tail: Sequence[int] | None) -> _Head:
    scores, truth = np.asarray(logits, np.float64), np.asarray(labels).astype(np.int64)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or scores.shape[1] == 0:
        raise ValueError(
            f"head {name!r}: logits {scores.shape}, labels {truth.shape}; they must be [n, classes] and [n]."
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"head {name!r}: some logits are not finite; leave out clips that the model cannot answer.")
    classes = scores.shape[1]
    for what, numbers, lowest in (
        ("labels", truth, -1),
        ("classes of the tail", np.asarray([] if tail is None else tail, int), 0),
    ):
        if numbers.size and not lowest <= numbers.min() <= numbers.max() < classes:
            raise ValueError(f"head {name!r}: {what} are {numbers.min()}..{numbers.max()}, with {classes} classes.")
    order = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    top = np.take_along_axis(scores, order, axis=1)
    rare = None if tail is None else np.isin(truth, list(tail))
    return _Head(scores, truth, rare, top - top[:, :1], order == truth[:, None])


def _multi_label(logits: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    truth = np.asarray(labels)
    known = truth[:, 0] >= 0
    if not known.any():
        return {"n": 0}
    figure = mean_average_precision(np.asarray(logits)[known], truth[known])
    return {"n": int(known.sum()), "mean_average_precision": None if np.isnan(figure) else figure}


def _same_length(
    logits: Mapping[str, ArrayLike], labels: Mapping[str, ArrayLike], unseen: NDArray[np.bool_] | None
) -> None:
    clips = {f"logits of {name}": len(np.asarray(scores)) for name, scores in logits.items()}
    clips |= {f"labels of {name}": len(np.asarray(labels[name])) for name in logits}
    if unseen is not None:
        clips["unseen"] = len(unseen)
    if len(set(clips.values())) > 1:
        raise ValueError(f"the arrays are of unlike numbers of clips: {clips}.")


def _judged(
    heads: Mapping[str, _Head], unseen: NDArray[np.bool_] | None, temperatures: Mapping[str, float]
) -> dict[str, Any]:
    """All figures of one head, or of several at once."""
    known = np.all([head.labels >= 0 for head in heads.values()], axis=0)
    result: dict[str, Any] = {"n": int(known.sum())}
    if not known.any():
        return result
    group = [head.take(known) for head in heads.values()]
    correct = np.all([head.hit[:, 0] for head in group], axis=0)
    result |= _accuracy(group, correct, None if unseen is None else unseen[known])
    result |= _calibration(group, correct, [1.0] * len(group))
    if set(heads) <= set(temperatures):
        fitted = {name: float(temperatures[name]) for name in heads}
        result["scaled"] = {"temperature": fitted if len(heads) > 1 else next(iter(fitted.values()))}
        result["scaled"] |= _calibration(group, correct, list(fitted.values()))
    return result


def _accuracy(group: Sequence[_Head], correct: NDArray[np.bool_], unseen: NDArray[np.bool_] | None) -> dict[str, Any]:
    figures: dict[str, Any] = _share("top1", correct) | _share("top5", np.any(_joint_hits(group), axis=1))
    actions = np.stack([head.labels for head in group], axis=1)
    _, index, count = np.unique(actions, axis=0, return_inverse=True, return_counts=True)
    each = np.bincount(index.ravel(), correct) / count
    figures["mean_class"] = float(each.mean())
    figures["mean_class_se"] = float(np.sqrt((each * (1 - each) / count).sum()) / len(count))
    figures["classes"] = len(count)
    if len(group) == 1:
        figures["classes_without_clips"] = group[0].logits.shape[1] - len(count)
    rare = [head.tail for head in group if head.tail is not None]
    for name, rows in (("tail", np.any(rare, axis=0) if rare else None), ("unseen", unseen)):
        if rows is not None:
            figures[name] = {"n": int(rows.sum())} | (_share("top1", correct[rows]) if rows.any() else {})
    return figures


def _joint_hits(group: Sequence[_Head]) -> NDArray[np.bool_]:
    """Whether the labels are the combination of classes of k-th highest joint probability, [n, up to 5].

    The five best combinations are of the five best of each part, so heads are joined one by one. Of equal ones the
    first has the better class in the earlier head; so the best is that of every head's argmax.
    """
    top, hit = group[0].top, group[0].hit
    for head in group[1:]:
        joint = (top[:, :, None] + head.top[:, None, :]).reshape(len(top), -1)
        both = (hit[:, :, None] & head.hit[:, None, :]).reshape(len(top), -1)
        order = np.argsort(-joint, axis=1, kind="stable")[:, :TOP]
        top, hit = np.take_along_axis(joint, order, axis=1), np.take_along_axis(both, order, axis=1)
    return hit


def _calibration(group: Sequence[_Head], correct: NDArray[np.bool_], temperatures: Sequence[float]) -> dict[str, float]:
    scaled = [head.logits / temperature for head, temperature in zip(group, temperatures, strict=True)]
    probabilities = [softmax(scores) for scores in scaled]
    confidence = np.prod([p.max(axis=1) for p in probabilities], axis=0)
    figures = {
        "ece": binned_calibration_error(confidence, correct),
        "ece_floor": calibration_floor(confidence),
        "ece_mass": equal_mass_calibration_error(confidence, correct),
        "ece_mass_floor": calibration_floor(confidence, kind="mass"),
    }
    if len(group) == 1:
        figures["ece_class"] = class_wise_calibration_error(probabilities[0], group[0].labels)
        figures["ece_class_floor"] = class_wise_calibration_floor(probabilities[0])
    nll = np.sum([nll_per_clip(scores, head.labels) for scores, head in zip(scaled, group, strict=True)], axis=0)
    brier = joint_brier_per_clip(probabilities, [head.labels for head in group])
    return figures | _mean("nll", nll) | _mean("brier", brier)


def _share(name: str, hits: NDArray[np.bool_]) -> dict[str, float]:
    share = float(hits.mean())
    return {name: share, f"{name}_se": standard_error(share, len(hits))}


def _mean(name: str, values: Floats) -> dict[str, float]:
    return {name: float(values.mean()), f"{name}_se": float(values.std() / np.sqrt(len(values)))}
