"""What a person sees of an evaluation: the text and the page."""

from typing import Any

import numpy as np

from mmkd.calibration import fit_temperature
from mmkd.evaluation.scores import Evaluation, ModelScores
from mmkd.report.predictions import Predictions
from mmkd.scoring import score
from mmkd.study.results import Cost

HEADS = {
    "verb": ["push", "lift", "drop", "turn", "shake", "roll", "spin"],
    "noun": ["cup", "ball", "box", "pen", "book", "key", "plate", "fork"],
}
NOISE = {"3x3": 1.0, "1x3": 1.2, "3x1": 1.1, "1x1": 1.5}
"""Test views to how noisy answers are."""
SIGNAL = {"teacher rgb": 1.6, "ensemble": 2.6, "ensemble per sample": 3.0, "baseline": 1.4, "student": 2.2}


def made(
    *names: str,
    heads: dict[str, list[str]] = HEADS,
    several: tuple[str, ...] = (),
    grids: tuple[str, ...] = ("3x3",),
    labelled: bool = True,
    costs: bool = False,
    clips: int = 300,
    **parts: Any,
) -> Evaluation:
    """An evaluation of made-up answers; heads in `several` have several labels a clip, models are too sure."""
    truth = np.random.default_rng(0)
    labels = {head: truth.integers(len(classes) - 1, size=clips) for head, classes in heads.items()}
    labels["verb"][:10] = -1
    if not labelled:
        labels = {head: np.full(clips, -1) for head in heads}
    models = [_model(name, number, labels, heads, several, grids) for number, name in enumerate(names)]
    counted = [_cost(name, number) for number, name in enumerate(n for n in names if n != "ensemble per sample")]
    return Evaluation("test", models, heads, counted if costs else [], ["Made up."] if costs else [], **parts)


def _model(
    name: str, seed: int, labels: dict[str, Any], heads: dict[str, list[str]], several: tuple[str, ...], grids: tuple[str, ...]
) -> ModelScores:
    clips, single = len(labels["verb"]), [head for head in heads if head not in several]
    truth = {head: np.eye(len(heads[head]), dtype=np.int8)[labels[head]] if head in several else labels[head] for head in heads}
    if several and (labels["verb"] < 0).all():
        truth |= {head: np.full((clips, len(heads[head])), -1) for head in several}
    logits = {grid: _logits(seed, labels, heads, SIGNAL.get(name, 2), NOISE[grid]) for grid in grids}
    first = logits[grids[0]]
    known = [head for head in single if (labels[head] >= 0).any()]
    temperatures = {head: fit_temperature(first[head], labels[head]) for head in known}
    everyone = {"tail": {"noun": [0, 3]} if "noun" in single else None, "unseen": np.arange(clips) % 5 == 0}
    scores = {
        grid: score(own, truth, temperatures=temperatures if grid == grids[0] else None, **everyone)
        for grid, own in logits.items()
    }
    answers = Predictions(
        name, [f"clip-{i}" for i in range(clips)], {h: labels[h] for h in single}, {h: first[h] for h in single}
    ) if single else None
    return ModelScores(name, 182_000 + seed, scores, answers, temperatures, bool(known))


def _logits(seed: int, labels: dict[str, Any], heads: dict[str, list[str]], signal: float, noise: float) -> dict[str, Any]:
    rng, logits = np.random.default_rng([seed, 9]), {}
    for head, classes in heads.items():
        own = noise * rng.normal(size=(len(labels[head]), len(classes)))
        own[np.arange(len(own)), np.maximum(labels[head], 0)] += signal
        logits[head] = (1.8 * own).astype(np.float32)
    return logits


def _cost(name: str, number: int) -> Cost:
    parts = {"optical flow": 30.0} if name in ("teacher rgb", "ensemble") else {}
    return Cost(name, 182_000 + number, 0.3 * (number + 1), 12.3 + 30 * len(parts), 340.0 / (number + 1), 5.2, parts, 16)
