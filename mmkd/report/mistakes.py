"""What a model gets wrong: what it takes a class for, the classes it knows worst, and where it was sure and wrong."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmkd.report.predictions import Predictions, outcomes
from mmkd.report.table import main_head

FEW_CLIPS = 5
"""An accuracy over fewer clips says little of a class."""

Counts = NDArray[np.int64]
"""[true class, said class]: numbers of clips."""


@dataclass(frozen=True)
class Confusion:
    """Clips of one class that were said to be of another; `share` is of all clips of the true class (0..1)."""

    true: int
    said: int
    clips: int
    share: float


@dataclass(frozen=True)
class ClassErrors:
    """How a class was answered.

    Attributes:
        clips: of the class, whose label is known.
        accuracy: share of them (0..1) that were answered rightly.
        confusions: what the others were said to be, most frequent first.
    """

    label: int
    clips: int
    accuracy: float
    confusions: list[Confusion]


def confusion_counts(predictions: Predictions, head: str) -> Counts:
    """Clips of each true class and what they were said to be; clips without a label are left out."""
    logits, truth = predictions.logits[head], predictions.labels[head]
    classes, known = logits.shape[1], truth >= 0
    cells = truth[known] * classes + logits.argmax(axis=1)[known]
    return np.bincount(cells, minlength=classes * classes).astype(np.int64).reshape(classes, classes)


def frequent_confusions(counts: Counts, number: int) -> list[Confusion]:
    """The most frequent confusions, by clips and then by share."""
    found = [confusion for label in range(len(counts)) for confusion in _confusions(counts, label)]
    return sorted(found, key=lambda each: (-each.clips, -each.share))[:number]


def worst_classes(counts: Counts, number: int) -> list[ClassErrors]:
    """The classes with the lowest accuracy, those with fewer than `FEW_CLIPS` clips last.

    Of classes as bad the one with more clips is first. A class without clips or without mistakes is left out.
    """
    sizes, right = counts.sum(axis=1), counts.diagonal()
    found = [
        ClassErrors(label, int(sizes[label]), float(right[label] / sizes[label]), _confusions(counts, label))
        for label in np.flatnonzero(right < sizes).tolist()
    ]
    return sorted(found, key=lambda each: (each.clips < FEW_CLIPS, each.accuracy, -each.clips))[:number]


def confident_mistakes(predictions: Predictions, number: int) -> list[str]:
    """Ids of the clips that were answered wrongly with the highest confidence, the highest first.

    They are judged by the action, or the only head; clips whose label is unknown in a head are left out.
    """
    results = outcomes(predictions)
    result = results[main_head(results)]
    wrong = np.flatnonzero(result.known & ~result.correct)
    order = wrong[np.argsort(-result.confidence[wrong], kind="stable")]
    return [predictions.clip_ids[row] for row in order[:number]]


def _confusions(counts: Counts, label: int) -> list[Confusion]:
    row, size = counts[label], counts[label].sum()
    said = [other for other in np.argsort(-row, kind="stable").tolist() if other != label and row[other]]
    return [Confusion(label, other, int(row[other]), float(row[other] / size)) for other in said]
