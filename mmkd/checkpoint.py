"""Checkpoints: a folder with the network, the optimiser and state.json, whose `position` is the place in the plan.

state.json names the hash of each other file, so that a torn copy is recognised and passed over. No pickled objects:
the optimiser's tensors are read with weights_only=True.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmkd.models.storage import weights_hash

FILES = ("network.safetensors", "optimizer.pt")


def write_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write a checkpoint into an existing folder; `state` must hold the integer `position`."""
    save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, folder / FILES[0])
    torch.save(optimizer.state_dict(), folder / FILES[1])
    content = {**state, "files": {name: weights_hash(folder / name) for name in FILES}}
    (folder / "state.json").write_text(json.dumps(content) + "\n")


def read_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load network and optimiser in place and return the state."""
    network.load_state_dict(load_file(folder / FILES[0]))
    optimizer.load_state_dict(torch.load(folder / FILES[1], map_location="cpu", weights_only=True))
    return json.loads((folder / "state.json").read_text())


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """The valid checkpoint that is farthest in the plan, and the torn ones that lie beyond it."""
    found = []
    for path in folder.glob("checkpoint_*"):
        try:
            position = json.loads((path / "state.json").read_text())["position"]
        except (OSError, ValueError, KeyError):
            position = float("inf")
        found.append((position, path))
    torn: list[Path] = []
    for _, path in sorted(found, reverse=True, key=lambda pair: (pair[0], pair[1].name)):
        if _is_whole(path):
            return path, torn
        torn.append(path)
    return None, torn


def _is_whole(path: Path) -> bool:
    try:
        files = json.loads((path / "state.json").read_text())["files"]
        return all(weights_hash(path / name) == files[name] for name in FILES)
    except (OSError, ValueError, KeyError):
        return False
