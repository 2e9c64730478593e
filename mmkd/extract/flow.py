"""Optical flow between consecutive frames, as uint8."""

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray


def dis_flow(frames: NDArray[np.uint8], bound: float) -> NDArray[np.uint8]:
    """DIS flow (Kroeger et al., ECCV 2016, arXiv 1603.03590; OpenCV's medium preset) of a clip.

    Args:
        frames: uint8 [frames, height, width, 3], RGB.
        bound: pixels that become 0 or 255; no motion is 128.

    Returns:
        uint8 [frames, height, width, 2], u and v; frame i holds the flow to frame i + 1, the last one repeats the one
        before it.
    """
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    still = np.zeros((*gray[0].shape, 2), np.float32)
    flows = [method.calc(a, b, still.copy()) for a, b in pairwise(gray)] or [still]
    scaled = np.stack([*flows, flows[-1]][: len(frames)]) * (127.0 / bound) + 128.0
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)
