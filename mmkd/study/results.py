"""What a study comes to: the models that were tested, and what is said of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmkd.cost.record import Cost
from mmkd.report.predictions import Predictions

MEASURES = ("accuracy", "nll", "brier", "ece")
"""What two arms are compared in: accuracy and calibration error are shares (0..1), nll is in nats."""


@dataclass(frozen=True)
class Arm:
    """A way to train, or a model of another kind, that the study looks at.

    Attributes:
        name: e.g. "distilled".
        title: a few words for people, e.g. "distilled from all teachers".
        group: of the arms that are looked at together: primary, controls, teachers, weighting, loss, data; or ensemble
            and single teachers, which are no students.
        reference: name of the arm that it is compared with; empty: none.
        exploratory: not part of the comparison that was named before the study was run.
    """

    name: str
    title: str
    group: str
    reference: str = ""
    exploratory: bool = True


@dataclass
class Tested:
    """A model of an arm, and its answers.

    Attributes:
        arm: name of its arm.
        seed: run seed.
        teacher_set: number of the set of teachers that it learnt from, or is made of; -1: none.
        grids: "1x1", "3x3", ...: (test views in time x in space) to answers on split test; the first is the one that
            models are compared in. All models of a study have the same grids.
        val: answers on split val, in that grid; temperature scaling is fitted on them.
        unseen: answers on split unseen, in that grid; None where the data has no such split.
        facts: of its training: learning rate, epochs, best epoch, run folder.
    """

    arm: str
    seed: int
    teacher_set: int
    grids: dict[str, Predictions]
    val: Predictions
    unseen: Predictions | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class StudyResults:
    """All that the report of a study is made of.

    Attributes:
        arms: in the order of the report.
        tested: all models, an arm's together.
        costs: of the student, each teacher, the ensemble.
        search: rows of {"arm", "lr", "epochs", "accuracy", "nll", "best_epoch", "chosen"}, on split val.
        competence: of each set of teachers, `mmkd.competence.Competence.as_dict()`.
        facts: name and value for people: command, data, seeds, date, versions, seconds.
        tail: head to its tail classes, where the data names them.
    """

    arms: list[Arm]
    tested: list[Tested]
    heads: dict[str, list[str]]
    costs: list[Cost] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)
    competence: list[dict[str, Any]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    settings_yaml: str = ""
    quick: bool = False
    tail: dict[str, list[int]] = field(default_factory=dict)

    def of(self, arm: str) -> list[Tested]:
        """The models of an arm, by seed."""
        return sorted((each for each in self.tested if each.arm == arm), key=lambda each: each.seed)


@dataclass
class Interval:
    """A difference with the bounds of its 95 % interval, and the two-sided probability of one as far from 0."""

    difference: float
    low: float
    high: float
    p: float


@dataclass
class Contrast:
    """Two arms on the same clips, first minus second, paired by seed and clip.

    Attributes:
        where: "test" or "unseen".
        seeds: that both arms have.
        outcomes: head (and "action") to measure (of MEASURES) to interval.
        each_seed: head to measure to the difference at each seed.
    """

    first: str
    second: str
    where: str
    seeds: list[int]
    clips: int
    outcomes: dict[str, dict[str, Interval]]
    each_seed: dict[str, dict[str, list[float]]]


@dataclass
class Summary:
    """An arm's figures: means over its seeds.

    Attributes:
        heads: head (and "action") to {"accuracy", "accuracy_sd" (over seeds; NaN for one), "standard_error" (of one
            seed's accuracy over clips), "top5", "mean_class", "ece", "ece_floor", "nll", "brier", "temperature",
            "scaled_ece", "scaled_ece_floor", "scaled_nll", "scaled_brier", "n"}; scaled: after temperature scaling
            fitted on split val.
        unseen: head to {"accuracy", "standard_error", "ece", "nll", "brier", "n"}; empty without such a split.
        views: grid to the accuracy in the main head.
    """

    arm: Arm
    seeds: list[int]
    heads: dict[str, dict[str, float]]
    unseen: dict[str, dict[str, float]]
    views: dict[str, float]


@dataclass
class Claim:
    """A claim of the paper, and what the study says of it.

    Attributes:
        text: the claim, in one sentence.
        verdict: "holds", "does not hold" or "cannot be told".
        deciding: what decides, in words, e.g. "action accuracy, distilled - labels, points".
        interval: of what decides; None where nothing is estimated (cost is counted).
        adjusted_p: after Holm's correction over all claims that have a p.
        said: sentences with the numbers.
    """

    text: str
    verdict: str
    deciding: str
    interval: Interval | None
    adjusted_p: float
    said: Sequence[str]
