"""Hand and object boxes of a view, and the repair of boxes in pixels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd.views.view import View, crop_square

BOX_COLUMNS = ("boxes", "category", "score", "side", "state")
"""What :func:`view_boxes` makes."""


def repair_box(box: Sequence[float], width: int, height: int) -> list[int]:
    """Repair a box in pixels as the authors' code does, so that it is inside the frame and has an area.

    Corners are cut to integers of at least 0 and swapped where an end lies before its start; what lies at or past the
    frame's edge moves to the last pixel; an empty side becomes 0 to 1 at the left or top edge and elsewhere starts one
    pixel earlier.

    Args:
        box: x1, y1, x2, y2.
        width, height: of the frame.
    """
    x1, y1, x2, y2 = (max(0, int(value)) for value in box)
    return [a for pair in zip(_repair_side(x1, x2, width), _repair_side(y1, y2, height), strict=True) for a in pair]


def _repair_side(start: int, end: int, size: int) -> tuple[int, int]:
    start, end = min(start, end, size - 1), min(max(start, end), size - 1)
    if start == end == 0:
        return 0, 1
    return (start - 1, end) if start == end else (start, end)


def view_boxes(
    frames: Sequence[list[dict[str, float]]],
    view: View,
    shape: tuple[int, int],
    limit: int,
    *,
    min_score: float = 0.0,
    whole_frame: bool = False,
) -> dict[str, NDArray]:
    """Boxes of a view: the best `limit` a frame by score, moved with the crop; those outside it are left out.

    Args:
        frames: boxes of each sampled frame, corners as shares of the frame.
        shape: height and width of the frames that the crop refers to, pixels.
        min_score: boxes below it are left out.
        whole_frame: boxes stay where they are in the whole frame, whatever the crop; a flip still mirrors them.

    Returns:
        `boxes` float32 [frames, limit, 4] as shares of the crop, `score` float32, `category`, `side`, `state` int8
        [frames, limit]; category 0 is padding, side and state are shifted by one so that 0 is none.

    Raises:
        ValueError: a corner or a score is not finite.
    """
    height, width = shape
    x, y, side = crop_square(view, height, width)
    offset, extent = np.array([x, y, x, y]) / side, np.array([width, height, width, height]) / side
    if whole_frame:
        offset, extent = np.zeros(4), np.ones(4)
    out: dict[str, NDArray] = {
        "boxes": np.zeros((len(frames), limit, 4), np.float32),
        "score": np.zeros((len(frames), limit), np.float32),
        **{name: np.zeros((len(frames), limit), np.int8) for name in ("category", "side", "state")},
    }
    for number, boxes in enumerate(frames):
        corners = np.array([[b["x1"], b["y1"], b["x2"], b["y2"], b["score"]] for b in boxes]).reshape(-1, 5)
        if not np.isfinite(corners).all():
            raise ValueError("a box is not finite")
        moved = np.clip(corners[:, :4] * extent - offset, 0.0, 1.0)
        inside = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        seen = np.flatnonzero(inside & (corners[:, 4] >= min_score))
        best = seen[np.argsort(-corners[seen, 4], kind="stable")][:limit]
        n = len(best)
        kept = moved[best]
        out["boxes"][number, :n] = kept if not view.flip else (kept * [-1, 1, -1, 1] + [1, 0, 1, 0])[:, [2, 1, 0, 3]]
        out["score"][number, :n] = corners[best, 4]
        sides = np.array([boxes[i]["side"] for i in best], np.int8)
        out["side"][number, :n] = (np.where(sides >= 0, 1 - sides, sides) if view.flip else sides) + 1
        out["category"][number, :n] = [boxes[i]["category"] for i in best]
        out["state"][number, :n] = [boxes[i]["state"] + 1 for i in best]
    return out
