"""Evaluation: the logits of any number of models for every clip of a split, each exactly once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from mmkd.config import Settings
from mmkd.pipeline import cached_dataset, cached_manifest, configure_context, in_teacher_pool, make_ensemble
from mmkd.plan import PADDING, TEST_VIEW
from mmkd.reader import REAL, STATUS, Block, read_unit
from mmkd.report.predictions import Predictions
from mmkd.teachers import combine, combine_probabilities, present_weights


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

    def of_ensemble(
        self, weights: Mapping[str, Sequence[float]], name: str, parameters: int, average: str = "logits"
    ) -> Predictions:
        """The weighted mean of the first models' logits, or probabilities; `weights` is head to [teachers]."""
        teachers = len(next(iter(weights.values())))
        present = torch.from_numpy(self.present[:, :teachers])
        rows = np.flatnonzero(present.any(dim=1).numpy())
        logits = {}
        for head, values in self.logits.items():
            left = present_weights(torch.tensor(weights[head], dtype=torch.float32), present)
            answers = torch.from_numpy(values[:, :teachers])
            if average == "logits":
                logits[head] = combine(answers, left).numpy()[rows]
            else:
                multi_label = self.labels[head].ndim == 2
                logits[head] = combine_probabilities(answers, left, 1.0, multi_label).numpy()[rows]
        return self._some(rows, logits, name, parameters)

    def _some(self, rows: np.ndarray, logits: dict[str, np.ndarray], name: str, parameters: int) -> Predictions:
        clip_ids = [self.clip_ids[row] for row in rows]
        return Predictions(name, clip_ids, {head: v[rows] for head, v in self.labels.items()}, logits, parameters)


def split_logits(
    settings: Settings, folders: Sequence[str], split: str, clips: np.ndarray | None = None
) -> SplitLogits:
    """Run models (of any modalities) over a split with the test views, whose logits are averaged.

    Args:
        clips: numbers of clips in the split's manifest, ascending, seen in one test view each; None: all clips, in all
            test views.

    Raises:
        RuntimeError: a clip was lost or came twice.
    """
    manifest = cached_manifest(settings.data_folder(), split, settings.data.limit)
    heads = cached_dataset(settings.data_folder()).heads
    job = _Job(settings, tuple(folders), split, clips)
    blocks = list(_blocks_here(job) if settings.run.local else _blocks(job))
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    rows = np.flatnonzero(columns["clip"] != PADDING)
    rows = rows[np.argsort(columns["clip"][rows])]
    if not np.array_equal(columns["clip"][rows], job.wanted()):
        raise RuntimeError(f"evaluation saw {len(rows)} rows of split {split!r}, which has {len(job.wanted())} clips.")
    status = columns["status"][rows]
    numbers = columns["clip"][rows]
    broken = [(manifest.clip_ids[numbers[i]], STATUS[int(status[i])]) for i in np.flatnonzero(status != REAL)]
    rows = rows[status == REAL]
    seen = columns["clip"][rows]
    return SplitLogits(
        [manifest.clip_ids[i] for i in seen],
        seen,
        {head: columns[f"label/{head}"][rows] for head in heads},
        {head: columns[f"teacher_logits/{head}"][rows] for head in heads},
        columns["teacher_present"][rows],
        broken,
    )


@dataclass(frozen=True, eq=False)
class _Job:
    """Which clips which models are to answer for; a unit is a batch of them."""

    settings: Settings
    folders: tuple[str, ...]
    split: str
    clips: np.ndarray | None

    def wanted(self) -> np.ndarray:
        if self.clips is not None:
            return self.clips
        return np.arange(
            len(cached_manifest(self.settings.data_folder(), self.split, self.settings.data.limit)), dtype=np.int64
        )

    def units(self) -> range:
        return range(-(-len(self.wanted()) // self.settings.optim.batch_size))

    def modalities(self) -> tuple[str, ...]:
        from mmkd.models import describe_model

        return tuple(dict.fromkeys(describe_model(folder)["modality"] for folder in self.folders))

    def read(self, modalities: Sequence[str], unit: int) -> Block:
        settings, size = self.settings, self.settings.optim.batch_size
        folder = settings.data_folder()
        manifest = cached_manifest(folder, self.split, settings.data.limit)
        clips = np.full(size, PADDING, np.int64)
        mine = self.wanted()[unit * size : (unit + 1) * size]
        clips[: len(mine)] = mine
        dataset, grid = cached_dataset(folder), self.clips is None
        return read_unit(dataset, manifest, settings.views, clips, TEST_VIEW, modalities, grid=grid)


class _Stage:
    """All models on a block."""

    def __init__(self, settings: Settings, folders: Sequence[str]):
        self.ensemble = make_ensemble(settings, folders, cached_dataset(settings.data_folder()).heads)

    def __call__(self, block: Block) -> Block:
        return self.ensemble(block)


def _blocks_here(job: _Job) -> Iterator[Block]:
    stage, modalities = _Stage(job.settings, job.folders), job.modalities()
    return (stage(job.read(modalities, unit)) for unit in job.units())


def _blocks(job: _Job) -> Iterator[Block]:
    from mmkd.units import read_units

    settings = job.settings
    configure_context(settings)
    read, resources = partial(job.read, job.modalities()), settings.resources
    dataset = read_units(read, job.units(), readers=resources.readers, num_cpus=resources.cpus_per_reader)
    arguments = {"settings": settings, "folders": job.folders}
    dataset = in_teacher_pool(dataset, settings, _Stage, arguments, settings.optim.batch_size)
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
