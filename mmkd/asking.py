"""Asking an ensemble of models about views of clips, outside a training: on Ray Data, or in this process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mmkd.config import Settings
from mmkd.pipeline import cached_dataset, cached_manifest, configure_context, in_teacher_pool, make_ensemble
from mmkd.plan import PADDING, Clips
from mmkd.reader import Block, read_unit


@dataclass(frozen=True, eq=False)
class Questions:
    """Views of clips that models are asked about; a unit is a batch of them.

    Attributes:
        folders: of the models.
        split: that the clips are of.
        clips, views: int64 [questions], numbers in the split's manifest and view numbers.
        modalities: that are read.
        grid: show all test views of a clip instead of the view of that number.
        partners: clips that others may be mixed with; None: nothing is mixed.
    """

    settings: Settings
    folders: tuple[str, ...]
    split: str
    clips: Clips
    views: Clips
    modalities: Sequence[str]
    grid: bool = False
    partners: Clips | None = None

    def units(self) -> range:
        return range(-(-len(self.clips) // self.settings.optim.batch_size))

    def read(self, unit: int) -> Block:
        """Read and decode a unit; the last one is padded."""
        settings, size = self.settings, self.settings.optim.batch_size
        folder = settings.data_folder()
        clips, views = np.full(size, PADDING, np.int64), np.zeros(size, np.int64)
        mine = slice(unit * size, (unit + 1) * size)
        count = len(self.clips[mine])
        clips[:count], views[:count] = self.clips[mine], self.views[mine]
        manifest = cached_manifest(folder, self.split, settings.data.limit)
        return read_unit(
            cached_dataset(folder),
            manifest,
            settings.views,
            clips,
            views,
            self.modalities,
            grid=self.grid,
            partners=self.partners,
        ) | {"view": views}


def ask(questions: Questions) -> Iterator[Block]:
    """The ensemble's answers, a block a unit, in order; see :class:`mmkd.teachers.Ensemble`."""
    settings = questions.settings
    if settings.run.local:
        stage = _Stage(settings, questions.folders)
        for unit in questions.units():
            yield stage(questions.read(unit))
        return
    from mmkd.units import read_units

    configure_context(settings)
    resources = settings.resources
    read = partial(Questions.read, questions)
    dataset = read_units(read, questions.units(), readers=resources.readers, num_cpus=resources.cpus_per_reader)
    arguments = {"settings": settings, "folders": questions.folders}
    dataset = in_teacher_pool(dataset, settings, _Stage, arguments, settings.optim.batch_size)
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)


class _Stage:
    """All models on a block."""

    def __init__(self, settings: Settings, folders: Sequence[str]):
        self.ensemble = make_ensemble(settings, folders, cached_dataset(settings.data_folder()).heads)

    def __call__(self, block: Block) -> Block:
        return self.ensemble(block)
