"""Clips to calibrate an export with and to compare it on, as the model is tested on them: batches of raw frames."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmkd.config import Settings, Views
from mmkd.inference.sampling import sampling_of
from mmkd.inference.windows import video_windows
from mmkd.models import ModelSpec
from mmkd.plan import TEST_VIEW
from mmkd.storage import is_file, join

Frames = NDArray[np.uint8]
"""[batch, frames, height, width, channels]"""


def clips_of(source: str, spec: ModelSpec, split: str, number: int, batch: int) -> Iterator[Frames]:
    """Test views of clips of a data set (its path, or its name under HOME/data), or of a video file.

    Args:
        spec: of the model that is to see them.
        split: of the data set.
        number: of clips, spread evenly over the split; 0: all. Of a video, that many views, 0 being 8.
        batch: clips at a time, at most.

    Raises:
        FileNotFoundError: there is no such data set or video.
        ValueError: it has no such split, no clip that can be used, or not what the model sees.
    """
    if (path := Path(source).expanduser()).is_file():
        return _video_clips(path, spec, number or 8, batch)
    return _dataset_clips(source, spec, split, number, batch)


def own_data(spec: ModelSpec, split: str) -> str:
    """The data set that a model learnt on, where it is under HOME/data and has such a split; else nothing."""
    learnt = spec.training.get("data")
    learnt = learnt if isinstance(learnt, dict) else {}
    name = str(learnt.get("name", ""))
    folder = str(Settings().home / "data" / name)
    # A model folder may be anybody's, and must not say which files are read.
    if not re.fullmatch(r"\w[\w.-]*", name) or not is_file(join(folder, "dataset.json")):
        return ""
    from mmkd.dataset import open_dataset

    dataset = open_dataset(folder)
    return folder if dataset.fingerprint == learnt.get("fingerprint") and split in dataset.splits else ""


def random_clips(spec: ModelSpec, number: int, batch: int, seed: int = 0) -> Iterator[Frames]:
    """Clips of random patches, of the shape that the model sees. Each frame is 4 x 4 patches, as of pixels that are all
    random one clip looks like another to a network."""
    rng = np.random.default_rng(seed)
    frames, size, channels = spec.input["frames"], spec.input["size"], 3 if spec.modality == "rgb" else 2
    for start in range(0, number, batch):
        patches = rng.integers(0, 256, (min(batch, number - start), frames, 4, 4, channels), dtype=np.uint8)
        side = -(-size // 4)
        whole = patches.repeat(side, axis=2).repeat(side, axis=3)
        yield np.ascontiguousarray(whole[:, :, :size, :size])


def _dataset_clips(source: str, spec: ModelSpec, split: str, number: int, batch: int) -> Iterator[Frames]:
    from mmkd.dataset import open_dataset
    from mmkd.reader import REAL, read_unit
    from mmkd.shards import read_manifest

    here = Path(source).expanduser().absolute()
    folder = str(here) if (here / "dataset.json").is_file() else Settings().below_data(source)
    dataset, manifest = open_dataset(folder), read_manifest(folder, split)
    if spec.modality not in dataset.modalities:
        raise ValueError(f"{folder} has no {spec.modality}, which the model sees.")
    views, found = _views(spec), 0
    chosen = np.unique(np.linspace(0, len(manifest) - 1, number or len(manifest)).astype(np.int64))
    for start in range(0, len(chosen), batch):
        block = read_unit(dataset, manifest, views, chosen[start : start + batch], TEST_VIEW, (spec.modality,))
        whole = (block["status"] == REAL) & block[f"has/{spec.modality}"]
        found += int(whole.sum())
        if whole.any():
            yield block[spec.modality][whole]
    if not found:
        raise ValueError(f"split {split!r} of {folder} has no clip that can be used.")


def _video_clips(path: Path, spec: ModelSpec, number: int, batch: int) -> Iterator[Frames]:
    if spec.modality != "rgb":
        raise ValueError(f"{path} is a video, and the model sees {spec.modality}; give a data set.")
    (clip,) = video_windows(path, sampling_of(spec, f"{number}x1"))
    if clip.rgb is None:
        raise ValueError(f"{path} cannot be shown: {clip.error}.")
    for start in range(0, number, batch):
        yield clip.rgb[start : start + batch]


def _views(spec: ModelSpec) -> Views:
    """The views that a model was trained to see."""
    return Views.model_validate({name: value for name, value in spec.input.items() if name in Views.model_fields})
