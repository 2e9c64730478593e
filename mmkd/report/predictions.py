"""A model's answers on a set of clips: kept as one Parquet file, and judged clip by clip."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass
class Predictions:
    """Logits of one model on a set of clips.

    Attributes:
        name: as people know it: "teacher rgb", "ensemble", "baseline", "student". Names that begin with "teacher"
            are drawn apart from the models that are compared.
        clip_ids: [n], unique.
        labels: head to [n], -1 where unknown.
        logits: head to [n, classes], finite; a clip that the model had no input for is left out.
        parameters: number of the model's weights; 0 where it makes no sense.
        note: a few words for the table, e.g. which epoch was chosen.
    """

    name: str
    clip_ids: list[str]
    labels: dict[str, NDArray[np.int64]]
    logits: dict[str, NDArray[np.float32]]
    parameters: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        """Bring the arrays to their types and refuse what does not fit together (ValueError)."""
        self.clip_ids = [str(clip) for clip in self.clip_ids]
        n = len(self.clip_ids)
        if len(set(self.clip_ids)) != n:
            raise ValueError(f"predictions {self.name!r} name a clip more than once; a clip has one answer.")
        if not self.logits or set(self.labels) != set(self.logits):
            raise ValueError(
                f"predictions {self.name!r} have labels of heads {sorted(self.labels)} and logits of "
                f"{sorted(self.logits)}; they must be the same, one or more."
            )
        self.labels = {head: np.asarray(self.labels[head]).astype(np.int64) for head in self.logits}
        self.logits = {head: np.asarray(scores, np.float32) for head, scores in self.logits.items()}
        for head, scores in self.logits.items():
            truth = self.labels[head]
            if scores.ndim != 2 or len(scores) != n or truth.shape != (n,):
                raise ValueError(
                    f"predictions {self.name!r}, head {head!r}: {n} clips, logits {scores.shape}, labels {truth.shape}"
                    "; they must be [n, classes] and [n]."
                )
            if not np.isfinite(scores).all():
                bad = self.clip_ids[int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])]
                raise ValueError(
                    f"predictions {self.name!r}, head {head!r}: logits of clip {bad!r} are not finite; "
                    "leave out clips that the model cannot answer."
                )
            if n and (truth.max() >= scores.shape[1] or truth.min() < -1):
                raise ValueError(
                    f"predictions {self.name!r}, head {head!r}: labels {truth.min()}..{truth.max()} where the model "
                    f"has {scores.shape[1]} classes; they must be -1 (unknown) to {scores.shape[1] - 1}."
                )

    def save(self, path: Path) -> None:
        """Write one Parquet file, whole or not at all."""
        columns: dict[str, pa.Array] = {"clip_id": pa.array(self.clip_ids, pa.string())}
        for head, truth in self.labels.items():
            columns[f"label/{head}"] = pa.array(truth.astype(np.int32))
        for head, scores in self.logits.items():
            offsets = pa.array(np.arange(len(scores) + 1, dtype=np.int32) * scores.shape[1])
            columns[f"logits/{head}"] = pa.ListArray.from_arrays(offsets, pa.array(scores.ravel()))
        about = {"name": self.name, "parameters": str(self.parameters), "note": self.note}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        pq.write_table(pa.table(columns).replace_schema_metadata(about), partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote.

        Raises:
            ValueError: it is another file, or a damaged one.
        """
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} holds no predictions: it cannot be read ({error}).") from error
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        heads = [name.removeprefix("logits/") for name in table.column_names if name.startswith("logits/")]
        needed = {"clip_id", *(f"label/{head}" for head in heads)}
        if not heads or not needed <= set(table.column_names) or not {"name", "parameters", "note"} <= set(about):
            raise ValueError(f"{path} holds no predictions; its columns are {table.column_names}.")
        n = table.num_rows
        logits = {}
        for head in heads:
            flat = table[f"logits/{head}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            logits[head] = flat.reshape(n, len(flat) // max(n, 1))
        return cls(
            name=about["name"],
            clip_ids=table["clip_id"].to_pylist(),
            labels={head: table[f"label/{head}"].to_numpy() for head in heads},
            logits=logits,
            parameters=int(about["parameters"]),
            note=about["note"],
        )


@dataclass
class Outcomes:
    """How each clip was answered; [n] each.

    Attributes:
        known: whether the label is known; the others mean something only there.
        confidence: probability of the class that was chosen; for the action, the product over the heads.
        correct: whether it is the label; for the action, in every head.
        nll: negative log-probability of the label, nats; for the action, the sum over the heads.
    """

    known: NDArray[np.bool_]
    confidence: Floats
    correct: NDArray[np.bool_]
    nll: Floats

    def take(self, rows: NDArray[np.intp]) -> "Outcomes":
        return Outcomes(self.known[rows], self.confidence[rows], self.correct[rows], self.nll[rows])


def outcomes(predictions: Predictions) -> dict[str, Outcomes]:
    """Outcomes per head and, with two heads or more, of the action; their means are those of `evaluate_heads`."""
    result = {}
    for head, logits in predictions.logits.items():
        truth = predictions.labels[head]
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        nll = -np.take_along_axis(log_p, np.maximum(truth, 0)[:, None], axis=1)[:, 0]
        result[head] = Outcomes(truth >= 0, np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == truth, nll)
    if len(result) > 1:
        heads = list(result.values())
        result["action"] = Outcomes(
            known=np.all([each.known for each in heads], axis=0),
            confidence=np.prod([each.confidence for each in heads], axis=0),
            correct=np.all([each.correct for each in heads], axis=0),
            nll=np.sum([each.nll for each in heads], axis=0),
        )
    return result
