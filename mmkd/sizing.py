"""How many processes of each stage a job should have, from what the stages cost and what the cluster has."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmkd.config import Settings

NEAR = 0.97
"""A choice is as good as the best one where it is predicted to be this share as fast; fewer processes start sooner."""
TURNS = 1.1
"""What a clip costs where processes outnumber cores and take turns, or where threads of one step wait for that one from
which Ray took its core, over what it costs where each has a core (docs/performance.md)."""
EXCHANGE = 0.95
"""Share of the time that workers do not wait for each other's gradients, where there are several (the same page)."""
MOST_AHEAD = 3
"""Threads that read and ask ahead of a worker, at most, as one at a time has Python's interpreter (the same page)."""
LEAST_ROWS = 8
"""Of a worker's share of a batch, which batch norm is taken over, or which a GPU is given at once."""
FEW_ROWS = 2
"""Of a worker's share on CPUs, where the network has no batch norm; each worker has a network and its gradients."""
STORE_SHARE = 0.25
"""Of the object store, for the blocks that workers fetch ahead."""


@dataclass(frozen=True)
class Costs:
    """Seconds a clip of each stage by itself.

    Attributes:
        read: on one core.
        teachers: clips given to a teacher at once, to seconds of the whole ensemble, on one core or one GPU; empty
            where no teacher is asked.
        student: threads, to seconds of a training step; on a GPU those of one thread.
        clip_mb: MB of a clip on its way to the student.
        least_rows: of a worker's share of a batch.
    """

    read: float
    student: Mapping[int, float]
    teachers: Mapping[int, float] = field(default_factory=dict)
    clip_mb: float = 0.0
    least_rows: int = LEAST_ROWS

    @property
    def teacher_batch(self) -> int:
        """The smallest batch that is about as fast as any; 0 without teachers."""
        best = min(self.teachers.values(), default=0.0)
        return min((size for size, seconds in self.teachers.items() if seconds * NEAR <= best), default=0)

    @property
    def teach(self) -> float:
        return self.teachers.get(self.teacher_batch, 0.0)


@dataclass(frozen=True)
class Sizes:
    """What is chosen, with the clips a second that it may reach, and those that the machines allow."""

    workers: int
    threads: int
    actors: int
    readers: int
    gpus_per_worker: float
    gpus_per_actor: float
    rate: float
    limit: float
    inline: bool = False
    ahead: int = 0


def choose(
    costs: Costs, cpus: float, gpus: float, batch_size: int, may_inline: bool = True, most: float = float("inf")
) -> Sizes:
    """The fewest processes that are about as fast as any number of them.

    Args:
        cpus, gpus: of the cluster, or of what may be used of it.
        batch_size: clips in a global batch.
        may_inline: whether workers may read and ask the teachers themselves.
        most: CPUs that one node has, at most.
    """
    if gpus >= 1:
        found = list(_on_gpus(costs, cpus, int(gpus), batch_size))
    else:
        found = list(_on_cpus(costs, int(cpus), batch_size))
        found += _inline(costs, int(cpus), most, batch_size) if may_inline else []
    best = max(each.rate for each in found)
    near = [each for each in found if each.rate >= NEAR * best]
    return min(near, key=lambda each: (each.workers + each.actors, each.workers, each.threads + each.ahead))


def _on_cpus(costs: Costs, cores: int, batch_size: int) -> Iterator[Sizes]:
    """Teachers read for themselves; processes may outnumber cores, which then take turns."""
    cores = max(cores, 1)
    for workers in _worker_counts(costs, cores, batch_size):
        for threads, step in costs.student.items():
            if workers * threads > cores:
                continue
            limit = cores / (costs.read + costs.teach + threads * step)
            for actors in range(1, cores + 1) if costs.teachers else (0,):
                front = actors / (costs.read + costs.teach) if actors else cores / costs.read
                outnumbered = workers * threads + (actors or 1) > cores
                rate = min(front, _together(workers) / step, limit / TURNS if outnumbered else limit)
                readers = 0 if actors else _readers(rate, costs, cores)
                yield Sizes(workers, threads, actors, readers, 0.0, 0.0, rate, limit)


def _inline(costs: Costs, cores: int, most: float, batch_size: int) -> Iterator[Sizes]:
    """Workers that read and ask the teachers themselves, in one thread; on one machine, where it is certain that they
    fit, in several, or while others read and ask ahead, each in one."""
    taught, cores = costs.read + costs.teach, max(cores, 1)
    limit, each = cores / (taught + costs.student[1]), cores if most >= cores else 1
    for workers in _worker_counts(costs, cores, batch_size):
        room = max(1, each // workers)
        for threads, step in costs.student.items():
            for ahead in range(min(room - threads, MOST_AHEAD) + 1):
                # Teachers are taken to gain as much by threads as the student does.
                alone = costs.read + costs.teach * step / costs.student[1] + step
                rate = min((1 + ahead) / (taught + step), 1 / step) if ahead else 1 / alone
                rate *= _together(workers) / (TURNS if threads > 1 else 1)
                yield Sizes(workers, threads, 0, 0, 0.0, 0.0, rate, limit, inline=True, ahead=ahead)


def _worker_counts(costs: Costs, most: int, batch_size: int) -> range:
    return range(1, min(most, max(1, batch_size // costs.least_rows)) + 1)


def _together(workers: int) -> float:
    """How many workers that never wait for each other do as much."""
    return workers * EXCHANGE if workers > 1 else workers


def _on_gpus(costs: Costs, cpus: float, gpus: int, batch_size: int) -> Iterator[Sizes]:
    """Student and teachers on GPUs of their own, or on halves of one; reading on the CPUs that they leave."""
    step, shared = costs.student[1], bool(costs.teachers) and gpus == 1
    for workers in _worker_counts(costs, gpus, batch_size):
        actors = 0 if not costs.teachers else 1 if shared else gpus - workers
        if costs.teachers and not actors:
            continue
        share = 0.5 if shared else 1.0
        limit = gpus / (step + costs.teach)
        left = max(1.0, cpus - workers - 0.5 * actors)
        rate = min(workers / step, actors / costs.teach if actors else limit, limit, left / costs.read)
        readers = _readers(rate, costs, int(left))
        yield Sizes(workers, 1, actors, readers, share, share if actors else 0.0, rate, limit)


def _readers(rate: float, costs: Costs, cores: int) -> int:
    """Reading tasks for a rate, with some to spare as they are uneven."""
    return max(2, min(cores, round(1.25 * rate * costs.read + 0.5)))


def chosen_values(
    settings: Settings, costs: Costs, sizes: Sizes, cpus: float, most: float = float("inf"), store: float = 1e9
) -> dict[str, Any]:
    """Setting to its value, of those that sizes decide.

    Args:
        cpus: of the cluster.
        most: CPUs that one node has, at most.
        store: bytes of shared memory for blocks.
    """
    on_gpus = bool(sizes.gpus_per_worker)
    rows = -(-settings.optim.batch_size // sizes.workers)
    room = STORE_SHARE * store / 1e6 / max(costs.clip_mb * rows * sizes.workers, 1e-9)
    values: dict[str, Any] = {
        "resources.inline": sizes.inline,
        "resources.ahead": sizes.ahead,
        "resources.workers": sizes.workers,
        "resources.threads": sizes.threads,
        "resources.readers": sizes.readers,
        "resources.prefetch": max(1, min(4, int(room))),
        "resources.use_gpu": on_gpus,
        "resources.min_workers": min(settings.resources.min_workers, sizes.workers),
    }
    if on_gpus:
        # A CPU for each worker and reader and half of one for each actor, or less where there are so few.
        share = round(min(1.0, 0.99 * cpus / (sizes.workers + 0.5 * sizes.actors + 1), 0.99 * most), 2)
        values |= {"resources.gpus_per_worker": sizes.gpus_per_worker, "teachers.num_gpus": sizes.gpus_per_actor}
        values |= {"resources.cpus_per_worker": share, "resources.cpus_per_reader": share}
        values |= {"teachers.num_cpus": share / 2}
    else:
        # All cores are reserved, divided as the processes will use them; a part in a hundred is left for rounding.
        labelled = settings.resources.reading_tasks if settings.resources.reader_labels else 0
        readers = sizes.readers or labelled * (not sizes.inline)
        each = round(min(settings.resources.cpus_per_reader, 0.5 * cpus / max(readers, 1)), 3)
        reading = each * readers
        share = round(min(0.99 * (cpus - reading) / (sizes.workers + sizes.actors), 0.99 * most), 2)
        share = min(share, 0.99 * (sizes.threads + sizes.ahead)) if sizes.inline else share
        values |= {"resources.cpus_per_worker": share, "teachers.num_cpus": share if sizes.actors else 0.5}
        values |= {"teachers.num_gpus": 0.0, "resources.cpus_per_reader": each}
    if sizes.actors:
        values["teachers.actors"] = sizes.actors
    if costs.teachers:
        values["teachers.batch_size"] = costs.teacher_batch
    return values


def explain(costs: Costs, sizes: Sizes, cpus: float, gpus: float) -> list[str]:
    """Why the sizes are what they are, for people."""
    on_gpus = bool(sizes.gpus_per_worker)
    of = "GPU" if on_gpus else "core"
    taught = f", teachers {1000 * costs.teach:.1f} (in batches of {costs.teacher_batch})" if costs.teachers else ""
    student = f"student {1000 * costs.student[sizes.threads]:.1f} with {sizes.threads} thread(s)"
    have = f"{gpus:g} GPU(s) and {cpus:g} CPUs" if on_gpus else f"{cpus:g} CPUs"
    reads = f"{sizes.readers} reading tasks" if sizes.readers else "which read for themselves"
    actors = f"{sizes.actors} teacher actor(s), {reads}; " if sizes.actors else f"{reads}; "
    inline = " which read" + " and ask the teachers" * bool(costs.teachers) + " themselves"
    inline += f", with {sizes.ahead} thread(s) ahead of each" * bool(sizes.ahead)
    processes = f"{'' if sizes.inline else actors}{sizes.workers} student worker(s){inline * sizes.inline}"
    return [
        f"measured, ms a clip on one {of}: reading {1000 * costs.read:.1f} (a core){taught}, {student}",
        f"chosen for {have}: {processes}. That may reach {sizes.rate:.0f} clips/s; the sum of the stages allows "
        f"{sizes.limit:.0f}",
    ]
