"""The search space of a sweep: which settings are searched and where, read from YAML, one entry a setting.

    loss.temperature: {loguniform: [1, 10]}
    optim.epochs: {integer: [2, 6]}
    loss.kind: {choice: [kl, mse, dkd]}
    loss.dkd_beta: {uniform: [1, 8], when: {loss.kind: dkd}}

Both ends of a range belong to it. `grid` is another word for `choice`. A value may be a list or a mapping, and is the
whole value of its setting. `when` names settings that are listed before, each with the value, or a list of values, at
which this one is searched; elsewhere it stays as it is.

All trials of a sweep share their data, the teachers' answers and the machine, so what decides those is not searched.
"""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from mmkd.config import Settings, SettingsError
from mmkd.config.changes import explain, replace_values
from mmkd.config.yaml_text import load_yaml

if TYPE_CHECKING:
    from optuna.trial import Trial

RANGES = ("uniform", "loguniform", "integer")
KINDS = (*RANGES, "choice", "grid")
FIELDS: dict[str, FieldInfo] = {
    f"{section}.{name}": inner
    for section, outer in Settings.model_fields.items()
    for name, inner in getattr(outer.annotation, "model_fields", {}).items()
}
"""All settings by their dotted names."""
TEACHERS = ("weighting", "gamma", "ensemble", "drop_near_chance", "folders")
SEARCHED = ("loss.", "optim.", "student.", "run.seed", *(f"teachers.{name}" for name in TEACHERS))
"""How the names of settings begin that may be searched."""
NOT_SEARCHED = {
    ("views.", "data.", "source.", "pack."): "decides what teachers see, whose answers all trials share",
    ("loss.feature_",): "needs live teachers, and trials share answers that were recorded",
    ("student.modality",): "is rgb for every student",
    ("teacher.",): "is for training a teacher, and trials train students",
}
"""How those begin that may not, and why."""
ALL_THE_REST = "is about how a job is carried out, not what comes of it"


@dataclass(frozen=True)
class Dimension:
    """How one setting is searched.

    Attributes:
        name: the setting's dotted name.
        kind: one of KINDS.
        values: low and high end of a range; otherwise all candidates.
        when: settings listed before, with the values at which this one is searched.
    """

    name: str
    kind: str
    values: list[Any]
    when: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def is_range(self) -> bool:
        return self.kind in RANGES

    def holds(self, drawn: Mapping[str, Any]) -> bool:
        """Whether the condition holds; it does not where a setting that it names was not drawn itself."""
        return all(name in drawn and drawn[name] in values for name, values in self.when.items())

    def has(self, value: Any) -> bool:
        """Whether a search can come upon this value."""
        if not self.is_range:
            return value in self.values
        inside = _is_number(value) and self.values[0] <= value <= self.values[1]
        return inside and (self.kind != "integer" or value % 1 == 0)


@dataclass(frozen=True)
class SearchSpace:
    """What a sweep searches, in the order of the file; `where` is its name in messages."""

    dimensions: list[Dimension]
    where: str = "search space"

    def check(self, settings: Settings) -> None:
        """Try every candidate, and both ends of every range, in the settings, one at a time.

        What is wrong only together with other settings is left to `apply`, as a trial may change those too.

        Raises:
            SettingsError: a line for each value that its setting cannot have.
        """
        faults = [fault for dimension in self.dimensions for fault in _faults(dimension, settings)]
        if faults:
            raise SettingsError("\n".join(f"{self.where}: {fault}" for fault in faults))

    def suggest(self, trial: "Trial") -> dict[str, Any]:
        """Draw a value for every setting whose condition holds, as parameters of an Optuna trial of the same names."""
        drawn: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.holds(drawn):
                drawn[dimension.name] = _draw(trial, dimension)
        return drawn

    def combinations(self) -> list[dict[str, Any]]:
        """All combinations of the choices, the last setting changing fastest; each has what `suggest` would draw.

        Raises:
            SettingsError: there is a range.
        """
        ranges = ", ".join(each.name for each in self.dimensions if each.is_range)
        if ranges:
            raise SettingsError(
                f"{self.where}: search grid tries every value, of which these ranges have too many: {ranges}. List the "
                "values to try, as grid: [...], or take another search."
            )
        found: list[dict[str, Any]] = [{}]
        for each in self.dimensions:
            widened = [[b | {each.name: value} for value in each.values] if each.holds(b) else [b] for b in found]
            found = [combination for several in widened for combination in several]
        return found

    def describe(self, settings: Settings) -> list[tuple[str, str]]:
        """Each setting's name and what is searched, also saying where that leaves out the setting's present value."""
        lines = []
        for each in self.dimensions:
            text = _values(each)
            if each.when:
                text += ", where " + " and ".join(f"{name} is {_either(values)}" for name, values in each.when.items())
            section, name = each.name.split(".")
            present = getattr(getattr(settings, section), name)
            lines.append((each.name, text if each.has(present) else f"{text}; without the present {_text(present)}"))
        return lines


def read_space(path: str | Path) -> SearchSpace:
    """Read a search space from a YAML file.

    Raises:
        SettingsError: there is no such file, it is not YAML, or what `parse_space` raises.
    """
    path = Path(path)
    if not path.is_file():
        raise SettingsError(f"{path}: there is no such file; sweep.space must be the YAML file of a search space.")
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from None
    return parse_space(tree, str(path))


def parse_space(tree: dict[str, Any], where: str) -> SearchSpace:
    """The search space of a parsed YAML file; `where` is its name in messages.

    Raises:
        SettingsError: an entry cannot be; values are tried in `SearchSpace.check` only.
    """
    if not isinstance(tree, dict) or not tree:
        what = "is no mapping" if tree else "is empty"
        raise SettingsError(f"{where} {what}; list settings in it, as loss.temperature: {{loguniform: [1, 10]}}")
    before: dict[str, Dimension] = {}
    for name, entry in tree.items():
        try:
            before[name] = _dimension(str(name), entry, before)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from None
    return SearchSpace(list(before.values()), where)


def _dimension(name: str, entry: Any, before: Mapping[str, Dimension]) -> Dimension:
    _refuse_unsearchable(name)
    kinds = [kind for kind in entry if kind != "when"] if isinstance(entry, dict) else []
    if len(kinds) != 1 or kinds[0] not in KINDS:
        given = f"has {', '.join(map(str, kinds))}" if kinds else f"is {_text(entry)}"
        raise SettingsError(f"{name} {given}; it needs one of {', '.join(KINDS)}, and perhaps when.")
    (kind,) = kinds
    values = _range(name, kind, entry[kind]) if kind in RANGES else _choices(name, kind, entry[kind])
    return Dimension(name, kind, values, _conditions(name, entry["when"], before) if "when" in entry else {})


def _refuse_unsearchable(name: str) -> None:
    if name in Settings.model_fields:
        raise SettingsError(f"{name} is a section; list its settings by their dotted names, as {name}.NAME.")
    if name not in FIELDS:
        (near,) = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0)
        raise SettingsError(f"{name} is not a setting; the closest is {near}.")
    rest = "" if name.startswith(SEARCHED) else ALL_THE_REST
    if why := next((why for starts, why in NOT_SEARCHED.items() if name.startswith(starts)), rest):
        raise SettingsError(f"{name} {why}, so a sweep cannot search it. Take it out, and set it for all trials.")


def _range(name: str, kind: str, ends: Any) -> list[Any]:
    what = f"{name}: {kind} is {_text(ends)}"
    whole = kind == "integer"
    numbers = isinstance(ends, list) and all(_is_number(end) and (not whole or isinstance(end, int)) for end in ends)
    if not numbers or len(ends) != 2:
        raise SettingsError(f"{what}; it must be two {'whole ' if whole else ''}numbers, [low, high].")
    if ends[0] >= ends[1]:
        raise SettingsError(f"{what}; the first must be less than the second. For one value, set it for all trials.")
    if kind == "loguniform" and ends[0] <= 0:
        raise SettingsError(f"{what}; it must begin above 0, as logarithms do. From 0 on there is uniform.")
    return ends


def _choices(name: str, kind: str, values: Any) -> list[Any]:
    what = f"{name}: {kind} is {_text(values)}"
    if not isinstance(values, list) or not values:
        raise SettingsError(f"{what}; it must be a list of values to choose from.")
    for at, value in enumerate(values):
        if value in values[:at]:
            raise SettingsError(f"{what}, with {_text(value)} twice.")
    return values


def _conditions(name: str, when: Any, before: Mapping[str, Dimension]) -> dict[str, list[Any]]:
    if not isinstance(when, dict) or not when:
        raise SettingsError(f"{name}: when is {_text(when)}; it must map settings to values, as {{loss.kind: dkd}}.")
    conditions = {}
    for other, value in when.items():
        if other not in before or before[other].kind in ("uniform", "loguniform"):
            raise SettingsError(f"{name}: when names {other}, which must be listed before it, as choice or integer.")
        values = value if isinstance(value, list) and not before[other].has(value) else [value]
        never = [each for each in values if not before[other].has(each)]
        if never or not values:
            given = _either(never) if never else "nothing"
            raise SettingsError(f"{name}: when {other} is {given}, which it never is: it is {_values(before[other])}.")
        conditions[other] = values
    return conditions


def _faults(dimension: Dimension, settings: Settings) -> list[str]:
    name, kind = dimension.name, dimension.kind
    annotation = FIELDS[name].annotation
    if dimension.is_range and annotation not in (int, float):
        return [f"{name} is not a number, so it has no {kind} range; list its values as choice."]
    if annotation is int and kind in ("uniform", "loguniform"):
        return [f"{name} takes whole numbers; search it as integer instead of {kind}."]
    faults = []
    for value in dimension.values:
        try:
            replace_values(settings, {name: value})
        except ValidationError as error:
            # A fault of the value alone is located at its field, one of a combination at the section.
            if any(fault["loc"][:2] == tuple(name.split(".")) for fault in error.errors()):
                faults += explain(error).splitlines()
    return faults


def _draw(trial: "Trial", dimension: Dimension) -> Any:
    if dimension.kind == "integer":
        return trial.suggest_int(dimension.name, *dimension.values)
    if dimension.is_range:
        return trial.suggest_float(dimension.name, *dimension.values, log=dimension.kind == "loguniform")
    # Optuna's categories must be scalars.
    by_key = {json.dumps(v, default=str) if isinstance(v, list | dict) else v: v for v in dimension.values}
    return by_key[trial.suggest_categorical(dimension.name, list(by_key))]


def _values(dimension: Dimension) -> str:
    if not dimension.is_range:
        return _either(dimension.values)
    how = {"uniform": "", "loguniform": ", logarithmic", "integer": ", whole numbers"}[dimension.kind]
    return " to ".join(map(_text, dimension.values)) + how


def _either(values: list[Any]) -> str:
    *most, last = map(_text, values)
    return f"{', '.join(most)} or {last}" if most else last


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
