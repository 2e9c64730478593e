"""Teachers: how their answers are weighted and combined, and the ensemble that gives them on the fly."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd.devices import autocast
from mmkd.inputs import view_logits
from mmkd.models import describe_model, load_model
from mmkd.models.features import LayerTap, layer_width
from mmkd.reader import REAL, Block

SHIPPED = Path(__file__).parent / "zoo" / "tabletop"


def teacher_weights(losses: Tensor, gamma: float) -> Tensor:
    """softmin(losses / gamma) over the last axis: [..., teachers] to weights of the same shape that sum to 1.

    Large gamma tends to uniform weights, small gamma to the best teacher alone.
    """
    return F.softmin(torch.as_tensor(losses) / gamma, dim=-1)


def combine(logits: Tensor, weights: Tensor) -> Tensor:
    """The ensemble's logits, the weighted mean of the teachers' raw logits.

    Args:
        logits: [batch, teachers, classes].
        weights: [teachers] or [batch, teachers], each row summing to 1.

    Returns:
        [batch, classes].
    """
    weights = torch.as_tensor(weights, dtype=logits.dtype, device=logits.device)
    return (logits * weights.expand(logits.shape[:2]).unsqueeze(-1)).sum(dim=1)


def combine_probabilities(logits: Tensor, weights: Tensor, temperature: float, multi_label: bool = False) -> Tensor:
    """Logits whose softmax at `temperature` is the weighted mean of the teachers' softmax at it (for multi-label heads,
    of their sigmoids). Shapes as in :func:`combine`; rows without any weight are 0."""
    weights = torch.as_tensor(weights, dtype=logits.dtype, device=logits.device).expand(logits.shape[:2])
    log_weights = weights.log().unsqueeze(-1)
    scaled = logits / temperature

    def mean(log_probabilities: Tensor) -> Tensor:
        return (log_probabilities + log_weights).logsumexp(dim=1)

    if multi_label:
        combined = temperature * (mean(F.logsigmoid(scaled)) - mean(F.logsigmoid(-scaled)))
    else:
        combined = temperature * mean(F.log_softmax(scaled, dim=-1))
    return torch.where((weights > 0).any(dim=1, keepdim=True), combined, 0.0)


def present_weights(weights: Tensor, present: Tensor) -> Tensor:
    """Weights renormalised per row over the teachers that are there; rows in which none is left are 0.

    Args:
        weights: [teachers] or [batch, teachers].
        present: bool [batch, teachers].

    Returns:
        [batch, teachers].
    """
    left = weights * present
    return left / left.sum(dim=-1, keepdim=True).clamp_min(1e-12)


def per_sample_weights(losses: Tensor, known: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Weights from each clip's own label: softmin over teachers of their cross-entropy with it / gamma.

    A teacher whose held-out weight is 0 keeps 0, and a clip without a label has the held-out weights.

    Args:
        losses: [batch, teachers].
        known: bool [batch], the clip has a label.
        weights: held-out weights [teachers].

    Returns:
        [batch, teachers].
    """
    own = teacher_weights(losses.masked_fill(weights == 0, float("inf")), gamma)
    return torch.where(known.unsqueeze(1), own, weights)


class Ensemble:
    """Teachers in one process, all or some; a call turns a block with modalities into one with RGB and logits only.

    The logits stay apart, `teacher_logits/HEAD` float32 [rows, teachers, classes], and unweighted, so that weighting,
    gamma and temperature are settings of the training. `teacher_present` bool [rows, teachers] says who answered. Rows
    that a bank answered for (`banked`) keep its answers, and so do teachers that another process asked before.
    Where `feature` names a teacher and a layer, `teacher_features` float32 [rows, width] is its output.

    Logits are averaged over test views, unless `each_view`, the number of them, is not 0: `teacher_logits/HEAD` is then
    [rows, teachers, views, classes], and who asked looks whether they are finite.

    Args:
        keep: columns that go on to the student.
        members: numbers of the teachers that are asked here; None: all.
        later: modalities that teachers see who are asked elsewhere after this.

    Attributes:
        observe: told how many clips a teacher answered about, in how many seconds.
    """

    def __init__(
        self,
        folders: Sequence[str],
        heads: Mapping[str, Sequence[str]],
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        batch_size: int = 32,
        threads: int = 1,
        keep: Sequence[str] = ("rgb",),
        feature: tuple[str, str] | None = None,
        each_view: int = 0,
        members: Sequence[int] | None = None,
        later: Sequence[str] = (),
    ):
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.names = teacher_names(folders)
        members = range(len(folders)) if members is None else members
        self.models = {number: load_model(folders[number], self.device) for number in members}
        self.heads = {head: len(classes) for head, classes in heads.items()}
        self.columns = {
            number: {head: class_columns(model.spec.heads[head], classes) for head, classes in heads.items()}
            for number, model in self.models.items()
        }
        self.precision = precision if self.device.type == "cuda" else "fp32"
        self.batch_size = batch_size
        self.keep = (*keep, *later, *(f"has/{modality}" for modality in (*keep, *later)))
        self.keep_parts = tuple(f"{modality}/" for modality in later)
        self.each_view = each_view
        self.observe: Callable[[str, int, float], None] = lambda teacher, clips, seconds: None
        self.tap, self.tapped, self._tapping = None, -1, threading.Lock()
        if feature is not None and self.names.index(feature[0]) in self.models:
            self.tapped = self.names.index(feature[0])
            self.feature_width = layer_width(self.models[self.tapped], feature[1])
            self.tap = LayerTap(self.models[self.tapped], feature[1])

    def __call__(self, block: Block) -> Block:
        rows, teachers = len(block["status"]), len(self.names)
        lead = (rows, teachers, self.each_view) if self.each_view else (rows, teachers)
        logits = {head: np.zeros((*lead, n), np.float32) for head, n in self.heads.items()}
        present, asked = np.zeros((rows, teachers), bool), block["status"] == REAL
        if "teacher_present" in block:  # a bank or another pool answered
            present |= block["teacher_present"]
            for head, values in logits.items():
                values += block[f"teacher_logits/{head}"]
        if "banked" in block:
            asked &= ~block["banked"]
        features = np.zeros((rows, self.feature_width), np.float32) if self.tap else None
        for number, model in self.models.items():
            answered, began = block.get(f"has/{model.modality}", np.zeros(rows, bool)) & asked, time.monotonic()
            for chunk in np.array_split(np.flatnonzero(answered), -(-int(answered.sum()) // self.batch_size) or 1):
                if not len(chunk):
                    continue
                with self._tapping if number == self.tapped else nullcontext():  # the tap keeps one output
                    for head, values in self._forward(number, block, chunk).items():
                        logits[head][chunk, number] = values
                    if self.tap is not None and features is not None and number == self.tapped:
                        features[chunk] = self.tap.take().float().cpu().numpy()
            present[answered, number] = True
            if answered.any():
                self.observe(self.names[number], int(answered.sum()), time.monotonic() - began)
        small = ("step", "rank", "clip", "view", "status", "banked", "teacher_features", "feature_present")
        parts = ("label/", "mix/", "mix_label/", *self.keep_parts)
        kept = {name: block[name] for name in block if name in (*small, *self.keep) or name.startswith(parts)}
        kept |= {f"teacher_logits/{head}": values for head, values in logits.items()}
        if features is not None:
            kept |= {"teacher_features": features, "feature_present": present[:, self.tapped]}
        return kept | {"teacher_present": present}

    @torch.inference_mode()
    def _forward(self, number: int, block: Block, rows: np.ndarray) -> dict[str, np.ndarray]:
        model, columns = self.models[number], self.columns[number]
        with autocast(self.device, self.precision):
            answers = view_logits(model, model.modality, block, rows, self.device, self.batch_size)
        output = {}
        for head in self.heads:
            values = answers[head] if self.each_view else answers[head].mean(dim=1)
            output[head] = (values if columns[head] is None else values[..., columns[head]]).cpu().numpy()
            if not self.each_view and not np.isfinite(output[head]).all():
                bad = block["clip"][rows[~np.isfinite(output[head]).all(axis=1)]].tolist()
                raise ValueError(
                    f"teacher {self.names[number]} gave non-finite {head} logits for clips number {bad[:20]}; "
                    "try teachers.precision fp32, or leave it out of teachers.folders."
                )
        return output


def class_columns(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """Where a teacher's classes lie among its own, in our order, by name; None where nothing has to be moved.

    Raises:
        ValueError: it lacks a class, or has a name twice, so that names do not tell classes apart.
    """
    if list(theirs) == list(ours):
        return None
    if len(set(theirs)) < len(theirs) or len(set(ours)) < len(ours):
        raise ValueError("a class name occurs twice, so that classes in another order cannot be told apart")
    missing = [name for name in ours if name not in set(theirs)]
    if missing:
        raise ValueError(f"it does not know {', '.join(missing[:6])}" + (" ..." if len(missing) > 6 else ""))
    place = {name: number for number, name in enumerate(theirs)}
    return [place[name] for name in ours]


def teacher_names(folders: Sequence[str]) -> list[str]:
    """Short names: what each teacher sees, numbered where two see the same."""
    names = [describe_model(folder)["modality"] for folder in folders]
    return [name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}" for i, name in enumerate(names)]
