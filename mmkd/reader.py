"""Reading: one unit of the plan to arrays. Only the chosen frames are decoded, and everything stays uint8."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import simplejpeg
import soundfile

from mmkd.config import Views
from mmkd.plan import PADDING, Clips, Plan
from mmkd.shards import Dataset, Manifest, read_rows
from mmkd.views import View, make_view, view_audio, view_boxes, view_flow, view_rgb

Block = dict[str, np.ndarray]
"""Columns of one unit, each with as many rows as a worker's share: `step`, `rank`, `clip`, `status`, `label/HEAD`,
and of each modality read its arrays and `has/MODALITY`."""

REAL, PADDED, UNREADABLE, BAD_IMAGE, BAD_LENGTH, BAD_SOUND, BAD_BOX, BAD_LABEL = range(8)
STATUS = {
    PADDED: "padding",
    UNREADABLE: "its shard cannot be read",
    BAD_IMAGE: "a frame cannot be decoded",
    BAD_LENGTH: "it has fewer frames than its manifest says, or frames of different sizes",
    BAD_SOUND: "its sound cannot be decoded",
    BAD_BOX: "a box is not finite",
    BAD_LABEL: "a label is out of range",
}
"""Why a row takes no part in anything; only rows of status REAL (0) do."""

BOX_COLUMNS = ("boxes", "category", "score", "side", "state")


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
    view_number: int,
    modalities: Sequence[str],
) -> Block:
    """Read and decode the clips of a unit.

    A clip that is broken becomes a row of zeros whose `status` says why; a modality that a clip lacks is zeros with
    `has/MODALITY` false.
    """
    real = np.flatnonzero(clips != PADDING)
    block = _empty(dataset, views, len(clips), modalities)
    block["clip"][:] = clips
    block["status"][real] = REAL
    for row, record in zip(real, read_rows(manifest, clips[real].tolist(), modalities), strict=True):
        clip = int(clips[row])
        try:
            if isinstance(record, OSError):
                raise BrokenClipError(UNREADABLE)
            labels = {head: int(values[clip]) for head, values in manifest.labels.items()}
            if any(not -1 <= label < len(dataset.heads[head]) for head, label in labels.items()):
                raise BrokenClipError(BAD_LABEL)
            view = make_view(views, record["clip_id"], int(manifest.num_frames[clip]), view_number)
            arrays = {
                modality: _DECODERS[modality](dataset, record, view, views)
                for modality in modalities
                if record[modality] is not None
            }
        except BrokenClipError as error:
            block["status"][row] = error.status
            continue
        for head, label in labels.items():
            block[f"label/{head}"][row] = label
        for modality, columns in arrays.items():
            block[f"has/{modality}"][row] = True
            for name, value in columns.items():
                block[name][row] = value
    return block


def read_plan_unit(
    dataset: Dataset,
    plan: Plan,
    manifests: dict[str, Manifest],
    views: Views,
    modalities: dict[str, Sequence[str]],
    unit: int,
    num_workers: int,
) -> Block:
    """Unit number step * num_workers + rank of a plan; `modalities` are those that each phase reads."""
    index, rank = divmod(unit, num_workers)
    step, clips, view_number = plan.unit(index, rank, num_workers)
    manifest = manifests["val" if step.phase == "val" else "train"]
    block = read_unit(dataset, manifest, views, clips, view_number, modalities[step.phase])
    block["step"] = np.full(len(clips), index, np.int64)
    block["rank"] = np.full(len(clips), rank, np.int64)
    return block


def _empty(dataset: Dataset, views: Views, rows: int, modalities: Sequence[str]) -> Block:
    block: Block = {"clip": np.full(rows, PADDING, np.int64), "status": np.full(rows, PADDED, np.int8)}
    block |= {f"label/{head}": np.full(rows, -1, np.int64) for head in dataset.heads}
    frames, size = views.frames, views.size
    for modality in modalities:
        block[f"has/{modality}"] = np.zeros(rows, bool)
        if modality in ("rgb", "flow"):
            block[modality] = np.zeros((rows, frames, size, size, 3 if modality == "rgb" else 2), np.uint8)
        elif modality == "audio":
            block["audio"] = np.zeros((rows, frames, int(views.audio_seconds * dataset.sample_rate)), np.int16)
        else:
            block["boxes/boxes"] = np.zeros((rows, frames, views.boxes, 4), np.float32)
            block["boxes/score"] = np.zeros((rows, frames, views.boxes), np.float32)
            for name in ("category", "side", "state"):
                block[f"boxes/{name}"] = np.zeros((rows, frames, views.boxes), np.int8)
    return block


def _decode_frames(frames: list[bytes], view: View) -> list[np.ndarray]:
    decoded: dict[int, np.ndarray] = {}  # a short clip shows a frame more than once
    for index in view.indices.tolist():
        if index >= len(frames):
            raise BrokenClipError(BAD_LENGTH)
        if index not in decoded:
            try:
                decoded[index] = simplejpeg.decode_jpeg(frames[index], "RGB")
            except ValueError as error:
                raise BrokenClipError(BAD_IMAGE) from error
    if len({frame.shape for frame in decoded.values()}) > 1:
        raise BrokenClipError(BAD_LENGTH)
    return [decoded[index] for index in view.indices.tolist()]


def _rgb(dataset: Dataset, record: dict[str, Any], view: View, views: Views) -> Block:
    return {"rgb": view_rgb(_decode_frames(record["rgb"], view), view, views.size)}


def _flow(dataset: Dataset, record: dict[str, Any], view: View, views: Views) -> Block:
    return {"flow": view_flow(_decode_frames(record["flow"], view), view, views.size)}


def _audio(dataset: Dataset, record: dict[str, Any], view: View, views: Views) -> Block:
    try:
        samples, rate = soundfile.read(io.BytesIO(record["audio"]), dtype="int16")
    except (RuntimeError, ValueError) as error:
        raise BrokenClipError(BAD_SOUND) from error
    if rate != dataset.sample_rate or samples.ndim != 1:
        raise BrokenClipError(BAD_SOUND)
    return {"audio": view_audio(samples, view, rate, record["fps"], views.audio_seconds)}


def _boxes(dataset: Dataset, record: dict[str, Any], view: View, views: Views) -> Block:
    frames = record["boxes"]
    if view.indices.max() >= len(frames):
        raise BrokenClipError(BAD_LENGTH)
    chosen = [frames[i] for i in view.indices.tolist()]
    try:
        columns = view_boxes(chosen, view, (record["height"], record["width"]), views.boxes)
    except ValueError as error:
        raise BrokenClipError(BAD_BOX) from error
    return {f"boxes/{name}": value for name, value in columns.items()}


_DECODERS: dict[str, Callable[[Dataset, dict[str, Any], View, Views], Block]] = {
    "rgb": _rgb,
    "flow": _flow,
    "audio": _audio,
    "boxes": _boxes,
}
