"""What the workers of one training say to each other; with one worker, or none set up, everything is its own."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    return dist.get_rank() if _together() else 0


def world_size() -> int:
    return dist.get_world_size() if _together() else 1


def total(values: Tensor) -> Tensor:
    """Sum over workers."""
    if _together():
        dist.all_reduce(values)
    return values


def from_first(flags: list[bool], device: torch.device) -> list[bool]:
    """What rank 0 says, on every worker."""
    if not _together():
        return flags
    said = torch.tensor(flags, dtype=torch.uint8, device=device)
    dist.broadcast(said, 0)
    return [bool(flag) for flag in said.tolist()]


def gather(value: T) -> list[T]:
    """Each worker's value, in rank order, on every worker."""
    if not _together():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
