"""Evaluation: the logits of any number of models for every clip of a split, each exactly once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmkd.asking import Questions, ask
from mmkd.config import Settings
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.plan import PADDING, TEST_VIEW
from mmkd.reader import REAL, STATUS
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
    from mmkd.models import describe_model

    manifest = cached_manifest(settings.data_folder(), split, settings.data.limit)
    heads = cached_dataset(settings.data_folder()).heads
    wanted = np.arange(len(manifest), dtype=np.int64) if clips is None else clips
    seen_by = dict.fromkeys(describe_model(folder)["modality"] for folder in folders)
    test_views = np.full(len(wanted), TEST_VIEW, np.int64)
    questions = Questions(settings, tuple(folders), split, wanted, test_views, tuple(seen_by), grid=clips is None)
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
    return SplitLogits(
        [manifest.clip_ids[i] for i in seen],
        seen,
        {head: columns[f"label/{head}"][rows] for head in heads},
        {head: columns[f"teacher_logits/{head}"][rows] for head in heads},
        columns["teacher_present"][rows],
        broken,
    )
