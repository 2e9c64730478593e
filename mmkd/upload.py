"""What a network sees of the next block, on its way to a GPU while the network computes."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from mmkd.ahead import in_order
from mmkd.inputs import columns_of, to_device
from mmkd.reader import Block

AHEAD = 1
"""Blocks that wait on the device, beside the one that is copied and the one that is computed."""


def uploaded(blocks: Iterable[Block], modality: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """The same blocks; on a GPU, the columns that a network of this modality sees are tensors there.

    A thread fetches and copies the next blocks, on a stream of its own. Elsewhere nothing is changed.

    Raises:
        Exception: whatever comes up in fetching or copying a block, when it is its turn.
    """
    if device.type != "cuda":
        yield from blocks
        return
    stream = torch.cuda.Stream(device)

    def copied() -> Iterator[tuple[Block, dict[str, torch.Tensor], torch.cuda.Event]]:
        with torch.cuda.stream(stream):
            for block in blocks:
                there = [name for name in columns_of(modality) if name in block]
                yield block, {name: to_device(block[name], None, device) for name in there}, stream.record_event()

    for block, tensors, done in in_order([copied], 1, AHEAD):
        uses = torch.cuda.current_stream(device)
        uses.wait_event(done)
        for tensor in tensors.values():
            tensor.record_stream(uses)
        yield {**block, **tensors}
