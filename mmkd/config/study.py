"""Settings of a study: which runs test the paper's claims."""

from typing import Annotated, Literal

from pydantic import Field

from mmkd.config.base import Modality, Part, Positive, Section

Group = Literal["controls", "teachers", "weighting", "loss", "data"]


class Study(Section):
    """An experiment of many runs that tests the paper's claims on a data set; docs/study.md."""

    quick: bool = False
    """A small study, to see what one is: two seeds, few arms, short trainings; also as --quick."""
    seeds: Positive = 5
    """Seeds of both arms of the primary comparison: on labels, and distilled from all teachers."""
    more_seeds: Positive = 2
    """Seeds of every other arm."""
    groups: list[Group] = ["controls", "teachers", "weighting", "loss", "data"]
    """Arms besides the primary ones: label smoothing; fewer teachers; other weightings, also with a corrupted teacher;
    other temperatures, and labels mixed in; fewer clips, and fewer labels."""
    search_lr: list[Annotated[float, Field(gt=0)]] = [2e-3, 4e-3, 8e-3]
    """Learning rates that are tried for both arms, at the first of search_epochs."""
    search_epochs: list[Positive] = [40, 120]
    """Epochs that are tried for both arms, at the learning rate found."""
    search_seed: int = 100
    """Seed of these trials; no reported run has it."""
    teacher_sets: Literal[1, 2] = 2
    """Sets of teachers that are trained, with other seeds; students' seeds alternate between them. Where
    teachers.folders names teachers, these are the only set, and none is trained."""
    teacher_epochs: Positive = 80
    """Epochs of the teachers that are trained."""
    teacher_lr: dict[Modality, Annotated[float, Field(gt=0)]] = {}
    """Learning rate of a modality's teachers, as {"boxes": 1e-3}; optim.lr where it is not named."""
    temperatures: list[Annotated[float, Field(gt=0)]] = [1.0, 2.0, 4.0]
    """Temperatures that are tried besides loss.temperature."""
    shares: list[Part] = [0.1, 0.3]
    """Shares of the training clips, besides all."""
    views: Annotated[str, Field(pattern=r"^[1-9]\d*x[13]$")] = "2x3"
    """Grid of test views (in time x in space) up to which the two primary arms and the ensemble are tested."""
    concurrent: Annotated[int, Field(ge=0)] = 0
    """Runs at a time; 0: as many as fit."""
