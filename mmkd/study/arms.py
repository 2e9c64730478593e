"""The arms of a study: what is trained how, and what it is compared with. A pure function of the settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmkd.config import Settings
from mmkd.study.results import Arm

BAD = "bad"
"""Name, among a set's teachers, of the corrupted one."""
DECIDING = ("bad-uniform", "bad-held-out")
"""Arms outside the primary comparison that a claim rests on; they have a seed more."""


@dataclass(frozen=True)
class Recipe:
    """How the students of an arm are trained.

    Attributes:
        teachers: names of the set's teachers that teach; empty: labels alone.
        like: arm of the primary comparison whose learning rate and epochs it takes.
        changes: settings besides, by dotted names.
        share: of the training clips that have labels, and that teachers were trained on.
        unlabelled: the other clips are used, too, without their labels.
        stretch: factor on the epochs.
        seeds: number of seeds.
    """

    arm: Arm
    teachers: tuple[str, ...]
    like: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    unlabelled: bool = False
    stretch: float = 1.0
    seeds: int = 2


def recipes(settings: Settings, modalities: Sequence[str]) -> list[Recipe]:
    """The students of a study, in the order of its report.

    Args:
        modalities: what the teachers of a set see; their names.
    """
    study, every = settings.study, tuple(modalities)
    makers = {
        "controls": _controls,
        "teachers": _fewer_teachers,
        "weighting": _weightings,
        "loss": _losses,
        "data": _shares,
    }
    labels = Recipe(Arm("labels", "on labels", "primary", "", False), (), "labels", seeds=study.seeds)
    title = "distilled from all teachers"
    distilled = Recipe(Arm("distilled", title, "primary", "labels", False), every, "distilled", seeds=study.seeds)
    others = [recipe for group in study.groups for recipe in makers[group](settings, every)]
    few, some = study.more_seeds, min(study.more_seeds + 1, study.seeds)
    seeds = {recipe.arm.name: some if recipe.arm.name in DECIDING else few for recipe in others}
    return [labels, distilled, *(replace(recipe, seeds=seeds[recipe.arm.name]) for recipe in others)]


def corrupted(modalities: Sequence[str]) -> str:
    """The teacher that has a corrupted copy: one that is good at something that RGB is not."""
    return next(name for name in ("flow", "boxes", "audio", *modalities) if name in modalities)


def longer(share: float) -> float:
    """Factor on the epochs where a share of the clips makes them shorter: 2 for a tenth, 1.4 for 30 %."""
    return share**-0.3


def _distilled(name: str, title: str, group: str, reference: str, teachers: Sequence[str], **how: Any) -> Recipe:
    return Recipe(Arm(name, title, group, reference), tuple(teachers), "distilled", **how)


def _controls(settings: Settings, every: tuple[str, ...]) -> list[Recipe]:
    arm = Arm("smoothing", "on labels, smoothed by 0.1", "controls", "labels")
    return [Recipe(arm, (), "labels", {"loss.label_smoothing": 0.1})]


def _fewer_teachers(settings: Settings, every: tuple[str, ...]) -> list[Recipe]:
    if "rgb" not in every:
        return []
    others = [name for name in every if name != "rgb"]
    return [
        _distilled("from-rgb", "distilled from RGB alone", "teachers", "labels", ["rgb"]),
        *(
            _distilled(f"from-rgb-{name}", f"distilled from RGB and {name}", "teachers", "from-rgb", ["rgb", name])
            for name in others
        ),
    ]


def _weightings(settings: Settings, every: tuple[str, ...]) -> list[Recipe]:
    """The naive average is of all teachers, also of those near chance on a head; so are ensembles with a corrupted one,
    so that nothing but the weights tells them apart."""
    whole = {"teachers.drop_near_chance": False}
    uniform = {"teachers.weighting": "uniform"} | whole
    held_out, own = {"teachers.weighting": "held_out"}, {"teachers.weighting": "per_sample"}
    spoilt = [BAD if name == corrupted(every) else name for name in every]

    def arm(name: str, title: str, reference: str, teachers: Sequence[str], changes: dict[str, Any]) -> Recipe:
        return _distilled(name, title, "weighting", reference, teachers, changes=changes)

    bad = "a corrupted teacher, weighted"
    return [
        arm("uniform", "all teachers, weighted uniformly", "distilled", every, uniform),
        arm("per-sample", "all teachers, weighted by each clip's label", "distilled", every, own),
        arm("bad-uniform", f"{bad} uniformly", "uniform", spoilt, uniform),
        arm("bad-held-out", f"{bad} by held-out clips", "bad-uniform", spoilt, held_out | whole),
        arm("bad-per-sample", f"{bad} by each clip's label", "bad-uniform", spoilt, own | whole),
    ]


def _losses(settings: Settings, every: tuple[str, ...]) -> list[Recipe]:
    def arm(name: str, title: str, changes: dict[str, Any]) -> Recipe:
        return _distilled(name, title, "loss", "distilled", every, changes=changes)

    found = [
        arm(f"temperature-{value:g}", f"temperature {value:g}", {"loss.temperature": value})
        for value in settings.study.temperatures
        if value != settings.loss.temperature
    ]
    if settings.loss.label_weight:
        alone = {"loss.distill_weight": 1.0, "loss.label_weight": 0.0}
        return [*found, arm("no-labels", "teachers alone in the loss", alone)]
    return [*found, arm("mixed", "labels mixed in by half", {"loss.distill_weight": 0.5, "loss.label_weight": 0.5})]


def _shares(settings: Settings, every: tuple[str, ...]) -> list[Recipe]:
    """Fewer clips make shorter epochs, hence more of them."""
    found = []
    for share in settings.study.shares:
        tag, of, stretch = f"{100 * share:g}", f"{100 * share:g} % of the clips", longer(share)
        labels = Arm(f"labels-{tag}", f"on labels, {of}", "data")
        found += [
            Recipe(labels, (), "labels", {}, share, stretch=stretch),
            _distilled(
                f"distilled-{tag}", f"distilled, {of}", "data", labels.name, every, share=share, stretch=stretch
            ),
            _distilled(
                f"unlabelled-{tag}",
                f"distilled, {of} and the others without labels",
                "data",
                f"distilled-{tag}",
                every,
                share=share,
                unlabelled=True,
            ),
        ]
    return found
