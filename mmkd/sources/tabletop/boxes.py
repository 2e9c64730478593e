"""What a hand and object detector would report: true boxes with the errors that such have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmkd.sources.clip import BOX_DTYPE

OBJECT, HAND = 1, 2
NO_CONTACT, PORTABLE = 0, 3


@dataclass
class Truth:
    """True extents in one frame, shares of it, not clipped: hand [4], objects [n, 4]."""

    hand: np.ndarray
    objects: np.ndarray
    side: int
    contact: bool


def extents(points: np.ndarray, counts: list[int]) -> np.ndarray:
    """Projected points [n, 2], `counts` of them for each thing in turn, to x1, y1, x2, y2: [things, 4]."""
    starts = np.cumsum([0, *counts[:-1]])
    return np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], 1)


class Detector:
    """A detector with habits of its own in each clip. All numbers are drawn from `rng`."""

    def __init__(self, objects: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._bias = rng.normal(0, 0.012, (objects + 1, 4))
        self._jitter = rng.uniform(0.008, 0.022)
        self._miss = rng.uniform(0.04, 0.2, objects + 1)
        self._false_alarms = rng.uniform(0.05, 0.5)

    def detect(self, truth: Truth) -> np.ndarray:
        """One frame's detections: an array of BOX_DTYPE."""
        rng, rows = self._rng, []
        boxes = np.concatenate([truth.hand[None], truth.objects])
        hidden = _covered(boxes, truth.hand)
        hidden[0] = 0.0
        chance = rng.random(len(boxes))
        wrong_state, wrong_side = rng.random(2) < (0.1, 0.04)
        noisy = np.clip(boxes + self._bias + rng.normal(0, self._jitter, boxes.shape), 0, 1)
        scores = np.clip(rng.normal(0.88 - 0.25 * hidden, 0.09), 0.05, 1.0)
        in_frame = _area(noisy) / np.maximum(_area(boxes), 1e-6)
        seen = (chance >= self._miss + 0.25 * hidden) & (in_frame >= 0.25)
        for number in np.flatnonzero(seen):
            if number:
                rows.append((*noisy[number], scores[number], OBJECT, -1, -1))
            else:
                state = PORTABLE if truth.contact != wrong_state else NO_CONTACT
                side = int((truth.side > 0) != wrong_side)
                rows.append((*noisy[number], scores[number], HAND, side, state))
        for _ in range(rng.poisson(self._false_alarms)):
            rows.append(self._false_alarm())
        found = np.array(rows, BOX_DTYPE)
        return found[np.argsort(-found["score"], kind="stable")]

    def _false_alarm(self) -> tuple[float, ...]:
        rng = self._rng
        x, y = rng.uniform(0.05, 0.95, 2)
        w, h = rng.uniform(0.08, 0.35, 2)
        corners = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, 1)
        score = float(np.clip(rng.normal(0.5, 0.15), 0.05, 0.95))
        if rng.random() < 0.15:
            return (*corners, score, HAND, int(rng.integers(2)), int(rng.choice([NO_CONTACT, PORTABLE])))
        return (*corners, score, OBJECT, -1, -1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)


def _covered(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The share of each box that the other covers."""
    common = np.concatenate([np.maximum(boxes[:, :2], other[:2]), np.minimum(boxes[:, 2:], other[2:])], 1)
    return _area(common) / np.maximum(_area(boxes), 1e-6)
