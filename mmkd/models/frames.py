"""Any timm image network over the frames of a clip, with a temporal convolution before time is pooled."""

from typing import Any

from torch import Tensor, nn


class FrameEncoder(nn.Module):
    """Backbone: timm network `name` on each frame, a residual 3-tap temporal convolution, then the mean over time.

    Float [batch, channels, frames, height, width] to features [batch, num_features].
    """

    def __init__(self, name: str, in_channels: int = 3, pretrained: bool = False, drop_path: float = 0.0):
        super().__init__()
        import timm

        options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
        encoder: Any = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, num_classes=0, **options)
        self.encoder = encoder
        self.num_features: int = getattr(encoder, "head_hidden_size", None) or encoder.num_features
        self.temporal = nn.Conv1d(self.num_features, self.num_features, 3, padding=1, groups=self.num_features)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, frames = x.shape[:3]
        features = self.encoder(x.transpose(1, 2).flatten(0, 1)).reshape(batch, frames, -1).transpose(1, 2)
        return (features + self.temporal(features).relu()).mean(dim=2)
