"""Which trials there are, which are stopped early, and how many run at a time: Ray Tune's parts from settings."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from mmkd.config import Settings
from mmkd.resources import Node, check_fits, needs
from mmkd.sweep.space import SearchSpace

MEASURES = {"accuracy": "max", "ece": "min"}
"""What a trial reports, of its best epoch so far on split val, and which way is better."""


def max_epochs(settings: Settings, space: SearchSpace) -> int:
    """Epochs of the longest trial."""
    searched = [d for d in space.dimensions if d.name == "optim.epochs"]
    return max((int(value) for d in searched for value in d.values), default=settings.optim.epochs)


def number_of_trials(settings: Settings, space: SearchSpace) -> int:
    return len(space.combinations()) if settings.sweep.search == "grid" else settings.sweep.trials


def search_algorithm(settings: Settings, space: SearchSpace, concurrent: int) -> tuple[Any, dict[str, Any]]:
    """Tune's search algorithm for so many trials at a time, and its parameter space; `values` of a trial's config is
    setting to value.

    Raises:
        SettingsError: a grid search over a range.
    """
    sweep = settings.sweep
    if sweep.search == "grid":
        from ray import tune
        from ray.tune.search import BasicVariantGenerator

        return BasicVariantGenerator(max_concurrent=concurrent), {"values": tune.grid_search(space.combinations())}
    import optuna
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler: Any = optuna.samplers.RandomSampler(seed=sweep.seed)
    if sweep.search == "optuna":
        # It knows of running trials, which would else be asked for again; a third of the trials are drawn at random.
        startup = min(10, max(4, sweep.trials // 3))
        sampler = optuna.samplers.TPESampler(seed=sweep.seed, n_startup_trials=startup, constant_liar=True)
    both = sweep.objective == "accuracy_and_ece"
    metric, mode = (list(MEASURES), list(MEASURES.values())) if both else ("accuracy", "max")
    algorithm = OptunaSearch(space=partial(_suggest, space), metric=metric, mode=mode, sampler=sampler)
    return ConcurrencyLimiter(algorithm, max_concurrent=concurrent), {}


def _suggest(space: SearchSpace, trial: Any) -> dict[str, Any]:
    return {"values": space.suggest(trial)}


def stopper(settings: Settings, space: SearchSpace) -> Any:
    """Tune's scheduler, which stops trials early by their accuracy."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule

    sweep = settings.sweep
    measure: dict[str, Any] = {"metric": "accuracy", "mode": "max", "time_attr": "epoch"}
    if sweep.scheduler == "asha":
        longest = max_epochs(settings, space)
        return AsyncHyperBandScheduler(
            max_t=longest + 1,  # one that comes to its end ends by itself
            grace_period=min(sweep.grace_epochs, longest),
            reduction_factor=sweep.reduction,
            **measure,
        )
    if sweep.scheduler == "median":
        return MedianStoppingRule(grace_period=sweep.grace_epochs, min_samples_required=3, **measure)
    return FIFOScheduler()


def in_one_process(settings: Settings) -> bool:
    """Whether a trial is one process, or a Ray Train run."""
    if settings.sweep.trial == "auto":
        return settings.resources.workers == 1 and not settings.resources.use_gpu
    return settings.sweep.trial == "process"


def trial_resources(settings: Settings) -> dict[str, float]:
    """What Tune reserves for a trial; a Ray Train run reserves its own."""
    if not in_one_process(settings):
        return {"CPU": 0.001}  # Tune wants something
    resources = settings.resources
    return {"CPU": resources.cpus_per_worker, **({"GPU": resources.gpus_per_worker} if resources.use_gpu else {})}


def concurrent_trials(settings: Settings, have: Mapping[str, float]) -> int:
    """Trials at a time: as many as fit, or as the settings say where that is fewer.

    Args:
        have: CPUs and GPUs of the cluster.

    Raises:
        SettingsError: not even one fits.
    """
    if in_one_process(settings):
        each = trial_resources(settings)
    else:
        each = {kind: sum(parts.values()) for kind, parts in needs(settings, teachers=0).items()}
    check_fits(settings, 0, [Node(have)])
    fit = min(int(have.get(kind, 0) / amount + 1e-9) for kind, amount in each.items() if amount)
    return max(1, min(fit, settings.sweep.concurrent or fit))
