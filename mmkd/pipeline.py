"""What a training carries out, and its stages: reading and decoding units of the plan, and the teachers on them.

Where a bank holds a unit's answers they are read with it, and then neither what only teachers see is read, nor are the
teachers asked. A unit is one worker's share of one global batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmkd.allocator import keep_freed_memory
from mmkd.bank.use import BankUse, look_up
from mmkd.config import Network, Settings, Teachers
from mmkd.dataset import Dataset, open_dataset
from mmkd.plan import PADDING, Plan, chosen_share
from mmkd.reader import PADDED, REAL, Block, read_unit
from mmkd.runs import write_json
from mmkd.shards import NO_LABEL, Manifest, read_manifest
from mmkd.telemetry import TeacherMetrics
from mmkd.watchdog import HANGS, Watchdog

if TYPE_CHECKING:
    from mmkd.teachers import Ensemble


@dataclass(frozen=True, eq=False)
class Work:
    """What a training job is, resolved: everything that readers, teachers and workers need to know.

    Attributes:
        data_folder: absolute path of the data set.
        plan: who sees what, when.
        network: the one in training.
        teachers: model folders of the ensemble; empty: no teachers, or none but in the bank.
        teacher_names: short names of the ensemble's members.
        teacher_modalities: what each teacher sees.
        bank: where their answers are kept; None: nowhere.
        run_folder: where the run leaves its records.
    """

    settings: Settings
    data_folder: str
    plan: Plan
    network: Network
    teachers: tuple[str, ...] = ()
    teacher_names: tuple[str, ...] = ()
    teacher_modalities: tuple[str, ...] = ()
    bank: BankUse | None = None
    run_folder: str = ""

    @property
    def live_teachers(self) -> int:
        """Number of teachers that are started."""
        replayed = self.bank is not None and (self.bank.mode == "replay" or self.bank.complete)
        return 0 if replayed else len(self.teachers)

    def modalities(self, phase: str, answered: bool = False) -> Sequence[str]:
        """What is read in a phase; validation needs no teachers, nor does a unit that a bank answers for, and weighing
        no student."""
        if answered:
            return (self.network.modality,) if phase == "train" else ()
        if phase == "val":
            return (self.network.modality,)
        return tuple(dict.fromkeys((self.network.modality, *self.teacher_modalities)))

    def manifests(self) -> dict[str, Manifest]:
        data = self.settings.data
        return {
            "train": _train_manifest(self.data_folder, data.train, data.limit, data.labelled_share),
            "val": cached_manifest(self.data_folder, data.val, data.limit),
        }


@lru_cache(maxsize=8)
def cached_manifest(folder: str, split: str, limit: int) -> Manifest:
    """A process reads a manifest once, however many units it reads."""
    return read_manifest(folder, split, limit)


@lru_cache(maxsize=2)
def _train_manifest(folder: str, split: str, limit: int, labelled_share: float) -> Manifest:
    """The manifest without the labels that the settings hide."""
    manifest = cached_manifest(folder, split, limit)
    if labelled_share == 1:
        return manifest
    labels = {head: values.copy() for head, values in manifest.labels.items()}
    for values in labels.values():
        values[~chosen_share(manifest.clip_ids, labelled_share)] = NO_LABEL
    return replace(manifest, labels=labels)


@lru_cache(maxsize=8)
def cached_dataset(folder: str) -> Dataset:
    return open_dataset(folder)


def read(work: Work, num_workers: int, rank: int, steps: range) -> Block:
    """Read and decode a worker's units of some steps of one phase, one after the other, with what a bank knows of them.

    Raises:
        NotInBankError: the bank has to answer and does not.
    """
    units = [work.plan.unit(step, rank, num_workers) for step in steps]
    phase = units[0][0].phase
    clips, views = (np.concatenate([unit[part] for unit in units]) for part in (1, 2))
    manifest = work.manifests()["val" if phase == "val" else "train"]
    known: Block = {}
    if work.bank is not None and work.bank.reads and phase != "val":
        try:
            known = look_up(work.bank, work.settings.views, manifest, clips, views)
        except ValueError as error:
            leave_failure(work.run_folder, error)
            raise
    block = read_unit(
        cached_dataset(work.data_folder),
        manifest,
        work.settings.views,
        clips,
        views,
        work.modalities(phase, answered=bool(known) and bool(known["banked"][clips != PADDING].all())),
        grids=(work.settings.views.test_grid,) if phase == "val" else (),
        partners=work.plan.train if phase == "train" else None,
    )
    if known:
        # A clip is broken where something that the teachers saw of it is, though it is not read again.
        seen_as = np.where(known["banked"], known.pop("banked_status"), PADDED)
        block["status"] = np.where((seen_as != PADDED) & (block["status"] == REAL), seen_as, block["status"])
    place = {"step": np.repeat(np.array(steps, np.int64), len(clips) // len(steps)), "view": views}
    return block | place | {"rank": np.full(len(clips), rank, np.int64)} | known


def leave_failure(run_folder: str, error: Exception) -> None:
    """Leave the reason why a run cannot go on where its driver and its workers look for it.

    Ray wraps what a stage or a worker raises, and starts workers again whatever it was.
    """
    if run_folder:
        write_json(Path(run_folder) / "failure.json", {"error": str(error)})


class TeacherStage:
    """Teachers on units of the phases that they take part in, as far as no bank answered; the others pass.

    Args:
        pool: name of the pool whose teachers are asked; None: all are, in the process of the student.
        watched: whether an answer that takes too long ends this process.
    """

    def __init__(self, work: Work, pool: str | None = None, watched: bool = True):
        heads = cached_dataset(work.data_folder).heads
        self.plan, self.run_folder = work.plan, work.run_folder
        loss, teachers = work.settings.loss, work.settings.teachers
        feature = (loss.feature_teacher, loss.feature_teacher_layer) if loss.feature_weight else None
        members, later = None, list[int]()
        if pool is not None:
            pools = teachers.members(work.teacher_names)
            teachers, members = teachers.each_pool()[pool], pools[pool]
            after = list(pools)[list(pools).index(pool) + 1 :]
            later = [number for name in after for number in pools[name]]
        self.ensemble = make_ensemble(
            teachers,
            work.teachers,
            heads,
            (work.network.modality,),
            feature,
            members=members,
            later=sorted({work.teacher_modalities[number] for number in later}),
        )
        self.pool = pool or "teachers"
        self.ensemble.observe = TeacherMetrics(Path(work.run_folder).name, self.pool)
        self.watchdog = Watchdog(teachers.timeout_seconds if watched else 0, Path(work.run_folder) / HANGS)

    def __call__(self, block: Block) -> Block:
        step = int(block["step"][0])
        if self.plan.step(step).phase == "val":
            return block
        try:
            share = f"step {step} of the plan, worker {int(block['rank'][0])}"
            with self.watchdog.over(f"the answer of teacher pool {self.pool} to {share}"):
                return self.ensemble(block)
        except (ValueError, TimeoutError) as error:
            leave_failure(self.run_folder, error)
            raise


def make_ensemble(
    teachers: Teachers,
    folders: Sequence[str],
    heads: dict[str, list[str]],
    keep: Sequence[str] = (),
    feature: tuple[str, str] | None = None,
    each_view: int = 0,
    members: Sequence[int] | None = None,
    later: Sequence[str] = (),
) -> "Ensemble":
    """The models of an ensemble in this process, on the device that the settings give them; see there."""
    from mmkd.devices import device_of
    from mmkd.teachers import Ensemble

    keep_freed_memory()
    return Ensemble(
        folders,
        heads,
        device=device_of(teachers.num_gpus),
        precision=teachers.precision,
        batch_size=teachers.batch_size,
        threads=teachers.threads,
        keep=keep,
        feature=feature,
        each_view=each_view,
        members=members,
        later=later,
    )
