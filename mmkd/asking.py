"""Asking models about views of clips, outside a training: on Ray Data, or in this process.

On CPUs an actor reads and decodes what it then answers, so that no frame passes through the object store; GPUs are fed
by readers that run beside them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mmkd.config import Settings
from mmkd.pipeline import cached_dataset, cached_manifest, make_ensemble
from mmkd.plan import PADDING, Clips
from mmkd.ray_data import configure_context, in_teacher_pool, of_readers
from mmkd.reader import Block, read_unit
from mmkd.views import Grids, grid_slots

UNIT_BYTES = 64 << 20
"""Pixels of a unit, at most, but for a clip that has more."""
MOST_UNITS, TASKS_PER_ACTOR = 16, 6
"""Units that an actor answers at once, at most, and tasks that each has at least, so that none is left waiting."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Views of clips that models are asked about; a unit is a batch of them.

    Attributes:
        folders: of the models.
        split: that the clips are of.
        clips, views: int64 [questions], numbers in the split's manifest and view numbers.
        modalities: that are read.
        grids: of test views; all of these grids are shown instead of the view of that number, and answered one by one.
        partners: clips that others may be mixed with; None: nothing is mixed.
        actors: that answer; 0: one on each CPU, or teachers.actors on GPUs.
    """

    settings: Settings
    folders: tuple[str, ...]
    split: str
    clips: Clips
    views: Clips
    modalities: Sequence[str]
    grids: Grids = ()
    partners: Clips | None = None
    actors: int = 0

    @property
    def slots(self) -> int:
        """Test views of each clip; 0 where views are asked about by their number."""
        return len(grid_slots(self.grids)[0])

    @property
    def batch(self) -> int:
        """Clips in a unit: those of a batch of the training, or fewer that have many large test views."""
        views = self.settings.views
        clip = max(1, self.slots) * len(self.modalities) * views.frames * views.size**2 * 3
        return max(1, min(self.settings.optim.batch_size, UNIT_BYTES // clip))

    def units(self) -> range:
        return range(-(-len(self.clips) // self.batch))

    def read(self, unit: int) -> Block:
        """Read and decode a unit; the last one is padded."""
        folder, size = self.settings.data_folder(), self.batch
        clips, views = np.full(size, PADDING, np.int64), np.zeros(size, np.int64)
        mine = slice(unit * size, (unit + 1) * size)
        count = len(self.clips[mine])
        clips[:count], views[:count] = self.clips[mine], self.views[mine]
        block = read_unit(
            cached_dataset(folder),
            cached_manifest(folder, self.split, self.settings.data.limit),
            self.settings.views,
            clips,
            views,
            self.modalities,
            grids=self.grids,
            partners=self.partners,
        )
        return block | {"view": views}


def ask(questions: Questions) -> Iterator[Block]:
    """The models' answers, a block a unit or some, in order; see :class:`mmkd.teachers.Ensemble`."""
    settings = questions.settings
    if settings.run.local:
        stage = _Answer(questions)
        for unit in questions.units():
            yield stage(questions.read(unit))
        return
    from mmkd.units import read_units

    configure_context(settings)
    arguments = {"questions": questions}
    if settings.teachers.num_gpus:
        read = partial(Questions.read, questions)
        dataset = read_units(read, questions.units(), **of_readers(settings.resources))
        actors = questions.actors or settings.teachers.actors
        dataset = in_teacher_pool(dataset, settings.teachers, _Answer, arguments, questions.batch, actors)
    else:
        actors = questions.actors or max(1, int(_cpus() // max(settings.teachers.num_cpus, 1)))
        units = questions.units()
        # A task is several units: what Ray does for each takes as long as a few milliseconds of answering.
        together = min(MOST_UNITS, max(1, len(units) // (actors * TASKS_PER_ACTOR)))
        tasks = range(0, len(units), together)
        dataset = read_units(partial(_some, together, len(units)), tasks, readers=2, num_cpus=0)
        dataset = in_teacher_pool(dataset, settings.teachers, _ReadAndAnswer, arguments, 1, actors)
    yield from dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)


def _some(together: int, units: int, first: int) -> Block:
    """A task: units from the first on, as one row."""
    return {"first": np.array([first]), "end": np.array([min(first + together, units)])}


def _cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


class _Answer:
    """All models on a unit that was read."""

    def __init__(self, questions: Questions):
        settings = questions.settings
        heads = cached_dataset(settings.data_folder()).heads
        self.ensemble = make_ensemble(settings.teachers, questions.folders, heads, each_view=questions.slots)

    def __call__(self, block: Block) -> Block:
        return self.ensemble(block)


class _ReadAndAnswer(_Answer):
    """All models on units that are known by their numbers."""

    def __init__(self, questions: Questions):
        import cv2

        cv2.setNumThreads(questions.settings.teachers.threads)
        super().__init__(questions)
        self.questions = questions

    def __call__(self, block: Block) -> Block:
        numbers = range(int(block["first"][0]), int(block["end"][0]))
        parts = [self.ensemble(self.questions.read(unit)) for unit in numbers]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
