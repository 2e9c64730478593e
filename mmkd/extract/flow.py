"""Optical flow between two frames, where a source has none: OpenCV's methods, or torchvision's RAFT."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Flow = NDArray[np.float32]


class FlowMethod(Protocol):
    """A method for optical flow."""

    about: str

    def prepare(self, pixels: Pixels) -> Any:
        """A frame, uint8 RGB [height, width, 3], as `flow` wants it."""

    def flow(self, first: Any, second: Any) -> Flow:
        """Where each pixel of the first frame is in the second, relative to its place: float32 [height, width, 2],
        pixels to the right and down."""


class OpenCVFlow:
    """DIS (Kroeger et al., ECCV 2016, arXiv 1603.03590; OpenCV's medium or fast preset), Farneback (2003), or TV-L1
    (Zach et al., 2007), which needs OpenCV's contrib build.

    Raises:
        ValueError: this build of OpenCV lacks it.
    """

    method: Any

    def __init__(self, name: str):
        if name == "dis":
            self.method, self.about = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), "OpenCV DIS, medium"
        elif name == "dis_fast":
            self.method, self.about = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST), "OpenCV DIS, fast"
        elif name == "farneback":
            self.method, self.about = cv2.FarnebackOpticalFlow.create(), "OpenCV Farneback"
        elif hasattr(cv2, "optflow"):
            self.method, self.about = cv2.optflow.createOptFlow_DualTVL1(), "OpenCV TV-L1"
        else:
            raise ValueError(
                "pack.flow tvl1 needs OpenCV's contrib build: pip install opencv-contrib-python-headless in place of "
                "opencv-python-headless."
            )

    def prepare(self, pixels: Pixels) -> Pixels:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)

    def flow(self, first: Pixels, second: Pixels) -> Flow:
        return np.asarray(self.method.calc(first, second, np.zeros((*first.shape, 2), np.float32)), np.float32)


class RaftFlow:
    """RAFT (Teed and Deng, ECCV 2020, arXiv 2003.12039) by torchvision, on a GPU where there is one.

    Args:
        size: `small` or `large`.
        weights: file of its weights.
    """

    def __init__(self, size: str, weights: str):
        import torch
        from torchvision.models import optical_flow

        from mmkd.models.weights import read_weights

        if not weights:
            raise ValueError(f"pack.flow raft_{size} needs a file of its weights: pack.flow_weights.")
        self.about = f"torchvision RAFT {size}"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = getattr(optical_flow, f"raft_{size}")(weights=None, progress=False)
        try:
            network.load_state_dict(read_weights(weights))
        except RuntimeError as error:
            raise ValueError(f"the weights in {weights} do not fit raft_{size}: {error}") from error
        self.network = network.eval().to(self.device)

    def prepare(self, pixels: Pixels) -> Any:
        import torch

        frame = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float().div(127.5).sub(1.0)
        # It wants sides that 8 divides, and at least 128.
        height, width = (max(128, -(-side // 8) * 8) - side for side in pixels.shape[:2])
        frame = torch.nn.functional.pad(frame[None], (0, width, 0, height), mode="replicate").to(self.device)
        return frame, pixels.shape[:2]

    def flow(self, first: Any, second: Any) -> Flow:
        import torch

        (one, (height, width)), (other, _) = first, second
        with torch.inference_mode():
            flow = self.network(one, other)[-1][0, :, :height, :width]
        return flow.permute(1, 2, 0).cpu().numpy()


@lru_cache(maxsize=4)
def make_flow(name: str, weights: str = "") -> FlowMethod | None:
    """The method of a name (pack.flow), of which a process makes one; None for `none`.

    Raises:
        ValueError: what it needs is not there.
    """
    if name == "none":
        return None
    return RaftFlow(name.removeprefix("raft_"), weights) if name.startswith("raft_") else OpenCVFlow(name)
