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
from mmkd.cores import available_cores
from mmkd.resources import Node, cluster_nodes, grown_nodes, teachers_read, this_machine
from mmkd.trust import TRUST


@contextmanager
def ray_session(settings: Settings) -> Iterator[str]:
    """Join the cluster there is, else start one on this machine and stop it at the end; yields the dashboard's
    address. Inside another session it joins that, and yields nothing."""
    if in_session():
        yield ""
        return
    address = running_cluster()
    if address:
        show_token(address)
    import ray

    # Ray says what it means to change in a later version; that is not for the people who run a job.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    level = logging.INFO if settings.run.ray_logs else logging.ERROR
    common: dict[str, Any] = {"log_to_driver": settings.run.ray_logs, "logging_level": level}
    if trusted := os.environ.get(TRUST):
        common["runtime_env"] = {"env_vars": {TRUST: trusted}}
        # A submitted job may have brought the variable, which Ray takes for a conflict.
        os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
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
        # A process that nobody needs: there is no autoscaler that could take this machine away.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        context = ray.init(
            address="local",
            include_dashboard=True,
            num_cpus=resources.num_cpus or available_cores(),
            num_gpus=resources.num_gpus or None,
            object_store_memory=resources.object_store_mb * 2**20,
            **common,
        )
    try:
        yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def in_session() -> bool:
    """Whether this process has joined a cluster; without importing Ray."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def running_cluster() -> str | None:
    """Address of the cluster that this job belongs to: RAY_ADDRESS, else one that was started on this machine.

    Ray remembers the latter in a file that outlives it; asked to join one that is gone, it tries for minutes.
    """
    remembered = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    address = os.environ.get("RAY_ADDRESS") or (remembered.read_text().strip() if remembered.is_file() else None)
    if not address or address == "local":
        return None
    if "://" in address or address == "auto":
        return address
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        if "RAY_ADDRESS" in os.environ:
            raise SettingsError(f"RAY_ADDRESS is {address}, where no Ray answers; start it, or unset it.") from None
        return None
    return address


def show_token(address: str) -> None:
    """Let Ray show the token of this machine (~/.ray/auth_token) to a cluster that asks for one.

    Ray shows it only where RAY_AUTH_MODE says so, and asks all others for it then: on a cluster without authentication
    nothing would come through. It reads the variable when it is imported, so that it is set before.
    """
    if "ray" in sys.modules or "RAY_AUTH_MODE" in os.environ or "://" in address:
        return
    import grpc

    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=5)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                os.environ["RAY_AUTH_MODE"] = "token"


def available(settings: Settings) -> tuple[str, list[Node]]:
    """Where a job would run, and what is or can be there; starts nothing."""
    if in_session() or running_cluster():
        with ray_session(settings):
            return "the running cluster", grown_nodes()
    return "this machine", [this_machine(settings)]


def automatic_threads(settings: Settings, teachers: int) -> int:
    """Threads per student worker where the settings leave it open: what teachers and a reader leave of the cores of
    one machine; on several, the CPUs that it reserves; less those that read ahead of it. More threads than free cores
    are worse than one, as they wait for each other."""
    resources = settings.resources
    if resources.threads:
        return resources.threads
    if in_session() and len(cluster_nodes()) > 1:
        return resources.reserved_threads
    busy = resources.workers
    if not resources.inline:
        busy += sum(pool.actors for pool in settings.teachers.each_pool().values()) if teachers else 0
        busy += not teachers_read(settings, teachers)
    return max(1, available_cores() // busy - resources.ahead)
