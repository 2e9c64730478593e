"""What every source yields: one clip with its modalities and labels, before packing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

BOX_DTYPE = np.dtype(
    [
        ("x1", "f4"),
        ("y1", "f4"),
        ("x2", "f4"),
        ("y2", "f4"),
        ("score", "f4"),
        ("category", "i4"),
        ("side", "i4"),
        ("state", "i4"),
    ]
)
"""One detection. Corners are shares of the frame's width and height, 0..1.

category: 1 object, 2 hand. side: 0 left, 1 right, -1 unknown (objects).
state: a hand's contact, 0 none, 3 portable object; -1 for objects.
"""


@dataclass
class Clip:
    """One clip. A modality that the source lacks for it is None.

    rgb: uint8 [frames, height, width, 3], in RGB order.
    labels: class index a head, a list of them in a multi-label head; -1 where unknown.
    audio: int16 [samples], mono, over the same time as rgb.
    boxes: one array of BOX_DTYPE a frame.
    flow: uint8 [frames, height, width, 2], only where the source ships flow.
    start, stop: seconds in the video it came from.
    """

    clip_id: str
    rgb: np.ndarray
    labels: dict[str, int | list[int]]
    fps: float
    audio: np.ndarray | None = None
    sample_rate: int = 0
    boxes: list[np.ndarray] | None = None
    start: float = 0.0
    stop: float = 0.0
    meta: dict[str, str] = field(default_factory=dict)
    flow: np.ndarray | None = None
