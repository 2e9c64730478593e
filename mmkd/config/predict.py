"""Settings of predicting in bulk: which model, of which videos or clips, and what is kept of its answers."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmkd.config.base import Positive, Section, without_secrets
from mmkd.config.evaluate import GRID


class Predict(Section):
    """A model on any number of videos, or on a split of a data set; docs/inference.md."""

    model: str = ""
    """Model folder or run folder, also as --model; relative ones are under HOME/models or HOME/runs."""
    videos: list[str] = []
    """Videos, folders of videos, and patterns with * in quotes, absolute or at s3:// or gs://; also as --videos."""
    videos_file: str = ""
    """Text file with one of the same on each line, besides `videos`."""
    split: str = ""
    """Predict the clips of this split of data.folder instead of videos."""
    out: str = ""
    """Folder for the Parquet files, absolute or remote; empty: RUN/predictions."""
    views: Annotated[str, Field(pattern=f"^{GRID}$")] = "1x1"
    """Grid of test views, in time x in space, whose logits are averaged; also as --views."""
    window: Annotated[float, Field(ge=0)] = 0.0
    """Seconds of video that are one clip; 0: all of a video is."""
    hop: Annotated[float, Field(ge=0)] = 0.0
    """Seconds from the start of a window to that of the next; 0: `window`."""
    top: Positive = 5
    """Classes that are named, the likeliest."""
    probabilities: bool = True
    """Keep the probabilities of all classes, too."""
    features: bool = False
    """Keep what the classifiers see, too: one vector a clip, averaged over its views."""
    per_file: Positive = 64
    """Videos, or clips of a split, in a Parquet file; it is also what is done again where a process dies."""
    actors: Annotated[int, Field(ge=0)] = 0
    """Actors that decode and answer; 0: as many as the CPUs, or the GPUs, allow."""
    num_cpus: Positive = 1
    """CPUs that each reserves, and threads that it computes on; on a GPU so many videos are decoded at once."""
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that each reserves; 0: it computes on CPUs."""
    batch_size: Positive = 32
    """Views that are answered at once."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """In which the network computes; the others round its logits."""

    @model_validator(mode="after")
    def _paths(self) -> "Predict":
        for name, paths in (("videos", self.videos), ("videos_file", [self.videos_file]), ("out", [self.out])):
            for path in paths:
                without_secrets("predict", **{name: path})
                if path and "://" not in path and not path.startswith(("/", "~")):
                    raise ValueError(
                        f"predict.{name} is {path!r}, which is relative; a job's working directory is a copy, so give "
                        f"an absolute path (perhaps {Path(path).absolute()})"
                    )
        if self.split and (self.videos or self.videos_file):
            raise ValueError("predict.split and predict.videos are both given; a job is of one or the other")
        return self
