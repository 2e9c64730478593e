"""What the submission files of both challenges share: the classes' logits, and faults in words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mmkd.report.predictions import Predictions

Heads = Mapping[str, Sequence[str]]
"""Head to the names of its classes, by number."""


def logits_of(predictions: Predictions, heads: Heads, head: str) -> NDArray[np.float32]:
    """[n, classes] of a head.

    Raises:
        ValueError: the predictions do not fit the head.
    """
    logits, classes = predictions.logits.get(head, np.zeros((0, 0), np.float32)), len(heads.get(head, ()))
    if not classes or logits.shape[1] != classes:
        said = f"predictions {predictions.name!r} have {logits.shape[1]} classes of head {head!r}"
        raise ValueError(f"{said} and the data set has {classes}; a submission needs as many, and at least one.")
    return logits


def id_faults(found: Sequence[str], expected: Iterable[str] | None) -> list[str]:
    """Clips that come twice, are missing, or are of no clip of the split."""
    counts = Counter(found)
    faults = [] if found else ["there is no clip"]
    faults += [f"clip {clip_id!r} is there more than once" for clip_id, count in counts.items() if count > 1]
    if expected is not None:
        wanted = dict.fromkeys(expected)
        faults += [f"clip {clip_id!r} is missing" for clip_id in wanted if clip_id not in counts]
        faults += [f"clip {clip_id!r} is not in the split" for clip_id in counts if clip_id not in wanted]
    return faults


def some(names: Sequence[object]) -> str:
    """The first few."""
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
