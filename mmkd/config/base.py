"""What every section of the settings is built from."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from mmkd.storage import refuse_secrets

Modality = Literal["rgb", "flow", "audio", "boxes"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Part = Annotated[float, Field(gt=0, le=1)]


class SettingsError(ValueError):
    """A setting that cannot be; the message names the field."""


class JobError(RuntimeError):
    """A job that was carried out and did not come to its end; the message says why, and what to do."""


class StoppedError(JobError):
    """A run ended early, on request; the same command goes on with it."""


def without_secrets(section: str, **paths: str) -> None:
    """Refuse paths with credentials in them. For validators of a whole section, whose error does not show its values.

    Raises:
        ValueError: one has some; it names the field.
    """
    for name, path in paths.items():
        try:
            refuse_secrets(path)
        except ValueError as error:
            raise ValueError(f"{section}.{name}: {error}") from None


class Section(BaseModel):
    """A section of the settings; each field's docstring is its help text."""

    # pydantic would show the values of a section, of which one may be a secret.
    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)
