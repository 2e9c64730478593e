"""The comparison of models: one row each, differences of two with intervals, and a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmkd.metrics import binned_calibration_error, evaluate_heads, paired_difference
from mmkd.report.predictions import Outcomes, Predictions, outcomes

WIDTH = 120
NORMAL_95 = 1.959964
RESAMPLES = 1000


def comparison(predictions: Sequence[Predictions]) -> list[dict[str, Any]]:
    """One row a model: {name, parameters, note, metrics}, metrics as `evaluate_heads` returns them."""
    return [
        {
            "name": each.name,
            "parameters": each.parameters,
            "note": each.note,
            "metrics": evaluate_heads(each.logits, each.labels),
        }
        for each in predictions
    ]


def difference(a: Predictions, b: Predictions) -> dict[str, dict[str, Any]]:
    """a minus b on the same clips, paired by clip id, per head and for the action.

    The intervals say how far the figures depend on which clips were drawn; another training seed is not in them.

    Returns:
        head to {n, accuracy, nll, ece}; the last three are {difference, low, high}, low and high the bounds of the
        95 % interval: difference ± 1.96 paired standard errors for accuracy and nll, percentiles of a paired bootstrap
        over clips for ece. Accuracy and ece are shares (0..1). NaN where there are too few clips.

    Raises:
        ValueError: other clips, heads or labels.
    """
    order = rows_of_same_clips(a, b)
    ours, theirs = outcomes(a), {head: each.take(order) for head, each in outcomes(b).items()}
    result = {}
    for head in ours:
        rows = np.flatnonzero(ours[head].known)
        result[head] = _compared(ours[head].take(rows), theirs[head].take(rows))
    return result


def main_head(metrics: Mapping[str, Any]) -> str:
    """The head that a model is judged by: the action, or the only head."""
    return "action" if "action" in metrics else next(iter(metrics))


def format_table(rows: Sequence[Mapping[str, Any]], differences: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """A table of at most 120 columns for the terminal.

    Args:
        rows: from `comparison`.
        differences: what it is ("student - baseline") to a result of `difference`.
    """
    names = [shortened(row["name"], 24) for row in rows]
    left = max([len("model"), *map(len, names)])
    sizes = [parameters_text(row["parameters"]) for row in rows]
    heads = head_order(rows)
    at_once = max(1, (WIDTH - left - 9) // 27)
    lines = []
    for start in range(0, len(heads), at_once):
        block = heads[start : start + at_once]
        lines.append((" " * (left + 9) + "".join(f"   {shortened(head, 24):^24}" for head in block)).rstrip())
        lines.append(f"{'model':<{left}}{'params':>9}" + f"   {'accuracy':>10}  {'ECE':>5}  {'NLL':>5}" * len(block))
        for name, size, row in zip(names, sizes, rows, strict=True):
            cells = (_cells(row["metrics"].get(head)) for head in block)
            line = f"{name:<{left}}{size:>9}" + "".join(f"   {a:>10}  {e:>5}  {n:>5}" for a, e, n in cells)
            lines.append(line.rstrip())
        lines.append("")
    for title, heads_of in (differences or {}).items():
        for head in sorted(heads_of, key=lambda head: head != main_head(heads_of)):
            lines += _difference_lines(title, head, heads_of[head])
        lines.append("")
    return "\n".join(lines + _footnotes(rows))


def head_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The heads of all rows in the order they come, the action last."""
    seen = dict.fromkeys(head for row in rows for head in row["metrics"])
    return sorted(seen, key=lambda head: head == "action")


def clips_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """ "1,000 clips", or "480 to 1,000 clips" where models or heads differ."""
    counts = [metrics["n"] for row in rows for metrics in row["metrics"].values()]
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{high:,} clips" if low == high else f"{low:,} to {high:,} clips"


def parameters_text(count: int) -> str:
    """0.18 M, 27.9 M; small numbers in full; a dash for 0."""
    if count >= 5_000:
        return f"{count / 1e6:.2f} M" if count < 10_000_000 else f"{count / 1e6:.1f} M"
    return f"{count:,}" if count else "-"


def percent(share: float) -> str:
    """A share as a percentage without its sign, one decimal; a dash where there is none."""
    return "-" if np.isnan(share) else f"{100 * share:.1f}"


def nats(value: float) -> str:
    """Two decimals; a dash where there is none."""
    return "-" if np.isnan(value) else f"{value:.2f}"


def accuracy_text(metrics: Mapping[str, float]) -> str:
    """52.3 ±1.6"""
    if np.isnan(metrics["accuracy"]):
        return "-"
    return f"{percent(metrics['accuracy'])} ±{percent(metrics['standard_error'])}"


def signed(value: float, decimals: int) -> str:
    """With its sign, but +0.0 for what rounds to nothing."""
    return "-" if np.isnan(value) else f"{round(value, decimals) + 0.0:+.{decimals}f}"


def interval_text(entry: Mapping[str, float], factor: float, decimals: int) -> str:
    """-0.3 to +4.5"""
    return f"{signed(factor * entry['low'], decimals)} to {signed(factor * entry['high'], decimals)}"


def minus(text: str) -> str:
    """With true minus signs, which line up with plus signs, for the page."""
    return text.replace("-", "−")


def rows_of_same_clips(a: Predictions, b: Predictions) -> np.ndarray:
    """Rows of b in the order of a's clips."""
    place = {clip: row for row, clip in enumerate(b.clip_ids)}
    other = set(a.clip_ids) ^ set(b.clip_ids)
    if other:
        raise ValueError(
            f"{a.name!r} has {len(a.clip_ids)} clips and {b.name!r} {len(b.clip_ids)}, and {len(other)} of them are "
            f"in one only (such as {min(other)!r}); a difference needs both models on the same clips."
        )
    if set(a.logits) != set(b.logits):
        raise ValueError(f"{a.name!r} has heads {sorted(a.logits)} and {b.name!r} {sorted(b.logits)}; compare like.")
    order = np.array([place[clip] for clip in a.clip_ids], dtype=np.intp)
    for head, truth in a.labels.items():
        unlike = np.flatnonzero(truth != b.labels[head][order])
        if len(unlike):
            raise ValueError(
                f"{a.name!r} and {b.name!r} have other labels of head {head!r} in {len(unlike)} clips (such as "
                f"{a.clip_ids[unlike[0]]!r}); they were made from different data."
            )
    return order


def _compared(a: Outcomes, b: Outcomes) -> dict[str, Any]:
    n = len(a.known)
    if n < 2:
        nothing = {"difference": float("nan"), "low": float("nan"), "high": float("nan")}
        return {"n": n, "accuracy": nothing, "nll": nothing, "ece": nothing}
    return {
        "n": n,
        "accuracy": _normal_interval(*paired_difference(a.correct, b.correct)),
        "nll": _normal_interval(*paired_difference(a.nll, b.nll)),
        "ece": _bootstrap_ece(a, b),
    }


def _normal_interval(mean: float, error: float) -> dict[str, float]:
    return {"difference": mean, "low": mean - NORMAL_95 * error, "high": mean + NORMAL_95 * error}


def _bootstrap_ece(a: Outcomes, b: Outcomes) -> dict[str, float]:
    """Both models are judged on the same resampled clips, so that what makes a clip hard cancels."""

    def gap(rows: np.ndarray) -> float:
        first = binned_calibration_error(a.confidence[rows], a.correct[rows])
        return first - binned_calibration_error(b.confidence[rows], b.correct[rows])

    n, random = len(a.known), np.random.default_rng(0)
    drawn = [gap(random.integers(n, size=n)) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"difference": gap(np.arange(n)), "low": float(low), "high": float(high)}


def _cells(metrics: Mapping[str, float] | None) -> tuple[str, str, str]:
    if metrics is None:
        return "-", "-", "-"
    return accuracy_text(metrics), percent(metrics["ece"]), nats(metrics["nll"])


def _difference_lines(title: str, head: str, entry: Mapping[str, Any]) -> list[str]:
    accuracy, nll, ece = entry["accuracy"], entry["nll"], entry["ece"]
    return [
        f"{title}: {head} {signed(100 * accuracy['difference'], 1)} points "
        f"(95 % interval {interval_text(accuracy, 100, 1)})",
        f"    NLL {signed(nll['difference'], 2)} ({interval_text(nll, 1, 2)}), "
        f"ECE {signed(100 * ece['difference'], 1)} points ({interval_text(ece, 100, 1)})",
    ]


def _footnotes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{clips_text(rows)}. Accuracy in %, ± one standard error; ECE: expected calibration error in points;",
        "NLL: negative log-likelihood in nats. Intervals are over clips; other training seeds are not in them.",
    ]


def shortened(text: str, width: int) -> str:
    """Text of at most `width` letters, with an ellipsis where some are left out."""
    return text if len(text) <= width else text[: width - 1] + "…"
