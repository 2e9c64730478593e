"""What a run tells Ray's metrics, and so Prometheus and Grafana (deploy/grafana.json shows all of it).

Each metric is `ray_NAME` there. Outside Ray nothing is told.
"""

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

TRAINING = {
    "loss": "Loss of the last logged step, over the global batch",
    "kd": "Distillation term",
    "ce": "Label term",
    "feature": "Feature term",
    "agreement": "Share of clips in which the student's class is the ensemble's",
    "lr": "Learning rate",
    "step": "Optimiser steps done",
    "step_seconds": "Seconds a step, without waiting for data",
    "wait_share": "Share of the time that the student waits for data",
    "clips_per_second": "Clips that the student is trained on, per second",
    "teacher_clips_per_second": "Answers of live teachers that reach the student, per second",
    "bank_clips_per_second": "Answers from the logit bank, per second",
    "seconds_left": "Seconds until the end of the run",
}
"""Name in a training row of metrics.jsonl to what it is; the metric is `mmkd_NAME`."""
ACCURACY, REJECTS = "mmkd_accuracy", "mmkd_rejects"
TEACHER_SECONDS, TEACHER_CLIPS = "mmkd_teacher_seconds", "mmkd_teacher_clips"
BUCKETS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]


class RayMetrics:
    """What a training worker tells, under the run's name and its rank."""

    def __init__(self, run: str, rank: int):
        self.tags = {"run": run, "rank": str(rank)}
        self.rejects = 0

    def train(self, row: Mapping[str, Any]) -> None:
        for name, meaning in TRAINING.items():
            if name in row:
                _set(f"mmkd_{name}", meaning, row[name], self.tags)

    def epoch(self, row: Mapping[str, Any]) -> None:
        for head, values in row["val"].items():
            if "accuracy" in values:
                _set(ACCURACY, "Accuracy on val, 0 to 1", values["accuracy"], {**self.tags, "head": head})

    def broken(self, clips: int) -> None:
        self.rejects += clips
        _set(REJECTS, "Broken clips met", self.rejects, self.tags)

    def close(self) -> None:
        """Nothing is open."""


class TeacherMetrics:
    """What an actor of teachers tells after each of them answered: how many clips, in how many seconds."""

    def __init__(self, run: str, pool: str):
        self.tags = {"run": run, "pool": pool}

    def __call__(self, teacher: str, clips: int, seconds: float) -> None:
        if _in_ray():
            histogram, counter = _teacher_metrics()
            tags = {**self.tags, "teacher": teacher}
            histogram.observe(seconds, tags)
            counter.inc(clips, tags)


def _in_ray() -> bool:
    import ray

    return bool(ray.is_initialized())


def _set(metric: str, meaning: str, value: float, tags: dict[str, str]) -> None:
    if _in_ray():
        _gauge(metric, meaning, tuple(tags)).set(float(value), tags)


@cache
def _gauge(metric: str, meaning: str, keys: tuple[str, ...]) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(metric, meaning, tag_keys=keys)


@lru_cache(maxsize=1)
def _teacher_metrics() -> tuple[Any, Any]:
    from ray.util.metrics import Counter, Histogram

    keys = ("run", "pool", "teacher")
    return (
        Histogram(TEACHER_SECONDS, "Seconds that a teacher takes for a block of clips", BUCKETS, keys),
        Counter(TEACHER_CLIPS, "Clips that a teacher answered about", keys),
    )
