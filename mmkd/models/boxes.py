"""STLT: a spatial transformer over a frame's hand and object boxes, then a causal temporal one over frames.

Radevski et al., "Revisiting spatio-temporal layouts for compositional action recognition", BMVC 2021,
arXiv 2111.01936, in the form that the distillation paper uses as its box teacher.
"""

import torch
from torch import Tensor, nn

NUM_CATEGORIES = 3  # pad, object, hand
NUM_SIDES = 3  # none, left, right
NUM_STATES = 6  # none, no contact, self, another person, portable object, stationary object


class BoxEmbedding(nn.Module):
    """Sum of the embeddings of category, box, score, side and contact state, normalised."""

    def __init__(self, width: int, dropout: float, norm_eps: float):
        super().__init__()
        self.category = nn.Embedding(NUM_CATEGORIES, width, padding_idx=0)
        self.box = nn.Linear(4, width)
        self.score = nn.Linear(1, width)
        self.side = nn.Embedding(NUM_SIDES, width, padding_idx=0)
        self.state = nn.Embedding(NUM_STATES, width, padding_idx=0)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, boxes: dict[str, Tensor]) -> Tensor:
        embedded = (
            self.category(boxes["category"].long())
            + self.box(boxes["boxes"].float())
            + self.score(boxes["score"].float().unsqueeze(-1))
            + self.side(boxes["side"].long())
            + self.state(boxes["state"].long())
        )
        return self.dropout(self.norm(embedded))


def _encoder(width: int, depth: int, num_heads: int, dropout: float) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, num_heads, dim_feedforward=4 * width, dropout=dropout, activation="gelu", batch_first=True
    )
    # Nested tensors change the shape of the output where whole rows are padding.
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class STLT(nn.Module):
    """Backbone: a dict of `boxes` [batch, frames, n, 4] in 0..1, `category`, `score`, `side`, `state`
    [batch, frames, n] to features [batch, num_features]; category 0 is padding."""

    def __init__(
        self,
        num_frames: int = 16,
        width: int = 768,
        depth: int = 6,
        num_heads: int = 8,
        dropout: float = 0.1,
        norm_eps: float = 0.1,
    ):
        super().__init__()
        self.num_frames, self.num_features = num_frames, width
        self.embedding = BoxEmbedding(width, dropout, norm_eps)
        self.space_token = nn.Parameter(torch.zeros(1, 1, width))
        self.space = _encoder(width, depth, num_heads, dropout)
        self.position = nn.Embedding(num_frames, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.time_token = nn.Parameter(torch.zeros(1, 1, width))
        self.time = _encoder(width, depth, num_heads, dropout)

    def forward(self, boxes: dict[str, Tensor]) -> Tensor:
        padding = boxes["category"] == 0
        batch, frames, _ = padding.shape
        if frames > self.num_frames:
            raise ValueError(f"stlt was made for at most {self.num_frames} frames and was given {frames}.")
        x = self.embedding(boxes).flatten(0, 1)
        x = torch.cat([self.space_token.expand(len(x), -1, -1), x], dim=1)
        padding = nn.functional.pad(padding.flatten(0, 1), (1, 0), value=False)
        x = self.space(x, src_key_padding_mask=padding)[:, 0].reshape(batch, frames, -1)
        x = x + self.position(torch.arange(frames, device=x.device))
        x = self.dropout(self.norm(x))
        x = torch.cat([x, self.time_token.expand(batch, -1, -1)], dim=1)
        causal = torch.ones(frames + 1, frames + 1, dtype=torch.bool, device=x.device).triu(1)
        return self.time(x, mask=causal, is_causal=True)[:, -1]
