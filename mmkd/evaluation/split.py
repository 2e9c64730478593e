"""The logits of any number of models for every test view of every clip of a split, each clip exactly once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mmkd.asking import Questions, ask
from mmkd.config import Settings
from mmkd.evaluation.answers import Answers, Grid
from mmkd.metrics import average_views
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.plan import PADDING, TEST_VIEW
from mmkd.reader import REAL, STATUS
from mmkd.report.predictions import Predictions
from mmkd.teachers import combine, combine_probabilities, present_weights
from mmkd.views import grid_slots


@dataclass
class SplitLogits:
    """Logits of models for a split.

    Attributes:
        clip_ids: [clips], in the order of the split's manifest; broken ones are left out.
        clips: int64 [clips], their numbers in it.
        labels: head to [clips], or [clips, classes] of a multi-label head.
        logits: head to float32 [clips, models, views, classes].
        present: bool [clips, models], the clip has what the model sees.
        broken: (clip_id, reason) of those left out.
        grids: of the test views, as in :class:`mmkd.evaluation.answers.Answers`.
    """

    clip_ids: list[str]
    clips: np.ndarray
    labels: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]
    present: np.ndarray
    broken: list[tuple[str, str]]
    grids: list[Grid]

    def averaged(self, grid: Grid | None = None) -> dict[str, NDArray[np.float32]]:
        """Head to [clips, models, classes], averaged over the views of a grid; None: of the first one."""
        members = grid_slots(self.grids)[1][0 if grid is None else self.grids.index(grid)]
        out = {}
        for head, logits in self.logits.items():
            clips, models, _, classes = logits.shape
            flat = logits[:, :, members].reshape(clips * models, len(members), classes)
            out[head] = average_views(flat).reshape(clips, models, classes).astype(np.float32)
        return out

    def answers(self, number: int, name: str, parameters: int = 0) -> Answers:
        """One model's answers to each view, on the clips that have what it sees."""
        rows = np.flatnonzero(self.present[:, number])
        logits = {head: values[rows, number] for head, values in self.logits.items()}
        labels = {head: values[rows] for head, values in self.labels.items()}
        return Answers(name, [self.clip_ids[row] for row in rows], labels, logits, self.grids, parameters)

    def of_model(self, number: int, name: str, parameters: int) -> Predictions:
        """One model's predictions on the clips that have what it sees."""
        return self.answers(number, name, parameters).predictions()

    def of_ensemble(
        self, weights: Mapping[str, ArrayLike], name: str, parameters: int, average: str = "logits"
    ) -> Predictions:
        """The predictions of an ensemble; see :meth:`ensemble`."""
        return self.ensemble(weights, name, parameters, average).predictions()

    def ensemble(
        self, weights: Mapping[str, ArrayLike], name: str, parameters: int = 0, average: str = "logits"
    ) -> Answers:
        """The weighted mean of the first models' logits, or probabilities, view by view.

        Args:
            weights: head to [teachers], or [clips, teachers].
        """
        teachers = np.shape(next(iter(weights.values())))[-1]
        present = torch.from_numpy(self.present[:, :teachers])
        rows, logits = np.flatnonzero(present.any(dim=1).numpy()), {}
        for head, values in self.logits.items():
            clips, _, views, classes = values.shape
            left = present_weights(torch.tensor(np.asarray(weights[head]), dtype=torch.float32), present)
            left = left.repeat_interleave(views, dim=0)
            # A view of a clip is a row of its own.
            each = torch.from_numpy(values[:, :teachers]).transpose(1, 2).reshape(-1, teachers, classes)
            if average == "logits":
                combined = combine(each, left)
            else:
                combined = combine_probabilities(each, left, 1.0, self.labels[head].ndim == 2)
            logits[head] = combined.reshape(clips, views, classes).numpy()[rows]
        labels = {head: values[rows] for head, values in self.labels.items()}
        return Answers(name, [self.clip_ids[row] for row in rows], labels, logits, self.grids, parameters)


def split_logits(
    settings: Settings,
    folders: Sequence[str],
    split: str,
    clips: np.ndarray | None = None,
    grids: Sequence[Grid] = (),
    actors: int = 0,
) -> SplitLogits:
    """Run models (of any modalities) over a split, or a part of it, with test views.

    Args:
        clips: numbers of clips in the split's manifest, ascending; None: all.
        grids: of test views; empty: the settings' own (views.test_clips by views.test_crops).
        actors: that answer, on Ray; see :class:`mmkd.asking.Questions`.

    Raises:
        RuntimeError: a clip was lost or came twice.
        ValueError: a model gave logits that are not finite.
    """
    from mmkd.models import describe_model

    manifest = cached_manifest(settings.data_folder(), split, settings.data.limit)
    heads = cached_dataset(settings.data_folder()).heads
    wanted = np.arange(len(manifest), dtype=np.int64) if clips is None else clips
    seen_by = dict.fromkeys(describe_model(folder)["modality"] for folder in folders)
    grids = list(grids) or [settings.views.test_grid]
    test_views = np.full(len(wanted), TEST_VIEW, np.int64)
    questions = Questions(
        settings, tuple(folders), split, wanted, test_views, tuple(seen_by), grids=grids, actors=actors
    )
    blocks = list(ask(questions))
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    rows = np.flatnonzero(columns["clip"] != PADDING)
    rows = rows[np.argsort(columns["clip"][rows])]
    if not np.array_equal(columns["clip"][rows], wanted):
        raise RuntimeError(f"evaluation saw {len(rows)} rows of split {split!r}, which has {len(wanted)} clips.")
    status = columns["status"][rows]
    numbers = columns["clip"][rows]
    broken = [(manifest.clip_ids[numbers[i]], STATUS[int(status[i])]) for i in np.flatnonzero(status != REAL)]
    rows = rows[status == REAL]
    seen = columns["clip"][rows]
    result = SplitLogits(
        [manifest.clip_ids[i] for i in seen],
        seen,
        {head: columns[f"label/{head}"][rows] for head in heads},
        {head: columns[f"teacher_logits/{head}"][rows] for head in heads},
        columns["teacher_present"][rows],
        broken,
        grids,
    )
    _check_finite(result, folders)
    return result


def _check_finite(result: SplitLogits, folders: Sequence[str]) -> None:
    for head, logits in result.logits.items():
        wrong = ~np.isfinite(logits).all(axis=(2, 3))
        for number in np.flatnonzero(wrong.any(axis=0)).tolist():
            names = [result.clip_ids[row] for row in np.flatnonzero(wrong[:, number])]
            said = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
            raise ValueError(
                f"model {folders[number]} gave {head} logits that are not finite for clips {said}. Look at "
                "these clips, try teachers.precision fp32, or leave the model out."
            )
