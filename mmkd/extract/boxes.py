"""Boxes by a torchvision detector with the user's own weights, where a source has none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmkd.sources.clip import BOX_DTYPE, CORNERS, HAND, OBJECT


class TorchvisionDetector:
    """A detector of torchvision's, on a GPU where there is one.

    With three classes (background, object, hand) its labels are the categories of boxes; with any other number, all
    that it finds are objects.

    Args:
        arch: a name of torchvision's detection models, e.g. fasterrcnn_resnet50_fpn.
        weights: file of its weights; how many classes it has is read from them.

    Raises:
        ValueError: there is no such detector, or the weights do not fit it.
    """

    def __init__(self, arch: str, weights: str):
        import torch
        from torchvision.models import detection, list_models

        from mmkd.models.weights import read_weights

        names = list_models(module=detection)
        if arch not in names:
            raise ValueError(f"pack.detector is {arch!r}; torchvision has {', '.join(names)}.")
        if not weights:
            raise ValueError(f"pack.detector {arch} needs a file of its weights: pack.detector_weights.")
        state = read_weights(weights)
        score = next((value for name, value in state.items() if name.endswith("cls_score.bias")), None)
        self.classes = len(score) if score is not None else 91
        make = getattr(detection, arch)
        network = make(weights=None, weights_backbone=None, num_classes=self.classes, progress=False)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"the weights in {weights} do not fit {arch}: {error}") from error
        self.about = f"torchvision {arch}"
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.eval().to(self.device)

    def boxes(self, pixels: NDArray[np.uint8]) -> NDArray:
        """Boxes of a frame, uint8 RGB [height, width, 3]: an array of BOX_DTYPE, corners as shares of the frame."""
        import torch

        height, width = pixels.shape[:2]
        frame = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float().div(255).to(self.device)
        with torch.inference_mode():
            found = {name: value.cpu().numpy() for name, value in self.network([frame])[0].items()}
        out = np.zeros(len(found["scores"]), BOX_DTYPE)
        for name, column, side in zip(CORNERS, found["boxes"].T, (width, height) * 2, strict=True):
            out[name] = np.clip(column / side, 0, 1)
        out["score"] = found["scores"]
        out["category"] = np.where((self.classes == 3) & (found["labels"] == HAND), HAND, OBJECT)
        out["side"] = out["state"] = -1
        return out
