"""Any timm image network over the frames of a clip, or over the spectrograms of its sound, with time pooled after."""

from typing import Any

import torch
from torch import Tensor, nn

from mmkd.models.blocks import find_blocks


class FrameEncoder(nn.Module):
    """Backbone: timm network `name` on each frame, then `pooling` over time.

    Float [batch, channels, frames, height, width] to features [batch, num_features].

    Args:
        pooling: `conv`, a residual 3-tap temporal convolution, then the mean; `mean` alone, blind to order; `shift`, an
            eighth of the channels moved one frame forward and another one back at the start of each residual branch
            (Lin et al., ICCV 2019, arXiv 1811.08383), then the mean; `transformer`, `depth` layers over frames, then
            the mean.
        max_frames: length of the transformer's position embedding.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        pretrained: bool = False,
        drop_path: float = 0.0,
        pooling: str = "conv",
        depth: int = 2,
        max_frames: int = 64,
    ):
        super().__init__()
        import timm

        options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        try:
            encoder: Any = timm.create_model(
                name, pretrained=pretrained, in_chans=in_channels, num_classes=0, **options
            )
        except TypeError as error:
            raise ValueError(f"timm/{name} cannot be made with {options or 'these options'}: {error}") from error
        self.encoder = encoder
        width = self.num_features = int(getattr(encoder, "head_hidden_size", None) or encoder.num_features)
        self.pooling = pooling
        if pooling == "conv":
            self.temporal: nn.Module = nn.Conv1d(width, width, 3, padding=1, groups=width)
        elif pooling == "transformer":
            heads = next(n for n in (8, 4, 2, 1) if width % n == 0)
            layer = nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
            )
            self.temporal = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
            self.position = nn.Parameter(0.02 * torch.randn(max_frames, width))
        elif pooling == "shift":
            _shift_blocks(name, encoder)
        elif pooling != "mean":
            raise ValueError(f"pooling is {pooling!r}; it must be conv, mean, shift or transformer.")

    def forward(self, x: Tensor) -> Tensor:
        batch, _, frames = x.shape[:3]
        if self.pooling == "shift":
            for module in self.encoder.modules():
                if hasattr(module, "frames_of_clip"):
                    module.frames_of_clip = frames
        features = self.encoder(x.transpose(1, 2).flatten(0, 1)).reshape(batch, frames, -1)
        if self.pooling == "conv":
            features = features.transpose(1, 2)
            return (features + self.temporal(features).relu()).mean(dim=2)
        if self.pooling == "transformer":
            if frames > len(self.position):
                raise ValueError(f"max_frames is {len(self.position)}, and the clip has {frames} frames.")
            features = self.temporal(features + self.position[:frames])
        return features.mean(dim=1)


def shift_channels(x: Tensor, frames: int, share: int = 8) -> Tensor:
    """Move 1/share of the channels one frame forward and as many back, zeros coming in at the ends.

    Args:
        x: [batch * frames, channels, height, width].
    """
    clips = x.unflatten(0, (-1, frames))
    fold = max(1, x.shape[1] // share)
    out = torch.zeros_like(clips)
    out[:, :-1, :fold] = clips[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = clips[:, :, 2 * fold :]
    return out.flatten(0, 1)


def _shift_blocks(name: str, encoder: nn.Module) -> None:
    """Shift what the first convolution of each block sees, and leave its shortcut alone."""
    convolutions = [
        next((module for module in block.modules() if isinstance(module, nn.Conv2d)), None)
        for block in find_blocks(encoder).values()
    ]
    if not convolutions or None in convolutions:
        raise ValueError(
            f"pooling 'shift' is for convolutional networks with residual blocks, which timm/{name} is not."
        )
    for convolution in convolutions:
        kind = type(convolution)

        def forward(self: Any, x: Tensor, kind: Any = kind) -> Tensor:
            return kind.forward(self, shift_channels(x, self.frames_of_clip))

        # A class, not a hook: copies of the network must shift by their own number of frames.
        convolution.__class__ = type(f"Shifted{kind.__name__}", (kind,), {"forward": forward, "frames_of_clip": 1})
