"""What the workers of one training say to each other; with one worker, or none set up, everything is its own."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if _together() else 0


def world_size() -> int:
    return dist.get_world_size() if _together() else 1


def total(values: Tensor) -> Callable[[], Tensor]:
    """Start to sum over workers, in place; what is returned waits for the sum."""
    if not _together():
        return lambda: values
    exchange = dist.all_reduce(values, async_op=True)

    def wait() -> Tensor:
        exchange.wait()
        return values

    return wait


def buffers_of_first(network: nn.Module) -> None:
    """Give every worker rank 0's buffers, such as the running means of batch norms."""
    if _together():
        for buffer in network.buffers():
            said = buffer.contiguous()
            dist.broadcast(said, 0)
            buffer.copy_(said)


def gather(value: T) -> list[T]:
    """Each worker's value, in rank order, on every worker."""
    if not _together():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
