"""The claims of Radevski et al., "Multimodal Distillation for Egocentric Action Recognition" (ICCV 2023), and what a
study says of each.

A claim is decided by one difference, with a p value after Holm's correction over all claims that have one. It

- holds, where that is below 0.05 and the difference points the claimed way;
- does not hold, where it is below 0.05 and the difference points the other way, or where the whole 95 % interval is
  within half a point of no difference, less than would matter;
- cannot be told otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmkd.report.table import main_head, minus, parameters_text, percent, signed
from mmkd.study.results import Claim, Contrast, Interval, StudyResults, Summary
from mmkd.study.statistics import (
    SMALLEST_GRID,
    answers,
    compare,
    contrast,
    drop_contrast,
    holm,
    largest_grid,
    paired,
    shared_seeds,
)
from mmkd.study.summaries import summary_of, temperatures

LEVEL = 0.05
MARGIN = 0.005
"""Of accuracy or calibration error; a smaller difference makes none in practice."""
HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"
PRIMARY = ("distilled", "labels")
ROBUST = ("bad-held-out", "bad-uniform")
UNITS = {
    "accuracy": ("accuracy", 100, 1, " points"),
    "ece": ("ECE", 100, 1, " points"),
    "nll": ("NLL", 1, 3, " nats"),
    "brier": ("Brier score", 1, 3, ""),
}
"""A measure's name for people, what it is multiplied by, its decimals and its unit."""


def claims(results: StudyResults) -> list[Claim]:
    """The five claims, in the paper's order; of arms that the study does not have, that they cannot be told."""
    found = primary(results)
    drafts = [
        _accuracy(results, found),
        _calibration(results, found),
        _cost(results),
        _views(results),
        _weighting(results),
    ]
    tested = [draft for draft in drafts if draft.interval and not np.isnan(draft.interval.p)]
    for draft, adjusted in zip(tested, holm([draft.interval.p for draft in tested if draft.interval]), strict=True):
        draft.adjusted_p = adjusted
    return [draft.claim() for draft in drafts]


def primary(results: StudyResults) -> Contrast | None:
    """The comparison that was named before the study was run, distilled minus labels on split test: accuracy, nll and
    brier of the main head; ece is beside them. None where the study does not have it."""
    return _contrast(results, *PRIMARY)


def verdict(interval: Interval, adjusted_p: float, way: int) -> str:
    """What the rule above makes of a difference.

    Args:
        way: 1 where the claim is of a positive difference, -1 of a negative one.
    """
    if adjusted_p < LEVEL:
        return HOLDS if interval.difference * way > 0 else FAILS
    return FAILS if interval.low > -MARGIN and interval.high < MARGIN else UNKNOWN


def teachers_said(results: StudyResults) -> str:
    """What the intervals take for given of the teachers."""
    teachers = {arm.name for arm in results.arms if arm.group in ("teacher", "ensemble")}
    sets = {each.teacher_set for each in results.tested if each.teacher_set >= 0 and each.arm not in teachers}
    if not sets:
        return "No student learnt from teachers."
    if len(sets) == 1:
        return (
            "All students learnt from one set of teachers: the intervals are conditional on it, and say nothing of how "
            "students of other teachers would differ."
        )
    return (
        f"Seeds alternate between {len(sets)} sets of teachers, so the spread over seeds, and with it the intervals, "
        "includes the teachers'; how far sets of teachers differ is known no better than so few can tell."
    )


@dataclass
class _Draft:
    """A claim before Holm's correction.

    Attributes:
        way: as of `verdict`.
        fixed: the verdict where nothing is estimated.
    """

    text: str
    deciding: str
    said: list[str]
    interval: Interval | None = None
    way: int = 1
    fixed: str = UNKNOWN
    adjusted_p: float = float("nan")

    def claim(self) -> Claim:
        decided, said = self.fixed, self.said
        if self.interval and not np.isnan(self.adjusted_p):
            decided = verdict(self.interval, self.adjusted_p, self.way)
            said = [f"{said[0][:-1]}, Holm {self.adjusted_p:.2g}.", *said[1:]]
        return Claim(self.text, decided, self.deciding, self.interval, self.adjusted_p, said)


def _accuracy(results: StudyResults, found: Contrast | None) -> _Draft:
    text = "A student distilled from multimodal teachers is more accurate than the same network trained on labels."
    if found is None:
        return _absent(text, *PRIMARY)
    head = main_head(found.outcomes)
    said = [_sentence(found, "nll", "brier")]
    said += [_sentence(found, "accuracy", head=other) for other in found.outcomes if other != head]
    strangers = _contrast(results, *PRIMARY, where="unseen")
    if strangers:
        said.append(f"On split unseen, {_sentence(strangers, 'accuracy', 'nll', 'brier')}")
    return _estimated(results, text, found, "accuracy", 1, said)


def _calibration(results: StudyResults, found: Contrast | None) -> _Draft:
    text = "A distilled student is better calibrated than the same network trained on labels."
    if found is None:
        return _absent(text, *PRIMARY)
    ours, theirs = (summary_of(results, arm) for arm in PRIMARY)
    head = main_head(found.outcomes)
    said = [f"{_floor(ours, head)}. {_floor(theirs, head)}.", _sentence(found, "nll", "brier")]
    scaled = _against_scaled(results)
    if scaled:
        said.append(f"{_sentence(scaled, 'ece', 'nll', 'brier')} Scaled so: {_floor(theirs, head, 'scaled_')}.")
    return _estimated(results, text, found, "ece", -1, said)


def _cost(results: StudyResults) -> _Draft:
    text = "A student costs less than the ensemble of its teachers."
    deciding = "GFLOPs and latency, student and ensemble"
    costs = {cost.name: cost for cost in results.costs}
    if not {"student", "ensemble"} <= costs.keys():
        return _Draft(text, deciding, ["The costs of a student and of the ensemble were not counted."])
    ours, theirs = costs["student"], costs["ensemble"]
    said = [
        f"{parameters_text(ours.parameters)} parameters against {parameters_text(theirs.parameters)}.",
        f"{ours.gflops:.3g} GFLOPs a view against {theirs.gflops:.3g}, {ours.gflops / theirs.gflops:.2g} of that.",
        f"{ours.latency_ms:.3g} ms a view, with the making of inputs, against {theirs.latency_ms:.3g}, "
        f"{ours.latency_ms / theirs.latency_ms:.2g} of that.",
    ]
    pairs = np.array([[ours.gflops, theirs.gflops], [ours.latency_ms, theirs.latency_ms]])
    fixed = UNKNOWN if np.isnan(pairs).any() else HOLDS if (pairs[:, 0] < pairs[:, 1]).all() else FAILS
    return _Draft(text, deciding, said, fixed=fixed)


def _views(results: StudyResults) -> _Draft:
    text = (
        "A distilled student keeps more of its accuracy with fewer test views than the same network trained on labels."
    )
    if not shared_seeds(results, *PRIMARY):
        return _absent(text, *PRIMARY)
    ours, theirs = (summary_of(results, arm) for arm in PRIMARY)
    if len(ours.views) < 2 or SMALLEST_GRID not in ours.views:
        return _Draft(text, "accuracy lost with fewer views", ["The students were tested in one grid of views only."])
    found, most = drop_contrast(results, *PRIMARY), largest_grid(ours.views)
    cells = [", ".join(f"{percent(share)} % at {grid}" for grid, share in arm.views.items()) for arm in (ours, theirs)]
    head = main_head(found.outcomes)
    said = [f"{head} accuracy of {arm}: {cell}." for arm, cell in zip(PRIMARY, cells, strict=True)]
    return _estimated(results, text, found, "accuracy", -1, said, f"lost from {most} to {SMALLEST_GRID} views")


def _weighting(results: StudyResults) -> _Draft:
    text = "Teachers must be weighted, as their plain average suffers from a weak one."
    found = _contrast(results, *ROBUST)
    if found is None:
        return _absent(text, *ROBUST)
    said = [_sentence(found, "nll", "brier")]
    ensembles = _contrast(results, "bad-ensemble-held-out", "bad-ensemble-uniform")
    if ensembles:
        each = f"Set by set: {_each(ensembles, 'accuracy')} points."
        said.append(f"Of the ensembles themselves, {_sentence(ensembles, 'accuracy', unit='set')} {each}")
    sound = _contrast(results, "distilled", "uniform")
    if sound:
        said.append(f"With no teacher corrupted, {_sentence(sound, 'accuracy')}")
    return _estimated(results, text, found, "accuracy", 1, said)


def _estimated(
    results: StudyResults, text: str, found: Contrast, measure: str, way: int, said: Sequence[str], what: str = ""
) -> _Draft:
    """A claim that is decided by one measure of the main head."""
    head = main_head(found.outcomes)
    name = f"{UNITS[measure][0]} {what}".strip()
    deciding = f"{head} {name}, {found.first} − {found.second}, points"
    first = _sentence(found, measure)
    if what:
        first = first.replace(UNITS[measure][0], name, 1)
    notes = [f"Seed by seed: {_each(found, measure)} points."] if len(found.seeds) > 1 else []
    if any(arm.exploratory for arm in results.arms if arm.name in (found.first, found.second)):
        count = _counted(len(found.seeds), "seed")
        notes.append(f"Exploratory: {count}, and not the comparison that was named before the study was run.")
    if len(found.seeds) == 1:
        notes.append("With one seed, the interval is over clips only and says nothing of other training runs.")
    return _Draft(text, deciding, [first, *notes, *said], found.outcomes[head][measure], way)


def _absent(text: str, first: str, second: str) -> _Draft:
    return _Draft(text, f"{first} − {second}", [f"The study does not have both {first} and {second} on any seed."])


def _against_scaled(results: StudyResults) -> Contrast | None:
    """Distilled minus labels after temperature scaling, which is fitted on split val; None where val has no labels."""
    pairs = {}
    for number, (ours, theirs) in paired(results, *PRIMARY).items():
        fitted, plain = temperatures(theirs), answers(theirs, "test")
        if fitted.keys() != plain.logits.keys():
            return None
        scaled = {head: logits / fitted[head] for head, logits in plain.logits.items()}
        pairs[number] = (answers(ours, "test"), replace(plain, logits=scaled))
    return compare(PRIMARY[0], f"{PRIMARY[1]} scaled by temperature", "test", pairs)


def _contrast(results: StudyResults, first: str, second: str, where: str = "test") -> Contrast | None:
    """None where the study does not have it."""
    models = [model for name in (first, second) for model in results.of(name)]
    if not shared_seeds(results, first, second) or (where == "unseen" and any(each.unseen is None for each in models)):
        return None
    return contrast(results, first, second, where)


def _sentence(found: Contrast, *measures: str, head: str = "", unit: str = "seed") -> str:
    """One sentence of the differences in measures of a head, the main one unless another is named."""
    main = main_head(found.outcomes)
    head = head or main
    parts: list[str] = []
    for measure in measures:
        name, factor, decimals, of = UNITS[measure]
        each = found.outcomes[head][measure]
        difference, low, high = (
            minus(signed(factor * value, decimals)) for value in (each.difference, each.low, each.high)
        )
        # The number of clips is the main head's.
        size = f"{_counted(len(found.seeds), unit)} × {found.clips:,} clips, " if head == main and not parts else ""
        parts.append(f"{head} {name} {difference}{of}, 95 % interval {low} to {high}, {size}p {each.p:.2g}")
    return f"{found.first} − {found.second}: {'; '.join(parts)}."


def _each(found: Contrast, measure: str) -> str:
    values = found.each_seed[main_head(found.outcomes)][measure]
    return ", ".join(minus(signed(100 * value, 1)) for value in values)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _floor(summary: Summary, head: str, which: str = "") -> str:
    ece, floor = (percent(summary.heads[head][f"{which}{name}"]) for name in ("ece", "ece_floor"))
    return f"{head} ECE of {summary.arm.name} {ece} points, where chance alone makes {floor} of a calibrated model"
