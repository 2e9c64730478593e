"""Ray: joining or starting a cluster, and refusing what cannot fit it before anything starts."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmkd.config import Settings, SettingsError


@contextmanager
def ray_session(settings: Settings) -> Iterator[str]:
    """Join the cluster there is, else start one on this machine and stop it at the end; yields the dashboard's
    address. Inside another session it joins that, and yields nothing."""
    import ray

    if ray.is_initialized():
        yield ""
        return
    # Ray says what it means to change in a later version; that is not for the people who run a job.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    level = logging.INFO if settings.run.ray_logs else logging.ERROR
    common: dict[str, Any] = {"log_to_driver": settings.run.ray_logs, "logging_level": level}
    address = running_cluster()
    if address:
        context = ray.init(address=address, **common)
    else:
        resources = settings.resources
        context = ray.init(
            address="local",
            include_dashboard=True,
            num_cpus=resources.num_cpus or None,
            num_gpus=resources.num_gpus or None,
            object_store_memory=resources.object_store_mb * 2**20,
            **common,
        )
    try:
        yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def running_cluster() -> str | None:
    """Address of the cluster that this job belongs to: RAY_ADDRESS, else one that was started on this machine.

    Ray remembers the latter in a file that outlives it; asked to join one that is gone, it tries for minutes.
    """
    from ray._private.utils import read_ray_address

    address = os.environ.get("RAY_ADDRESS") or read_ray_address()
    if not address or "://" in address or address in ("auto", "local"):
        return address
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        if "RAY_ADDRESS" in os.environ:
            raise SettingsError(f"RAY_ADDRESS is {address}, where no Ray answers; start it, or unset it.") from None
        return None
    return address


Needs = dict[str, dict[str, float]]
"""Kind of resource to what needs it and how much."""


def needs(settings: Settings, teachers: int) -> Needs:
    """CPUs and GPUs of workers, teacher actors and one reader, by what asks for them."""
    resources, pool = settings.resources, settings.teachers
    actors = pool.actors if teachers else 0
    return {
        "CPU": {
            f"resources.workers {resources.workers} x {resources.cpus_per_worker:g}": resources.workers
            * resources.cpus_per_worker,
            f"teachers.actors {actors} x {pool.num_cpus:g}": actors * pool.num_cpus,
            f"one reader x {resources.cpus_per_reader:g}": resources.cpus_per_reader,
        },
        "GPU": {
            f"resources.workers {resources.workers} x {int(resources.use_gpu)}": resources.workers * resources.use_gpu,
            f"teachers.actors {actors} x {pool.num_gpus:g}": actors * pool.num_gpus,
        },
    }


def check_fits(settings: Settings, teachers: int, have: Mapping[str, float] | None = None) -> None:
    """Refuse a job that needs more than there is, with the sum.

    Args:
        have: CPUs and GPUs; None: those of the cluster that this process has joined.

    Raises:
        SettingsError: the needs exceed them.
    """
    if have is None:
        import ray

        have = ray.cluster_resources()
    for kind, parts in needs(settings, teachers).items():
        needed = sum(parts.values())
        if needed > have.get(kind, 0.0):
            raise SettingsError(
                f"the job needs {needed:g} {kind}s ({' + '.join(parts)}) and the cluster has {have.get(kind, 0.0):g}; "
                "lower these settings, or give it more."
            )


def available(settings: Settings) -> tuple[str, dict[str, float]]:
    """Where a job would run, and the CPUs and GPUs there; starts nothing."""
    import ray

    address = running_cluster()
    if ray.is_initialized() or address:
        with ray_session(settings):
            return "the running cluster", ray.cluster_resources()
    import torch

    resources = settings.resources
    have = {
        "CPU": float(resources.num_cpus or os.cpu_count() or 1),
        "GPU": float(resources.num_gpus or torch.cuda.device_count()),
    }
    return "this machine", have


def automatic_threads(settings: Settings, teachers: int) -> int:
    """Threads per student worker where the settings leave it open: what teachers and a reader leave of the cores of
    one machine. More threads than free cores are worse than one, as they wait for each other."""
    if settings.resources.threads:
        return settings.resources.threads
    busy = settings.resources.workers + (settings.teachers.actors if teachers else 0) + 1
    return max(1, (os.cpu_count() or 1) // busy)
