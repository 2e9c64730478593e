"""Ray Train: starts the workers, feeds each its blocks of the plan, and starts them again when one dies."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmkd.config import JobError, Resources, Settings
from mmkd.inline import blocks_in_process
from mmkd.pipeline import Work, leave_failure
from mmkd.ray_data import build_dataset, configure_context, of_row, steps_together, units_of
from mmkd.reader import Block
from mmkd.resources import cluster_nodes
from mmkd.runs import RunFolder, read_lines
from mmkd.telemetry.profile import save_timeline
from mmkd.together import asked_now
from mmkd.watchdog import HANGS
from mmkd.worker import run_worker
from mmkd.workers import world_size


def train_on_ray(work: Work, run: Path, facts: dict[str, Any], threads: int, in_trial: bool = False) -> None:
    """Carry out the plan on the cluster with `threads` a worker; returns when it is done.

    Args:
        in_trial: this process is a trial of Ray Tune, which is told what the workers report.

    Raises:
        ValueError: what the plan is made of was refused by the workers (teachers, data); the message says what.
        JobError: the workers died, more often than they are started again, or the cluster went away.
    """
    import ray.data
    import ray.train
    from ray.train.torch import TorchTrainer

    failure = run / "failure.json"
    failure.unlink(missing_ok=True)
    (run / HANGS).unlink(missing_ok=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"work": work, "run": str(run), "facts": facts, "threads": threads},
        scaling_config=ray.train.ScalingConfig(**_scaling(work.settings.resources)),
        run_config=ray.train.RunConfig(
            name=run.name,
            storage_path=str(run / "ray"),
            callbacks=_tell_tune() if in_trial else None,
            failure_config=ray.train.FailureConfig(max_failures=work.settings.run.max_restarts),
        ),
        datasets=None if work.settings.resources.inline else {"plan": _placeholder},
        dataset_config=_plan_config(work, run),
    )
    try:
        trainer.fit()
        if work.settings.run.profile:
            save_timeline(run / "profile")
    except ray.train.TrainingFailedError as error:
        raise JobError(_last_words(error, work.settings, run)) from error
    except (ray.exceptions.RayActorError, ray.exceptions.RaySystemError) as error:
        raise JobError(
            f"the Ray cluster went away under the run: {_last_line(str(error))} When it is back, the same command goes "
            "on from the last checkpoint."
        ) from error
    finally:
        if failure.is_file():
            raise ValueError(json.loads(failure.read_text())["error"])


def _last_words(error: Exception, settings: Settings, run: Path) -> str:
    """Why the workers died for the last time: the last line of what one of them said, and what hung at last."""
    hung = read_lines(run / HANGS)
    failures = [str(each) for each in getattr(error, "worker_failures", {}).values()] or [str(error)]
    return (
        f"the workers died {settings.run.max_restarts + 1} times (run.max_restarts), the last time of: "
        f"{_last_line(failures[0])}{f' What hung last: {hung[-1]}.' if hung else ''} --run.ray_logs shows more; the "
        "same command goes on from the last checkpoint."
    )


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].rstrip(".") + "."


def _scaling(resources: Resources) -> dict[str, Any]:
    """What Ray Train is told of the workers: their number, or the least and the most of them, and where they may be."""
    most = resources.workers
    return {
        "num_workers": (resources.min_workers, most) if resources.min_workers else most,
        "use_gpu": resources.use_gpu,
        "resources_per_worker": {
            "CPU": resources.cpus_per_worker,
            **({"GPU": resources.gpus_per_worker} if resources.use_gpu else {}),
            **resources.custom,
        },
        "accelerator_type": resources.accelerator_type or None,
        "label_selector": resources.labels or None,
    }


def _tell_tune() -> list[Any]:
    from ray.tune.integration.ray_train import TuneReportCallback

    return [TuneReportCallback()]


def _placeholder() -> Any:
    import ray.data

    return ray.data.range(1)


def _plan_config(work: Work, run: Path) -> Any:
    from ray.train import DataConfig

    class PlanDataConfig(DataConfig):
        """Builds the rest of the plan for the world size at hand, each time the workers start.

        Ray makes datasets in the controller, which knows neither world size nor checkpoint; this is called when rank 0
        asks for its shard, after it wrote the position of the checkpoint that it goes on from.
        """

        def configure(self, datasets: Any, world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
            configure_context(work.settings)
            dataset = build_dataset(work, RunFolder(run).goes_on_at(), world_size)
            dataset.set_name(run.name)
            return [{"plan": part} for part in dataset.streaming_split(world_size, equal=True, locality_hints=None)]

    return PlanDataConfig()


def _worker(config: dict[str, Any]) -> None:
    import ray.train
    from ray.train.torch import get_device, prepare_model

    work, run = config["work"], Path(config["run"])
    torch.set_num_threads(config["threads"])

    def wrap(model: nn.Module) -> nn.Module:
        # A head of weight 0 has no gradient, which DDP must be told to expect.
        unused = 0.0 in work.settings.loss.head_weights.values()
        network = prepare_model(model, parallel_strategy_kwargs={"find_unused_parameters": unused})
        if isinstance(network, nn.parallel.DistributedDataParallel):
            # Equal now, as the parameters are; exchanged before each validation, and not before each step.
            network.broadcast_buffers = False
        return network

    def blocks(position: int) -> Iterable[Block]:
        if work.settings.resources.inline:
            return blocks_in_process(work, position, watched=True)
        together = steps_together(work, world_size(), cluster_nodes())
        prefetch = -(-work.settings.resources.prefetch // together)

        def rows() -> Iterator[Block]:
            shard = ray.train.get_dataset_shard("plan")
            return iter(shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=prefetch))

        return chain.from_iterable(units_of(of_row(row)) for row in asked_now(rows))

    def node_goes() -> bool:
        return ray.train.get_preemption_info() is not None

    failure = run / "failure.json"
    if failure.is_file():
        return
    try:
        run_worker(work, run, config["facts"], get_device(), wrap, blocks, ray.train.report, node_goes)
    except ValueError as error:
        # Going on would end the same way. As the other workers may be waiting for this one, it dies, and when Ray
        # starts all of them again they see the reason and stop.
        leave_failure(str(run), error)
        raise
