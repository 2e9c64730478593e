"""Units of the plan as a Ray Data source: each read task reads and decodes one unit into one block.

A source of its own rather than `range(...).map_batches(...)`, because Ray gives the read stage of `range` a whole CPU
for each task and does not fuse it with a stage that asks for less: on two cores that waits for ever.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import ray
from ray.data import Datasource, ReadTask
from ray.data.block import Block, BlockAccessor, BlockMetadata

from mmkd.pipeline import Work, read


class PlanUnits(Datasource):
    """Blocks of the given units, in order. The plan travels once, by reference."""

    def __init__(self, work: Work, units: Sequence[int], num_workers: int):
        super().__init__()
        self._work, self._units, self._num_workers = ray.put(work), units, num_workers

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_read, self._work, unit, self._num_workers), unknown) for unit in self._units]


def _read(work: Any, unit: int, num_workers: int) -> list[Block]:
    return [BlockAccessor.batch_to_block(read(_resolve(work), unit, num_workers))]


@lru_cache(maxsize=2)
def _resolve(work: Any) -> Work:
    return ray.get(work)
