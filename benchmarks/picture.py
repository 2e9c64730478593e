"""One picture of what the benchmarks found; see run.py."""

from collections.abc import Callable
from pathlib import Path
from statistics import median

from common import Facts
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, OTHERS, SOFT = "#0072B2", "#9aa5ae", "#5b656e"


def draw(found: dict[str, Facts], path: Path) -> None:
    """Write a PNG with a panel for each part that there is a picture of."""
    panels: dict[str, Callable[[Axes, Facts], None]] = {
        "live": live,
        "live-large": live,
        "start": start,
        "memory": memory,
        "scale": scale,
    }
    there = [part for part in panels if part in found and found[part].get("over_plain", True)]
    if not there:
        return
    figure = Figure(figsize=(6.4 * min(2, len(there)), 3.6 * -(-len(there) // 2)), layout="constrained", dpi=110)
    for number, part in enumerate(there, start=1):
        axes = figure.add_subplot(-(-len(there) // 2), min(2, len(there)), number)
        axes.spines[["top", "right"]].set_visible(False)
        panels[part](axes, found[part])
    figure.savefig(path)


def live(axes: Axes, facts: Facts) -> None:
    ratios = dict(facts["over_plain"])
    limit = median(ratios.pop("stages", [0.0]))
    middle = [median(values) for values in ratios.values()]
    spread = [
        [value - min(values) for value, values in zip(middle, ratios.values(), strict=True)],
        [max(values) - value for value, values in zip(middle, ratios.values(), strict=True)],
    ]
    colours = [OTHERS if side.startswith("plain") else OURS for side in ratios]
    axes.bar(list(ratios), middle, yerr=spread, color=colours, ecolor=SOFT, capsize=3)
    axes.axhline(1, color=OTHERS, linewidth=1)
    if limit:
        axes.axhline(limit, color=SOFT, linestyle="--", linewidth=1)
        text = "limit: the stages over the cores"
        axes.annotate(text, (0, limit), xytext=(0, 3), textcoords="offset points", color=SOFT, fontsize=8)
    axes.set_ylim(0, 1.15 * max(limit, *map(max, ratios.values())))
    axes.set_title(f"Live distillation, {facts['size']}: clips/s over those of the better plain loop")


def start(axes: Axes, facts: Facts) -> None:
    seconds = {name: part["median"] for name, part in facts["parts"].items()}
    smallest = next(each["median"] for each in facts["figures"] if each["what"].startswith("Ray's own"))
    before = 0.0
    for name, until in seconds.items():
        axes.barh("distill", until - before, left=before, label=f"{name}: {until:.0f} s", edgecolor="white")
        before = until
    axes.barh("Ray's own\nsmallest training", smallest, color=OTHERS)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    axes.set_title("From the command to the first step, s")


def memory(axes: Axes, facts: Facts) -> None:
    sizes = facts["sizes"]
    at = [f"{size['times']} x" for size in sizes]
    axes.plot(at, [size["peak_mb"] / 1000 for size in sizes], color=OURS, marker="o", label="all processes")
    axes.plot(at, [size["store_peak_mb"] / 1000 for size in sizes], color=OTHERS, marker="o", label="object store")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.set_title("Peak memory by amount of data, GB")


def scale(axes: Axes, facts: Facts) -> None:
    busy = {
        "teachers are slower:\npool": ("teachers", "pool_busy"),
        "with stragglers:\npool": ("stragglers", "pool_busy"),
        "students are slower:\nstudents": ("students", "students_busy"),
    }
    there = {name: facts["parts"][part][key] for name, (part, key) in busy.items() if part in facts["parts"]}
    bars = axes.bar(list(there), [100 * share for share in there.values()], color=OURS)
    axes.bar_label(bars, fmt="%.0f %%")
    axes.set_ylim(0, 110)
    axes.set_title("Simulated: share of time at work, %")
