"""Units of work as a Ray Data source: each read task reads and decodes one unit into one block.

A source of its own rather than `range(...).map_batches(...)`, because Ray gives the read stage of `range` a whole CPU
for each task and does not fuse it with a stage that asks for less: on two cores that waits for ever.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import cv2
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import Block, BlockAccessor, BlockMetadata

from mmkd.reader import Block as Columns


class Units(Datasource):
    """Blocks of the given units, in order; `read` (unit to block) travels once, by reference."""

    def __init__(self, read: Callable[[Any], Columns], units: Sequence[Any]):
        super().__init__()
        self._read, self._units = ray.put(read), units

    def get_name(self) -> str:
        return "Clips"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_block, self._read, unit), unknown) for unit in self._units]


def read_units(
    read: Callable[[Any], Columns],
    units: Sequence[Any],
    *,
    readers: int | None,
    num_cpus: float,
    **where: Any,
) -> Any:
    """A lazy Ray dataset of one block a unit.

    Args:
        readers: how many units are read at a time; None: as many as there is room for.
        where: Ray's `label_selector` and `accelerator_type`.
    """
    return ray.data.read_datasource(
        Units(read, units),
        override_num_blocks=len(units),
        concurrency=readers,
        num_cpus=num_cpus,
        **where,
    )


def _block(read: Any, unit: Any) -> list[Block]:
    return [BlockAccessor.batch_to_block(_resolve(read)(unit))]


@lru_cache(maxsize=2)
def _resolve(read: Any) -> Callable[[Any], Columns]:
    cv2.setNumThreads(1)  # Ray decides how many readers share the cores
    return ray.get(read)
