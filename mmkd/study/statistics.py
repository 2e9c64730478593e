"""Differences between two arms, with intervals over training seeds and clips at once, and Holm's correction.

The arms are paired by seed and by clip. A replicate draws S of the S seeds and n of the n clips with replacement, both
arms on the same draws, and is the observed difference + what the drawn seeds add to it + what the drawn clips add.
Where seeds are few, plain resampling of seeds and clips is off (Owen, Annals of Applied Statistics 1(2), 2007;
Hesterberg, The American Statistician 69(4), 2015), so

- what the seeds add is stretched by sqrt(S / x), x drawn from chi-square with S - 1 degrees of freedom: seeds drawn
  from a few spread too little, by (S - 1) / S in variance, which sqrt(S / (S - 1)) mends; and their spread is itself
  uncertain, for which sqrt((S - 1) / x) makes Student's t of z. So two seeds say little, as they should;
- what the clips add is shrunk to what the seeds share of it (by their covariance over the replicates): what clips do
  to one seed alone is in the spread of the seeds already, and would count up to three times. An interval is never
  narrower than one over clips with the seeds taken for given.

tests/test_study_statistics.py checks by simulation that the intervals cover. With one seed only clips are drawn, and
the interval says nothing of other seeds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd.calibration import joint_brier_per_clip
from mmkd.metrics import equal_width_bins, softmax
from mmkd.report.predictions import Predictions, outcomes
from mmkd.report.table import main_head, rows_of_same_clips
from mmkd.study.results import Contrast, Interval, StudyResults, Tested

Floats = NDArray[np.float64]
REPLICATES = 4000
AT_ONCE = 500
"""Replicates whose draws are in memory together: 12 MB for 3,000 clips."""
BINS = 15
SMALLEST_GRID = "1x1"


def contrast(
    results: StudyResults,
    first: str,
    second: str,
    where: str = "test",
    grid: str = "",
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Contrast:
    """Arm `first` minus arm `second`, on the seeds that both have and the clips with a known label.

    Args:
        where: "test" or "unseen".
        grid: of test views; empty: the first.
        seed: of the draws.

    Raises:
        ValueError: no seed in common, no such answers, or other clips, heads or labels.
    """
    pairs = {
        number: (answers(ours, where, grid), answers(theirs, where, grid))
        for number, (ours, theirs) in paired(results, first, second).items()
    }
    return compare(first, second, where, pairs, replicates, seed)


def compare(
    first: str,
    second: str,
    where: str,
    pairs: Mapping[int, tuple[Predictions, Predictions]],
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Contrast:
    """The same of any answers: seed to those of the first and of the second.

    Accuracy, nll and Brier score are means over clips. The calibration error is computed anew in each replicate, on
    its clips; as drawing clips twice makes it larger by itself, replicates are moved so that their mean is the
    observed difference. Of the action, the Brier score is that of the product of the heads' distributions.
    """

    def differences(means: Floats) -> dict[str, Floats]:
        ours, theirs = (measured(part) for part in np.split(means, 2, axis=-1))
        return {measure: ours[measure] - theirs[measure] for measure in ours}

    reference = next(iter(pairs.values()))[0]
    tables = [(clip_table(ours, reference), clip_table(theirs, reference)) for ours, theirs in pairs.values()]
    columns = {
        head: np.stack([np.concatenate([ours[head], theirs[head]], axis=1) for ours, theirs in tables], axis=1)
        for head in tables[0][0]
    }
    return _contrasted(first, second, where, list(pairs), columns, differences, replicates, seed)


def drop_contrast(
    results: StudyResults, first: str, second: str, replicates: int = REPLICATES, seed: int = 0
) -> Contrast:
    """How much more accuracy arm `first` loses than arm `second` (negative: it loses less) when the largest grid of
    test views becomes one view; accuracy only.

    Raises:
        ValueError: as `contrast`, or the study has no other grid than 1x1, or not that.
    """
    models = paired(results, first, second)
    largest = largest_grid(next(iter(models.values()))[0].grids)
    if largest == SMALLEST_GRID:
        raise ValueError(f"all answers are for grid {SMALLEST_GRID}; what fewer views cost needs another grid.")
    reference = answers(next(iter(models.values()))[0], "test", largest)

    def lost(model: Tested) -> dict[str, Floats]:
        many, one = (clip_table(answers(model, "test", grid), reference) for grid in (largest, SMALLEST_GRID))
        return {head: many[head][:, :1] - one[head][:, :1] for head in many}

    losses = [(lost(ours), lost(theirs)) for ours, theirs in models.values()]
    columns = {head: np.stack([ours[head] - theirs[head] for ours, theirs in losses], axis=1) for head in losses[0][0]}
    return _contrasted(
        first, second, "test", list(models), columns, lambda means: {"accuracy": means[..., 0]}, replicates, seed
    )


def paired(results: StudyResults, first: str, second: str) -> dict[int, tuple[Tested, Tested]]:
    """The models of two arms by the seeds that both have; ValueError where there is none."""
    ours, theirs = ({each.seed: each for each in results.of(arm)} for arm in (first, second))
    seeds = shared_seeds(results, first, second)
    if not seeds:
        raise ValueError(
            f"arms {first!r} (seeds {sorted(ours)}) and {second!r} (seeds {sorted(theirs)}) have no seed in common; "
            "they are compared seed by seed."
        )
    return {number: (ours[number], theirs[number]) for number in seeds}


def shared_seeds(results: StudyResults, first: str, second: str) -> list[int]:
    ours, theirs = ({each.seed for each in results.of(arm)} for arm in (first, second))
    return sorted(ours & theirs)


def answers(model: Tested, where: str, grid: str = "") -> Predictions:
    """A model's answers on split test (in a grid; empty: the first) or unseen; ValueError where it has none."""
    found = model.unseen if where == "unseen" else model.grids.get(grid or next(iter(model.grids)))
    if found is None:
        raise ValueError(f"arm {model.arm!r}, seed {model.seed}, has no answers on split {where}, grid {grid!r}.")
    return found


def largest_grid(grids: Iterable[str]) -> str:
    """The grid of most views."""
    return max(grids, key=lambda grid: np.prod([int(side) for side in grid.split("x")]))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm, Scandinavian Journal of Statistics 6, 1979): rejecting those below 0.05 is wrong
    anywhere with a probability of at most 0.05, however the tests depend on each other."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted.tolist()


def clip_table(predictions: Predictions, reference: Predictions) -> dict[str, Floats]:
    """Head (and action) to [clips of known label, 3 + bins], in the order of the reference's clips: whether it is
    right, nll, Brier score, and in the column of the confidence's bin by how much confidence exceeds being right."""
    rows = rows_of_same_clips(reference, predictions)
    result = {}
    for head, each in outcomes(predictions).items():
        each, kept = each.take(rows), rows[each.known[rows]]
        table = np.zeros((len(kept), 3 + BINS))
        if len(kept):
            confidence, correct = each.confidence[each.known], each.correct[each.known]
            heads = list(predictions.logits) if head == "action" else [head]
            p = [softmax(predictions.logits[name][kept]) for name in heads]
            table[:, 0], table[:, 1] = correct, each.nll[each.known]
            table[:, 2] = joint_brier_per_clip(p, [predictions.labels[name][kept] for name in heads])
            table[np.arange(len(kept)), 3 + equal_width_bins(confidence, BINS)] = confidence - correct
        result[head] = table
    return result


def measured(means: Floats) -> dict[str, Floats]:
    """The measures of [..., columns of `clip_table`] means over clips, [...] each."""
    accuracy, nll, brier = np.moveaxis(means[..., :3], -1, 0)
    return {"accuracy": accuracy, "nll": nll, "brier": brier, "ece": np.abs(means[..., 3:]).sum(axis=-1)}


def _contrasted(
    first: str,
    second: str,
    where: str,
    seeds: list[int],
    columns: Mapping[str, Floats],
    measures: Callable[[Floats], dict[str, Floats]],
    replicates: int,
    seed: int,
) -> Contrast:
    """A contrast of what `measures` makes of the means over clips of columns, head to [clips, seeds, k]."""
    outcomes_of: dict[str, dict[str, Interval]] = {}
    each_seed: dict[str, dict[str, list[float]]] = {}
    for head, values in columns.items():
        whole = measures(values.mean(axis=0) if len(values) else np.full(values.shape[1:], np.nan))
        each_seed[head] = {measure: figures.tolist() for measure, figures in whole.items()}
        outcomes_of[head] = _intervals(values, measures, whole, replicates, np.random.default_rng(seed))
    clips = len(columns[main_head(columns)])
    return Contrast(first, second, where, seeds, clips, outcomes_of, each_seed)


def _intervals(
    values: Floats,
    measures: Callable[[Floats], dict[str, Floats]],
    whole: Mapping[str, Floats],
    replicates: int,
    random: np.random.Generator,
) -> dict[str, Interval]:
    n, seeds, k = values.shape
    if n < 2:
        nan = float("nan")
        return {measure: Interval(float(figures.mean()), nan, nan, nan) for measure, figures in whole.items()}
    shares = random.multinomial(seeds, np.full(seeds, 1 / seeds), replicates) / seeds
    stretch = np.sqrt(seeds / random.chisquare(seeds - 1, replicates)) if seeds > 1 else np.ones(replicates)
    parts = []
    for start in range(0, replicates, AT_ONCE):
        size = min(AT_ONCE, replicates - start)
        drawn = random.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means = counts.astype(np.float64) @ values.reshape(n, seeds * k) / n
        parts.append(measures(means.reshape(size, seeds, k)))
    result = {}
    for measure, figures in whole.items():
        difference = float(figures.mean())
        by_clips = np.concatenate([part[measure] for part in parts])
        by_clips -= by_clips.mean(axis=0)
        clips_alone = by_clips.mean(axis=1)
        both = stretch * (shares @ figures - difference) + _shared(by_clips) * clips_alone
        # Few seeds can agree by chance; what the clips alone leave open stays open.
        result[measure] = _interval(difference, difference + max(both, clips_alone, key=np.std))
    return result


def _shared(by_clips: Floats) -> float:
    """What part, in standard deviation, of the mean over seeds of [replicates, seeds] is common to the seeds."""
    seeds = by_clips.shape[1]
    covariance = by_clips.T @ by_clips
    if seeds == 1 or not covariance.any():
        return 1.0
    between = (covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1))
    return float(np.sqrt(max(between, 0) / covariance.mean()))


def _interval(difference: float, replicates: Floats) -> Interval:
    """The percentile interval, and the p value at which one would just leave 0 out."""
    replicates = replicates.round(12)  # else what rounding leaves of no difference at all would have a sign
    low, high = np.percentile(replicates, [2.5, 97.5])
    beyond = min((replicates <= 0).sum(), (replicates >= 0).sum())
    p = min(1.0, 2 * (1 + beyond) / (1 + len(replicates)))
    return Interval(difference, float(low), float(high), float(p))
