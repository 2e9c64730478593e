"""The report: one self-contained HTML page about a run, without scripts and without anything to load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mmkd.report import figures
from mmkd.report.figures import Curve
from mmkd.report.html_tables import comparison_table, competence_table, gain_table
from mmkd.report.mistake_html import mistakes_section
from mmkd.report.predictions import Predictions, outcomes
from mmkd.report.strips import Strip, strip_card
from mmkd.report.style import CSS
from mmkd.report.table import clips_text, comparison, difference, interval_text, main_head, minus, signed

__all__ = ["Curve", "Report", "Strip", "write_report"]

# What the page may load, kept by the browser as well: nothing but pictures and styles that are in it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

Gain = Mapping[str, Mapping[str, Any]]
"""A result of `mmkd.report.table.difference`; empty where no difference is shown."""


@dataclass
class Report:
    """What a page is made of. Only the title, lead, facts, heads and one prediction are needed.

    Attributes:
        lead: one or two sentences: what was compared, on what.
        facts: name and value: run folder, data, seeds, seconds, wait share, versions.
        heads: head to class names.
        predictions: of different names. Those called "teacher ..." are in the table only, unless there are no others.
        curves: metrics.jsonl of runs, named like their predictions.
        strips: example clips.
        difference: names of two predictions on the same clips, first minus second; the headline.
        competence: `mmkd.competence.Competence.as_dict()`, the teachers on held-out clips.
        mistakes_of: name of the prediction whose mistakes are shown; empty: of none.
        mistakes: its most confident mistakes, the surest first.
        settings_yaml: the resolved settings.
    """

    title: str
    lead: str
    facts: list[tuple[str, str]]
    heads: dict[str, list[str]]
    predictions: list[Predictions]
    curves: list[Curve]
    strips: list[Strip]
    difference: tuple[str, str] | None = None
    competence: dict[str, Any] | None = None
    mistakes_of: str = ""
    mistakes: list[Strip] = field(default_factory=list)
    settings_yaml: str = ""


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all.

    Raises:
        ValueError: predictions that share a name, whose classes are not the report's, or whose difference or mistakes
            are asked for and cannot be had.
    """
    _check(report)
    rows, gain = comparison(report.predictions), _gain(report)
    sections = [
        _headline(report, gain),
        _comparison(report, rows, gain),
        _curves(report.curves),
        _reliability(_compared(report)),
        _mistakes(report),
        _competence(report.competence),
        _strips(report),
        facts_section("The run", report.facts),
        settings_section("config.yaml, complete", report.settings_yaml),
    ]
    page = html_page(report.title, "".join(sections))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def html_page(title: str, body: str, css: str = "") -> str:
    """A self-contained page that may load nothing; `css` is added to the style sheet of all pages."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}{css}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )


def figure_html(uri: str, alt: str, caption: str = "") -> str:
    """A picture, with its caption below if it has one."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img class="picture" src="{uri}" alt="{escape(alt)}">{below}</figure>'


def panels_html(figures_html: Sequence[str]) -> str:
    """Figures side by side, as many as there is room for; nothing where there are none."""
    return f'<div class="panels">{"".join(figures_html)}</div>' if figures_html else ""


def learning_panels(curves: Sequence[Curve]) -> list[str]:
    """Figures of the runs' losses and validation; none of what no run has."""
    trained = [curve for curve in curves if curve.of("train")]
    validated = [curve for curve in curves if curve.of("epoch")]
    panels = []
    if trained:
        said = "Training loss; many points are drawn faintly, with their running mean."
        if len(trained) > 1:
            said += " Runs with other loss weights have other losses: compare the shapes, not the heights."
        uri = figures.training_curve(trained, "loss", "training loss")
        panels.append(figure_html(uri, "Training loss against the optimiser step.", said))
    if any(row.get("ce") and row["ce"] != row["loss"] for curve in trained for row in curve.of("train")):
        uri = figures.training_curve(trained, "ce", "cross-entropy with labels")
        said = "Cross-entropy with the labels on training clips, whether or not the run learns from it."
        panels.append(figure_html(uri, "Cross-entropy against the optimiser step.", said))
    for head in dict.fromkeys(head for curve in validated for row in curve.of("epoch") for head in row["val"]):
        uri = figures.validation_curve(validated, head)
        said = f"Validation, {head}. Ring: the epoch with the best score."
        panels.append(figure_html(uri, f"Validation of {head} against the epoch.", said))
    return panels


def facts_section(title: str, facts: Sequence[tuple[str, str]]) -> str:
    """Names and values; nothing where there are none."""
    entries = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts)
    return f'<section><h2>{escape(title)}</h2><dl class="card facts">{entries}</dl></section>' if facts else ""


def settings_section(summary: str, settings_yaml: str) -> str:
    """Settings, folded away; nothing where there are none."""
    if not settings_yaml.strip():
        return ""
    return (
        f'<section><h2>Settings</h2><details class="card"><summary>{escape(summary)}</summary>'
        f"<pre>{escape(settings_yaml)}</pre></details></section>"
    )


def _check(report: Report) -> None:
    names = [each.name for each in report.predictions]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a report needs one prediction or more, of different names; it was given {names}.")
    for each in report.predictions:
        for head, scores in each.logits.items():
            if scores.shape[1] != len(report.heads.get(head, ())):
                raise ValueError(
                    f"predictions {each.name!r} have {scores.shape[1]} classes in head {head!r} where the report has "
                    f"{len(report.heads.get(head, ()))}."
                )
    absent = [name for name in report.difference or () if name not in names]
    if absent:
        raise ValueError(f"the report is to show a difference with {absent}, and has predictions {names} only.")
    if report.mistakes_of and report.mistakes_of not in names:
        raise ValueError(f"the report is to show mistakes of {report.mistakes_of!r}, and has predictions {names} only.")


def _compared(report: Report) -> list[Predictions]:
    """The models that the page looks at closely."""
    chosen = [each for each in report.predictions if not each.name.startswith("teacher")]
    return (chosen or report.predictions)[:6]


def _headline(report: Report, gain: Gain) -> str:
    top = f"<h1>{escape(report.title)}</h1><p>{escape(report.lead)}</p>"
    if not gain or not report.difference:
        return f"<header>{top}</header>"
    head = main_head(gain)
    entry = gain[head]["accuracy"]
    if np.isnan(entry["difference"]):
        return f"<header>{top}</header>"
    verdict = "Zero is inside the interval: these clips do not tell the two apart."
    first, second = (escape(name) for name in report.difference)
    if entry["low"] > 0 or entry["high"] < 0:
        verdict = f"Zero is outside the interval: {first} is {'better' if entry['low'] > 0 else 'worse'} on such clips."
    return (
        f'<header>{top}<div class="card verdict"><p class="big">{first} − {second}: {escape(head)} '
        f"<strong>{minus(signed(100 * entry['difference'], 1))} points</strong> "
        f"(95&nbsp;% interval {minus(interval_text(entry, 100, 1))})</p>"
        f'<p>{verdict} <span class="soft">The interval is over clips ({gain[head]["n"]:,}, paired); another training '
        "seed is not in it.</span></p></div></header>"
    )


def _comparison(report: Report, rows: Sequence[Mapping[str, Any]], gain: Gain) -> str:
    # The last model, since a teacher may lack a head.
    head = main_head(rows[-1]["metrics"])
    pictures = []
    if len(rows) > 1:
        chance = _commonest(report.predictions[-1], head)
        said = "Thick bars: one standard error. Thin bars: 95 % interval."
        uri = figures.accuracy_dots(rows, head, chance)
        pictures.append(figure_html(uri, f"Accuracy of each model, {head}.", said))
    if gain and report.difference:
        title = " − ".join(report.difference)
        colour = figures.colours(report.difference)[report.difference[0]]
        said = f"{title}, with 95 % intervals; to the right, {report.difference[0]} is better."
        uri = figures.accuracy_gain(gain, title, colour)
        pictures.append(figure_html(uri, f"Differences in accuracy, {title}.", said))
    note = (
        f"{clips_text(rows)}. Accuracy in %, ± one standard error. ECE: expected calibration error, points. "
        "NLL: negative log-likelihood, nats; for both less is better."
    )
    if report.difference:
        note += f" Bold: the better of {report.difference[0]} and {report.difference[1]}."
    table = comparison_table(rows, report.difference)
    differences = gain_table(gain, " − ".join(report.difference)) if gain and report.difference else ""
    return (
        f'<section><h2>Comparison</h2><div class="card">{table}<p class="soft">{escape(note)}</p></div>'
        f"{differences}{panels_html(pictures)}</section>"
    )


def _curves(curves: Sequence[Curve]) -> str:
    panels = learning_panels(curves)
    return f"<section><h2>Learning</h2>{panels_html(panels)}</section>" if panels else ""


def _reliability(predictions: Sequence[Predictions]) -> str:
    panels, heads = [], set()
    for each in predictions:
        results = outcomes(each)
        head = main_head(results)
        if results[head].known.any():
            heads.add(head)
            uri = figures.reliability_diagram(each.name, results[head])
            panels.append(figure_html(uri, f"Reliability diagram of {each.name}, {head}."))
    if not panels:
        return ""
    head = " and ".join(sorted(heads))
    product = " (the product of the heads' probabilities)" if any(len(each.logits) > 1 for each in predictions) else ""
    said = (
        f"How often a model is right ({head}) when it says it is sure{product}. On the dashed line it is as good as it "
        "says; hatched: the gap (bars below the line: overconfident). Below: the clips' confidence and its mean."
    )
    return f'<section><h2>Calibration</h2><p class="soft">{escape(said)}</p>{panels_html(panels)}</section>'


def _mistakes(report: Report) -> str:
    own = [each for each in report.predictions if each.name == report.mistakes_of]
    others = [each for each in _compared(report) if each.name != report.mistakes_of]
    return mistakes_section([*own, *others], report.heads, report.mistakes) if own else ""


def _competence(competence: Mapping[str, Any] | None) -> str:
    if not competence:
        return ""
    said = "On held-out training clips that no teacher learnt from. Weight: the teacher's share in the ensemble."
    return (
        f'<section><h2>Teachers</h2><div class="card">{competence_table(competence)}'
        f'<p class="soft">{said} Accuracy in %; CE: cross-entropy, nats.</p></div></section>'
    )


def _strips(report: Report) -> str:
    if not report.strips:
        return ""
    models = _compared(report)
    cards = "".join(strip_card(strip, models, report.heads) for strip in report.strips)
    return f'<section><h2>Example clips</h2><p class="soft">True classes in the heading.</p>{cards}</section>'


def _gain(report: Report) -> Gain:
    if not report.difference:
        return {}
    named = {each.name: each for each in report.predictions}
    return difference(*(named[name] for name in report.difference))


def _commonest(predictions: Predictions, head: str) -> float | None:
    """Share of the commonest class, or combination of classes for the action, among known labels."""
    heads = [head] if head in predictions.labels else list(predictions.labels)
    labels = np.stack([predictions.labels[each] for each in heads], axis=1)
    labels = labels[(labels >= 0).all(axis=1)]
    return float(np.unique(labels, axis=0, return_counts=True)[1].max() / len(labels)) if len(labels) else None
