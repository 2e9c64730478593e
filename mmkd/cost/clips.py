"""Clips to measure on: some of a split, in memory as they are stored, and times over them."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.config import Settings, Views
from mmkd.media.clips import decode_frames, decode_jpegs
from mmkd.media.sound import decode_sound
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.plan import TEST_VIEW
from mmkd.shards import read_rows
from mmkd.views import View, make_view

CLIPS, AT_ONCE = 24, 64
"""Clips that are chosen, and frames that are decoded at a time to see whether they can be."""
Frames = dict[int, NDArray[np.uint8]]


@dataclass
class StoredClip:
    """A clip's row with its RGB frames and sound, encoded, and the test view of it."""

    record: dict[str, Any]
    num_frames: int
    view: View
    codec: str

    @property
    def shown(self) -> set[int]:
        """The frames that the view shows."""
        return set(self.view.indices.tolist())

    def pairs(self, step: int) -> list[tuple[int, int]]:
        """The frames between which the flow of the view is: from each to `step` later; none in a clip that is too
        short. The last frames have the flow of the last pair."""
        last = self.num_frames - 1 - step
        return [(first, first + step) for first in sorted({min(i, last) for i in self.shown}) if first >= 0]

    def decode(self, wanted: Collection[int]) -> Frames:
        """Frames by number, uint8 [height, width, 3].

        Raises:
            ValueError: one is missing or cannot be decoded, or they claim an absurd size.
        """
        frames = self.record["rgb"]
        if self.codec == "h264":
            return decode_frames(frames[0], wanted)
        return decode_jpegs(frames, wanted)

    def samples(self) -> tuple[NDArray[np.int16], int]:
        """The sound, int16 [samples], and its samples per second.

        Raises:
            ValueError: it cannot be decoded, or claims an absurd size.
        """
        return decode_sound(self.record["audio"])


def some_clips(settings: Settings, views: Views, split: str) -> list[StoredClip]:
    """Up to 24 clips, spread over a split; broken ones are left out."""
    folder = settings.data_folder()
    manifest, codec = cached_manifest(folder, split, settings.data.limit), cached_dataset(folder).rgb_codec
    chosen = np.unique(np.linspace(0, len(manifest) - 1, CLIPS).astype(np.int64)).tolist()
    clips = []
    for number, record in zip(chosen, read_rows(manifest, chosen, ("rgb", "audio")), strict=True):
        length = int(manifest.num_frames[number])
        if isinstance(record, OSError) or length < 1:
            continue
        clip = StoredClip(record, length, make_view(views, record["clip_id"], length, TEST_VIEW), codec)
        try:
            if record["rgb"]:
                for first in range(0, length, AT_ONCE):
                    clip.decode(range(first, min(first + AT_ONCE, length)))
            if record["audio"]:
                clip.samples()
        except (ValueError, IndexError, TypeError):
            continue
        clips.append(clip)
    return clips


def median_over(
    clips: Sequence[Any], run: Callable[..., Any], seconds: float, prepare: Callable[[Any], Any] | None = None
) -> float:
    """Median duration, in seconds, of `run` on clips, after one that does not count; three at least, and no more when
    so many seconds have gone by. `prepare` makes a second argument, which is not timed."""
    durations: list[float] = []
    end = time.perf_counter() + seconds
    for clip in [clips[0], *clips]:
        given = (clip,) if prepare is None else (clip, prepare(clip))
        start = time.perf_counter()
        run(*given)
        durations.append(time.perf_counter() - start)
        if len(durations) > 3 and time.perf_counter() > end:
            break
    return median(durations[1:])
