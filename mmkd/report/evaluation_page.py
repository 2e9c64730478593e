"""The page of an evaluation: models side by side, how far their confidence can be trusted, what views and answers cost,
and what one of them gets wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

from mmkd.evaluation.scores import Evaluation, ModelScores
from mmkd.report import evaluation_text as words
from mmkd.report.evaluation_figures import accuracy_views, reliability_panel
from mmkd.report.evaluation_text import cell, cost_of, first_grid, gflops_text, main_cell, measure_name, views_in
from mmkd.report.figures import accuracy_dots, colours
from mmkd.report.mistake_html import mistakes_section
from mmkd.report.page import facts_section, figure_html, html_page, settings_section
from mmkd.report.predictions import Predictions, outcomes
from mmkd.report.strips import Strip
from mmkd.report.study_tables import costs_table
from mmkd.report.table import nats, parameters_text
from mmkd.storage import StrPath, write_bytes

CLOSELY = 6
"""Models whose reliability is drawn, and whose answers stand beside the mistakes."""
DRAWN = 14
"""Models that one picture has room for."""
LISTED = 50
"""Broken clips that are named."""

CSS = """
.pairs { display: grid; gap: 4px 20px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 500px), 1fr)); }
.pairs > * { max-width: 700px; }
.both { display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); }
.both figure, .long figure { margin: 0; }
.long { min-width: 500px; max-width: 680px; }
.inset { margin-top: 14px; }
.beside { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  align-items: start; }
.beside > * { margin: 0; min-width: 0; }
table.tight th, table.tight td { padding: 5px 7px; }
table.tight thead th { vertical-align: bottom; }
table.tight th.first { white-space: normal; overflow-wrap: anywhere; min-width: 6.5rem; }
tr.model th > span { position: sticky; left: 7px; }
tr.scaled > * { color: var(--soft); font-weight: 400; }
"""


def write_evaluation_page(path: StrPath, evaluation: Evaluation, strips: Sequence[Strip] = ()) -> None:
    """Write the page, whole or not at all.

    Args:
        strips: clips that the model of :func:`shown_model` was surest of and got wrong.
    """
    head = words.main_head(evaluation)
    title = f"Evaluation on split {evaluation.split}"
    sections = [f"<header><h1>{escape(title)}</h1><p>{escape(_lead(evaluation, head))}</p></header>"]
    if head is None:
        sizes = [(each.name, f"{parameters_text(each.parameters)} parameters") for each in evaluation.models]
        sections.append(facts_section("Models", sizes))
    else:
        sections += [
            _comparison(evaluation, head),
            _details(evaluation),
            _reliability(evaluation, head),
            _views(evaluation, head),
        ]
    sections += [
        _costs(evaluation),
        _mistakes(evaluation, strips),
        _broken(evaluation),
        facts_section("The evaluation", evaluation.facts),
        settings_section("config.yaml, complete", evaluation.settings_yaml),
    ]
    write_bytes(path, html_page(title, "".join(sections), CSS).encode())


def shown_model(evaluation: Evaluation) -> ModelScores:
    """The model whose mistakes are shown: the first that is no teacher, or else the first."""
    return next((each for each in evaluation.models if not each.name.startswith("teacher")), evaluation.models[0])


def _lead(evaluation: Evaluation, head: str | None) -> str:
    models = evaluation.models
    names = models[0].name if len(models) == 1 else f"{len(models)} models"
    if head is None:
        return f"{names}. {words.unscored_text(evaluation)}"
    grid = next(iter(models[0].grids))
    views = f"{grid.replace('x', ' × ')} test views (time × space)" if views_in(grid) > 1 else "1 test view"
    counts = [first_grid(each)[head]["n"] for each in models if head in first_grid(each)]
    said = f"{names} on split {evaluation.split}: {max(counts):,} labelled clips, each in {views}."
    if len(models) == 1:
        measure = measure_name(evaluation, head)
        said += f" {measure[0].upper()}{measure[1:]} of {head}: {main_cell(first_grid(models[0])[head])} %."
    return said


@dataclass
class _Row:
    """A row of a table: its cells by group of columns; a heading where there are none."""

    name: str
    cells: Sequence[Sequence[str]] = ()
    scaled: bool = False


def _table(groups: Sequence[tuple[str, Sequence[str]]], rows: Sequence[_Row]) -> str:
    """A table whose columns are in groups; a group's name may be empty."""
    top = "".join(f'<th class="group start" colspan="{len(titles)}">{escape(name)}</th>' for name, titles in groups)
    heading = f'<tr><th class="first"></th>{top}</tr>' if any(name for name, _ in groups) else ""
    below = "".join(_cells("th", titles) for _, titles in groups)
    wide = 1 + sum(len(titles) for _, titles in groups)
    body = ""
    for row in rows:
        name = escape(row.name)
        if row.cells:
            kind, inside = ' class="scaled"' * row.scaled, "".join(_cells("td", part) for part in row.cells)
            body += f'<tr{kind}><th class="first">{name}</th>{inside}</tr>'
        else:
            body += f'<tr class="apart model"><th class="first" colspan="{wide}"><span>{name}</span></th></tr>'
    return (
        f'<div class="scroll"><table class="wide tight"><thead>{heading}<tr><th class="first"></th>{below}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cells(tag: str, texts: Sequence[str]) -> str:
    """Cells of a group of columns; titles are on two lines where they have two words or more."""
    inside = [escape(text) for text in texts]
    if tag == "th":
        inside = ["<br>".join(filter(None, text.rpartition(" ")[::2])) for text in inside]
    first, *rest = inside
    return f'<{tag} class="start">{first}</{tag}>' + "".join(f"<{tag}>{text}</{tag}>" for text in rest)


def _comparison(evaluation: Evaluation, head: str) -> str:
    """A row a model: the main head, the accuracy in the others, and what the model takes."""
    models, measure, costs = evaluation.models, measure_name(evaluation, head), bool(evaluation.costs)
    plain = words.COMPARED if measure == "top-1" else {}
    scaled = plain if any("scaled" in first_grid(each).get(head, {}) for each in models) else {}
    others = [other for other in dict.fromkeys(h for each in models for h in first_grid(each)) if other != head]
    groups = [(head, [measure, *plain])] + [("temperature scaled", list(scaled))] * bool(scaled)
    groups += [(other, [measure_name(evaluation, other)]) for other in others]
    groups += [("", ["clips", "parameters"] + ["GFLOPs/clip"] * costs)]
    rows = []
    for model in models:
        of, (grid, *_) = first_grid(model), model.grids
        own = of.get(head, {"n": 0})
        cells = [[main_cell(own), *(cell(own, key) for key in plain.values())]]
        cells += [[cell(own.get("scaled", {}), key) for key in scaled.values()]] * bool(scaled)
        cells += [[main_cell(of.get(other, {}))] for other in others]
        takes = [f"{own['n']:,}", parameters_text(model.parameters)] + [_gflops(evaluation, model, grid)] * costs
        rows.append(_Row(model.name, [*cells, takes]))
    table = f'<div class="card">{_table(groups, rows)}{_soft(words.notes(evaluation)[:1])}</div>'
    title = "Models side by side" if len(models) > 1 else "Scores"
    return f"<section><h2>{title}</h2>{table}{_dots(models, head)}</section>"


def _dots(models: Sequence[ModelScores], head: str) -> str:
    rows = [
        {"name": each.name, "metrics": {head: {"accuracy": own["top1"], "standard_error": own["top1_se"]}}}
        for each in models
        if "top1" in (own := first_grid(each).get(head, {}))
    ]
    if not 1 < len(rows) <= DRAWN:
        return ""
    said = "Thick bars: one standard error. Thin bars: 95 % interval."
    figure = figure_html(accuracy_dots(rows, head, None), f"Accuracy of each model, {head}.", said)
    return f'<div class="panels inset">{figure}</div>'


def _gflops(evaluation: Evaluation, model: ModelScores, grid: str) -> str:
    cost = cost_of(evaluation, model)
    return gflops_text(views_in(grid) * cost.gflops) if cost else "-"


def _details(evaluation: Evaluation) -> str:
    """Every figure of every head, with those after temperature scaling below."""
    several = any("mean_average_precision" in own for each in evaluation.models for own in first_grid(each).values())
    accuracy = words.columns_of(evaluation, words.ACCURACY)
    accuracy |= {"mean average precision": "mean_average_precision"} if several else {}
    calibration = words.columns_of(evaluation, words.CALIBRATION)
    groups = [("", ["clips"]), ("accuracy", list(accuracy))] + [("calibration", list(calibration))] * bool(calibration)
    rows = []
    for model in evaluation.models:
        rows += [_Row(model.name)] * (len(evaluation.models) > 1)
        for head, own in first_grid(model).items():
            figures = [[cell(own, key) for key in part.values()] for part in (accuracy, calibration) if part]
            rows.append(_Row(head, [[f"{own['n']:,}"], *figures]))
            if "scaled" in own:
                by = f", T\N{NO-BREAK SPACE}{nats(own['scaled']['temperature'])}" if head in model.temperatures else ""
                cells = [cell(own["scaled"], key) for key in calibration.values()]
                rows.append(_Row(f"scaled{by}", [[""], [""] * len(accuracy), cells], scaled=True))
    table = f'<div class="card">{_table(groups, rows)}{_soft(words.notes(evaluation)[1:])}</div>'
    return f"<section><h2>Every head</h2>{table}</section>"


def _reliability(evaluation: Evaluation, head: str) -> str:
    colour = colours([each.name for each in evaluation.models])
    pairs: list[str] = []
    for model in evaluation.models:
        own = first_grid(model).get(head, {})
        if model.predictions is None or "ece" not in own or len(pairs) == CLOSELY:
            continue
        shown = [("as it is", own, model.predictions)]
        if "scaled" in own:
            shown.append(("scaled", own["scaled"], _scaled(model.predictions, model.temperatures)))
        figures = "".join(
            figure_html(
                reliability_panel(f"{how}: ECE {cell(figures, 'ece')}", outcomes(answers)[head], colour[model.name]),
                f"Reliability diagram of {model.name}, {head}, {how}.",
            )
            for how, figures, answers in shown
        )
        pairs.append(f'<div><h3>{escape(model.name)}</h3><div class="both">{figures}</div></div>')
    if not pairs:
        return ""
    both = ", before and after temperature scaling" if any(each.temperatures for each in evaluation.models) else ""
    more = f" The first {CLOSELY} models." if len(evaluation.models) > len(pairs) == CLOSELY else ""
    said = (
        f"How often a model is right ({head}) when it says it is sure{both}. On the dashed line it is as good as it "
        "says; hatched: the gap (bars below the line: overconfident). Below: how sure it is, and the mean. In brackets "
        f"the floor of the ECE.{more}"
    )
    return (
        f'<section><h2>Calibration</h2><p class="soft">{escape(said)}</p><div class="pairs">{"".join(pairs)}</div>'
        "</section>"
    )


def _scaled(answers: Predictions, temperatures: dict[str, float]) -> Predictions:
    logits = {head: own / temperatures.get(head, 1.0) for head, own in answers.logits.items()}
    return replace(answers, logits=logits)


def _views(evaluation: Evaluation, head: str) -> str:
    """Accuracy against cost; nothing where all models were asked in one grid."""
    models = [each for each in evaluation.models if len(each.grids) > 1 and head in first_grid(each)]
    if not models:
        return ""
    measure = measure_name(evaluation, head)
    calibration = {"ECE": "ece", "NLL": "nll"} if measure == "top-1" else {}
    takes = ["views"] + ["GFLOPs/clip"] * bool(evaluation.costs)
    rows = []
    for model in models:
        rows += [_Row(model.name)] * (len(models) > 1)
        for grid in sorted(model.grids, key=views_in):
            own = model.grids[grid][head]
            first = [str(views_in(grid)), _gflops(evaluation, model, grid)][: len(takes)]
            figures = [main_cell(own), *(cell(own, key) for key in calibration.values())]
            rows.append(_Row(grid.replace("x", " × "), [first, figures]))
    table = _table([("", takes), (head, [measure, *calibration])], rows)
    beside, folded = ("", "") if len(models) > 1 else (' class="beside"', " open")
    said = "What more test views give. Lines go through the means of grids of as many views."
    uri = accuracy_views(evaluation, models[:DRAWN], head)
    picture = figure_html(uri, f"{head} {measure} against the cost of the test views.", said)
    return (
        f'<section><h2>Test views</h2><div{beside}><div class="scroll"><div class="long">{picture}</div></div>'
        f'<details class="card inset"{folded}><summary>Every grid, in time × space</summary>{table}</details></div>'
        "</section>"
    )


def _costs(evaluation: Evaluation) -> str:
    if not evaluation.costs:
        return ""
    table = f'<div class="card">{costs_table(evaluation.costs)}{_soft(evaluation.cost_notes)}</div>'
    return f"<section><h2>What an answer costs</h2>{table}</section>"


def _mistakes(evaluation: Evaluation, strips: Sequence[Strip]) -> str:
    shown = shown_model(evaluation)
    if shown.predictions is None:
        return ""
    others = [each.predictions for each in evaluation.models if each is not shown and each.predictions is not None]
    return mistakes_section([shown.predictions, *others[: CLOSELY - 1]], evaluation.heads, strips)


def _broken(evaluation: Evaluation) -> str:
    number = len(evaluation.broken)
    if not number:
        return ""
    body = "".join(
        f'<tr><th class="first">{escape(clip)}</th><td class="first">{escape(reason)}</td></tr>'
        for clip, reason in evaluation.broken[:LISTED]
    )
    rest = f'<p class="soft">And {number - LISTED:,} more, in rejects.jsonl.</p>' if number > LISTED else ""
    said = f"{number:,} clip{'s were' if number > 1 else ' was'} left out"
    return (
        f'<section><h2>Broken clips</h2><details class="card"><summary>{said}</summary><div class="scroll">'
        f'<table class="names"><tbody>{body}</tbody></table></div>{rest}</details></section>'
    )


def _soft(sentences: Sequence[str]) -> str:
    return "".join(f'<p class="soft">{escape(sentence)}</p>' for sentence in sentences)
