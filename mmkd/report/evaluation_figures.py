"""The pictures of an evaluation's page."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmkd.evaluation.scores import Evaluation, ModelScores
from mmkd.report.evaluation_text import cost_of, measure_key, measure_name
from mmkd.report.figures import MARKERS, colours, draw_reliability, picture
from mmkd.report.predictions import Outcomes
from mmkd.report.study_axes import log_axis, mean
from mmkd.report.table import shortened

GREY = "#767676"


@picture(6.4, 4.2)
def accuracy_views(figure: Figure, evaluation: Evaluation, models: Sequence[ModelScores], head: str) -> None:
    """What more test views give, against GFLOPs (or views where the cost of a model is not known): a line a model,
    through the means of grids of as many views; hollow: grids of more than one view in space."""
    axes, colour = figure.subplots(), colours([model.name for model in models])
    costs = {each.name: cost.gflops for each in models if (cost := cost_of(evaluation, each)) and cost.gflops}
    counted = len(costs) == len(models)
    handles, spaces = [], set()
    for marker, model in zip(MARKERS * len(models), models, strict=False):
        own, at = colour[model.name], dict[float, list[float]]()
        how: dict[str, Any] = {"color": own, "marker": marker, "markersize": 6.5, "markeredgewidth": 1.4}
        for (clips, crops), share in _shares(model, head).items():
            takes = clips * crops * (costs[model.name] if counted else 1)
            at.setdefault(takes, []).append(100 * share)
            axes.plot(takes, 100 * share, **how, markerfacecolor=own if crops == 1 else "white", zorder=3)
            spaces.add(crops > 1)
        axes.plot(sorted(at), [mean(values) for _, values in sorted(at.items())], color=own, linewidth=1.6)
        handles.append(Line2D([], [], **how, linewidth=1.6, label=shortened(model.name, 26)))
    if len(spaces) > 1:
        for inside, text in ((GREY, "1 view in space"), ("white", "more views in space")):
            how = {"color": GREY, "marker": "o", "markerfacecolor": inside, "linestyle": "none"}
            handles.append(Line2D([], [], **how, label=text))
    log_axis(axes, "GFLOPs for one clip (views × GFLOPs of a view)" if counted else "views of one clip")
    axes.margins(x=0.1, y=0.1)
    axes.set_ylabel(f"{head} {measure_name(evaluation, head)} (%)")
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=1.2)


def _shares(model: ModelScores, head: str) -> Mapping[tuple[int, int], float]:
    """(views in time, views in space) to accuracy, or mean average precision; grids without one are left out."""
    found = {}
    for grid, of in model.grids.items():
        clips, crops = (int(part) for part in grid.split("x"))
        share = of[head].get(measure_key(of[head]))
        if share is not None:
            found[clips, crops] = float(share)
    return found


@picture(3.4, 3.9)
def reliability_panel(figure: Figure, title: str, result: Outcomes, colour: str) -> None:
    """Accuracy of each bin of confidence against the confidence itself, over a histogram of the confidence."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    draw_reliability(upper, lower, result.confidence[result.known], result.correct[result.known], colour)
    upper.set(ylabel="accuracy (%)", title=title)
    lower.set(xlabel="confidence (%)", ylabel="clips (%)")
