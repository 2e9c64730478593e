"""Checkpoints: a folder with the network, the optimiser and state.json, whose `position` is the place in the plan; and
which of them a run keeps.

state.json names the hash of each other file, so that a torn copy is recognised and passed over. No pickled objects:
the optimiser's tensors are read with weights_only=True.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mmkd.models.storage import weights_hash
from mmkd.optimizing import Updater

NETWORK, AVERAGE, OPTIMIZER = "network.safetensors", "average.safetensors", "optimizer.pt"
SCORE = "metrics.json"


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


def kept_position(folder: Path) -> int:
    """The place in the plan from which a run would go on; 0 without a valid checkpoint."""
    path, _ = newest_checkpoint(folder)
    return position_of(path) if path else 0


def position_of(checkpoint: Path) -> int:
    """The place in the plan at which a whole checkpoint was kept."""
    return int(json.loads((checkpoint / "state.json").read_text())["position"])


class Checkpoints:
    """The checkpoints of a run: the newest few, and the best of those that were validated.

    Where one cannot be written, as on a full disk, training goes on with those that there are.

    Args:
        folder: that they lie in.
        number: of the newest ones that are kept.
        notice: is told what went wrong.
    """

    ATTEMPTS, PAUSE = 4, 0.5

    def __init__(self, folder: Path, number: int, notice: Callable[[str], None]):
        self.folder, self.number, self.notice = folder, number, notice

    def add(self, position: int, write: Callable[[Path], None], score: float | None) -> bool:
        """Keep what `write` puts into a folder, whole or not at all, and say whether that went well.

        Args:
            score: of the model, where it was validated.
        """
        name = f"checkpoint_{position:09d}"
        partial, path = self.folder / f".{name}.partial", self.folder / name
        for attempt in range(self.ATTEMPTS):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                write(partial)
                (partial / SCORE).write_text(json.dumps({"score": score}) + "\n")
                if path.exists():
                    shutil.rmtree(path)
                partial.replace(path)
                break
            except (OSError, SafetensorError, RuntimeError) as error:
                reason = error
            # An older one may be what stands in the way on a full disk.
            self._drop(1)
            time.sleep(self.PAUSE * 2**attempt)
        else:
            shutil.rmtree(partial, ignore_errors=True)
            self.notice(f"checkpoint {path} cannot be written: {reason}; a resumed run would start from an older one")
            return False
        self._drop(self.number)
        return True

    def _drop(self, number: int) -> None:
        """Delete all but the newest `number` and the best one."""
        kept = sorted(self.folder.glob("checkpoint_*"))
        scores = {path: _score(path) for path in kept}
        best = max(kept, key=lambda path: scores[path], default=None)
        for path in kept[:-number]:
            if path != best:
                shutil.rmtree(path, ignore_errors=True)


def _score(path: Path) -> float:
    """How good a checkpoint is; below all, where it was not validated or cannot be read."""
    try:
        score = json.loads((path / SCORE).read_text())["score"]
    except (OSError, ValueError, KeyError):
        score = None
    return float("-inf") if score is None else float(score)


def _modules(updater: Updater) -> dict[str, nn.Module]:
    average = {AVERAGE: updater.ema.module} if updater.ema is not None else {}
    return {NETWORK: updater.trained, **average}


def _is_whole(path: Path) -> bool:
    try:
        files = json.loads((path / "state.json").read_text())["files"]
        return NETWORK in files and all(weights_hash(path / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError):
        return False
