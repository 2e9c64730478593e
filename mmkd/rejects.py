"""Clips that could not be packed: counted by reason, and listed in rejects.parquet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields

import pyarrow as pa
import pyarrow.parquet as pq

from mmkd.sources.recording import KINDS, Reject
from mmkd.storage import StrPath, open_parquet, write_whole

SCHEMA = pa.schema([(each.name, pa.string()) for each in fields(Reject)])


def save_rejects(path: StrPath, rejects: Sequence[Reject]) -> None:
    """Write rejects.parquet: split, clip_id, recording, kind (a key of KINDS) and reason, one row a clip."""
    table = pa.Table.from_pylist([asdict(reject) for reject in rejects], schema=SCHEMA)
    write_whole(path, lambda system, inner: pq.write_table(table, inner, filesystem=system))


def read_rejects(path: StrPath) -> list[Reject]:
    """What :func:`save_rejects` wrote."""
    return [Reject(**row) for row in open_parquet(path).read().to_pylist()]


def summary(rejects: Sequence[Reject]) -> str:
    """How many there are of each kind, the commonest first."""
    counts = Counter(reject.kind for reject in rejects)
    return "; ".join(f"{number} where {KINDS[kind]}" for kind, number in counts.most_common())
