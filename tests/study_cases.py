"""A made-up study: random answers of graded quality, for tests of its statistics and of its page."""

import zlib

import numpy as np

from mmkd.cost.record import Cost
from mmkd.report.predictions import Predictions
from mmkd.study.results import Arm, StudyResults, Tested

HEADS = {"verb": ["push", "lift", "drop", "turn"], "noun": ["cup", "ball", "box"]}
GRIDS = {"3x3": 1.0, "1x3": 1.2, "3x1": 1.1, "1x1": 1.5}
"""Test views to how noisy answers of a student on labels are."""

ARMS = [
    Arm("labels", "RGB on labels", "primary", exploratory=False),
    Arm("distilled", "distilled from all teachers", "primary", "labels", exploratory=False),
    Arm("smoothing", "labels, smoothed", "controls", "labels"),
    Arm("labels-long", "labels, twice the epochs", "controls", "labels"),
    Arm("from-rgb", "from RGB alone", "teachers", "labels"),
    Arm("from-rgb-flow", "from RGB and flow", "teachers", "from-rgb"),
    Arm("from-rgb-boxes", "from RGB and boxes", "teachers", "from-rgb"),
    Arm("from-rgb-audio", "from RGB and audio", "teachers", "from-rgb"),
    Arm("uniform", "teachers weighted alike", "weighting", "distilled"),
    Arm("per-sample", "teachers weighted clip by clip", "weighting", "distilled"),
    Arm("bad-uniform", "one teacher corrupted, weighted alike", "weighting", "uniform"),
    Arm("bad-held-out", "one teacher corrupted, weighted on held-out clips", "weighting", "bad-uniform"),
    Arm("bad-per-sample", "one teacher corrupted, weighted clip by clip", "weighting", "bad-uniform"),
    Arm("temperature-1", "distilled at temperature 1", "loss", "distilled"),
    Arm("temperature-4", "distilled at temperature 4", "loss", "distilled"),
    Arm("mixed", "distilled, half on labels", "loss", "distilled"),
    Arm("labels-10", "10 % of the labels", "data"),
    Arm("distilled-10", "distilled, 10 % of the clips", "data", "labels-10"),
    Arm("unlabelled-10", "distilled, 10 % of the labels and all clips", "data", "distilled-10"),
    Arm("labels-30", "30 % of the labels", "data"),
    Arm("distilled-30", "distilled, 30 % of the clips", "data", "labels-30"),
    Arm("unlabelled-30", "distilled, 30 % of the labels and all clips", "data", "distilled-30"),
    Arm("ensemble", "ensemble of all teachers", "ensemble"),
    Arm("bad-ensemble-uniform", "ensemble with one teacher corrupted, weighted alike", "ensemble", "ensemble"),
    Arm(
        "bad-ensemble-held-out",
        "ensemble with one teacher corrupted, weighted on held-out clips",
        "ensemble",
        "bad-ensemble-uniform",
    ),
    Arm("teacher-rgb", "teacher RGB", "teacher"),
    Arm("teacher-flow", "teacher flow", "teacher"),
    Arm("teacher-audio", "teacher audio", "teacher"),
    Arm("teacher-boxes", "teacher boxes", "teacher"),
]

QUALITY = {
    "labels": 1.6,
    "labels-long": 1.65,
    "smoothing": 1.75,
    "distilled": 2.1,
    "from-rgb": 1.8,
    "from-rgb-audio": 1.85,
    "uniform": 2.0,
    "bad-uniform": 1.4,
    "bad-held-out": 2.0,
    "bad-per-sample": 1.8,
    "labels-10": 0.7,
    "distilled-10": 1.1,
    "unlabelled-10": 1.5,
    "labels-30": 1.1,
    "distilled-30": 1.5,
    "unlabelled-30": 1.8,
    "ensemble": 2.5,
    "bad-ensemble-uniform": 1.6,
    "bad-ensemble-held-out": 2.4,
    "teacher-rgb": 1.7,
    "teacher-flow": 1.6,
    "teacher-audio": 0.8,
    "teacher-boxes": 1.4,
}
"""How far the label's logit stands out of the noise; 2.05 where it is not said."""


def made_results(seeds: int = 5, clips: int = 400) -> StudyResults:
    """A study of all arms and two sets of teachers; `clips` in test, fewer in val and unseen.

    The primary arms have `seeds` seeds, the others two at most; ensembles and teachers have one model a set. Students
    on labels are over-confident and lose more with fewer views.
    """
    tested = []
    for arm in ARMS:
        of_teachers = arm.group in ("ensemble", "teacher")
        count = 2 if of_teachers else min(seeds, 2) if arm.exploratory else seeds
        on_labels = arm.group != "ensemble" and arm.name.startswith("labels")
        for seed in range(count):
            facts = {"lr": 0.001, "epochs": 30, "best_epoch": 24 + seed, "run": f"runs/{arm.name}-{seed}"}
            tested.append(
                Tested(
                    arm.name,
                    seed,
                    -1 if on_labels else seed % 2,
                    {grid: _answers(arm, seed, "test", clips, noise, on_labels) for grid, noise in GRIDS.items()},
                    _answers(arm, seed, "val", clips // 2, 1.0, on_labels),
                    _answers(arm, seed, "unseen", clips // 2, 1.2, on_labels),
                    {} if of_teachers else facts,
                )
            )
    search = [
        {"arm": arm, "lr": lr, "epochs": epochs, "accuracy": accuracy, "nll": 2.1 - accuracy, "best_epoch": epochs - 3}
        | {"chosen": lr == 0.001 and epochs == 30}
        for arm, best in (("labels", 0.52), ("smoothing", 0.53), ("distilled", 0.61))
        for epochs in (15, 30)
        for lr, accuracy in ((0.0003, best - 0.04), (0.001, best - 0.001 * (30 - epochs)), (0.003, best - 0.06))
    ]
    facts = [("command", "mmkd study --out study"), ("data", "made up"), ("seeds", str(seeds)), ("date", "2025-01-01")]
    return StudyResults(
        arms=list(ARMS),
        tested=tested,
        heads=HEADS,
        costs=_costs(),
        search=search,
        competence=[_competence(0), _competence(1)],
        facts=facts,
        settings_yaml="study:\n  seeds: 5\n",
        tail={"noun": [2]},
    )


def _answers(arm: Arm, seed: int, split: str, n: int, noise: float, on_labels: bool) -> Predictions:
    """Noise is partly the clip's, so that models are wrong on the same clips, and partly the model's."""
    clip_random = np.random.default_rng([zlib.crc32(split.encode()), n])
    random = np.random.default_rng([zlib.crc32(arm.name.encode()), zlib.crc32(split.encode()), seed])
    quality = QUALITY.get(arm.name, 2.05) + 0.06 * random.standard_normal()
    sharpness = quality * (1.7 if on_labels else 1.1)  # quality itself would be well calibrated
    labels, logits = {}, {}
    for head, classes in HEADS.items():
        k = len(classes)
        labels[head] = clip_random.integers(k, size=n)
        of_clip, own = clip_random.standard_normal((n, k)), random.standard_normal((n, k))
        spread = noise if on_labels else 1 + (noise - 1) / 2
        logits[head] = sharpness * (quality * np.eye(k)[labels[head]] + 0.7 * of_clip + 0.7 * spread * own)
    return Predictions(f"{arm.name} {seed}", [f"{split}-{i:05d}" for i in range(n)], labels, logits, 180_000)


def _costs() -> list[Cost]:
    return [
        Cost("student", 180_000, 0.42, 3.1, 410.0, 96.0, {"decoding": 0.8}),
        Cost("teacher rgb", 180_000, 0.42, 3.1, 410.0, 96.0, {"decoding": 0.8}),
        Cost("teacher flow", 180_000, 0.40, 41.0, 25.0, 102.0, {"decoding": 0.8, "optical flow": 37.2}),
        Cost("teacher audio", 90_000, 0.11, 1.9, 700.0, 60.0, {"spectrogram": 0.5}),
        Cost("teacher boxes", 60_000, 0.02, 22.4, 46.0, 48.0, {"object detection": 21.0}),
        Cost("ensemble", 510_000, 0.95, 68.4, 15.0, 180.0, {"optical flow": 37.2, "object detection": 21.0}),
    ]


def _competence(number: int) -> dict:
    names = ["rgb", "flow", "audio", "boxes"]
    accuracy = {"verb": [0.66, 0.64, 0.41, 0.58], "noun": [0.72, 0.70, 0.36, 0.65]}
    return {
        "names": names,
        "accuracy": {head: [share - 0.01 * number for share in shares] for head, shares in accuracy.items()},
        "ece": {"verb": [0.05, 0.06, 0.09, 0.04], "noun": [0.04, 0.05, 0.11, 0.03]},
        "cross_entropy": {"verb": [0.86, 0.90, 1.25, 1.01], "noun": [0.70, 0.73, 1.09, 0.82]},
        "count": {"verb": [300] * 4, "noun": [300] * 4},
        "chance": {"verb": 0.27, "noun": 0.36},
        "weight": {"verb": [0.41, 0.36, 0.06, 0.17], "noun": [0.42, 0.37, 0.0, 0.21]},
    }
