"""Models together: the answers of their ensembles under each weighting."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmkd.competence import judge
from mmkd.config import Settings
from mmkd.evaluation.answers import Answers, answers_path
from mmkd.evaluation.models import Evaluated
from mmkd.evaluation.split import SplitLogits, split_logits
from mmkd.losses import ce_per_row
from mmkd.pipeline import cached_dataset
from mmkd.progress import say
from mmkd.resolve import matched_teachers, teach_and_weigh
from mmkd.runs import write_json
from mmkd.teachers import per_sample_weights

Weights = dict[str, np.ndarray]
"""Head to [models] or [clips, models]."""


def ensembles(settings: Settings, models: Sequence[Evaluated], splits: Sequence[str], run: Path) -> list[str]:
    """Keep the answers of the models' ensembles, beside the models' own: uniform; held out, where no model learnt on
    the clips held out from teachers; and per sample, which is told the label. Returns their names."""
    held_out = _held_out(settings, models, run)
    kinds: dict[str, Weights] = {}
    for split in splits:
        answers = [Answers.load(answers_path(run, split, each.name)) for each in models]
        together = stacked(answers)
        even = {head: np.full(len(models), 1 / len(models)) for head in together.logits}
        kinds = {"ensemble": held_out} if held_out is not None else {}
        kinds["ensemble uniform"] = even
        kinds["ensemble per sample"] = _per_sample(settings, together, held_out or even)
        parameters = sum(each.parameters for each in answers)
        for name, weights in kinds.items():
            one = together.ensemble(weights, name, parameters, settings.teachers.ensemble)
            one.about = {"ensemble": [each.about for each in answers]}
            one.save(answers_path(run, split, name))
    return list(kinds)


def stacked(answers: Sequence[Answers]) -> SplitLogits:
    """Models' answers side by side; a model that did not see a clip is absent there.

    Raises:
        ValueError: they are of different grids or heads.
    """
    first = answers[0]
    if any(each.grids != first.grids or set(each.logits) != set(first.logits) for each in answers):
        raise ValueError("answers in other views, or of other heads, cannot be put together")
    clip_ids = list(dict.fromkeys(clip_id for each in answers for clip_id in each.clip_ids))
    place = {clip_id: row for row, clip_id in enumerate(clip_ids)}
    n = len(clip_ids)
    present = np.zeros((n, len(answers)), bool)
    labels = {head: np.zeros((n, *values.shape[1:]), values.dtype) for head, values in first.labels.items()}
    logits = {head: np.zeros((n, len(answers), *x.shape[1:]), np.float32) for head, x in first.logits.items()}
    for number, each in enumerate(answers):
        rows = np.array([place[clip_id] for clip_id in each.clip_ids], np.int64)
        present[rows, number] = True
        for head, values in each.logits.items():
            logits[head][rows, number] = values
            labels[head][rows] = each.labels[head]
    return SplitLogits(clip_ids, np.arange(n), labels, logits, present, [], first.grids)


def _held_out(settings: Settings, models: Sequence[Evaluated], run: Path) -> Weights | None:
    """Weights from the clips that teachers do not learn on; None where a model did."""
    dataset, folders = cached_dataset(settings.data_folder()), [each.folder for each in models]
    try:
        matched_teachers(settings, dataset, folders)
        _, weigh = teach_and_weigh(settings)
        if not len(weigh):
            raise ValueError("no clip is held out")
        answers = split_logits(settings, folders, settings.data.train, weigh, [(1, 1)], settings.evaluate.actors)
        teachers = settings.teachers
        competence = judge(
            [each.name for each in models],
            answers.averaged(),
            answers.present,
            answers.labels,
            weighting="held_out",
            gamma=teachers.gamma,
            drop_near_chance=teachers.drop_near_chance,
        )
    except ValueError as error:
        say(f"no held-out weights: {error}")
        return None
    write_json(run / "competence.json", competence.as_dict())
    return {head: np.array(weights) for head, weights in competence.weight.items()}


def _per_sample(settings: Settings, together: SplitLogits, weights: Weights) -> Weights:
    """From each clip's own label, in the first grid."""
    out = {}
    for head, mean in together.averaged().items():
        labels = torch.from_numpy(together.labels[head])
        known = labels.reshape(len(labels), -1)[:, 0] >= 0
        safe = labels.clamp_min(0) if labels.ndim == 1 else labels.clamp_min(0).float()
        losses = torch.stack([ce_per_row(torch.from_numpy(mean[:, k]), safe) for k in range(mean.shape[1])], dim=1)
        start = torch.as_tensor(weights[head], dtype=torch.float32)
        out[head] = per_sample_weights(losses, known, start, settings.teachers.gamma).numpy()
    return out
