"""A teacher that sets the pace of a job, and misbehaves when a file says so: hang_once, hang_always or slow, in the
folder in MMKD_FAULTS."""

import os
import time
from pathlib import Path

import torch
from torch import nn

PACE, SLOW = 0.1, 0.6
"""Seconds that it takes to answer: longer than a step of the student, so that teachers do not run ahead of what happens
in a test; and when it is slow."""


class FaultyBackbone(nn.Module):
    """Means of a clip's channels; before it answers it sleeps, and looks whether it should hang."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_features = channels
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        faults = Path(os.environ.get("MMKD_FAULTS", "/nonexistent"))
        time.sleep(SLOW if (faults / "slow").exists() else PACE)
        while (faults / "hang_always").exists():
            time.sleep(0.1)
        if (faults / "hang_once").exists():
            (faults / "hang_once").unlink()
            time.sleep(3600)
        return clips.mean(dim=(2, 3, 4)) * self.scale


def faulty_backbone(in_channels: int) -> nn.Module:
    return FaultyBackbone(in_channels)
