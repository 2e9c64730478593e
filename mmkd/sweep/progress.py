"""What a person sees while a sweep runs: a line for each epoch of each trial, and one when a trial is over."""

import time
from collections.abc import Mapping
from typing import Any

from ray.tune import Callback

from mmkd.progress import duration, say


class Progress(Callback):
    """Tells of trials as Tune does; `trials` is how many there will be, `epochs` the most that one has."""

    def __init__(self, trials: int, epochs: int):
        self._trials, self._epochs = trials, epochs
        self._started: set[str] = set()
        self._best, self._best_trial = -1.0, ""
        self._over, self._began = 0, time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if trial.trial_id not in self._started:
            self._started.add(trial.trial_id)
            say(f"trial {_number(trials, trial)} starts: {values_text(trial.config['values'])}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "accuracy" not in result:
            return
        if result["accuracy"] > self._best:
            self._best, self._best_trial = result["accuracy"], _number(trials, trial)
        say(
            f"trial {_number(trials, trial)}: epoch {result['epoch']}/{self._of(trial)}, accuracy "
            f"{100 * result['accuracy']:.1f} %; best {100 * self._best:.1f} % (trial {self._best_trial})"
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        epoch = trial.last_result.get("epoch", 0)
        how = "is finished" if epoch == self._of(trial) else f"is stopped after epoch {epoch}"
        self._end(_number(trials, trial), how if epoch else "was refused")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(_number(trials, trial), "died")

    def _end(self, number: str, how: str) -> None:
        self._over += 1
        left = (time.monotonic() - self._began) / self._over * (self._trials - self._over)
        say(f"trial {number} {how}; {self._over} of {self._trials}, about {duration(max(left, 0))} left")

    def _of(self, trial: Any) -> int:
        return int(trial.config["values"].get("optim.epochs", self._epochs))


def _number(trials: list[Any], trial: Any) -> str:
    """As the result page counts trials."""
    return f"{[each.trial_id for each in trials].index(trial.trial_id) + 1:02d}"


def values_text(values: Mapping[str, Any]) -> str:
    """Settings and values in a line."""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
