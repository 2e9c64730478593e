"""Example clips on the page: a clip's frames, its true classes, and what each model said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from mmkd.metrics import softmax
from mmkd.report.figures import frame_image
from mmkd.report.predictions import Predictions

MAX_FRAMES = 8
MAX_SIDE = 192
"""Pixels; a frame is shown about as large, and a page with larger ones would be heavy."""
_SIGNS = {True: '<span class="right">✓</span>&nbsp;', False: '<span class="wrong">✗</span>&nbsp;', None: ""}
_MARKS = {
    True: '<span class="right">✓ right</span>',
    False: '<span class="wrong">✗ wrong</span>',
    None: '<span class="soft">label unknown</span>',
}


@dataclass
class Strip:
    """Example frames of a clip: frames uint8 [frames, height, width, 3]; up to 8 of them are shown."""

    clip_id: str
    frames: NDArray[np.uint8]


def strip_card(strip: Strip, predictions: Sequence[Predictions], heads: Mapping[str, Sequence[str]]) -> str:
    """HTML of one clip. Models that were not given the clip are left out.

    Args:
        heads: class names; a prediction must have the heads in its logits among them.
    """
    answered = [(each, each.clip_ids.index(strip.clip_id)) for each in predictions if strip.clip_id in each.clip_ids]
    truth = "not in the predictions"
    if answered:
        first, row = answered[0]
        truth = " · ".join(_class(heads[head], labels[row]) for head, labels in first.labels.items())
    shown = list(dict.fromkeys(head for each, _ in answered for head in each.logits))
    table = ""
    if answered:
        names = "".join(f'<th class="first">{escape(head)}</th>' for head in shown)
        together = '<th class="first">action</th>' if len(shown) > 1 else ""
        body = "".join(_answer(each, row, shown, heads) for each, row in answered)
        table = (
            f'<div class="scroll"><table><thead><tr><th class="first">model</th>{names}'
            f"{together}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    kept = np.unique(np.linspace(0, len(strip.frames) - 1, min(len(strip.frames), MAX_FRAMES)).round().astype(int))
    pictures = "".join(
        f'<img src="{frame_image(_shrunk(strip.frames[i]))}" alt="frame {i + 1} of {len(strip.frames)}">' for i in kept
    )
    return (
        f'<article class="card strip"><h3>{truth}<span class="soft">{escape(strip.clip_id)}</span></h3>'
        f'<div class="frames">{pictures}</div>{table}</article>'
    )


def _answer(one: Predictions, row: int, shown: Sequence[str], heads: Mapping[str, Sequence[str]]) -> str:
    """One model's row: the chosen class of each head with its probability, and whether it is right, in words too."""
    cells, together = [], 1.0
    marks: list[bool | None] = []
    for head in shown:
        if head not in one.logits:
            cells.append('<td class="first">-</td>')
            continue
        probability = softmax(one.logits[head][row])
        guess, label = int(probability.argmax()), int(one.labels[head][row])
        together *= float(probability[guess])
        right = None if label < 0 else guess == label
        marks.append(right)
        name = _class(heads[head], guess)
        sign = _SIGNS[right] if len(shown) > 1 else _MARKS[right] + " "
        share = _share(float(probability[guess]))
        cells.append(f'<td class="first">{sign}{name} <span class="soft">{share}</span></td>')
    if len(shown) > 1:
        verdict = _MARKS[False if False in marks else None if None in marks else True]
        cells.append(f'<td class="first">{verdict} <span class="soft">{_share(together)}</span></td>')
    return f'<tr><th class="first">{escape(one.name)}</th>{"".join(cells)}</tr>'


def _shrunk(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame, [height, width, 3], with sides of at most MAX_SIDE."""
    scale = MAX_SIDE / max(frame.shape[:2])
    if scale >= 1:
        return frame
    size = tuple(max(1, round(scale * side)) for side in frame.shape[1::-1])
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA), np.uint8)


def _class(names: Sequence[str], label: int) -> str:
    return escape(names[label]) if label >= 0 else "unknown"


def _share(probability: float) -> str:
    return f"{100 * probability:.0f}&nbsp;%"
