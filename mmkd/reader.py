"""Reading: one unit of the plan to arrays. Only the chosen frames are decoded, and everything stays uint8."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmkd.config import Views
from mmkd.dataset import Dataset
from mmkd.extract.sound import resample
from mmkd.media.clips import decode_frames, decode_jpegs
from mmkd.media.sound import check_sound, decode_sound
from mmkd.plan import PADDING, Clips
from mmkd.shards import NO_LABEL, Manifest, read_rows
from mmkd.views import (
    Grids,
    Mix,
    View,
    grid_slots,
    make_view,
    mix_boxes,
    mix_frames,
    mix_sound,
    test_views,
    view_audio,
    view_boxes,
    view_flow,
    view_rgb,
)

Block = dict[str, np.ndarray]
"""Columns of one unit, each with as many rows as a worker's share: `step`, `rank`, `clip`, `view`, `status`,
`label/HEAD` (of a multi-label head with an axis for its classes), and of each modality read its arrays and
`has/MODALITY`; where clips are mixed, `mix/share` of the own clip and `mix_label/HEAD` of the other."""

REAL, PADDED, UNREADABLE, BAD_IMAGE, BAD_LENGTH, BAD_SOUND, BAD_BOX, BAD_LABEL, BAD_ROW = range(9)
STATUS = {
    PADDED: "padding",
    UNREADABLE: "its shard cannot be read",
    BAD_IMAGE: "a frame cannot be decoded, or claims an absurd size",
    BAD_LENGTH: "it has fewer frames than its manifest says, or frames of different sizes",
    BAD_SOUND: "its sound cannot be decoded",
    BAD_BOX: "a box is not finite",
    BAD_LABEL: "a label is out of range",
    BAD_ROW: "its row does not say its frame rate or its frame size",
}
"""Why a row takes no part in anything; only rows of status REAL (0) do."""


class BrokenClipError(ValueError):
    """A clip that cannot be used; carries a status."""

    def __init__(self, status: int):
        super().__init__(STATUS[status])
        self.status = status


def read_unit(
    dataset: Dataset,
    manifest: Manifest,
    views: Views,
    clips: Clips,
    view_numbers: int | Clips,
    modalities: Sequence[str],
    *,
    grids: Grids = (),
    partners: Clips | None = None,
) -> Block:
    """Read and decode the clips of a unit.

    A clip that is broken becomes a row of zeros whose `status` says why; a modality that a clip lacks is zeros with
    `has/MODALITY` false. Adjacent rows of one clip are decoded once.

    Args:
        view_numbers: of all rows, or of each; TEST_VIEW for the test view.
        grids: show all test views of these grids on an axis after the rows (see :func:`mmkd.views.grid_slots`), where
            they have more than one, instead of the view of that number.
        partners: numbers of the clips that others may be mixed with, where the settings mix; None: nothing is mixed.
    """
    slots = len(grid_slots(grids)[0])
    mixing = partners is not None and bool(views.mixup or views.cutmix)
    rows = len(clips)
    numbers = np.broadcast_to(np.asarray(view_numbers, np.int64), (rows,))
    real = np.flatnonzero(clips != PADDING)
    first = [int(row) for row in real if row == 0 or clips[row] != clips[row - 1]]
    block = empty_block(dataset, views, rows, modalities, slots if slots > 1 else 0, mixing)
    block["clip"][:] = clips
    block["status"][real] = REAL
    records = zip(first, read_rows(manifest, clips[first].tolist(), modalities), strict=True)
    for start, record in records:
        source = _Source(dataset, manifest, views, int(clips[start]), record, modalities)
        row = start
        while row < rows and clips[row] == clips[start]:
            try:
                source.check()
                if slots > 1:
                    parts = [source.arrays(view) for view in test_views(views, source.num_frames, grids)]
                    arrays = {m: {n: np.stack([part[m][n] for part in parts]) for n in parts[0][m]} for m in parts[0]}
                else:
                    view = source.view(int(numbers[row]))
                    arrays = source.arrays(view)
                    if mixing and partners is not None and view.mix is not None:
                        other = _partner(dataset, manifest, views, partners, view.mix, int(numbers[row]), modalities)
                        arrays = _mixed(block, row, arrays, other, view.mix)
            except BrokenClipError as error:
                block["status"][row] = error.status
                row += 1
                continue
            for head, label in source.labels.items():
                block[f"label/{head}"][row] = label
            for modality, columns in arrays.items():
                block[f"has/{modality}"][row] = True
                for name, value in columns.items():
                    block[name][row] = value
            row += 1
    return block


class _Source:
    """One clip's record, and what has been decoded of it."""

    def __init__(
        self,
        dataset: Dataset,
        manifest: Manifest,
        views: Views,
        clip: int,
        record: dict[str, Any] | OSError,
        modalities: Sequence[str],
    ):
        self.dataset, self.settings, self.record, self.modalities = dataset, views, record, modalities
        self.num_frames = int(manifest.num_frames[clip])
        self.labels = {head: values[clip] for head, values in manifest.labels.items()}
        self.decoded: dict[str, dict[int, np.ndarray]] = {"rgb": {}, "flow": {}}
        self.sound: np.ndarray | None = None

    def check(self) -> None:
        """Raise what is wrong with the clip as a whole."""
        if isinstance(self.record, OSError):
            raise BrokenClipError(UNREADABLE)
        for head, label in self.labels.items():
            if np.min(label) < NO_LABEL or (label.ndim == 0 and label >= len(self.dataset.heads[head])):
                raise BrokenClipError(BAD_LABEL)
        if self.num_frames < 1:
            raise BrokenClipError(BAD_LENGTH)

    def view(self, number: int) -> View:
        assert isinstance(self.record, dict)
        return make_view(self.settings, self.record["clip_id"], self.num_frames, number)

    def arrays(self, view: View) -> dict[str, Block]:
        """Modality to its columns of one row, for the modalities that the clip has."""
        assert isinstance(self.record, dict)
        there = [modality for modality in self.modalities if self.record[modality] is not None]
        return {modality: getattr(self, f"_{modality}")(view) for modality in there}

    def _frames(self, modality: str, view: View) -> list[np.ndarray]:
        frames, decoded = self.record[modality], self.decoded[modality]  # type: ignore[index]
        video = modality == "rgb" and self.dataset.rgb_codec == "h264"
        if view.indices.max() >= (self.num_frames if video else len(frames)):
            raise BrokenClipError(BAD_LENGTH)
        missing = set(view.indices.tolist()) - set(decoded)
        try:
            if video and missing:
                decoded |= decode_frames(frames[0], missing)
            elif missing:
                decoded |= decode_jpegs(frames, missing)
        except (ValueError, IndexError, TypeError) as error:  # the last: null in place of a video
            raise BrokenClipError(BAD_IMAGE) from error
        if len({frame.shape for frame in decoded.values()}) > 1:
            raise BrokenClipError(BAD_LENGTH)
        return [decoded[index] for index in view.indices.tolist()]

    def _rgb(self, view: View) -> Block:
        return {"rgb": view_rgb(self._frames("rgb", view), view, self.settings.size)}

    def _flow(self, view: View) -> Block:
        return {"flow": view_flow(self._frames("flow", view), view, self.settings.size, self.settings.jitter_flow)}

    def _audio(self, view: View) -> Block:
        record, wanted = self.record, sound_rate(self.dataset, self.settings)
        assert isinstance(record, dict)
        if not _is_positive(record["fps"]):
            raise BrokenClipError(BAD_ROW)
        if self.sound is None:
            try:
                samples, rate = decode_sound(record["audio"])
                check_sound(len(samples) / rate * wanted, wanted)
            except ValueError as error:
                raise BrokenClipError(BAD_SOUND) from error
            self.sound = resample(samples, rate, wanted)
        return {"audio": view_audio(self.sound, view, wanted, record["fps"], self.settings.audio_seconds)}

    def _boxes(self, view: View) -> Block:
        record, settings = self.record, self.settings
        assert isinstance(record, dict)
        frames = record["boxes"]
        if view.indices.max() >= len(frames):
            raise BrokenClipError(BAD_LENGTH)
        chosen = [frames[i] for i in view.indices.tolist()]
        shape = (record["height"], record["width"])
        if not all(map(_is_positive, shape)):
            raise BrokenClipError(BAD_ROW)
        try:
            columns = view_boxes(
                chosen,
                view,
                shape,
                settings.boxes,
                min_score=settings.box_score,
                whole_frame=settings.whole_frame_boxes,
            )
        except (ValueError, TypeError) as error:  # the latter: null in place of a number or a list
            raise BrokenClipError(BAD_BOX) from error
        return {f"boxes/{name}": value for name, value in columns.items()}


def _is_positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _partner(
    dataset: Dataset,
    manifest: Manifest,
    views: Views,
    partners: Clips,
    mix: Mix,
    number: int,
    modalities: Sequence[str],
) -> tuple[dict[str, Block], dict[str, Any]] | None:
    """Arrays and labels of the clip to mix in, in its own view of the same number; None where it is broken."""
    clip = int(partners[min(int(mix.partner * len(partners)), len(partners) - 1)])
    (record,) = read_rows(manifest, [clip], modalities)
    source = _Source(dataset, manifest, views, clip, record, modalities)
    try:
        source.check()
        return source.arrays(source.view(number)), source.labels
    except BrokenClipError:
        return None  # it is counted where it is a row itself


def _mixed(
    block: Block, row: int, own: dict[str, Block], other: tuple[dict[str, Block], dict[str, Any]] | None, mix: Mix
) -> dict[str, Block]:
    """A row's arrays with another clip's mixed in, and the other's labels noted; as they are where the other clip is
    broken or lacks a modality, since all teachers must see one mixture."""
    if other is None or not set(own) <= set(other[0]):
        return own
    arrays, labels = other
    block["mix/share"][row] = mix.share
    for head, label in labels.items():
        block[f"mix_label/{head}"][row] = label
    out: dict[str, Block] = {}
    for modality, columns in own.items():
        if modality == "boxes":
            out["boxes"] = mix_boxes(columns, arrays["boxes"], mix)
        else:
            blend = mix_sound if modality == "audio" else mix_frames
            out[modality] = {modality: blend(columns[modality], arrays[modality][modality], mix)}
    return out


def sound_rate(dataset: Dataset, views: Views) -> int:
    """Samples per second of the sound that networks are given."""
    return views.sample_rate or dataset.sample_rate


def empty_block(
    dataset: Dataset, views: Views, rows: int, modalities: Sequence[str], grid: int = 0, mixing: bool = False
) -> Block:
    """A unit of `rows` padded rows, with `grid` test views each where that is not 0."""
    block: Block = {"clip": np.full(rows, PADDING, np.int64), "status": np.full(rows, PADDED, np.int8)}
    for part in ("label", "mix_label") if mixing else ("label",):
        for head, classes in dataset.heads.items():
            if head in dataset.multi_label:
                block[f"{part}/{head}"] = np.full((rows, len(classes)), NO_LABEL, np.int8)
            else:
                block[f"{part}/{head}"] = np.full(rows, NO_LABEL, np.int64)
    if mixing:
        block["mix/share"] = np.ones(rows, np.float32)
    size, lead = views.size, (rows, grid, views.frames) if grid else (rows, views.frames)
    for modality in modalities:
        block[f"has/{modality}"] = np.zeros(rows, bool)
        if modality in ("rgb", "flow"):
            block[modality] = np.zeros((*lead, size, size, 3 if modality == "rgb" else 2), np.uint8)
        elif modality == "audio":
            block["audio"] = np.zeros((*lead, int(views.audio_seconds * sound_rate(dataset, views))), np.int16)
        else:
            block["boxes/boxes"] = np.zeros((*lead, views.boxes, 4), np.float32)
            block["boxes/score"] = np.zeros((*lead, views.boxes), np.float32)
            for name in ("category", "side", "state"):
                block[f"boxes/{name}"] = np.zeros((*lead, views.boxes), np.int8)
    return block
