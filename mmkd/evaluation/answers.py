"""A model's answers to every test view of every clip of a split, and the Parquet file that they are kept in."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmkd.metrics import average_views
from mmkd.report.predictions import Predictions
from mmkd.views import grid_slots

Grid = tuple[int, int]
"""Test views in time by views in space."""
MAX_VIEWS = 100_000
"""Of all grids that a file claims to have: each is listed in memory."""


@dataclass
class Answers:
    """Logits of one model for each test view of each clip.

    Attributes:
        name: as people know the model.
        clip_ids: [n], unique.
        labels: head to int64 [n], -1 where unknown; of a multi-label head int8 [n, classes] of 0 and 1, a row of -1
            where unknown.
        logits: head to float32 [n, views, classes].
        grids: of test views; the views of `logits` are the slots of :func:`mmkd.views.grid_slots`.
        parameters: number of the model's weights.
        about: what the answers depend on: hash of the model, of the data, the split.
    """

    name: str
    clip_ids: list[str]
    labels: dict[str, NDArray[Any]]
    logits: dict[str, NDArray[np.float32]]
    grids: list[Grid] = field(default_factory=lambda: [(1, 1)])
    parameters: int = 0
    about: dict[str, Any] = field(default_factory=dict)

    def mean_logits(self, grid: Grid | None = None) -> dict[str, NDArray[np.float32]]:
        """Head to [n, classes], averaged over the views of a grid; None: of the first one."""
        members = grid_slots(self.grids)[1][0 if grid is None else self.grids.index(grid)]
        return {head: average_views(x[:, members]).astype(np.float32) for head, x in self.logits.items()}

    def predictions(self, grid: Grid | None = None) -> Predictions:
        """The averaged answers of the heads that are not multi-label.

        Raises:
            ValueError: there is no such head.
        """
        heads = [head for head, labels in self.labels.items() if labels.ndim == 1]
        mean = self.mean_logits(grid)
        labels = {head: self.labels[head] for head in heads}
        return Predictions(self.name, self.clip_ids, labels, {head: mean[head] for head in heads}, self.parameters)

    def save(self, path: Path) -> None:
        """Write one Parquet file, whole or not at all."""
        columns: dict[str, pa.Array] = {"clip_id": pa.array(self.clip_ids, pa.string())}
        for head, labels in self.labels.items():
            columns[f"label/{head}"] = _rows(labels.astype(np.int32)) if labels.ndim == 2 else pa.array(labels)
        for head, logits in self.logits.items():
            columns[f"logits/{head}"] = _rows(logits.reshape(len(logits), -1))
        about = {"name": self.name, "parameters": self.parameters, "grids": self.grids, "about": self.about}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        pq.write_table(pa.table(columns).replace_schema_metadata({"mmkd": json.dumps(about)}), partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Answers":
        """Read what `save` wrote.

        Raises:
            ValueError: it is another file, or a damaged one.
        """
        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[b"mmkd"])
            heads = [name.removeprefix("logits/") for name in table.column_names if name.startswith("logits/")]
            grids = [(int(clips), int(crops)) for clips, crops in about["grids"]]
            if not grids or any(min(grid) < 1 for grid in grids) or sum(map(math.prod, grids)) > MAX_VIEWS:
                raise ValueError(f"its grids of views are {str(grids)[:80]}, not 1 to {MAX_VIEWS} views")
            slots = len(grid_slots(grids)[0])
            logits = {head: _matrix(table[f"logits/{head}"]).astype(np.float32) for head in heads}
            return cls(
                name=about["name"],
                clip_ids=table["clip_id"].to_pylist(),
                labels={head: _labels(table[f"label/{head}"]) for head in heads},
                logits={head: x.reshape(len(x), slots, x.shape[1] // slots) for head, x in logits.items()},
                grids=grids,
                parameters=int(about["parameters"]),
                about=about["about"],
            )
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no logits of an evaluation, or damaged ones: {error!r}") from error


def answers_path(run: Path, split: str, name: str) -> Path:
    """Where an evaluation keeps a model's answers."""
    plain = re.sub(r"[^\w.+-]+", "-", name)
    return run / "logits" / split / f"{plain}.parquet"


def load_if_made(path: Path, about: Mapping[str, Any]) -> Answers | None:
    """Answers that were kept before and depend on the same; None where there are none, or a damaged file."""
    if not path.is_file():
        return None
    try:
        answers = Answers.load(path)
    except ValueError:
        return None
    return answers if answers.about == dict(about) else None


def _rows(array: NDArray[Any]) -> pa.Array:
    """[n, width] as lists, which may be more than 2**31 numbers in all."""
    offsets = np.arange(len(array) + 1, dtype=np.int64) * array.shape[1]
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(array.ravel()))


def _labels(column: Any) -> NDArray[Any]:
    if pa.types.is_large_list(column.type):
        return _matrix(column).astype(np.int8)
    return column.to_numpy().astype(np.int64)


def _matrix(column: Any) -> NDArray[Any]:
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    return flat.reshape(len(column), len(flat) // max(len(column), 1))
