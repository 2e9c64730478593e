"""Evaluation: the logits of any number of models for every clip of a split, each exactly once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from mmkd.config import Settings
from mmkd.pipeline import cached_dataset, cached_manifest, configure_context, in_teacher_pool, make_ensemble
from mmkd.plan import PADDING, TEST_VIEW
from mmkd.reader import REAL, STATUS, Block, read_unit
from mmkd.report.predictions import Predictions
from mmkd.teachers import combine, present_weights


@dataclass
class SplitLogits:
    """Logits of models for a split.

    Attributes:
        clips: numbers of the clips in the split's manifest, ascending; broken ones are left out.
        labels: head to [clips].
        logits: head to float32 [clips, models, classes].
        present: bool [clips, models], the clip has what the model sees.
        broken: (clip_id, reason) of those left out.
    """

    clip_ids: list[str]
    clips: np.ndarray
    labels: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]
    present: np.ndarray
    broken: list[tuple[str, str]]

    def of_model(self, number: int, name: str, parameters: int) -> Predictions:
        """One model's predictions on the clips that have what it sees."""
        rows = np.flatnonzero(self.present[:, number])
        return self._some(rows, {head: values[rows, number] for head, values in self.logits.items()}, name, parameters)

    def of_ensemble(self, weights: Mapping[str, Sequence[float]], name: str, parameters: int) -> Predictions:
        """The weighted mean of the first models' logits; `weights` is head to [teachers]."""
        teachers = len(next(iter(weights.values())))
        present = torch.from_numpy(self.present[:, :teachers])
        rows = np.flatnonzero(present.any(dim=1).numpy())
        logits = {}
        for head, values in self.logits.items():
            left = present_weights(torch.tensor(weights[head], dtype=torch.float32), present)
            logits[head] = combine(torch.from_numpy(values[:, :teachers]), left).numpy()[rows]
        return self._some(rows, logits, name, parameters)

    def _some(self, rows: np.ndarray, logits: dict[str, np.ndarray], name: str, parameters: int) -> Predictions:
        clip_ids = [self.clip_ids[row] for row in rows]
        return Predictions(name, clip_ids, {head: v[rows] for head, v in self.labels.items()}, logits, parameters)


def split_logits(settings: Settings, folders: Sequence[str], split: str) -> SplitLogits:
    """Run models (of any modalities) over a split with the test view.

    Raises:
        RuntimeError: a clip was lost or came twice.
    """
    manifest = cached_manifest(str(settings.data_folder()), split, settings.data.limit)
    heads = cached_dataset(str(settings.data_folder())).heads
    blocks = list(_blocks_here(settings, folders, split) if settings.run.local else _blocks(settings, folders, split))
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    rows = np.flatnonzero(columns["clip"] != PADDING)
    rows = rows[np.argsort(columns["clip"][rows])]
    if not np.array_equal(columns["clip"][rows], np.arange(len(manifest))):
        raise RuntimeError(f"evaluation saw {len(rows)} rows of split {split!r}, which has {len(manifest)} clips.")
    status = columns["status"][rows]
    broken = [(manifest.clip_ids[i], STATUS[int(status[i])]) for i in np.flatnonzero(status != REAL)]
    rows = rows[status == REAL]
    clips = columns["clip"][rows]
    return SplitLogits(
        [manifest.clip_ids[i] for i in clips],
        clips,
        {head: columns[f"label/{head}"][rows] for head in heads},
        {head: columns[f"teacher_logits/{head}"][rows] for head in heads},
        columns["teacher_present"][rows],
        broken,
    )


class _Stage:
    """All models on a block."""

    def __init__(self, settings: Settings, folders: Sequence[str]):
        self.ensemble = make_ensemble(settings, folders, cached_dataset(str(settings.data_folder())).heads)

    def __call__(self, block: Block) -> Block:
        return self.ensemble(block)


def _read(settings: Settings, split: str, modalities: Sequence[str], unit: int) -> Block:
    folder, size = str(settings.data_folder()), settings.optim.batch_size
    manifest = cached_manifest(folder, split, settings.data.limit)
    clips = np.full(size, PADDING, np.int64)
    mine = np.arange(unit * size, min((unit + 1) * size, len(manifest)))
    clips[: len(mine)] = mine
    return read_unit(cached_dataset(folder), manifest, settings.views, clips, TEST_VIEW, modalities)


def _units(settings: Settings, folders: Sequence[str], split: str) -> tuple[Any, range]:
    from mmkd.models import describe_model

    modalities = tuple(dict.fromkeys(describe_model(folder)["modality"] for folder in folders))
    clips = len(cached_manifest(str(settings.data_folder()), split, settings.data.limit))
    return partial(_read, settings, split, modalities), range(-(-clips // settings.optim.batch_size))


def _blocks_here(settings: Settings, folders: Sequence[str], split: str) -> Iterator[Block]:
    read, units = _units(settings, folders, split)
    stage = _Stage(settings, folders)
    return (stage(read(unit)) for unit in units)


def _blocks(settings: Settings, folders: Sequence[str], split: str) -> Iterator[Block]:
    from mmkd.units import read_units

    configure_context(settings)
    read, units = _units(settings, folders, split)
    resources = settings.resources
    dataset = read_units(read, units, readers=resources.readers, num_cpus=resources.cpus_per_reader)
    dataset = in_teacher_pool(
        dataset, settings, _Stage, {"settings": settings, "folders": folders}, settings.optim.batch_size
    )
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
