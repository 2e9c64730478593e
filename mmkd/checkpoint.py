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
from mmkd.optimizing import Updater

NETWORK, AVERAGE, OPTIMIZER = "network.safetensors", "average.safetensors", "optimizer.pt"


def write_checkpoint(folder: Path, updater: Updater, state: dict[str, Any]) -> None:
    """Write a checkpoint into an existing folder; `state` must hold the integer `position`."""
    modules = _modules(updater)
    for name, module in modules.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, folder / name)
    torch.save(updater.optimizer.state_dict(), folder / OPTIMIZER)
    files = {name: weights_hash(folder / name) for name in (*modules, OPTIMIZER)}
    content = {**state, "scaler": updater.scaler.state_dict(), "files": files}
    (folder / "state.json").write_text(json.dumps(content) + "\n")


def read_checkpoint(folder: Path, updater: Updater) -> dict[str, Any]:
    """Load everything that changes in training, in place, and return the state."""
    state = json.loads((folder / "state.json").read_text())
    for name, module in _modules(updater).items():
        module.load_state_dict(load_file(folder / name))
    updater.optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
    if state["scaler"]:
        updater.scaler.load_state_dict(state["scaler"])
    return state


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


def _modules(updater: Updater) -> dict[str, nn.Module]:
    average = {AVERAGE: updater.ema.module} if updater.ema is not None else {}
    return {NETWORK: updater.trained, **average}


def _is_whole(path: Path) -> bool:
    try:
        files = json.loads((path / "state.json").read_text())["files"]
        return NETWORK in files and all(weights_hash(path / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError):
        return False
