"""Many videos, or clips of a split, to one Parquet file: what an actor of `rayjobs/predict.py` does with its share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmkd.ahead import in_order
from mmkd.allocator import keep_freed_memory
from mmkd.config import Predict
from mmkd.dataset import Dataset, open_dataset
from mmkd.inference.answers import Prediction, answers, open_model
from mmkd.inference.attempts import Attempts
from mmkd.inference.sampling import Sampling
from mmkd.inference.table import row_of, schema_of
from mmkd.inference.windows import Window, reason_of, video_windows
from mmkd.plan import TEST_VIEW
from mmkd.reader import REAL, STATUS, read_unit
from mmkd.shards import Manifest, read_manifest
from mmkd.storage import is_remote, join, write_bytes, write_whole

T = TypeVar("T")
ROWS_AT_ONCE = 1024
"""That are held before they are written: memory does not grow with a video's length."""
Shown = tuple[str, int, Window]
"""A clip: the video or the clip's id, the number of its window, and what the model sees of it."""


@dataclass(frozen=True)
class Share:
    """What becomes one file.

    Attributes:
        number: of the file.
        videos: paths; empty: these are clips of a split.
        first, last: of the split's clips, numbers in its manifest, last excluded.
    """

    number: int
    videos: tuple[str, ...] = ()
    first: int = 0
    last: int = 0

    @property
    def name(self) -> str:
        return f"part-{self.number:06d}.parquet"

    def __len__(self) -> int:
        return len(self.videos) or self.last - self.first


@dataclass(frozen=True)
class Bulk:
    """All that is to be done; small, so that it can be sent to each actor.

    Attributes:
        model: its folder.
        sampling: what the model sees of a video.
        out: folder of the files.
        notes: local folder for :class:`mmkd.inference.attempts.Attempts`.
        about: what they say of themselves.
        data: folder of the data set, of a split of which these are clips; empty: they are videos.
        limit: see :class:`mmkd.config.Data`.
    """

    settings: Predict
    model: str
    sampling: Sampling
    out: str
    notes: str
    about: Mapping[str, Any]
    data: str = ""
    limit: int = 0

    @property
    def clips_at_once(self) -> int:
        clips, crops = self.sampling.grid
        return max(1, self.settings.batch_size // (clips * crops))


class Predictor:
    """The model of a job, on its device, and what it needs to answer shares of the work."""

    def __init__(self, bulk: Bulk):
        import torch

        from mmkd.devices import device_of

        keep_freed_memory()
        settings = bulk.settings
        self.device = device_of(settings.num_gpus)
        if self.device.type == "cpu":
            torch.set_num_threads(settings.num_cpus)
        self.bulk = bulk
        self.model = open_model(bulk.model, self.device)
        self.schema = schema_of(self.model.spec, settings.probabilities, settings.features, bulk.about)
        self.threads = settings.num_cpus if settings.num_gpus else 0
        self.data: tuple[Dataset, Manifest] | None = None
        if bulk.data:
            self.data = open_dataset(bulk.data), read_manifest(bulk.data, settings.split, bulk.limit)

    def __call__(self, share: Share) -> dict[str, int]:
        """Write a share's file, whole or not at all; how many inputs it has, and rows, and rows with an error."""
        counts = {"number": share.number, "inputs": len(share), "rows": 0, "failed": 0}
        top, schema, target = self.bulk.settings.top, self.schema, join(self.bulk.out, share.name)

        def write(system: Any, path: str) -> None:
            attempts = Attempts(Path(self.bulk.notes, share.name + ".json"))
            with attempts.share(), pq.ParquetWriter(path, schema, filesystem=system) as writer:
                for some in _batched(self.predictions(share, attempts), ROWS_AT_ONCE):
                    rows = [row_of(clip, number, said, top, schema) for clip, number, said in some]
                    counts["rows"] += len(rows)
                    counts["failed"] += sum(row["error"] is not None for row in rows)
                    writer.write_table(pa.Table.from_pylist(rows, schema))

        if is_remote(target):  # where a file that is closed, for whatever reason, is there
            with tempfile.NamedTemporaryFile(prefix="mmkd-") as file:
                write(None, file.name)
                write_bytes(target, Path(file.name).read_bytes())
        else:
            write_whole(target, write)
        return counts

    def predictions(self, share: Share, attempts: Attempts) -> Iterator[tuple[str, int, Prediction]]:
        """Of each clip of a share, in order, its name, the number of its window, and what the model says."""
        if self.data is not None:
            step = self.bulk.clips_at_once
            starts = range(share.first, share.last, step)
            makers = [partial(self._clips, first, min(first + step, share.last)) for first in starts]
        else:
            makers = [partial(self._windows, video, attempts) for video in share.videos]
        # After a process that ended without a word, one by one, to know which of them it was.
        shown = in_order(makers, 0 if attempts.again else self.threads, self.bulk.clips_at_once)
        for some in _batched(shown, self.bulk.clips_at_once):
            yield from self._answered(some)

    def _windows(self, video: str, attempts: Attempts) -> Iterator[Shown]:
        """The windows of a video; what keeps all of it from being shown is the error of one."""
        settings, number = self.bulk.settings, 0
        try:
            with attempts.of(video):
                for window in video_windows(video, self.bulk.sampling, settings.window, settings.hop):
                    yield video, number, window
                    number += 1
        except Exception as error:  # whatever a library makes of a file that nobody foresaw: others must be answered
            yield video, number, Window(np.nan, np.nan, error=reason_of(error))

    def _clips(self, first: int, last: int) -> Iterator[Shown]:
        assert self.data is not None
        (dataset, manifest), sampling = self.data, self.bulk.sampling
        numbers = np.arange(first, last)
        block = read_unit(dataset, manifest, sampling.views, numbers, TEST_VIEW, ("rgb",), grids=(sampling.grid,))
        for row, number in enumerate(numbers):
            stop = float(manifest.num_frames[number]) / dataset.fps
            status, rgb = int(block["status"][row]), block["rgb"][row]
            if status == REAL and block["has/rgb"][row]:
                window = Window(0.0, stop, rgb if rgb.ndim == 5 else rgb[None])
            else:
                window = Window(0.0, stop, error=STATUS.get(status, "it has no RGB"))
            yield manifest.clip_ids[number], 0, window

    def _answered(self, shown: Sequence[Shown]) -> Iterator[tuple[str, int, Prediction]]:
        from mmkd.devices import autocast

        spec, settings = self.model.spec, self.bulk.settings
        there = [window for _, _, window in shown if window.rgb is not None]
        said: Iterator[Prediction] = iter(())
        if there:
            times = [(window.start, window.stop) for window in there]
            rgb = np.stack([window.rgb for window in there if window.rgb is not None])
            with autocast(self.device, settings.precision):
                said = iter(answers(self.model, rgb, times, settings.batch_size, settings.features))
        for clip, number, window in shown:
            lost = Prediction(spec, window.start, window.stop, error=window.error)
            yield clip, number, lost if window.rgb is None else next(said)


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    several = iter(items)
    while some := list(islice(several, size)):
        yield some
