"""Settings with some values in place of others, by dotted names; and what is wrong with them, for people."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from mmkd.config import Settings, SettingsError


def apply(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with values, by dotted names, in place of theirs; all validators run.

    Raises:
        SettingsError: a line for each fault, naming the setting.
    """
    try:
        return replace_values(settings, values)
    except ValidationError as error:
        raise SettingsError(explain(error)) from None


def replace_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The same, raising pydantic's ValidationError."""
    tree = settings.model_dump()
    for dotted, value in values.items():
        section, _, name = dotted.partition(".")
        tree.setdefault(section, {})[name] = value
    return Settings.model_validate(tree)


def explain(error: ValidationError) -> str:
    """One line a fault, each naming the field."""
    lines = []
    for fault in error.errors():
        field = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{field} is not a setting; --help lists them all.")
        else:
            given = "" if isinstance(fault["input"], dict | BaseModel) else f" (given: {fault['input']!r})"
            lines.append(f"{field}: {fault['msg'].removeprefix('Value error, ')}{given}".removeprefix(": "))
    return "\n".join(lines)
