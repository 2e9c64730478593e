"""A teacher that misbehaves when a file says so: hang_once, hang_always or slow, in the folder in MMKD_FAULTS."""

import os
import time
from pathlib import Path

import torch
from torch import nn


class FaultyBackbone(nn.Module):
    """Means of a clip's channels; before it answers it looks whether it should hang, or sleep."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_features = channels
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        faults = Path(os.environ.get("MMKD_FAULTS", "/nonexistent"))
        if (faults / "slow").exists():
            time.sleep(0.2)
        while (faults / "hang_always").exists():
            time.sleep(0.1)
        if (faults / "hang_once").exists():
            (faults / "hang_once").unlink()
            time.sleep(3600)
        return clips.mean(dim=(2, 3, 4)) * self.scale


def faulty_backbone(in_channels: int) -> nn.Module:
    return FaultyBackbone(in_channels)
