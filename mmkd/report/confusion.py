"""The picture of a confusion matrix."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mmkd.report.figures import COLOURS, INK, picture
from mmkd.report.mistakes import Counts

MOST_CLASSES = 25
"""With more classes the names and figures cannot be read."""
WRITTEN = 0.015
"""Smaller shares are coloured, without a figure."""
_RIGHT, _WRONG, _NO_CLIP = to_rgb(COLOURS["student"]), to_rgb(COLOURS["baseline"]), to_rgb("#ececec")
_PIXELS_AN_INCH = 96


def picture_width(classes: int) -> int:
    """The width at which a matrix's letters are as large as the page's notes, in CSS pixels."""
    return round(_PIXELS_AN_INCH * _size(classes)[0])


@picture(1, 1)
def confusion_matrix(figure: Figure, counts: Counts, names: Sequence[str]) -> None:
    """Share of each true class's clips (rows) that were said to be of each class (columns), in %.

    The diagonal, where the model was right, is blue, and all else orange. The number of clips stands behind the true
    class's name; the row of a class without clips is grey.
    """
    classes = len(names)
    figure.set_size_inches(*_size(classes))
    axes = figure.subplots()
    sizes = counts.sum(axis=1)
    shares = counts / np.maximum(sizes, 1)[:, None]
    # The root, so that a confusion of a few per cent is seen.
    depth = np.sqrt(shares)[:, :, None]
    full = np.where(np.eye(classes, dtype=bool)[:, :, None], _RIGHT, _WRONG)
    cells = 1 - depth * (1 - full)
    cells[sizes == 0] = _NO_CLIP
    edges = np.arange(classes + 1) - 0.5
    axes.pcolormesh(edges, edges, cells, edgecolors="#dddddd", linewidth=0.4)
    large, small = (9, 8) if classes <= 12 else (8, 6.5)
    for row, column in np.argwhere(shares >= WRITTEN):
        ink = "white" if depth[row, column] > 0.7 else INK
        said = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, said, ha="center", va="center", fontsize=small, color=ink)
    places = np.arange(classes)
    known = [f"{_short(name)} ({size:,})" for name, size in zip(names, sizes, strict=True)]
    axes.set_yticks(places, known, fontsize=large)
    axes.set_xticks(places, [_short(name) for name in names], fontsize=large, rotation=90)
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), xlabel="said", ylabel="true (clips)")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def _size(classes: int) -> tuple[float, float]:
    """Width and height of the picture, inches: names on two sides, and a cell for three digits of a class."""
    cells = max(classes, 4) * (0.32 if classes <= 12 else 0.26)
    return cells + 1.8, cells + 1.5


def _short(name: str) -> str:
    """A name of at most 20 letters with both its ends, since names of one data set often begin alike."""
    return name if len(name) <= 20 else f"{name[:10]}…{name[-9:]}"
