"""The tables of a study's report: the students, all measures of all heads, and what the networks cost."""

import math
from collections.abc import Sequence
from html import escape

from mmkd.cost.record import Cost
from mmkd.report.study_axes import GROUPS, contrast_of, head_of, is_student
from mmkd.report.table import minus, nats, parameters_text, percent, signed
from mmkd.study.results import Arm, Contrast, Interval, Summary

NOTHING = math.nan
NAMED, APART = '<tr class="named">', '<tr class="apart">'


def students_table(summaries: Sequence[Summary], contrasts: Sequence[Contrast]) -> str:
    """An arm a row: those named before the study in bold, the exploratory ones by group, then what is no student."""
    main = head_of(summaries)
    heads = [main, *(head for head in dict.fromkeys(head for each in summaries for head in each.heads) if head != main)]
    unseen = any(main in each.unseen for each in summaries)
    scaled = any(math.isfinite(_of(each, main, "scaled_ece")) for each in summaries)
    groups = [("accuracy", heads), ("difference", ["points"]), (main, ["ECE", "NLL", "Brier"])]
    groups += [(f"{main}, scaled", ["ECE", "NLL"])] * scaled + [("unseen", [main])] * unseen
    columns, body = 2 + sum(len(names) for _, names in groups), ""
    before: tuple[str, str] = ("", "")
    for summary in sorted(summaries, key=lambda each: (not is_student(each.arm), each.arm.exploratory)):
        heading = _heading(summary.arm, summaries)
        for kind, text, last in zip(("apart", "sub"), heading, before, strict=True):
            if text and (text != last or heading[0] != before[0]):
                span = f'<th class="first" colspan="{columns}"><span>{escape(text)}</span></th>'
                body += f'<tr class="{kind}">{span}</tr>'
        before = heading
        accuracies = [percent(_of(summary, head, "accuracy")) for head in heads]
        accuracies[0] += _spread(summary, main)
        cells = [[str(len(summary.seeds))], accuracies, [_difference(summary.arm, contrasts, main)]]
        cells += [
            [_floored(summary, main, "ece"), nats(_of(summary, main, "nll")), _small(_of(summary, main, "brier"))]
        ]
        cells += [[_floored(summary, main, "scaled_ece"), nats(_of(summary, main, "scaled_nll"))]] * scaled
        cells += [[percent(summary.unseen.get(main, {}).get("accuracy", NOTHING))]] * unseen
        name = f'{escape(summary.arm.title)}<span class="note">{escape(summary.arm.name)}</span>'
        body += f"{'<tr>' if summary.arm.exploratory else NAMED}{_line(name, cells)}</tr>"
    top = "".join(f'<th class="group start" colspan="{len(names)}">{escape(title)}</th>' for title, names in groups)
    below = _grouped([[escape(name) for name in names] for _, names in groups], "th")
    return (
        '<div class="scroll"><table class="wide students"><thead>'
        f'<tr><th class="first"></th><th></th>{top}</tr><tr><th class="first">arm</th><th>seeds</th>{below}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def heads_table(summaries: Sequence[Summary]) -> str:
    """All measures of each head of each arm."""
    texts = {
        "accuracy": percent, "top5": percent, "mean_class": percent, "ece": percent, "ece_floor": percent, "nll": nats,
        "brier": _small, "temperature": nats, "scaled_ece": percent, "scaled_ece_floor": percent, "scaled_nll": nats,
        "scaled_brier": _small,
    }  # fmt: skip
    names = [name.replace("_", " ").replace("ece", "ECE").replace("nll", "NLL") for name in texts]
    body = ""
    for summary in summaries:
        for at, (head, own) in enumerate(summary.heads.items()):
            cells = [escape(head), *(text(own.get(name, NOTHING)) for name, text in texts.items())]
            line = _line(escape(summary.arm.name), [[*cells, f"{own.get('n', 0):,.0f}"]])
            body += f"{'<tr>' if at else APART}{line}</tr>"
    return _table("arm", ["head", *names, "clips"], body)


def costs_table(costs: Sequence[Cost]) -> str:
    body = ""
    for cost in costs:
        cells = [parameters_text(cost.parameters), f"{cost.gflops:.3g}", f"{cost.latency_ms:,.1f}"]
        cells += [f"{cost.clips_per_second:,.0f}", "-" if math.isnan(cost.peak_mb) else f"{cost.peak_mb:,.0f}"]
        parts = ", ".join(f"{name} {ms:.1f} ms" for name, ms in cost.parts.items())
        body += f'<tr>{_line(escape(cost.name), [cells])}<td class="first">{escape(parts)}</td></tr>'
    names = ["parameters", "GFLOPs", "latency, ms", "views/s", "peak memory, MB", "besides the network's layers"]
    return _table("network", names, body)


def interval_words(interval: Interval, factor: float, decimals: int) -> tuple[str, str]:
    """A difference and its interval, "+8.1" and "+5.0 to +11.2", with true minus signs; dashes where there is none."""
    values = (signed(factor * each, decimals) for each in (interval.difference, interval.low, interval.high))
    middle, low, high = (minus(text) for text in values)
    return middle, f"{low} to {high}"


def _table(first: str, names: Sequence[str], body: str) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in names)
    return (
        f'<div class="scroll"><table class="wide"><thead><tr><th class="first">{first}</th>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _heading(arm: Arm, summaries: Sequence[Summary]) -> tuple[str, str]:
    """What an arm stands below, in the large and in the small."""
    group = GROUPS.get(arm.group, arm.group)
    if not is_student(arm):
        return "No students, for comparison (seeds: sets of teachers)", group
    if not arm.exploratory:
        return "Named before the study was run", ""
    counts = {len(each.seeds) for each in summaries if each.arm.exploratory and is_student(each.arm)}
    few = (
        f"{min(counts)} seed{'s' * (min(counts) > 1)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"
    )
    return f"Exploratory: {few}, not corrected for many comparisons", group


def _line(name: str, groups: Sequence[Sequence[str]]) -> str:
    first, *others = groups
    return f'<th class="first">{name}</th>' + "".join(f"<td>{text}</td>" for text in first) + _grouped(others, "td")


def _grouped(groups: Sequence[Sequence[str]], tag: str) -> str:
    """Cells, with a line before each group."""
    first = f'<{tag} class="start">'
    return "".join(f"{f'<{tag}>' if at else first}{text}</{tag}>" for group in groups for at, text in enumerate(group))


def _of(summary: Summary, head: str, measure: str) -> float:
    return summary.heads.get(head, {}).get(measure, NOTHING)


def _spread(summary: Summary, head: str) -> str:
    spread = _of(summary, head, "accuracy_sd")
    return f" ±{percent(spread)}" if math.isfinite(spread) else ""


def _floored(summary: Summary, head: str, measure: str) -> str:
    error, floor = (percent(_of(summary, head, name)) for name in (measure, f"{measure}_floor"))
    return f'{error} <span class="soft">({floor})</span>'


def _small(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _difference(arm: Arm, contrasts: Sequence[Contrast], head: str) -> str:
    contrast = contrast_of(contrasts, arm)
    interval = contrast.outcomes.get(head, {}).get("accuracy") if contrast else None
    if interval is None:
        return "-"
    middle, bounds = interval_words(interval, 100, 1)
    return f'{middle}<span class="note">{bounds}</span><span class="note">to {escape(arm.reference)}</span>'
