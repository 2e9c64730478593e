"""The page's tables: the comparison, the differences, and the teachers' competence."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mmkd.report.table import accuracy_text, head_order, interval_text, minus, nats, parameters_text, percent, signed


def comparison_table(rows: Sequence[Mapping[str, Any]], pair: tuple[str, str] | None) -> str:
    """Rows from `comparison`; the better of the pair is in bold, metric by metric."""
    heads = head_order(rows)
    groups = "".join(f'<th class="group start" colspan="3">{escape(head)}</th>' for head in heads)
    columns = '<th class="start">accuracy</th><th>ECE</th><th>NLL</th>' * len(heads)
    best = _best([row for row in rows if pair and row["name"] in pair], heads)
    body, before = [], None
    for row in rows:
        kind = row["name"].startswith("teacher")
        apart = ' class="apart"' if before and not kind else ""
        before = kind
        note = f'<span class="note">{escape(row["note"])}</span>' if row["note"] else ""
        name = f'<th class="first">{escape(row["name"])}{note}</th>'
        cells = "".join(_cells(row, head, best) for head in heads)
        size = parameters_text(row["parameters"])
        body.append(f'<tr{apart}>{name}{cells}<td class="start">{size}</td></tr>')
    return (
        f'<div class="scroll"><table class="wide"><thead>'
        f'<tr><th class="first"></th>{groups}<th class="start"></th></tr>'
        f'<tr><th class="first">model</th>{columns}<th class="start">parameters</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def gain_table(gain: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """A result of `difference`, with intervals."""
    body = "".join(
        f'<tr><th class="first">{escape(head)}</th>'
        + "".join(_change(entry[key], *shape) for key, shape in _SHAPES.items())
        + "</tr>"
        for head, entry in gain.items()
    )
    return (
        f'<div class="card scroll" style="margin: 14px 0"><table><thead><tr><th class="first">{escape(title)}</th>'
        f'<th class="start">accuracy, points</th><th>ECE, points</th><th>NLL, nats</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def competence_table(competence: Mapping[str, Any]) -> str:
    """Accuracy, ECE, cross-entropy and weight of each teacher in each head; `Competence.as_dict()`."""
    heads = list(competence["accuracy"])
    groups = "".join(f'<th class="group start" colspan="4">{escape(head)}</th>' for head in heads)
    columns = '<th class="start">accuracy</th><th>ECE</th><th>CE</th><th class="first">weight</th>' * len(heads)
    body = []
    for place, name in enumerate(competence["names"]):
        cells = "".join(
            f'<td class="start">{percent(competence["accuracy"][head][place])}</td>'
            f"<td>{percent(competence['ece'][head][place])}</td>"
            f"<td>{nats(competence['cross_entropy'][head][place])}</td>{_weight(competence['weight'][head][place])}"
            for head in heads
        )
        body.append(f'<tr><th class="first">{escape(name)}</th>{cells}</tr>')
    chance = "".join(
        f'<td class="start">{percent(competence["chance"][head])}</td><td>-</td><td>-</td><td></td>' for head in heads
    )
    body.append(f'<tr class="apart"><th class="first">commonest class</th>{chance}</tr>')
    counts = [n for head in heads for n in competence["count"][head]]
    low, high = min(counts), max(counts)
    clips = f"{high:,} clips" if low == high else f"{low:,} to {high:,} clips"
    return (
        f'<div class="scroll"><table class="wide"><thead><tr><th class="first">{clips}</th>{groups}</tr>'
        f'<tr><th class="first">teacher</th>{columns}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


_SHAPES = {"accuracy": (100, 1), "ece": (100, 1), "nll": (1, 2)}


def _best(rows: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> set[tuple[str, str, str]]:
    """(model, head, metric) to be printed in bold; what rounds to the same text is a tie and left plain."""
    best = set()
    for head in heads:
        metrics = {row["name"]: row["metrics"][head] for row in rows if head in row["metrics"]}
        for key, pick in (("accuracy", max), ("ece", min), ("nll", min)):
            values = {name: each[key] for name, each in metrics.items()}
            texts = {(nats if key == "nll" else percent)(value) for value in values.values()}
            if len(values) > 1 and len(texts) == len(values) and not np.isnan(list(values.values())).any():
                best.add((pick(values, key=lambda name: values[name]), head, key))
    return best


def _cells(row: Mapping[str, Any], head: str, best: Collection[tuple[str, str, str]]) -> str:
    if head not in row["metrics"]:
        return '<td class="start">-</td><td>-</td><td>-</td>'
    metrics, cells = row["metrics"][head], ""
    for key, text in (
        ("accuracy", accuracy_text(metrics)),
        ("ece", percent(metrics["ece"])),
        ("nll", nats(metrics["nll"])),
    ):
        said = f"<strong>{text}</strong>" if (row["name"], head, key) in best else text
        cells += f'<td class="start">{said}</td>' if key == "accuracy" else f"<td>{said}</td>"
    return cells


def _change(entry: Mapping[str, float], factor: float, decimals: int) -> str:
    change, interval = signed(factor * entry["difference"], decimals), interval_text(entry, factor, decimals)
    return f"<td><strong>{minus(change)}</strong> ({minus(interval)})</td>"


def _weight(weight: float) -> str:
    text = f"{weight:.2f}" if weight else "none"
    return f'<td class="first weight" style="--share: {100 * weight:.0f}%">{text}</td>'
