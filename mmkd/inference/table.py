"""Predictions as rows of Parquet files: what their columns are, and a prediction as a row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from mmkd.inference.answers import ACTION, Prediction, joint_heads
from mmkd.media.files import printable
from mmkd.models import ModelSpec


def schema_of(spec: ModelSpec, probabilities: bool, features: bool, about: Mapping[str, Any]) -> pa.Schema:
    """The columns of a file of predictions; a row is a clip.

    `clip`, the path of a video or the id of a clip; `window`, its number in the video; `start` and `stop`, seconds;
    `error`, null where there is an answer; for each head `top/HEAD`, the likeliest classes, and `probabilities/HEAD`,
    of all classes in the order of the file's metadata; `top/action` where heads together name actions; `features`.

    Args:
        about: goes into the file's metadata under the key `mmkd`, as JSON, with the class names of the heads.
    """
    word, number = pa.string(), pa.float32()
    columns = [("clip", word), ("window", pa.int32()), ("start", pa.float64()), ("stop", pa.float64()), ("error", word)]
    named = {head: ["class"] for head in spec.heads}
    if together := joint_heads(spec):
        named[ACTION] = together
    for head, names in named.items():
        one = pa.struct([*((name, word) for name in names), ("probability", number)])
        columns.append((f"top/{head}", pa.list_(one)))
    if probabilities:
        columns += [(f"probabilities/{head}", pa.list_(number)) for head in spec.heads]
    if features:
        columns.append(("features", pa.list_(number)))
    facts = {"heads": spec.heads, "multi_label": spec.multi_label, "temperatures": spec.temperatures, **about}
    return pa.schema(columns, {"mmkd": json.dumps(facts)})


def row_of(clip: str, window: int, said: Prediction, top: int, schema: pa.Schema) -> dict[str, Any]:
    """A prediction as a row of that schema; what it lacks is null."""
    times = {name: None if math.isnan(value) else value for name, value in (("start", said.start), ("stop", said.stop))}
    row: dict[str, Any] = {"clip": printable(clip), "window": window, **times, "error": printable(said.error) or None}
    if not said.error:
        row |= {f"top/{head}": best for head, best in said.top(top).items()}
        row |= {f"probabilities/{head}": p.astype(np.float32) for head, p in said.probabilities.items()}
        row["features"] = said.features
    return {name: row.get(name) for name in schema.names}
