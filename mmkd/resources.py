"""What a job reserves, compared with what the cluster has or can grow to, before anything starts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmkd.config import Settings, SettingsError
from mmkd.cores import available_cores
from mmkd.progress import say

KINDS = ("CPU", "GPU")
STORE = "object_store_memory"
NO_LIMIT = 10**6
"""Nodes of a group of which an autoscaler may have any number."""


@dataclass(frozen=True)
class Demand:
    """Processes that each reserve the same, on one node each.

    Attributes:
        what: the setting that asks for them.
        accelerator_type, labels: of the nodes that will do; empty: any.
        custom: what it reserves of other resources, by name.
    """

    what: str
    count: int
    CPU: float
    GPU: float = 0.0
    accelerator_type: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    custom: Mapping[str, float] = field(default_factory=dict)

    def each(self, kind: str) -> float:
        return float(getattr(self, kind) if kind in KINDS else self.custom.get(kind, 0.0))

    def bundles(self) -> list[dict[str, float]]:
        """What each of the processes reserves, as Ray writes it."""
        typed = {f"accelerator_type:{self.accelerator_type}": 0.001} if self.accelerator_type else {}
        one = {"CPU": self.CPU, "GPU": self.GPU, **self.custom, **typed}
        return [{kind: amount for kind, amount in one.items() if amount}] * self.count

    def fits_on(self, node: "Node") -> bool:
        """Whether a node is of the right sort; where its labels are not known, it may be."""
        typed = not self.accelerator_type or f"accelerator_type:{self.accelerator_type}" in node.resources
        labelled = node.labels is None or all(node.labels.get(key) == value for key, value in self.labels.items())
        return typed and labelled

    @property
    def where(self) -> str:
        said = [self.accelerator_type] if self.accelerator_type else []
        return " ".join([*said, *(f"{key}={value}" for key, value in self.labels.items())])


@dataclass(frozen=True)
class Node:
    """A node, or `count` alike that an autoscaler may have, whose labels are not known (None)."""

    resources: Mapping[str, float]
    labels: Mapping[str, str] | None = None
    count: int = 1


def demands(settings: Settings, teachers: int) -> list[Demand]:
    """What a training reserves; `teachers`: number of live ones."""
    resources = settings.resources
    workers, name = resources.workers, "resources.workers"
    if resources.min_workers:
        workers, name = resources.min_workers, "resources.min_workers"
    gpus = resources.gpus_per_worker if resources.use_gpu else 0.0
    where = (resources.accelerator_type, resources.labels, resources.custom)
    found = [Demand(name, workers, resources.cpus_per_worker, gpus, *where)]
    if resources.inline:
        return found
    for pool, own in settings.teachers.each_pool().items() if teachers else ():
        what = f"teachers.pools.{pool}" if settings.teachers.pools else "teachers.actors"
        found.append(Demand(what, own.actors, own.num_cpus, own.num_gpus, own.accelerator_type, own.labels))
    if not teachers_read(settings, teachers):
        found.append(Demand("one reader", 1, resources.cpus_per_reader, 0.0, "", resources.reader_labels))
    return found


def teachers_read(settings: Settings, teachers: int) -> bool:
    """Whether the actors of the first pool, if there are any, read for themselves; `teachers`: number of live ones."""
    resources, pools = settings.resources, settings.teachers.each_pool()
    alone = not resources.readers and not resources.reader_labels
    return alone and teachers > 0 and not next(iter(pools.values())).num_gpus


def widest_stage(settings: Settings, teachers: int) -> int:
    """Processes of the stage before the student that has most of them; `teachers`: number of live ones."""
    readers = 0 if teachers_read(settings, teachers) else settings.resources.reading_tasks
    return max([readers, *(pool.actors for pool in settings.teachers.each_pool().values() if teachers)])


def needs(settings: Settings, teachers: int) -> dict[str, dict[str, float]]:
    """Kind of resource to what needs it and how much."""
    return {kind: _sum(demands(settings, teachers), kind) for kind in KINDS}


def _sum(demands: Sequence[Demand], kind: str) -> dict[str, float]:
    return {f"{each.what} {each.count} x {each.each(kind):g}": each.count * each.each(kind) for each in demands}


def shortage(demands: Sequence[Demand], nodes: Sequence[Node], have: str = "the cluster has") -> str:
    """Why the demands cannot all be met on the nodes, with the sums; empty where no sum forbids it."""
    by_sort: dict[str, list[Demand]] = {"": list(demands)}
    for each in demands:
        if each.where:
            by_sort.setdefault(each.where, []).append(each)
    kinds = [*KINDS, *dict.fromkeys(kind for each in demands for kind in each.custom)]
    for sort, some in by_sort.items():
        right = [node for node in nodes if not sort or some[0].fits_on(node)]
        for kind in kinds:
            parts = {
                what: amount for what, amount in _sum(some, kind).items() if amount or (kind in KINDS and not sort)
            }
            needed, there = sum(parts.values()), sum(node.count * node.resources.get(kind, 0.0) for node in right)
            if needed > there + 1e-6:
                on = f" on nodes with {sort}" if sort else ""
                return f"the job needs {needed:g} {_unit(kind)}{on} ({' + '.join(parts)}) and {have} {there:g}"
    for each in demands:
        room = [node for node in nodes if each.fits_on(node)]
        if not any(all(node.resources.get(kind, 0.0) + 1e-6 >= each.each(kind) for kind in kinds) for node in room):
            one = " and ".join(f"{each.each(kind):g} {_unit(kind)}" for kind in kinds if each.each(kind))
            return f"one process of {each.what} needs {one} and no node of the cluster{_with(each)} has that"
    return ""


def _unit(kind: str) -> str:
    return f"{kind}s" if kind in KINDS else f"of resource {kind}"


def _with(demand: Demand) -> str:
    return f" with {demand.where}" if demand.where else ""


def check_fits(settings: Settings, teachers: int, have: Sequence[Node] | None = None) -> None:
    """Refuse a job that needs more than there is or can be, with the sum; or wait for it where the settings say so.

    Args:
        have: nodes; None: the cluster that this process has joined is asked.

    Raises:
        SettingsError: the needs exceed them.
    """
    check_demands(settings, demands(settings, teachers), have)


def check_demands(settings: Settings, asked: Sequence[Demand], have: Sequence[Node] | None = None) -> None:
    """See :func:`check_fits`."""
    if have is None and settings.resources.wait_for_resources:
        _wait(asked, settings.run.progress_seconds)
        return
    nodes = cluster_nodes() if have is None else have
    groups = autoscaler_groups() if have is None else []
    if problem := shortage(asked, at_most(nodes, groups)):
        grown = " when it has grown to its most" if groups else ""
        raise SettingsError(
            f"{problem}{grown}; lower these settings, or give it more (--wait-for-resources waits for that)."
        )
    if problem := shortage(asked, nodes):
        say(f"{problem} now; it can grow, and the job waits for that")


def grown_nodes() -> list[Node]:
    """The nodes of the cluster that this process has joined, when it has grown to its most."""
    return at_most(cluster_nodes(), autoscaler_groups())


def room_for(one: Demand) -> int:
    """How many of a demand's processes the cluster has room for when it has grown to its most."""
    kinds = [(kind, one.each(kind)) for kind in KINDS if one.each(kind)]
    nodes = [node for node in grown_nodes() if one.fits_on(node)]
    return sum(node.count * int(min(node.resources.get(kind, 0.0) / each for kind, each in kinds)) for node in nodes)


def shared_memory(settings: Settings, nodes: Sequence[Node], processes: int) -> float:
    """Bytes for blocks that each of some processes has, spread evenly over the nodes that take work, on the smallest of
    these; where nothing is known of them, on a machine with the Ray that a job starts."""
    working = [node.resources for node in nodes if node.resources.get("CPU")]
    stores = [each[STORE] for each in working if each.get(STORE)] or [settings.resources.object_store_mb * 2.0**20]
    return min(stores) / -(-processes // len(stores))


def total(nodes: Sequence[Node]) -> dict[str, float]:
    """CPUs and GPUs of nodes together; of a group without limit those of one node, as nobody knows how many come."""
    counts = [1 if node.count >= NO_LIMIT else node.count for node in nodes]
    return {
        kind: sum(n * node.resources.get(kind, 0.0) for n, node in zip(counts, nodes, strict=True)) for kind in KINDS
    }


def _wait(asked: Sequence[Demand], every: float) -> None:
    """Return when the cluster has the resources, free of other jobs."""
    from ray.autoscaler.sdk import request_resources

    growing = bool(autoscaler_groups())
    if growing:  # it grows for what is asked of it, and nothing else is asked before the job starts
        request_resources(bundles=[bundle for each in asked for bundle in each.bundles()])
    try:
        _wait_until_free(asked, every)
    finally:
        if growing:
            request_resources(bundles=[])


def _wait_until_free(asked: Sequence[Demand], every: float) -> None:
    import ray

    said = 0.0
    while True:
        free = [Node(ray.available_resources())]  # of all nodes together, so that only the sum is known
        anywhere = [Demand(each.what, each.count, each.CPU, each.GPU, custom=each.custom) for each in asked]
        problem = shortage(asked, cluster_nodes()) or shortage(anywhere, free, "what other jobs leave free is")
        if not problem:
            return
        if time.monotonic() - said >= every:
            said = time.monotonic()
            say(f"waiting for resources: {problem}")
        time.sleep(1.0)


def cluster_nodes() -> list[Node]:
    """The nodes of the cluster that this process has joined."""
    import ray

    return [Node(node["Resources"], node.get("Labels", {})) for node in ray.nodes() if node["Alive"]]


def at_most(nodes: Sequence[Node], groups: Sequence[Node]) -> list[Node]:
    """The nodes of a cluster that has grown to its most.

    Args:
        nodes: that it has.
        groups: that its autoscaler knows, each with its largest number; nodes like those of a group are of it.
    """
    sizes = [[group.resources.get(kind, 0.0) for kind in KINDS] for group in groups]
    others = [node for node in nodes if [node.resources.get(kind, 0.0) for kind in KINDS] not in sizes]
    return [*others, *groups]


def autoscaler_groups() -> list[Node]:
    """Groups of nodes in the configuration of the cluster's autoscaler; none where it has none."""
    import ray._private.state

    config: Any = ray._private.state.state.get_cluster_config()
    groups = config.node_group_configs if config is not None else ()
    # -1 is no limit
    return [
        Node(dict(group.resources), None, group.max_count if group.max_count >= 0 else NO_LIMIT)
        for group in groups
        if group.max_count
    ]


def this_machine(settings: Settings) -> Node:
    """What a Ray that the job would start itself has; its GPUs are taken for those that are asked for."""
    import torch

    resources, pools = settings.resources, settings.teachers.each_pool().values()
    gpus = float(resources.num_gpus or torch.cuda.device_count())
    asked = {resources.accelerator_type, *(pool.accelerator_type for pool in pools)} - {""}
    typed = {f"accelerator_type:{kind}": 1.0 for kind in asked} if gpus else {}
    return Node({"CPU": float(resources.num_cpus or available_cores()), "GPU": gpus, **typed})
