"""The result page of a sweep: which settings did best, how sure that is, and what the teachers cost."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any

from mmkd.progress import duration
from mmkd.report import sweep_figures
from mmkd.report.figures import Curve
from mmkd.report.page import facts_section, figure_html, html_page, learning_panels, panels_html, settings_section
from mmkd.report.sweep_axes import is_numeric
from mmkd.report.sweep_tables import front_table, trials_table
from mmkd.report.sweep_trials import SAID, TrialRow, known, pareto_front, standing, status_text, statuses, value_text
from mmkd.report.table import nats, percent
from mmkd.storage import StrPath, name_of, write_bytes

__all__ = ["Cost", "SweepReport", "TrialRow", "pareto_front", "write_sweep_page"]

CSS = """
.beside { display: grid; gap: 10px 24px; grid-template-columns: minmax(0, 9fr) minmax(0, 5fr); align-items: center; }
.beside figure, .long figure { margin: 0; }
.long { min-width: var(--least); }
.bar { height: 14px; width: var(--share); min-width: 2px; border-radius: 3px; background: #0072B2;
  margin-bottom: 10px; }
tr.told > * { border-bottom: 0; }
.error { position: sticky; left: 8px; max-width: min(46rem, calc(100vw - 72px)); text-align: left;
  white-space: pre-wrap; overflow-wrap: anywhere; color: var(--bad); font-size: .82rem; }
@media (max-width: 760px) { .beside { grid-template-columns: minmax(0, 1fr); } }
"""


@dataclass
class Cost:
    """What the teachers' answers cost; an answer is one (clip, view, teacher).

    Attributes:
        computed: answers that this sweep computed.
        banked: answers it took from a bank that was there before.
        replayed: answers that trials took from the bank.
        independent: answers that the same trials, run live on their own, would have computed.
        teacher_seconds: of the recording pass.
        trial_seconds: summed over trials.
        wall_seconds: of the whole sweep.
    """

    teachers: int
    computed: int
    banked: int
    replayed: int
    independent: int
    teacher_seconds: float
    trial_seconds: float
    wall_seconds: float
    bank_megabytes: float


@dataclass
class SweepReport:
    """What the page is made of.

    Attributes:
        space: setting and what was searched of it ("1 to 10, logarithmic").
        log_scale: settings searched on a logarithmic scale.
        best: name of the best trial.
        measure: what accuracy is of ("action accuracy").
        pareto: whether accuracy and ECE were both searched for.
        best_rows: metrics.jsonl of the best trial's run.
        best_values_yaml: what best.yaml changes.
        settings_yaml: the settings that the trials share.
    """

    title: str
    lead: str
    facts: list[tuple[str, str]]
    space: list[tuple[str, str]]
    log_scale: set[str]
    trials: list[TrialRow]
    best: str
    measure: str
    pareto: bool
    cost: Cost
    best_rows: list[dict[str, Any]]
    best_values_yaml: str
    settings_yaml: str


def write_sweep_page(path: StrPath, report: SweepReport) -> None:
    """Write the page, whole or not at all.

    Raises:
        ValueError: the best trial is not among the trials, or has no accuracy.
    """
    best = _best(report)
    used = {name: None for trial in report.trials for name in trial.values}
    settings = [name for name in dict.fromkeys([*dict(report.space), *used]) if name in used]
    front = pareto_front(report.trials)
    sections = [
        _headline(report, best),
        _cost(report.cost, len(report.trials)),
        _map(report, settings),
        _settings(report, settings),
        _front(report, front),
        _learning(report),
        _trials(report, front, settings),
        facts_section("What was searched", report.space),
        facts_section("The sweep", report.facts),
        settings_section("those that the trials share", report.settings_yaml),
    ]
    write_bytes(path, html_page(report.title, "".join(sections), CSS).encode())


def _best(report: SweepReport) -> TrialRow:
    for trial in report.trials:
        if trial.name == report.best:
            if not math.isfinite(known(trial.accuracy)):
                raise ValueError(f"trial {report.best!r} is to be shown as the best, and has no accuracy.")
            return trial
    names = [trial.name for trial in report.trials]
    raise ValueError(f"trial {report.best!r} is to be shown as the best, and is not among the trials {names}.")


def _headline(report: SweepReport, best: TrialRow) -> str:
    values = [f"{escape(name)} <strong>{escape(value_text(v))}</strong>" for name, v in best.values.items()]
    details = [_count(best.epochs, "epoch")]
    details += [] if best.ece is None else [f"ECE {percent(best.ece)} points"]
    details += [] if best.nll is None else [f"NLL {nats(best.nll)} nats"]
    ended = Counter(trial.status for trial in report.trials)
    told = ", ".join(f"{ended[status]} {escape(status_text(status))}" for status in statuses(report.trials))
    whole = [standing(trial) for trial in report.trials if trial.status == "finished" and standing(trial) >= 0]
    spread, note = "", ""
    if len(whole) > 1:
        told_of = (percent(share) for share in (max(whole), median(whole), min(whole)))
        spread = "Those that finished: best {}&nbsp;%, median {}&nbsp;%, worst {}&nbsp;%.".format(*told_of)
    if len(report.trials) > 1:
        note = (
            "The best of many trials is partly the luckiest, so its figure on val is optimistic: before quoting one, "
            "evaluate this trial on the test split."
        )
    return (
        f"<header><h1>{escape(report.title)}</h1><p>{escape(report.lead)}</p>"
        f'<div class="card verdict"><p class="big">Best is trial {escape(best.name)}: {escape(report.measure)} '
        f"<strong>{percent(standing(best))}&nbsp;%</strong> on val</p>"
        f'<p>{"with " * bool(values)}{", ".join(values)} <span class="soft">({", ".join(details)})</span></p>'
        f'<p>{_count(len(report.trials), "trial")}: {told}. {spread}</p><p class="soft">{note}</p>'
        f"<details><summary>best.yaml: what it changes</summary><pre>{escape(report.best_values_yaml)}</pre></details>"
        "</div></header>"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _cost(cost: Cost, trials: int) -> str:
    bars = [("Answers (clip, view, teacher) computed by this sweep", cost.computed)]
    if cost.banked:
        bars.append(("Answers that were in the bank before", cost.banked))
    bars.append(("Answers for the same trials, each run live on its own", cost.independent))
    top = max(*(count for _, count in bars), 1)
    rows = "".join(
        f"<div>{said}: <strong>{count:,}</strong></div>"
        f'<div class="bar" style="--share: {100 * count / top:.1f}%"></div>'
        for said, count in bars
    )
    told = (
        f"{_count(cost.teachers, 'teacher')} computed {_count(cost.computed, 'answer')} for {_count(trials, 'trial')}"
    )
    if cost.computed and cost.independent > cost.computed:
        told += f"; on their own, the same trials would have needed {cost.independent / cost.computed:.3g} times that"
    times = f"The recording pass took {duration(cost.teacher_seconds)}, "
    if not cost.computed:
        times = "There was no recording pass; "
    elif cost.teacher_seconds and cost.independent > cost.computed:
        live = duration(cost.teacher_seconds * cost.independent / cost.computed)
        times = times[:-2] + f"; at that rate the trials on their own would have taken {live} of teacher time. Here "
    times += (
        f"the trials took {duration(cost.trial_seconds)} in sum and the whole sweep {duration(cost.wall_seconds)}. "
        f"Trials took {cost.replayed:,} answers from the bank, which is {cost.bank_megabytes:,.1f} MB."
    )
    return (
        f'<section><h2>What the teachers cost</h2><div class="card"><p>{told}.</p>{rows}'
        f'<p class="soft">{times}</p></div></section>'
    )


def _map(report: SweepReport, settings: Sequence[str]) -> str:
    numeric = [name for name in settings if is_numeric(report.trials, name)]
    weights = [name for name in ("loss.label_weight", "loss.distill_weight") if name in numeric]
    pair = ["loss.temperature", weights[0]] if "loss.temperature" in numeric and weights else numeric[:2]
    if len(pair) < 2:
        return ""  # the panel of each setting shows all there is
    uri = sweep_figures.accuracy_map(report.trials, report.best, pair, report.log_scale, report.measure)
    said = (
        "Each mark is a trial; between them nothing was tried. Darker is more accurate; the colours start where a "
        "quarter of the finished trials fall short, so that of trials stopped early, which show what they had reached, "
        "most are palest. Grey: no accuracy was reported. Where trials coincide, the most accurate is on top."
    )
    title = f"Accuracy over {' and '.join(pair)}"
    picture = figure_html(uri, f"{title}, one mark a trial.")
    return f'<section><h2>{escape(title)}</h2><div class="beside">{picture}<p class="soft">{said}</p></div></section>'


def _settings(report: SweepReport, settings: Sequence[str]) -> str:
    """All settings at once, then each on its own."""
    shown, result = (report.trials, report.best), ""
    if len(report.trials) < 2:
        return ""
    if len(settings) > 1:
        uri = sweep_figures.parallel_lines(*shown, settings, report.log_scale, report.measure)
        picture = figure_html(uri, "Settings and accuracy of all trials, as parallel coordinates.")
        said = (
            "One line a trial, darker for a higher accuracy; thick: the best. Thin: not finished; dotted: no accuracy."
        )
        result = (
            f'<section><h2>All settings together</h2><p class="soft">{said}</p><div class="scroll">'
            f'<div class="long" style="--least: {80 * len(settings) + 320}px">{picture}</div></div></section>'
        )
    panels = []
    for name in settings:
        uri = sweep_figures.setting_panel(*shown, name, report.log_scale, report.measure)
        panels.append(figure_html(uri, f"Accuracy against {name}."))
    others = [escape(status) for status in statuses(report.trials) if status not in SAID]
    said = "Circles: finished; grey triangles: stopped early; crosses: failed"
    said += f"; squares: {', '.join(others)}. " if others else ". "
    said += (
        "The other settings differ from trial to trial too, so a cloud is not the effect of one setting alone. Trials "
        "with the same choice stand side by side, the most accurate at the right."
    )
    if panels:
        result += f'<section><h2>Each setting</h2><p class="soft">{said}</p>{panels_html(panels)}</section>'
    return result


def _front(report: SweepReport, front: Sequence[str]) -> str:
    if not front:
        return ""
    uri = sweep_figures.pareto_picture(report.trials, report.best, front, report.measure)
    title, alone = "Accuracy and calibration, searched for together", ""
    if not report.pareto:
        title, alone = "Accuracy and calibration", "; only accuracy was searched for"
    said = (
        f"Up and to the left is better{alone}. No trial beats one on the line in both. ECE: the calibration error in "
        "the epoch with the best accuracy. Left out: trials less accurate than all that finished and all on the line."
    )
    return (
        f'<section><h2>{title}</h2><div class="beside">{figure_html(uri, "Accuracy against ECE.", said)}'
        f'<div class="card scroll">{front_table(report.trials, front)}</div></div></section>'
    )


def _learning(report: SweepReport) -> str:
    uri = sweep_figures.learning_curves(report.trials, report.best, report.measure)
    ended = "A line ends where its trial ended. In colour: the best, its best epoch ringed."
    panels = [figure_html(uri, "Validation accuracy of all trials against the epoch.", ended)]
    panels += learning_panels([Curve("best", report.best_rows)])
    said = '<p class="soft">All trials, then the best alone.</p>' if len(panels) > 1 else ""
    return f"<section><h2>Learning</h2>{said}{panels_html(panels)}</section>"


def _trials(report: SweepReport, front: Sequence[str], settings: Sequence[str]) -> str:
    parents = {trial.run_folder.rpartition("/")[0] for trial in report.trials}
    apart = len(parents) > 1 or any(name_of(trial.run_folder) != trial.name for trial in report.trials)
    said = (
        "Accuracy in %, ECE in points, NLL in nats, of the epoch with the best accuracy on val. Front: no other trial "
        "beats it in accuracy and ECE both."
    )
    if not apart:
        said += f" The run folders are in {parents.pop()}, named like the trials."
    table = trials_table(report.trials, report.best, front, settings, folders=apart)
    return f'<section><h2>Trials</h2><div class="card">{table}<p class="soft">{escape(said)}</p></div></section>'
