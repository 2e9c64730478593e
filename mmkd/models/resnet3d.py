"""3D ResNets for RGB or flow at 112 px (Hara et al., CVPR 2018, arXiv 1711.09577; not torchvision's r3d_18).

The stem is 7x7x7 with spatial stride 2, then a max-pool that halves time and space; each later stage halves both again.
"""

from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BLOCKS[200] = (3, 24, 36, 3)
WIDTHS = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions, or with `bottleneck` 1x1x1, 3x3x3, 1x1x1, beside a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        out_channels = 4 * width if bottleneck else width
        sizes = [(in_channels, width, 1, 1), (width, width, 3, stride), (width, out_channels, 1, 1)]
        if not bottleneck:
            sizes = [(in_channels, width, 3, stride), (width, width, 3, 1)]
        self.depth = len(sizes)
        for number, (a, b, kernel, step) in enumerate(sizes, start=1):
            self.add_module(f"conv{number}", nn.Conv3d(a, b, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm3d(b))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv3d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number in range(1, self.depth + 1):
            out = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(out))
            if number < self.depth:
                out = self.relu(out)
        return self.relu(out + self.downsample(x))


class ResNet3D(nn.Module):
    """Backbone: float [batch, 3, frames, height, width] to features [batch, num_features].

    Args:
        depth: a key of `BLOCKS`; below 50 layers the 512 features are projected to 2048.
        size: frames that are larger are resized to this height and width, antialiased, as the authors do, so that a
            teacher at 112 px and a student at 224 px can share one view; 0: never.
    """

    def __init__(self, depth: int, size: int = 112):
        super().__init__()
        self.size = size
        self.stem = nn.Sequential(
            nn.Conv3d(3, WIDTHS[0], 7, (1, 2, 2), 3, bias=False),
            nn.BatchNorm3d(WIDTHS[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, 2, 1),
        )
        bottleneck = depth >= 50
        channels, layers = WIDTHS[0], []
        for stage, (number, width) in enumerate(zip(BLOCKS[depth], WIDTHS, strict=True)):
            blocks = []
            for block in range(number):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(ResidualBlock(channels, width, stride, bottleneck))
                channels = 4 * width if bottleneck else width
            layers.append(nn.Sequential(*blocks))
        self.layers = nn.Sequential(*layers)
        self.projector: nn.Module = nn.Identity()
        self.num_features = 2048
        if not bottleneck:
            self.projector = nn.Sequential(nn.Linear(channels, self.num_features), nn.ReLU(inplace=True))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if self.size and max(x.shape[-2:]) > self.size:
            frames = x.transpose(1, 2).flatten(0, 1)
            frames = F.interpolate(frames, (self.size, self.size), mode="bilinear", antialias=True)
            x = frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        return self.projector(self.layers(self.stem(x)).mean(dim=(2, 3, 4)))
