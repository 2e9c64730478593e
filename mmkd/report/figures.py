"""The page's pictures: small SVG panels, each returned as a data: URI, drawn without pyplot's global state."""

import base64
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mmkd.metrics import binned_calibration_error, reliability
from mmkd.report.predictions import Outcomes
from mmkd.report.table import NORMAL_95, percent
from mmkd.storage import StrPath, write_bytes

# Okabe and Ito's palette, told apart with any kind of colour vision; teachers stay grey. The best trial of a sweep is
# violet, told apart from these and from viridis.
COLOURS = {"student": "#0072B2", "baseline": "#D55E00", "ensemble": "#009E73", "best": "#AA00FF"}
SPARE_COLOURS = ("#CC79A7", "#56B4E9", "#E69F00", "#000000")
TEACHER_COLOUR = "#767676"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK = "#333333"

STYLE: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "mmkd",  # the same data give the same file
    "text.parse_math": False,  # a name with a dollar sign is a name
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "legend.frameon": False,
}

Drawing = ParamSpec("Drawing")


@dataclass
class Curve:
    """The rows of a run's metrics.jsonl, under the name the run has in the report."""

    name: str
    rows: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row.get("kind") == kind]


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each model, the same in all pictures."""
    spare, result = 0, {}
    for name in dict.fromkeys(names):
        if name in COLOURS:
            result[name] = COLOURS[name]
        elif name.startswith("teacher"):
            result[name] = TEACHER_COLOUR
        else:
            result[name] = SPARE_COLOURS[spare % len(SPARE_COLOURS)]
            spare += 1
    return result


class Picture(Generic[Drawing]):
    """A function that draws on a figure of a given size; called without the figure, it returns a data: URI (SVG).

    Attributes:
        inches: width and height.
    """

    def __init__(self, draw: Callable[Concatenate[Figure, Drawing], None], width: float, height: float) -> None:
        self._draw, self.inches = draw, (width, height)
        functools.update_wrapper(self, draw)

    def __call__(self, *args: Drawing.args, **kwargs: Drawing.kwargs) -> str:
        return _data_uri("image/svg+xml", self._file("svg", {"Date": None}, *args, **kwargs))

    def png(self, path: StrPath, *args: Drawing.args, **kwargs: Drawing.kwargs) -> None:
        """Write the same drawing as a PNG file of 150 dots an inch, whole or not at all."""
        write_bytes(path, self._file("png", {"Software": None}, *args, **kwargs))

    def _file(self, kind: str, metadata: dict[str, Any], *args: Drawing.args, **kwargs: Drawing.kwargs) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=self.inches, layout="constrained")
            self._draw(figure, *args, **kwargs)
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
        return buffer.getvalue()


def picture(width: float, height: float) -> Callable[[Callable[Concatenate[Figure, Drawing], None]], Picture[Drawing]]:
    """Make a function that draws on a figure of width x height inches into a `Picture`."""
    return lambda draw: Picture(draw, width, height)


@picture(4.4, 3.0)
def accuracy_dots(figure: Figure, rows: Sequence[Mapping[str, Any]], head: str, chance: float | None) -> None:
    """Accuracy of each model in a head; thick bars are one standard error, thin ones a 95 % interval.

    Args:
        rows: from `comparison`; those without the head are left out.
        chance: share of the commonest class, drawn as a line.
    """
    rows = [row for row in rows if head in row["metrics"]]
    axes, colour = figure.subplots(), colours([row["name"] for row in rows])
    for place, row in enumerate(rows):
        middle, error = 100 * row["metrics"][head]["accuracy"], 100 * row["metrics"][head]["standard_error"]
        own = colour[row["name"]]
        axes.errorbar(middle, place, xerr=NORMAL_95 * error, color=own, linewidth=1)
        axes.errorbar(middle, place, xerr=error, color=own, linewidth=3.5, marker="o", markersize=6)
    if chance is not None:
        axes.axvline(100 * chance, color=INK, linestyle=":", linewidth=1)
        small_text(axes, "commonest class", (100 * chance, 0), (4, 5), rotation=90, va="top")
    axes.set_yticks(range(len(rows)), [row["name"][:26] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{head} accuracy (%)")
    axes.grid(axis="y", visible=False)


@picture(4.4, 3.0)
def accuracy_gain(figure: Figure, gain: Mapping[str, Mapping[str, Any]], title: str, colour: str) -> None:
    """Differences in accuracy with their 95 % intervals, from `difference`."""
    axes = figure.subplots()
    for place, entry in enumerate(gain.values()):
        middle, low, high = (100 * entry["accuracy"][key] for key in ("difference", "low", "high"))
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(middle, place, "o", color=colour, markersize=7)
        small_text(axes, f"{middle:+.1f}", (middle, place), (0, 8), ha="center")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(gain)), list(gain))
    axes.set_ylim(len(gain) - 0.4, -0.6)
    reach = max(abs(bound) for bound in (*axes.get_xlim(), 1.0))
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"{title}, accuracy (points)")
    axes.grid(axis="y", visible=False)


@picture(4.4, 3.0)
def training_curve(figure: Figure, curves: Sequence[Curve], key: str, label: str) -> None:
    """A figure of the `train` rows against the optimiser step; many points are drawn with their running mean."""
    axes, colour = figure.subplots(), colours([curve.name for curve in curves])
    top = 0.0
    for curve in curves:
        rows = [row for row in curve.of("train") if key in row]
        if not rows:
            continue
        steps, values = np.array([row["step"] for row in rows]), np.array([row[key] for row in rows], float)
        span = max(1, len(values) // 30)
        if span > 1:
            axes.plot(steps, values, color=colour[curve.name], linewidth=0.8, alpha=0.3)
        axes.plot(steps, _running_mean(values, span), color=colour[curve.name], linewidth=1.8, label=curve.name)
        finite = values[np.isfinite(values)]
        top = max(top, float(np.percentile(finite, 99.5)) if len(finite) else 0.0)
    axes.set_ylim(0, 1.08 * top or 1.0)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(label)
    axes.legend()


@picture(4.4, 3.0)
def validation_curve(figure: Figure, curves: Sequence[Curve], head: str) -> None:
    """Validation accuracy of a head after each epoch, or the mean average precision of a multi-label one; the epoch
    with the best score is ringed."""
    axes, colour = figure.subplots(), colours([curve.name for curve in curves])
    for marker, curve in zip(MARKERS * len(curves), curves, strict=False):
        rows = [row for row in curve.of("epoch") if head in row["val"]]
        if not rows:
            continue
        epochs = [row["epoch"] for row in rows]
        measure = "accuracy" if "accuracy" in rows[0]["val"][head] else "mean_average_precision"
        values = [100 * row["val"][head][measure] for row in rows]
        axes.set_ylabel(f"{head}, validation {measure.replace('_', ' ')} (%)")
        own = colour[curve.name]
        axes.plot(epochs, values, color=own, marker=marker, markersize=4, linewidth=1.8, label=curve.name)
        best = max(range(len(rows)), key=lambda i: rows[i]["score"])
        ring(axes, epochs[best], values[best], own)
    epoch_axes(axes)
    axes.legend(loc="lower right")


@picture(3.4, 3.9)
def reliability_diagram(figure: Figure, name: str, result: Outcomes) -> None:
    """Accuracy of each bin of confidence against the confidence itself, over a histogram of the confidence."""
    confidence, correct = result.confidence[result.known], result.correct[result.known]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    draw_reliability(upper, lower, confidence, correct, colours([name])[name])
    upper.set(ylabel="accuracy (%)")
    upper.set_title(f"{name[:22]}: ECE {percent(binned_calibration_error(confidence, correct))} points")
    lower.set(xlabel="confidence (%)", ylabel="clips (%)")


def draw_reliability(
    upper: Axes, lower: Axes, confidence: NDArray[np.float64], correct: NDArray[np.bool_], colour: str
) -> None:
    """Draw both parts of a reliability diagram; confidence and correct are [n].

    The bins are those of the calibration error (15 of equal width), so the picture shows what the figure measures.
    """
    bins = reliability(confidence, correct)
    edges = np.linspace(0, 100, len(bins["count"]) + 1)
    left, width, filled = edges[:-1], edges[1] - edges[0], bins["count"] > 0
    accuracy, said = 100 * bins["accuracy"], 100 * bins["confidence"]
    upper.bar(left[filled], accuracy[filled], width, align="edge", color=colour, alpha=0.75, edgecolor="white")
    upper.bar(
        left[filled], (said - accuracy)[filled], width, bottom=accuracy[filled], align="edge", color="none",
        edgecolor=INK, hatch="////", linewidth=0.6,
    )  # fmt: skip
    upper.plot([0, 100], [0, 100], color=INK, linestyle="--", linewidth=1)
    upper.set(xlim=(0, 100), ylim=(0, 100))
    share = 100 * bins["count"] / max(bins["count"].sum(), 1)
    lower.bar(left, share, width, align="edge", color=colour, alpha=0.75, edgecolor="white")
    lower.yaxis.set_major_locator(MaxNLocator(2))
    mean = float(100 * confidence.mean())
    lower.axvline(mean, color=INK, linewidth=1)
    beside: dict[str, Any] = {"ha": "right" if mean > 80 else "left", "va": "top"}
    small_text(lower, "mean", (mean, 1), (-4 if mean > 80 else 4, -2), xycoords=("data", "axes fraction"), **beside)


def frame_image(frame: NDArray[np.uint8]) -> str:
    """A frame, [height, width, 3], as a JPEG data: URI."""
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(frame), format="jpeg", pil_kwargs={"quality": 88})
    return _data_uri("image/jpeg", buffer.getvalue())


def small_text(axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], **how: Any) -> None:
    """Small text on a white ground, `offset` points away from a place."""
    ground = {"color": "white", "pad": 0.6, "alpha": 0.8}
    axes.annotate(text, place, offset, textcoords="offset points", fontsize=8, bbox=ground, **how)


def ring(axes: Axes, x: float, y: float, colour: str) -> None:
    """A ring around a point of a curve, above all curves."""
    axes.plot(x, y, "o", color=colour, markersize=11, fillstyle="none", markeredgewidth=1.5, zorder=4)


def epoch_axes(axes: Axes) -> None:
    """Whole epochs below; at the side from 0 to so far above what was drawn that a ring at the top is whole."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.update_datalim([(0, 0)], updatex=False)
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)


def _running_mean(values: NDArray[np.float64], span: int) -> NDArray[np.float64]:
    """Mean of up to `span` values before and after; [n] to [n]."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    middle = np.arange(len(values))
    low, high = np.maximum(middle - span, 0), np.minimum(middle + span + 1, len(values))
    return values if span == 1 else (sums[high] - sums[low]) / (high - low)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
