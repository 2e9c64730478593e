"""Mixing two clips of one view number, the same in every modality."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mmkd.views.view import Mix

Columns = dict[str, NDArray]


def mix_frames(own: NDArray[np.uint8], other: NDArray[np.uint8], mix: Mix) -> NDArray[np.uint8]:
    """RGB or flow frames [frames, size, size, channels] blended by share, or with the rectangle of the other clip."""
    if mix.box is None:
        flat = own.reshape(len(own), -1), other.reshape(len(other), -1)
        return np.asarray(cv2.addWeighted(flat[0], mix.share, flat[1], 1 - mix.share, 0.0), np.uint8).reshape(own.shape)
    size = own.shape[1]
    left, top, right, bottom = (round(edge * size) for edge in mix.box)
    out = own.copy()
    out[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return out


def mix_sound(own: NDArray[np.int16], other: NDArray[np.int16], mix: Mix) -> NDArray[np.int16]:
    """Sound windows blended by share, as a rectangle means nothing to them."""
    return np.round(mix.share * own + (1 - mix.share) * other).astype(np.int16)


def mix_boxes(own: Columns, other: Columns, mix: Mix) -> Columns:
    """Boxes of both clips: where they are blended, all of them with their scores times their clip's share; else one's
    own whose centre is outside the rectangle, and the other's whose centre is in it. The best by score are kept.

    Args:
        own, other: columns `boxes/boxes`, `boxes/score`, ... of :func:`mmkd.views.boxes.view_boxes`.
    """
    number = own["boxes/score"].shape[1]
    both = {name.removeprefix("boxes/"): np.concatenate([own[name], other[name]], axis=1) for name in own}
    first = np.arange(2 * number) < number
    if mix.box is None:
        both["score"] = both["score"] * np.where(first, mix.share, 1 - mix.share).astype(np.float32)
        kept = both["category"] > 0
    else:
        left, top, right, bottom = mix.box
        x, y = both["boxes"][..., [0, 2]].mean(axis=-1), both["boxes"][..., [1, 3]].mean(axis=-1)
        inside = (left <= x) & (x < right) & (top <= y) & (y < bottom)
        kept = (both["category"] > 0) & (inside != first)
    order = np.argsort(np.where(kept, -both["score"], np.inf), axis=1, kind="stable")[:, :number]
    out = {}
    for name, values in both.items():
        index = order.reshape(*order.shape, *[1] * (values.ndim - 2))
        mask = np.take_along_axis(kept, order, axis=1).reshape(index.shape)
        out[f"boxes/{name}"] = np.where(mask, np.take_along_axis(values, index, axis=1), 0).astype(values.dtype)
    return out
