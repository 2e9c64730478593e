"""Ray: joining or starting a cluster."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmkd.config import Settings, SettingsError
from mmkd.resources import this_machine
from mmkd.trust import TRUST


@contextmanager
def ray_session(settings: Settings) -> Iterator[str]:
    """Join the cluster there is, else start one on this machine and stop it at the end; yields the dashboard's
    address. Inside another session it joins that, and yields nothing."""
    show_token()
    import ray

    if ray.is_initialized():
        yield ""
        return
    # Ray says what it means to change in a later version; that is not for the people who run a job.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    level = logging.INFO if settings.run.ray_logs else logging.ERROR
    common: dict[str, Any] = {"log_to_driver": settings.run.ray_logs, "logging_level": level}
    if trusted := os.environ.get(TRUST):
        common["runtime_env"] = {"env_vars": {TRUST: trusted}}
        # A submitted job may have brought the variable, which Ray takes for a conflict.
        os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    address = running_cluster()
    if address:
        try:
            context = ray.init(address=address, **common)
        except ConnectionError as error:
            raise SettingsError(
                f"the Ray at {address} does not let this job in ({error}). If it asks for a token, copy the head's "
                "~/.ray/auth_token to the same place here; else see whether it is up (ray status)."
            ) from error
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


def show_token() -> None:
    """Let Ray show the token of this machine, if there is one, to the cluster that it joins, as it does not by itself.

    Ray reads the variable when it is imported, so that later it would reach other processes only. A cluster without
    authentication takes no notice of the token.
    """
    if "ray" in sys.modules:
        return
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path("~/.ray/auth_token").expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or Path(file).is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def running_cluster() -> str | None:
    """Address of the cluster that this job belongs to: RAY_ADDRESS, else one that was started on this machine.

    Ray remembers the latter in a file that outlives it; asked to join one that is gone, it tries for minutes.
    """
    show_token()
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


def available(settings: Settings) -> tuple[str, dict[str, float]]:
    """Where a job would run, and the CPUs and GPUs there; starts nothing."""
    import ray

    address = running_cluster()
    if ray.is_initialized() or address:
        with ray_session(settings):
            return "the running cluster", ray.cluster_resources()
    return "this machine", this_machine(settings)


def automatic_threads(settings: Settings, teachers: int) -> int:
    """Threads per student worker where the settings leave it open: what teachers and a reader leave of the cores of
    one machine. More threads than free cores are worse than one, as they wait for each other."""
    if settings.resources.threads:
        return settings.resources.threads
    actors = sum(pool.actors for pool in settings.teachers.each_pool().values()) if teachers else 0
    busy = settings.resources.workers + actors + 1
    return max(1, (os.cpu_count() or 1) // busy)
