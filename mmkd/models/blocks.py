"""The blocks that a network is built of: for activation checkpointing, and for rates that fall layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def find_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """Name to block, in order: the members of each ModuleList or Sequential of composed modules of one class."""
    blocks: dict[str, nn.Module] = {}

    def search(module: nn.Module, prefix: str) -> None:
        children = dict(module.named_children())
        kinds = {type(child) for child in children.values()}
        repeated = isinstance(module, nn.ModuleList | nn.Sequential) and len(kinds) == 1
        composed = all(next(child.children(), None) is not None for child in children.values())
        if repeated and composed and not issubclass(next(iter(kinds)), nn.Sequential | nn.ModuleList):
            blocks.update({prefix + name: child for name, child in children.items()})
            return
        for name, child in children.items():
            search(child, f"{prefix}{name}.")

    search(network, "")
    return blocks


def layer_numbers(network: nn.Module) -> dict[str, int]:
    """Parameter name to the number of its layer: 0 for what comes before the first block, then one number a block;
    what lies between blocks, or after them, goes with the block before it."""
    blocks, numbers, current = find_blocks(network), {}, 0
    seen: dict[str, int] = {}
    for name, _ in network.named_parameters():
        block = next((block for block in blocks if name.startswith(block + ".")), None)
        if block is not None and block not in seen:
            current += 1
            seen[block] = current
        numbers[name] = current if block is None else seen[block]
    return numbers


def checkpoint_blocks(network: nn.Module) -> None:
    """Make each block compute its activations again in the backward pass instead of keeping them.

    Gradients, names of parameters and running statistics of batch norm stay what they are without.

    Raises:
        ValueError: the network has no blocks.
    """
    blocks = find_blocks(network)
    if not blocks:
        raise ValueError(f"optim.checkpoint_activations: {type(network).__name__} has no blocks to compute again.")
    for block in blocks.values():
        # A class, not a function on the object: copies of the network (EMA) must run their own blocks.
        block.__class__ = _checkpointed(type(block))


def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return kind.forward(self, *args, **kwargs)

        def own(*inner: Any, **named: Any) -> Any:
            return kind.forward(self, *inner, **named)

        contexts = lambda: (nullcontext(), _statistics_kept(self))  # noqa: E731
        return checkpoint(own, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return type(f"Checkpointed{kind.__name__}", (kind,), {"forward": forward})


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norm updates its running statistics in the first pass alone."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(tracked)  # type: ignore[union-attr]
