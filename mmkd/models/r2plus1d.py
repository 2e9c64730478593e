"""A small (2+1)D network for RGB or flow at 64 to 112 px: the default student, and small enough for two cores.

Each block is a spatial 3x3 convolution followed by a temporal 3-tap one (Tran et al., CVPR 2018, arXiv
1711.11248), so time is mixed in every block before anything is pooled.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional


class SpaceTimeBlock(nn.Module):
    """Spatial then temporal convolution with a shortcut; halves height and width, keeps time."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.spatial = nn.Conv3d(in_channels, channels, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.spatial_norm = nn.BatchNorm3d(channels)
        self.temporal = nn.Conv3d(channels, channels, (3, 1, 1), 1, (1, 0, 0), bias=False)
        self.temporal_norm = nn.BatchNorm3d(channels)
        self.shortcut = nn.Conv3d(in_channels, channels, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.spatial_norm(self.spatial(x)))
        out = self.temporal_norm(self.temporal(out))
        # Frames are pooled one by one; as a 2D pool over folded channels that is much faster than AvgPool3d.
        halved = functional.avg_pool2d(x.flatten(1, 2), 2, ceil_mode=True).unflatten(1, x.shape[1:3])
        return self.relu(out + self.shortcut(halved))


class R2Plus1D(nn.Module):
    """Backbone: float [batch, channels, frames, height, width] to features [batch, num_features]."""

    def __init__(self, in_channels: int = 3, channels: Sequence[int] = (16, 32, 64, 128), dropout: float = 0.2):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, channels[0], (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False),
            nn.BatchNorm3d(channels[0]),
            nn.ReLU(inplace=True),
        )
        widths = [channels[0], *channels]
        self.blocks = nn.Sequential(*(SpaceTimeBlock(a, b) for a, b in pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.num_features = channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.device.type == "cpu":
            x = x.contiguous()  # frames come with the channels last, which costs the backward pass a fifth more
        return self.dropout(self.blocks(self.stem(x)).mean(dim=(2, 3, 4)))
