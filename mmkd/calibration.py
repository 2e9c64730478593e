"""How far a model's probabilities can be believed: calibration errors and what chance alone makes of them, the Brier
score, and temperature scaling. Pure functions of probabilities and labels; see also mmkd.metrics."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmkd.metrics import Floats, equal_width_bins

Integers = NDArray[np.integer]

LOWEST_TEMPERATURE = 0.05
HIGHEST_TEMPERATURE = 20.0
# Probabilities that were made in float32 may be above 1 by its rounding.
HIGHEST_PROBABILITY = 1 + 1e-6


def equal_mass_calibration_error(confidence: ArrayLike, correct: ArrayLike, num_bins: int = 15) -> float:
    """Expected calibration error (0..1) over bins of equal counts (Nguyen and O'Connor, EMNLP 2015; Nixon et al., CVPR
    Workshops 2019).

    Clips of the same confidence are kept in one bin, that of the first of them, so that the order of the clips does
    not matter; with many of them the counts are less equal.

    Args:
        confidence: [n], 0..1.
        correct: [n], 0 or 1.

    Raises:
        ValueError: other shapes, no clip, or a confidence outside 0..1.
    """
    p, hit = _checked_confidence(confidence), np.asarray(correct, np.float64)
    if hit.shape != p.shape:
        raise ValueError(f"confidence has shape {p.shape} and correct {hit.shape}; both must be [n].")
    return float(np.abs(np.bincount(_equal_mass_bins(p, num_bins), p - hit, num_bins)).sum() / len(p))


def calibration_floor(
    confidence: ArrayLike,
    num_bins: int = 15,
    draws: int = 200,
    seed: int = 0,
    kind: Literal["width", "mass"] = "width",
) -> float:
    """Calibration error (0..1) that a perfectly calibrated model with these confidences has on so many clips.

    A bin of few clips is off by chance, and the error adds up the sizes of what bins are off by, so it is above 0 even
    where the model is right as often as it says. This is the mean error when each clip is right with the probability
    of its confidence (consistency resampling: Bröcker and Smith, Weather and Forecasting 2007; Vaicenavicius et al.,
    AISTATS 2019). An error near it tells nothing of the model.

    Args:
        confidence: [n], 0..1.
        draws: how often the hits are drawn.
        kind: width for :func:`mmkd.metrics.binned_calibration_error`, mass for :func:`equal_mass_calibration_error`.

    Raises:
        ValueError: another shape or kind, no clip, or a confidence outside 0..1.
    """
    if kind not in ("width", "mass"):
        raise ValueError(f"the kind of bins is {kind!r}; it must be width or mass.")
    # Sorted, so that a seed gives the same hits in whatever order the clips come.
    p = np.sort(_checked_confidence(confidence))
    index = equal_width_bins(p, num_bins) if kind == "width" else _equal_mass_bins(p, num_bins)
    expected, random = np.bincount(index, p, num_bins), np.random.default_rng(seed)
    gap = 0.0
    for _ in range(draws):
        gap += np.abs(np.bincount(index, random.random(len(p)) < p, num_bins) - expected).sum()
    return float(gap / draws / len(p))


def class_wise_calibration_error(probabilities: ArrayLike, labels: ArrayLike, num_bins: int = 15) -> float:
    """Mean over classes of the calibration error (0..1, equal-width bins) of a class's probability against whether it
    is the label (Kull et al., NeurIPS 2019, arXiv 1910.12656).

    Classes without a clip are left out of the mean. With many classes most probabilities are near 0 and rightly so:
    the error is small, and models are to be compared on the same classes.

    Args:
        probabilities: [n, classes], 0..1.
        labels: [n], class indices.

    Raises:
        ValueError: other shapes or values, or no clip.
    """
    p, truth = _checked(probabilities, labels, "probabilities")
    cell, expected = _class_wise_cells(p, num_bins)
    return _class_wise_gap(cell[np.arange(len(truth)), truth], expected, len(truth))


def class_wise_calibration_floor(probabilities: ArrayLike, num_bins: int = 15, draws: int = 50, seed: int = 0) -> float:
    """Class-wise calibration error (0..1) that a perfectly calibrated model with these probabilities has on so many
    clips: its mean when each label is drawn from the clip's probabilities. See :func:`calibration_floor`.

    Args:
        probabilities: [n, classes]; rows add up to 1.
        draws: how often the labels are drawn; fewer will do than for a single confidence, as classes average out.

    Raises:
        ValueError: another shape or values, or no clip.
    """
    p, _ = _checked(probabilities, np.zeros(len(np.asarray(probabilities))), "probabilities")
    # Sorted, as there, by the class that is chosen and its probability.
    p = p[np.lexsort((p.argmax(axis=1), p.max(axis=1)))]
    n, random = len(p), np.random.default_rng(seed)
    cell, expected = _class_wise_cells(p, num_bins)
    # One rising line of all rows, row i from i to i + 1, so that one search draws the labels of all clips.
    cumulative = np.minimum(np.cumsum(p, axis=1), 1)
    cumulative[:, -1] = 1
    line = (cumulative + np.arange(n)[:, None]).ravel()
    ends = np.arange(1, n + 1)
    drawn = (np.searchsorted(line, ends - random.random(n)) for _ in range(draws))
    return float(np.mean([_class_wise_gap(cell.ravel()[each], expected, n) for each in drawn]))


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over clips of :func:`brier_per_clip`."""
    return float(brier_per_clip(probabilities, labels).mean())


def brier_per_clip(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """Squared distance (0..2) of the probabilities from 1 for the label and 0 for the other classes, summed over the
    classes, [n] (Brier, Monthly Weather Review 1950).

    Args:
        probabilities: [n, classes], 0..1.
        labels: [n], class indices.

    Raises:
        ValueError: other shapes or values, or no clip.
    """
    return joint_brier_per_clip([probabilities], [labels])


def joint_brier_per_clip(probabilities: Sequence[ArrayLike], labels: Sequence[ArrayLike]) -> Floats:
    """The same of the product of several heads' distributions, as of an action's verb and noun, without making it:
    prod_h sum_c p_hc² - 2 prod_h p_h,label + 1.

    Args:
        probabilities: of each head, [n, classes], 0..1.
        labels: of each head, [n], class indices.
    """
    pairs = [_checked(p, truth, "probabilities") for p, truth in zip(probabilities, labels, strict=True)]
    squares = np.prod([np.einsum("nc,nc->n", p, p) for p, _ in pairs], axis=0)
    of_label = np.prod([p[np.arange(len(truth)), truth] for p, truth in pairs], axis=0)
    return np.maximum(squares - 2 * of_label + 1, 0)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T that makes the negative log-likelihood of softmax(logits / T) least (Guo et al., ICML 2017).

    Fit it on clips that the figures are not of. T is 0.05 to 20: where every clip is right, smaller is always better
    and T is 0.05; where the logits are worse than nothing, T is 20.

    Args:
        logits: [n, classes], finite.
        labels: [n], class indices; clips of -1 are left out.

    Raises:
        ValueError: other shapes or values, or no labelled clip.
    """
    known = np.asarray(labels) >= 0
    if not known.any():
        raise ValueError(f"none of {known.size} clips has a label; a temperature is fitted on labelled ones.")
    # A label of -1 is looked up as class 0, to check the shapes before clips are left out.
    z, truth = _checked(logits, np.where(known, labels, 0), "logits")
    z, truth = z[known], truth[known]
    z = z - z.max(axis=1, keepdims=True)
    of_label = z[np.arange(len(truth)), truth].mean()

    def slope(inverse: float) -> tuple[float, float]:
        """First and second derivative of the loss by 1/T, in which it is convex."""
        p = np.exp(inverse * z)
        p /= p.sum(axis=1, keepdims=True)
        mean = np.einsum("nc,nc->n", p, z)
        return float(mean.mean() - of_label), float((np.einsum("nc,nc,nc->n", p, z, z) - mean**2).mean())

    low, high = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE
    if slope(high)[0] <= 0:
        return LOWEST_TEMPERATURE
    if slope(low)[0] >= 0:
        return HIGHEST_TEMPERATURE
    # Newton's method, and halving (of the logarithm) where it leaves what is known to hold the minimum.
    inverse = 1.0
    for _ in range(100):
        first, second = slope(inverse)
        if first == 0:
            break
        low, high = (inverse, high) if first < 0 else (low, inverse)
        following = inverse - first / second if second > 0 else np.inf
        if not low < following < high:
            following = float(np.sqrt(low * high))
        if abs(following - inverse) <= 1e-10 * inverse:
            break
        inverse = following
    return 1 / inverse


def fit_temperatures(logits: Mapping[str, ArrayLike], labels: Mapping[str, ArrayLike]) -> dict[str, float]:
    """Head to its :func:`fit_temperature`; heads without a label, and multi-label ones, have none.

    Args:
        logits: head to [n, classes], finite.
        labels: head to [n], or [n, classes] for a multi-label head.
    """
    truth = {head: np.asarray(labels[head]) for head in logits}
    known = [head for head, values in truth.items() if values.ndim == 1 and (values >= 0).any()]
    return {head: fit_temperature(logits[head], truth[head]) for head in known}


def _equal_mass_bins(p: Floats, num_bins: int) -> Integers:
    rank = np.searchsorted(np.sort(p), p, side="left")
    return rank * num_bins // len(p)


def _class_wise_cells(p: Floats, num_bins: int) -> tuple[Integers, Floats]:
    """The cell class * num_bins + bin of each probability, [n, classes], and their sum in each, [classes, num_bins]."""
    classes = p.shape[1]
    cell = equal_width_bins(p, num_bins) + np.arange(classes) * num_bins
    return cell, np.bincount(cell.ravel(), p.ravel(), classes * num_bins).reshape(classes, num_bins).astype(np.float64)


def _class_wise_gap(cell_of_label: Integers, expected: Floats, n: int) -> float:
    hits = np.bincount(cell_of_label, minlength=expected.size).reshape(expected.shape)
    present = hits.sum(axis=1) > 0
    return float(np.abs(hits - expected)[present].sum() / n / present.sum())


def _checked_confidence(confidence: ArrayLike) -> Floats:
    p = np.asarray(confidence, np.float64)
    if p.ndim != 1 or len(p) == 0 or not 0 <= p.min() <= p.max() <= HIGHEST_PROBABILITY:
        raise ValueError(f"confidence has shape {p.shape}; it must be [n], n > 0, of probabilities 0..1.")
    return p


def _checked(values: ArrayLike, labels: ArrayLike, of: Literal["probabilities", "logits"]) -> tuple[Floats, Integers]:
    scores, truth = np.asarray(values, np.float64), np.asarray(labels).astype(np.int64)
    if scores.ndim != 2 or truth.shape != scores.shape[:1] or scores.size == 0:
        raise ValueError(
            f"{of} have shape {scores.shape} and labels {truth.shape}; they must be [n, classes] and [n], n > 0."
        )
    if truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise ValueError(f"labels are {truth.min()}..{truth.max()}; they must be 0..{scores.shape[1] - 1}.")
    if of == "logits" and not np.isfinite(scores).all():
        raise ValueError("some logits are not finite; leave out clips that the model cannot answer.")
    if of == "probabilities" and not 0 <= scores.min() <= scores.max() <= HIGHEST_PROBABILITY:
        raise ValueError(f"probabilities are {scores.min()}..{scores.max()}, not 0..1; take the softmax of logits.")
    return scores, truth
