"""RGB and flow frames of a view."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mmkd.views.view import View, crop_square

Frames = NDArray[np.uint8]
GRAY = np.array([0.299, 0.587, 0.114])


def view_frames(frames: Sequence[Frames], view: View, size: int) -> Frames:
    """Cut and resize frames [height, width, channels] to uint8 [frames, size, size, channels]."""
    height, width, channels = frames[0].shape
    x, y, side = crop_square(view, height, width)
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    out = np.empty((len(frames), size, size, channels), np.uint8)
    for target, frame in zip(out, frames, strict=True):
        cv2.resize(frame[y : y + side, x : x + side], (size, size), dst=target, interpolation=how)
    return np.ascontiguousarray(out[:, :, ::-1]) if view.flip else out


def view_rgb(frames: Sequence[Frames], view: View, size: int) -> Frames:
    """RGB frames of a view: cut, resized, jittered and augmented, uint8 [frames, size, size, 3]."""
    out = jittered(view_frames(frames, view, size), view)
    return augmented(out, view) if view.operations else out


def jittered(out: Frames, view: View) -> Frames:
    """Colours of [frames, height, width, 3] changed by the view's jitter, by one matrix."""
    brightness, contrast, saturation, hue = view.jitter
    width = out.shape[2]
    if view.jitter == (1.0, 1.0, 1.0, 0.0):
        return out
    mean = float(np.array(cv2.mean(out.reshape(-1, width, 3))[:3]) @ GRAY) * brightness
    gray = np.tile(GRAY, (3, 1))
    matrix = _turn_hue(hue) @ (gray + saturation * (np.eye(3) - gray)) * (brightness * contrast)
    affine = np.hstack([matrix, np.full((3, 1), mean * (1 - contrast))])
    return np.asarray(cv2.transform(out.reshape(-1, width, 3), affine), np.uint8).reshape(out.shape)


def augmented(frames: Frames, view: View) -> Frames:
    """RandAugment's operations of the view (Cubuk et al., 2019, arXiv 1909.13719) by torchvision, each with one amount
    and one statistic for the whole clip: uint8 [frames, height, width, 3], as given."""
    import torch
    from torchvision.transforms.v2 import functional as F

    number, height, width, _ = frames.shape
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    for name, amount in view.operations:
        if name in ("contrast", "autocontrast", "equalize"):
            tall = x.permute(1, 0, 2, 3).reshape(3, number * height, width)
            if name == "contrast":
                tall = F.adjust_contrast(tall, 1 + 0.9 * amount)
            else:
                tall = F.autocontrast(tall) if name == "autocontrast" else F.equalize(tall)
            x = tall.reshape(3, number, height, width).permute(1, 0, 2, 3)
        elif name == "posterize":
            x = F.posterize(x, 8 - round(4 * abs(amount)))
        elif name == "solarize":
            x = F.solarize(x, 255 * (1 - abs(amount)))
        else:
            change = {"brightness": F.adjust_brightness, "color": F.adjust_saturation, "sharpness": F.adjust_sharpness}
            x = change[name](x, 1 + 0.9 * amount)
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())


def view_flow(frames: Sequence[Frames], view: View, size: int, jitter: bool = False) -> Frames:
    """Flow frames of a view, from u and v in the first two channels; uint8 [frames, size, size, 2].

    A mirrored view has u negated: 255 - u, as 0 to 255 stand for -bound to bound. With `jitter` the view's colour
    jitter is applied to (u, v, third channel) as to an image.
    """
    out = view_frames(frames, view, size)
    if jitter:
        out = jittered(out, view)
    out = np.ascontiguousarray(out[..., :2])
    if view.flip:
        out[..., 0] = 255 - out[..., 0]
    return out


def _turn_hue(turn: float) -> NDArray[np.float64]:
    """Rotation of RGB about the gray axis that keeps the luma (as in YIQ)."""
    to_yiq = np.array([GRAY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    c, s = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
    return np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ to_yiq
