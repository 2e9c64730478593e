"""Sound windows of a view."""

import numpy as np
from numpy.typing import NDArray

from mmkd.views.view import View


def view_audio(samples: NDArray[np.int16], view: View, sample_rate: int, fps: float, seconds: float) -> NDArray:
    """Sound around each sampled frame, int16 [frames, window]; silence where the window leaves the clip."""
    window = int(seconds * sample_rate)
    centres = (view.indices * sample_rate / fps).astype(np.int64)
    padded = np.pad(samples, (window // 2, window))
    starts = np.clip(centres, 0, len(padded) - window)
    return padded[starts[:, None] + np.arange(window)]
