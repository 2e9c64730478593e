"""Settings of an evaluation: which models, on what, in which views."""

from typing import Annotated

from pydantic import Field

from mmkd.config.base import Section

GRID = r"[1-9]\d*x[13]"
"""A grid of test views: so many in time x 1 or 3 in space."""


class Evaluate(Section):
    """Models on a split: accuracy, calibration, cost; docs/evaluation.md."""

    models: list[str] = []
    """Model folders, also as --model; relative ones are under HOME/models or HOME/runs. Empty: the teachers
    (teachers.folders, else those shipped), each by itself and together."""
    ensemble: bool = False
    """Also all models together, under each weighting."""
    split: str = ""
    """Split to report on; empty: data.test."""
    views: Annotated[str, Field(pattern=f"^({GRID})?$")] = ""
    """Grid of test views, in time x in space, as 10x3, also as --views; smaller grids are reported with it. Empty:
    views.test_clips x views.test_crops."""
    scale: bool = True
    """Also report calibration after temperature scaling, fitted on split data.val."""
    cost: bool = True
    """Also measure what the models, and their inputs, cost on this machine."""
    logits: str = ""
    """Folder of an evaluation: report on the logits that it kept, without any model; also as --logits."""
    actors: Annotated[int, Field(ge=0)] = 0
    """Actors that answer; 0: one on each CPU, or teachers.actors on GPUs (teachers.num_gpus)."""
