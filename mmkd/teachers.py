"""Teachers: the ensemble that answers on the fly, how its members are judged, and how they are weighted."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmkd.models import describe_model, load_model
from mmkd.reader import BOX_COLUMNS, REAL, Block

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


def present_weights(weights: Tensor, present: Tensor) -> Tensor:
    """Weights [teachers] renormalised per row over the teachers that are there: bool [batch, teachers] to
    [batch, teachers]; rows in which none is left are 0."""
    left = weights.unsqueeze(0) * present
    return left / left.sum(dim=1, keepdim=True).clamp_min(1e-12)


class Ensemble:
    """All teachers in one process; a call turns a block with modalities into one with RGB and logits only.

    The logits stay apart, `teacher_logits/HEAD` float32 [rows, teachers, classes], and unweighted, so that weighting,
    gamma and temperature are settings of the training. `teacher_present` bool [rows, teachers] says who answered.
    """

    def __init__(
        self,
        folders: Sequence[str],
        heads: Mapping[str, Sequence[str]],
        *,
        device: str = "cpu",
        precision: str = "fp32",
        batch_size: int = 32,
        threads: int = 1,
        keep: Sequence[str] = ("rgb",),
    ):
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.models = [load_model(folder, self.device) for folder in folders]
        self.names = teacher_names(folders)
        self.heads = {head: len(classes) for head, classes in heads.items()}
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.autocast_dtype = dtype if self.device.type == "cuda" else None
        self.batch_size = batch_size
        self.keep = tuple(keep)

    def __call__(self, block: Block, phase: str = "train") -> Block:
        rows, teachers = len(block["status"]), len(self.models)
        logits = {head: np.zeros((rows, teachers, n), np.float32) for head, n in self.heads.items()}
        present = np.zeros((rows, teachers), bool)
        for number, model in enumerate(self.models):
            answered = block.get(f"has/{model.modality}", np.zeros(rows, bool)) & (block["status"] == REAL)
            for chunk in np.array_split(np.flatnonzero(answered), -(-int(answered.sum()) // self.batch_size) or 1):
                if len(chunk):
                    for head, values in self._forward(number, block, chunk).items():
                        logits[head][chunk, number] = values
            present[:, number] = answered
        small = ("step", "rank", "clip", "status")
        kept = {name: block[name] for name in block if name in small or name.startswith("label/") or name in self.keep}
        kept |= {f"teacher_logits/{head}": values for head, values in logits.items()}
        return kept | {"teacher_present": present}

    @torch.inference_mode()
    def _forward(self, number: int, block: Block, rows: np.ndarray) -> dict[str, np.ndarray]:
        model = self.models[number]
        inputs = inputs_of(block, model.modality, rows, self.device)
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            output = {head: values.float().cpu().numpy() for head, values in model(inputs).items()}
        for head, values in output.items():
            if not np.isfinite(values).all():
                bad = block["clip"][rows[~np.isfinite(values).all(axis=1)]].tolist()
                raise FloatingPointError(
                    f"teacher {self.names[number]} gave non-finite {head} logits for clips number {bad[:20]}; "
                    "try teachers.precision fp32, or leave it out of teachers.folders."
                )
        return output


def inputs_of(block: Mapping[str, np.ndarray], modality: str, rows: np.ndarray | None, device: torch.device) -> Any:
    """What a model of this modality takes, on `device`: a tensor, or for boxes a dict of them; `rows`: a selection."""

    def tensor(name: str) -> Tensor:
        array = block[name] if rows is None else block[name][rows]
        host = torch.from_numpy(np.ascontiguousarray(array))
        return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host

    if modality == "boxes":
        return {name: tensor(f"boxes/{name}") for name in BOX_COLUMNS}
    return tensor(modality)


@dataclass
class Competence:
    """How good each teacher is on `weigh`, per head, and what weight that gives it.

    Attributes:
        names: of the teachers.
        accuracy, cross_entropy, weight: head to [teachers]; a teacher dropped from a head has weight 0 there.
        count: head to the number of clips each teacher was judged on.
        chance: head to the share of the commonest class.
    """

    names: list[str]
    accuracy: dict[str, list[float]]
    cross_entropy: dict[str, list[float]]
    count: dict[str, list[int]]
    chance: dict[str, float]
    weight: dict[str, list[float]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """A table for people: accuracy, cross-entropy and weight of each teacher per head, and who was left out."""
        table = [f"{'teacher':<12}" + "".join(f"{head + ' acc':>14}    CE  weight" for head in self.accuracy)]
        left_out = []
        for k, name in enumerate(self.names):
            line = f"{name:<12}"
            for head, weights in self.weight.items():
                line += f"{100 * self.accuracy[head][k]:12.1f} % {self.cross_entropy[head][k]:5.2f}  {weights[k]:6.2f}"
                if not weights[k]:
                    left_out.append(f"{name} is near chance on {head} and is left out of it")
            table.append(line)
        return table + left_out


def judge(
    names: Sequence[str],
    logits: Mapping[str, np.ndarray],
    present: np.ndarray,
    labels: Mapping[str, np.ndarray],
    *,
    weighting: str,
    gamma: float,
    drop_near_chance: bool,
) -> Competence:
    """Judge and weigh teachers on clips that none of them was trained on.

    Near chance: the accuracy, less two standard errors, is not above the share of the commonest class.

    Args:
        logits: head to [clips, teachers, classes].
        present: bool [clips, teachers].
        labels: head to [clips], -1 where unknown.

    Raises:
        ValueError: a teacher has no head left, or a head no teacher, or no clip to be judged on.
    """
    accuracy: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    count: dict[str, list[int]] = {}
    chance: dict[str, float] = {}
    weight: dict[str, list[float]] = {}
    for head, scores in logits.items():
        truth = labels[head]
        known = truth >= 0
        if not (known[:, None] & present).any(axis=0).all():
            raise ValueError(f"a teacher has no labelled clip of head {head} to be weighed on; see data.weigh_share.")
        chance[head] = float(np.bincount(truth[known]).max() / known.sum())
        accuracy[head], losses[head], count[head] = [], [], []
        for k in range(len(names)):
            rows = known & present[:, k]
            own = torch.from_numpy(scores[rows, k]).double()
            target = torch.from_numpy(truth[rows])
            accuracy[head].append(float((own.argmax(1) == target).double().mean()))
            losses[head].append(float(F.cross_entropy(own, target)))
            count[head].append(int(rows.sum()))
        near = np.array(
            [a - 2 * np.sqrt(a * (1 - a) / n) <= chance[head] for a, n in zip(accuracy[head], count[head], strict=True)]
        )
        left = ~near if drop_near_chance else np.ones(len(names), bool)
        if not left.any():
            raise ValueError(f"no teacher is better than chance on head {head}: " + _said(names, accuracy[head]))
        judged = torch.tensor(losses[head], dtype=torch.float64).masked_fill(torch.from_numpy(~left), float("inf"))
        uniform = torch.from_numpy(left / left.sum())
        weight[head] = (teacher_weights(judged, gamma) if weighting == "held_out" else uniform).tolist()
    useless = [name for k, name in enumerate(names) if not any(weight[head][k] for head in weight)]
    if useless:
        raise ValueError(
            f"teacher {', '.join(useless)} is near chance on every head; leave it out of teachers.folders or train it "
            "longer (teachers.drop_near_chance false takes it as it is)."
        )
    return Competence(list(names), accuracy, losses, count, chance, weight)


def _said(names: Sequence[str], shares: Sequence[float]) -> str:
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in zip(names, shares, strict=True))


def teacher_names(folders: Sequence[str]) -> list[str]:
    """Short names: what each teacher sees, numbered where two see the same."""
    names = [describe_model(folder)["modality"] for folder in folders]
    return [name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}" for i, name in enumerate(names)]


def check_teachers(
    folders: Sequence[str], heads: Mapping[str, Sequence[str]], expected_input: Mapping[str, Any], data: Mapping
) -> list[dict[str, Any]]:
    """Read the model.json of every teacher and refuse those that cannot teach on this data.

    Args:
        heads: of the data set.
        expected_input: the settings' view geometry, as in model.json's `input`.
        data: fingerprint, weigh_share and weigh_seed of the data set that students will be taught on.

    Raises:
        ValueError: other classes, another view geometry, or a teacher trained on clips that are now held out.
    """
    descriptions = []
    for folder in folders:
        description = describe_model(folder)
        for head, classes in heads.items():
            theirs = description["heads"].get(head)
            if theirs != list(classes):
                difference = sorted(set(theirs or []) ^ set(classes))[:6] or "their order"
                raise ValueError(
                    f"teacher {folder} has other classes than the data in head {head!r} (they differ in {difference}); "
                    "a teacher must be trained for the same classes in the same order."
                )
        given = {key: value for key, value in description["input"].items() if key in expected_input}
        other = {key: (value, expected_input[key]) for key, value in given.items() if value != expected_input[key]}
        if other:
            said = ", ".join(f"views.{key} {theirs} (here {ours})" for key, (theirs, ours) in other.items())
            raise ValueError(f"teacher {folder} was trained with {said}; teachers and student must see one view.")
        learnt = description["training"].get("data", {})
        split = ("weigh_share", "weigh_seed")
        if learnt.get("fingerprint") == data["fingerprint"] and any(learnt.get(k) != data[k] for k in split):
            raise ValueError(
                f"teacher {folder} was trained on this data set with data.weigh_share {learnt.get('weigh_share')} and "
                f"data.weigh_seed {learnt.get('weigh_seed')}, so it saw clips it would be weighed on; use the same."
            )
        descriptions.append(description)
    return descriptions
