"""Accuracy, calibration and their uncertainty, as pure functions of logits and labels."""

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def softmax(logits: ArrayLike) -> Floats:
    """Probabilities over the last axis, in float64."""
    x = np.asarray(logits, dtype=np.float64)
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def topk_accuracy(logits: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Share (0..1) of rows whose label is among the k highest logits.

    Where there are fewer classes than k, all of them count, so that the share is 1; a warning says so.

    Args:
        logits: [n, classes].
        labels: [n], class indices.
    """
    scores, truth = _checked(logits, labels)
    classes = scores.shape[1]
    if k > classes:
        warnings.warn(f"top-{k} accuracy of {classes} classes is top-{classes}, which is 1", stacklevel=2)
        k = classes
    if k == 1:
        return float((scores.argmax(axis=1) == truth).mean())
    top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return float((top == truth[:, None]).any(axis=1).mean())


def average_views(logits: ArrayLike) -> Floats:
    """Mean of the logits over views: [n, views, classes] to [n, classes]."""
    x = np.asarray(logits, dtype=np.float64)
    if x.ndim != 3:
        raise ValueError(f"logits have shape {x.shape}; they must be [n, views, classes].")
    return x.mean(axis=1)


def expected_calibration_error(logits: ArrayLike, labels: ArrayLike, num_bins: int = 15) -> float:
    """Expected calibration error (0..1) over equal-width bins of the highest probability (Guo et al., ICML 2017).

    Args:
        logits: [n, classes].
        labels: [n], class indices.
    """
    scores, truth = _checked(logits, labels)
    return binned_calibration_error(softmax(scores).max(axis=1), scores.argmax(axis=1) == truth, num_bins)


def binned_calibration_error(confidence: ArrayLike, correct: ArrayLike, num_bins: int = 15) -> float:
    """The same from confidences (0..1) and hits, e.g. for actions: confidence p(verb) p(noun)."""
    bins = reliability(confidence, correct, num_bins)
    gaps = np.abs(bins["confidence"] - bins["accuracy"])
    return float((gaps * bins["count"]).sum() / bins["count"].sum())


def reliability(confidence: ArrayLike, correct: ArrayLike, num_bins: int = 15) -> dict[str, Floats]:
    """Mean confidence, accuracy and count of each bin ]low, high], [num_bins] each; empty bins are 0."""
    p, hit = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    index = equal_width_bins(p, num_bins)
    count = np.bincount(index, minlength=num_bins).astype(np.float64)
    filled = np.maximum(count, 1)
    return {
        "confidence": np.bincount(index, p, num_bins) / filled,
        "accuracy": np.bincount(index, hit, num_bins) / filled,
        "count": count,
    }


def equal_width_bins(confidence: ArrayLike, num_bins: int) -> NDArray[np.int64]:
    """Number of the bin ]low, high] that each probability (0..1) is in, of the same shape; 0 is in the first."""
    edges = np.linspace(0, 1, num_bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-probability of the label, nats."""
    return float(nll_per_clip(logits, labels).mean())


def nll_per_clip(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Negative log-probability of the label, nats, [n]; logits and labels as for :func:`topk_accuracy`."""
    scores, truth = _checked(logits, labels)
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(truth)), truth]


def mean_average_precision(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean over classes of the average precision (0..1) of ranking the clips by a class's logit, for multi-label heads.

    Precision is averaged over the positive clips; of equal logits the earlier clip comes first. Classes without a
    positive clip are left out.

    Args:
        logits: [n, classes].
        labels: [n, classes], 0 or 1.
    """
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels) > 0
    if scores.shape != truth.shape or scores.ndim != 2:
        raise ValueError(f"logits have shape {scores.shape} and labels {truth.shape}; both must be [n, classes].")
    hit = np.take_along_axis(truth, np.argsort(-scores, axis=0, kind="stable"), axis=0)
    precision = np.cumsum(hit, axis=0) / np.arange(1, len(hit) + 1)[:, None]
    positives = hit.sum(axis=0)
    each = (precision * hit).sum(axis=0)[positives > 0] / positives[positives > 0]
    return float(each.mean()) if len(each) else float("nan")


def standard_error(share: float, n: int) -> float:
    """Binomial standard error of a share (0..1) of n."""
    return float(np.sqrt(share * (1 - share) / max(n, 1)))


def evaluate_heads(logits: Mapping[str, ArrayLike], labels: Mapping[str, ArrayLike]) -> dict[str, dict[str, float]]:
    """Metrics per head and, where there are two heads or more, of the `action` (every head right at once).

    Args:
        logits: head to [n, classes].
        labels: head to [n], or [n, classes] of 0 and 1 for a multi-label head; rows with a label of -1 in a head are
            left out of it, and of the action.

    Returns:
        head to {accuracy, standard_error, ece, nll, n}; for the action, confidence is the product of the heads'
        highest probabilities and its nll the sum of the heads'. A multi-label head has {mean_average_precision, n} and
        no part in the action.
    """
    result: dict[str, dict[str, float]] = {}
    arrays = {head: (np.asarray(logits[head], np.float64), np.asarray(labels[head])) for head in logits}
    for head in [head for head, (_, truth) in arrays.items() if truth.ndim == 2]:
        scores, truth = arrays.pop(head)
        known = truth[:, 0] >= 0
        result[head] = {"mean_average_precision": mean_average_precision(scores[known], truth[known])}
        result[head]["n"] = int(known.sum())
    for head, (scores, truth) in arrays.items():
        known = truth >= 0
        result[head] = _summary(softmax(scores[known]).max(axis=1), scores[known].argmax(axis=1) == truth[known])
        result[head]["nll"] = negative_log_likelihood(scores[known], truth[known]) if known.any() else float("nan")
    if len(arrays) > 1:
        known = np.all([truth >= 0 for _, truth in arrays.values()], axis=0)
        confidence = np.prod([softmax(s[known]).max(axis=1) for s, _ in arrays.values()], axis=0)
        correct = np.all([s[known].argmax(axis=1) == t[known] for s, t in arrays.values()], axis=0)
        result["action"] = _summary(confidence, correct)
        nlls = [negative_log_likelihood(s[known], t[known]) for s, t in arrays.values()] if known.any() else [np.nan]
        result["action"]["nll"] = float(sum(nlls))
    return result


def selection_score(
    metrics: Mapping[str, Mapping[str, float]], logits: Mapping[str, ArrayLike], labels: Mapping[str, ArrayLike]
) -> float:
    """What the best model is chosen by: action accuracy, or with one head the mean of its top-1 and top-5 accuracy (of
    its top-1 and 1, where it has no more than five classes); and the mean of that and each multi-label head's mean
    average precision.

    Args:
        metrics: of :func:`evaluate_heads` for these logits and labels.
    """
    scores = [each["mean_average_precision"] for each in metrics.values() if "mean_average_precision" in each]
    single = [head for head in logits if "accuracy" in metrics[head]]
    if len(single) > 1:
        scores.append(metrics["action"]["accuracy"])
    elif single:
        scored, truth = np.asarray(logits[single[0]]), np.asarray(labels[single[0]])
        top5 = topk_accuracy(scored[truth >= 0], truth[truth >= 0], min(5, scored.shape[1]))
        scores.append((metrics[single[0]]["accuracy"] + top5) / 2)
    return float(np.mean(scores))


def headline(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """accuracy, ece and nll of the action, or of the only head; where all are multi-label, the mean average precision
    as accuracy, and nothing else.

    Args:
        metrics: of :func:`evaluate_heads`.
    """
    single = [head for head, each in metrics.items() if "accuracy" in each]
    if not single:
        return {"accuracy": float(np.mean([each["mean_average_precision"] for each in metrics.values()]))}
    chosen = metrics["action" if "action" in metrics else single[0]]
    return {name: chosen[name] for name in ("accuracy", "ece", "nll")}


def paired_difference(correct_a: ArrayLike, correct_b: ArrayLike) -> tuple[float, float]:
    """Difference of two accuracies on the same clips, a minus b, and its standard error (paired by clip)."""
    difference = np.asarray(correct_a, np.float64) - np.asarray(correct_b, np.float64)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def _summary(confidence: Floats, correct: NDArray[np.bool_]) -> dict[str, float]:
    n = len(correct)
    if n == 0:
        return {"accuracy": float("nan"), "standard_error": float("nan"), "ece": float("nan"), "n": 0}
    accuracy = float(correct.mean())
    return {
        "accuracy": accuracy,
        "standard_error": standard_error(accuracy, n),
        "ece": binned_calibration_error(confidence, correct),
        "n": n,
    }


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels).astype(np.int64)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or len(truth) == 0:
        raise ValueError(
            f"logits have shape {scores.shape} and labels {truth.shape}; they must be [n, classes] and [n], n > 0."
        )
    return scores, truth
