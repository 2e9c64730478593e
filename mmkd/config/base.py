"""What every section of the settings is built from."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Modality = Literal["rgb", "flow", "audio", "boxes"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Part = Annotated[float, Field(gt=0, le=1)]


class SettingsError(ValueError):
    """A setting that cannot be; the message names the field."""


class JobError(RuntimeError):
    """A job that was carried out and did not come to its end; the message says why, and what to do."""


class Section(BaseModel):
    """A section of the settings; each field's docstring is its help text."""

    model_config = ConfigDict(extra="forbid", validate_default=True)
