"""The report of a study: one self-contained page, and its pictures as PNG files.

The comparison that was named before the study was run comes first, then what the study says of the paper's claims, the
students in one table, the pictures, and what the study was made of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from mmkd.report import study_axes as chosen
from mmkd.report import study_figures as drawn
from mmkd.report.figures import Picture
from mmkd.report.html_tables import competence_table
from mmkd.report.page import facts_section, figure_html, html_page, settings_section
from mmkd.report.study_tables import costs_table, heads_table, interval_words, students_table
from mmkd.report.table import main_head, minus, signed
from mmkd.storage import write_bytes
from mmkd.study.claims import LEVEL, MARGIN
from mmkd.study.results import Claim, Contrast, StudyResults, Summary

CSS = """
.warn { border-left: 5px solid var(--bad); }
.claim { border-left: 5px solid var(--soft); margin-top: 14px; display: grid; gap: 4px 28px;
  grid-template-columns: minmax(0, 5fr) minmax(0, 8fr); }
.claim.holds { border-left-color: var(--good); }
.claim.fails { border-left-color: var(--bad); }
.claim h3 { margin: 8px 0; }
.claim p:first-child { margin-top: 0; }
.claim ul { margin: 0; padding-left: 18px; font-size: .92rem; }
.sign { display: inline-block; width: 1.5em; height: 1.5em; line-height: 1.5em; border-radius: 50%; margin-right: 8px;
  text-align: center; color: var(--card); background: var(--soft); font-weight: 700; }
.word { font-weight: 700; color: var(--soft); }
.holds .sign { background: var(--good); }
.holds .word { color: var(--good); }
.fails .sign { background: var(--bad); }
.fails .word { color: var(--bad); }
.students td, .students thead th { padding: 5px 8px; }
.students td .note { min-width: 6.8rem; }
.students tbody th.first { white-space: normal; min-width: 12rem; font-weight: 400; }
.students tr.named > *, .students tr.apart > th.first { font-weight: 700; }
.students th[colspan] > span { position: sticky; left: 10px; }
.students tr.sub > th.first { color: var(--soft); font-size: .82rem; font-weight: 600; }
.drawn + .drawn { margin-top: 20px; }
.two { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.two > .drawn, .drawn figure { margin: 0; min-width: 0; }
.drawn { max-width: calc(105px * var(--inches)); }
.drawn .picture { min-width: calc(74px * var(--inches)); }
.inset { margin-top: 14px; }
.inset h3 { margin-top: 0; }
@media (max-width: 760px) {
  .claim { grid-template-columns: minmax(0, 1fr); }
  .students tbody th.first { min-width: 7.5rem; }
}
"""

VERDICTS = {"holds": ("holds", "✓"), "does not hold": ("fails", "✗")}
"""Verdict to class and sign; any other has a question mark."""
VIEWED = ("labels", "distilled", "ensemble")
"""Arms whose accuracy is shown against test views."""


@dataclass
class Shown:
    """A picture of the report: its file's name, how it is drawn and of what, and what it shows, in words."""

    name: str
    picture: Picture[Any]
    given: tuple[Any, ...]
    alt: str
    caption: str

    @property
    def html(self) -> str:
        figure = figure_html(self.picture(*self.given), self.alt)
        return (
            f'<div class="drawn" style="--inches: {self.picture.inches[0]}"><div class="scroll">{figure}</div>'
            f'<p class="soft">{escape(self.caption)}</p></div>'
        )


def write_study_page(
    path: Path,
    results: StudyResults,
    summaries: Sequence[Summary],
    contrasts: Sequence[Contrast],
    claims: Sequence[Claim],
    primary: Contrast,
    conditional: str,
) -> None:
    """Write the page, whole or not at all.

    Args:
        summaries: of all arms that have a model, in the order of the report.
        contrasts: arms less their references.
        primary: the comparison that was named before the study was run.
        conditional: what its interval takes for given, in a sentence or two; may be empty.
    """
    title = f"Study: {primary.first} against {primary.second}"
    of = {shown.name: shown.html for shown in _pictures(results, summaries, contrasts)}
    sections = [
        _headline(title, results, primary, conditional),
        _claims(claims),
        _students(results, summaries, contrasts),
        _section("Accuracy and calibration", of, "accuracy_ece", "reliability"),
        _section("Accuracy and cost", of, "accuracy_gflops", "accuracy_views", beside=True),
        _section("Weighting under a bad teacher", of, "weighting"),
        _section("Differences to the reference", of, "differences"),
        _section("Learning rate and epochs", of, "search"),
        _section("Fewer training clips", of, "data_share"),
        _teachers(results),
        _costs(results),
        facts_section("The study", results.facts),
        settings_section("of the study, complete", results.settings_yaml),
    ]
    write_bytes(path, html_page(title, "".join(sections), CSS).encode())


def write_study_pictures(
    folder: Path,
    results: StudyResults,
    summaries: Sequence[Summary],
    contrasts: Sequence[Contrast],
    claims: Sequence[Claim],
    primary: Contrast,
    conditional: str,
) -> None:
    """Write the page's pictures as PNG files; those that the study has nothing for are left out."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for shown in _pictures(results, summaries, contrasts):
        shown.picture.png(Path(folder) / f"{shown.name}.png", *shown.given)


def _headline(title: str, results: StudyResults, primary: Contrast, conditional: str) -> str:
    titles = {arm.name: arm.title for arm in results.arms}
    first, second = escape(primary.first), escape(primary.second)
    head = main_head(primary.outcomes)
    own, each = primary.outcomes[head], primary.each_seed.get(head, {}).get("accuracy", [])
    interval = own["accuracy"]
    middle, bounds = interval_words(interval, 100, 1)
    verdict = "It cannot be told which is more accurate: zero is inside the interval."
    if interval.low > 0 or interval.high < 0:
        more = f"{first} is {'more' if interval.low > 0 else 'less'} accurate than {second}"
        verdict = f"{'It holds' if interval.low > 0 else 'It does not hold'}: {more}, zero is outside the interval."
    others = []
    for measure, said, unit in (("nll", "NLL", " nats"), ("brier", "Brier score", "")):
        if measure in own:
            change, around = interval_words(own[measure], 1, 3)
            others.append(f"{said} <strong>{change}{unit}</strong> ({around})")
    less = f"<p>{', '.join(others)}; of both, less is better.</p>" if others else ""
    seeds = f"Seed by seed: {', '.join(minus(signed(100 * value, 1)) for value in each)} points. " * (len(each) > 1)
    alone = " With one seed, the interval says nothing of other seeds." * (len(primary.seeds) == 1)
    quick = '<p class="card warn">A quick study, to see what one is: its numbers say nothing of the method.</p>'
    return (
        f"<header><h1>{escape(title)}</h1><p>{first}: {escape(titles.get(primary.first, ''))}; "
        f"{second}: {escape(titles.get(primary.second, ''))}.</p>{quick * results.quick}"
        f'<div class="card verdict"><p class="big">{first} − {second}: {escape(head)} accuracy '
        f"<strong>{middle} points</strong> (95&nbsp;% interval {bounds})</p><p>{verdict} This comparison was named "
        f"before the study was run.</p>{less}"
        f'<p class="soft">{_count(len(primary.seeds), "seed")} and {_count(primary.clips, "clip")} of split '
        f"{escape(primary.where)}, paired; intervals are over seeds and clips at once.{alone} {seeds}"
        f"{escape(conditional)}</p></div></header>"
    )


def _claims(claims: Sequence[Claim]) -> str:
    cards = ""
    for claim in claims:
        kind, sign = VERDICTS.get(claim.verdict, ("open", "?"))
        numbers = "".join(f"<li>{escape(sentence)}</li>" for sentence in claim.said)
        cards += (
            f'<div class="card claim {kind}"><div><p><span class="sign" aria-hidden="true">{sign}</span>'
            f'<span class="word">{escape(claim.verdict)}</span></p><h3>{escape(claim.text)}</h3>'
            f'<p class="soft">Decided by {escape(claim.deciding)}.</p></div><ul>{numbers}</ul></div>'
        )
    said = (
        f"Each claim is decided by one difference. Where its p, after Holm's correction over the claims, is below "
        f"{LEVEL:g}, the claim holds or does not hold, as the difference points. It does not hold, either, where the "
        f"whole 95 % interval is within {100 * MARGIN:g} points of 0. Otherwise it cannot be told."
    )
    return f'<section><h2>Claims of the paper</h2><p class="soft">{said}</p>{cards}</section>' if cards else ""


def _students(results: StudyResults, summaries: Sequence[Summary], contrasts: Sequence[Contrast]) -> str:
    clips = max((int(own["n"]) for summary in summaries for own in summary.heads.values()), default=0)
    grid = next((next(iter(tested.grids)) for tested in results.tested), "1x1")
    said = (
        f"Split test, {_count(clips, 'clip')}; test views in time × space: {grid.replace('x', ' × ')}. Accuracy in %, "
        "mean ± standard deviation over seeds. Difference: accuracy less that of the arm named, on the same seeds and "
        "clips, with its 95 % interval. ECE: expected calibration error, points; in brackets its floor, what chance "
        "alone makes of a calibrated model. NLL: nats; Brier score: 0 to 2; for all three less is better. Scaled: "
        "after temperature scaling, fitted on split val."
    )
    more = f'<details class="inset"><summary>Every measure of every head</summary>{heads_table(summaries)}</details>'
    return (
        f'<section><h2>Students</h2><div class="card">{students_table(summaries, contrasts)}'
        f'<p class="soft">{escape(said)}</p>{more}</div></section>'
    )


def _section(title: str, of: Mapping[str, str], *names: str, beside: bool = False) -> str:
    body = "".join(of[name] for name in names if name in of)
    body = f'<div class="two">{body}</div>' if body and beside else body
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _teachers(results: StudyResults) -> str:
    many, tables = len(results.competence) > 1, ""
    for number, competence in enumerate(results.competence):
        title = f"<h3>Set {number}</h3>" * many
        tables += f'<div class="card inset">{title}{competence_table(competence)}</div>'
    said = (
        "On held-out training clips that no teacher learnt from. Accuracy in %, ECE in points, CE: cross-entropy, "
        "nats. Weight: the teacher's share in the ensemble."
    )
    return f'<section><h2>Teachers</h2><p class="soft">{said}</p>{tables}</section>' if tables else ""


def _costs(results: StudyResults) -> str:
    said = (
        "For one view of one clip, from the stored clip to the logits. Latency: one at a time; views/s: in the best "
        "batch. GFLOPs and parameters are the networks'; making their inputs is in the latency and in the last column."
    )
    table = f'<div class="card">{costs_table(results.costs)}<p class="soft">{said}</p></div>'
    return f"<section><h2>Cost</h2>{table}</section>" if results.costs else ""


def _pictures(results: StudyResults, summaries: Sequence[Summary], contrasts: Sequence[Contrast]) -> list[Shown]:
    """The pictures that the study has something for."""
    head, found = chosen.head_of(summaries), []

    def show(there: object, picture: Picture[Any], name: str, given: tuple[Any, ...], alt: str, caption: str) -> None:
        if there:
            found.append(Shown(name, picture, given, alt, caption))

    usual, panels = (results, summaries), chosen.reliability_of(results, summaries)
    viewed = [each for each in summaries if len(each.views) > 1 and each.arm.name in VIEWED]
    bars = "Bars: lowest to highest of an arm's models (seeds; of teachers and ensembles, sets)."
    show(
        summaries, drawn.accuracy_ece, "accuracy_ece", usual, f"{head} accuracy of every arm against its ECE.",
        "Up and to the left is better. Grey: up to the error that chance alone makes of a calibrated student (mean "
        f"over arms); differences there say little. {bars} Where a name had no room, the table tells.",
    )  # fmt: skip
    show(
        panels, drawn.reliability_panels, "reliability", (panels, head), "Reliability diagrams, side by side.",
        "How often models are right when they say they are sure; on the dashed line they are as good as they say. "
        "Hatched: the gap; bars below the line: overconfident. Below: the clips' confidence and its mean. All seeds "
        "together; ECE in points, mean over seeds.",
    )  # fmt: skip
    show(
        len({cost.gflops for cost in results.costs}) > 1, drawn.accuracy_gflops, "accuracy_gflops", usual,
        f"{head} accuracy against GFLOPs for one view.",
        "Up and to the left is better. Making an input is not in the GFLOPs: its time is below a name, where the "
        f"student does not need the same. Grey strokes: the other students, which cost the same. {bars}",
    )  # fmt: skip
    show(
        viewed, drawn.accuracy_views, "accuracy_views", (results, viewed), f"{head} accuracy against test views.",
        "The flatter a line, the less accuracy fewer test views cost. Each line goes through the means of the grids "
        "with as many views. Means over seeds, without bars.",
    )  # fmt: skip
    show(
        drawn.has_weighting(summaries), drawn.weighting, "weighting", usual,
        f"{head} accuracy for each weighting of the teachers, with and without a corrupted one.",
        f"What a corrupted teacher costs, in points, for each way to weight teachers: the shorter, the better. {bars}",
    )  # fmt: skip
    show(
        chosen.compared(results, contrasts, head), drawn.differences, "differences", (results, contrasts, head),
        f"Differences in {head} accuracy, NLL and ECE of each arm to its reference.",
        "Each arm less its reference, on the same seeds and clips of split test. Bars: 95 % intervals over seeds and "
        "clips; an arrow where one goes on. Bold: named before the study was run; the others are exploratory, and not "
        "corrected for their number.",
    )  # fmt: skip
    show(
        results.search, drawn.search, "search", (results.search,), "Validation accuracy against epochs.",
        "What was tried on split val, alike for each arm; a point is one run, without bars. Ringed: chosen.",
    )  # fmt: skip
    show(
        chosen.shares_of(summaries), drawn.data_share, "data_share", usual,
        f"{head} accuracy against the share of the training clips.",
        "What is left of accuracy with fewer training clips (for teachers, too), and what the other clips give back "
        f"without their labels. {bars}",
    )  # fmt: skip
    return found


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
