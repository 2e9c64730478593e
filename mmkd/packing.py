"""Packing: clips of a source to shards, as a Ray Data job or in this process."""

import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import simplejpeg
import soundfile

from mmkd.config import Settings
from mmkd.extract.flow import dis_flow
from mmkd.runs import write_json
from mmkd.shards import NO_LABEL, Dataset, write_shard
from mmkd.sources.clip import Clip

Say = Callable[[str], None]


class Source(Protocol):
    """Where clips come from. A unit yields some clips (one, or all clips of a video); units are independent."""

    @property
    def name(self) -> str: ...

    @property
    def heads(self) -> dict[str, list[str]]: ...

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def num_units(self, split: str) -> int: ...

    def clips(self, split: str, unit: int) -> Iterator[Clip]: ...


def make_source(settings: Settings) -> tuple[Source, list[str], dict[str, Any]]:
    """The source that the settings name, its splits, and what dataset.json says of how the data was made."""
    source = settings.source
    counts = {split: getattr(source, split) for split in ("train", "val", "test", "unseen") if getattr(source, split)}
    from mmkd.sources.tabletop import Tabletop

    made = Tabletop(source.seed, counts, source.width, source.height, source.frames)
    return made, list(counts), source.model_dump() | {"flow": "OpenCV DIS, medium preset"}


def encode_clip(clip: Clip, settings: Settings, heads: dict[str, list[str]]) -> dict[str, Any]:
    """A clip as a row of a shard, see :func:`mmkd.shards.schema`.

    Raises:
        ValueError: a label is out of range, boxes or frames do not fit each other, or a box is not finite.
    """
    pack = settings.pack
    frames, height, width, _ = clip.rgb.shape
    for head, classes in heads.items():
        label = clip.labels[head]
        if any(not -1 <= each < len(classes) for each in (label if isinstance(label, list) else [label])):
            raise ValueError(f"label {label} of head {head} is not among {len(classes)} classes")
    if clip.boxes is not None and len(clip.boxes) != frames:
        raise ValueError(f"{len(clip.boxes)} frames of boxes for {frames} frames")
    flow = dis_flow(clip.rgb, pack.flow_bound) if clip.flow is None else clip.flow
    return {
        "clip_id": clip.clip_id,
        "rgb": [simplejpeg.encode_jpeg(frame, pack.quality, "RGB", "420") for frame in clip.rgb],
        "flow": [_flow_jpeg(frame, pack.flow_quality) for frame in flow],
        "audio": None if clip.audio is None else _flac(clip.audio, clip.sample_rate),
        "boxes": None if clip.boxes is None else [_box_rows(boxes) for boxes in clip.boxes],
        "num_frames": frames,
        "width": width,
        "height": height,
        "labels": {head: None if label == NO_LABEL else label for head, label in clip.labels.items()},
        "fps": clip.fps,
        "start": clip.start,
        "stop": clip.stop,
        "meta": list(clip.meta.items()),
    }


def pack(settings: Settings, say: Say, on_ray: bool = True) -> dict[str, Any]:
    """Make the data set that the settings describe, in place of an unfinished one; returns a summary.

    Raises:
        ValueError: too many clips could not be packed.
    """
    source, splits, made_by = make_source(settings)
    folder = settings.data_folder()
    if (folder / "dataset.json").is_file():
        raise ValueError(f"{folder} holds a data set already; choose another data.folder or delete it.")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tasks = [
        (split, number, start, min(start + settings.pack.clips_per_shard, source.num_units(split)))
        for split in splits
        for number, start in enumerate(range(0, source.num_units(split), settings.pack.clips_per_shard))
    ]
    run = _run_on_ray if on_ray else _run_here
    began, done, parts = time.monotonic(), 0, []
    total = sum(stop - start for _, _, start, stop in tasks)
    say(f"packing {total} clips into {folder} ({len(tasks)} shards)")
    for part in run(settings, str(partial), tasks):
        parts.append(part)
        done += part["units"]
        rate = done / (time.monotonic() - began)
        say(f"packed {done}/{total} clips, {rate:.1f} clips/s, {(total - done) / rate:.0f} s left")
    rejects = [reject for part in parts for reject in part["rejects"]]
    clips = sum(part["clips"] for part in parts)
    if rejects:
        write_json(partial / "rejects.json", rejects)
    if len(rejects) > settings.pack.max_reject_share * max(clips + len(rejects), 1):
        raise ValueError(
            f"{len(rejects)} of {clips + len(rejects)} clips could not be packed, e.g. {rejects[0]}; all are listed in "
            f"{partial / 'rejects.json'} (pack.max_reject_share sets how many may be)."
        )
    Dataset(
        heads=source.heads,
        modalities=list(source.modalities),
        splits={split: _split_entry(parts, split) for split in splits},
        fps=parts[0]["fps"],
        flow={"bound": settings.pack.flow_bound, "step": 1, "size": [settings.source.width, settings.source.height]},
        sample_rate=parts[0]["sample_rate"],
        made_by={"source": source.name, **made_by, **settings.pack.model_dump()},
    ).save(partial)
    partial.rename(folder)
    seconds = time.monotonic() - began
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return {
        "data_folder": str(folder),
        "clips": clips,
        "rejects": len(rejects),
        "seconds": round(seconds, 1),
        "clips_per_second": round(clips / seconds, 1),
        "megabytes": round(size / 1e6, 1),
    }


def pack_shard(settings: Settings, folder: str, split: str, number: int, start: int, stop: int) -> dict[str, Any]:
    """Write shard `number` of a split from units start..stop-1, and say what is in it."""
    source, _, _ = make_source(settings)
    rows, rejects = [], []
    fps, sample_rate = 0.0, 0
    for unit in range(start, stop):
        name = f"unit {unit}"
        try:
            for clip in source.clips(split, unit):
                name, fps, sample_rate = clip.clip_id, clip.fps, clip.sample_rate
                rows.append(encode_clip(clip, settings, source.heads))
        except (ValueError, RuntimeError) as error:
            rejects.append({"split": split, "clip_id": name, "reason": str(error)})
    name = f"{number:05d}.parquet"
    digest = write_shard(Path(folder) / split / name, rows, list(source.heads), settings.pack.row_group)
    return {
        "split": split,
        "name": name,
        "hash": digest,
        "units": stop - start,
        "clips": len(rows),
        "rejects": rejects,
        "fps": fps,
        "sample_rate": sample_rate,
    }


def _run_here(settings: Settings, folder: str, tasks: list[tuple]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        yield pack_shard(settings, folder, *task)


def _run_on_ray(settings: Settings, folder: str, tasks: list[tuple]) -> Iterator[dict[str, Any]]:
    import json

    import ray.data

    from mmkd.pipeline import configure_context

    configure_context(settings)

    def work(batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        cv2.setNumThreads(1)  # Ray runs one of these on each core
        return {"part": [json.dumps(pack_shard(settings, folder, *tasks[i])) for i in batch["id"].tolist()]}

    dataset = ray.data.range(len(tasks), override_num_blocks=len(tasks)).map_batches(work, batch_size=None, num_cpus=1)
    for row in dataset.iter_rows():
        yield json.loads(row["part"])


def _split_entry(parts: list[dict[str, Any]], split: str) -> dict[str, Any]:
    mine = sorted((part for part in parts if part["split"] == split), key=lambda part: part["name"])
    return {"clips": sum(part["clips"] for part in mine), "shards": {part["name"]: part["hash"] for part in mine}}


def _flow_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """u and v in the first two channels of a 4:4:4 JPEG; the third is constant and costs next to nothing."""
    image = np.full((*frame.shape[:2], 3), 128, np.uint8)
    image[..., :2] = frame
    return simplejpeg.encode_jpeg(image, quality, "RGB", "444")


def _flac(samples: np.ndarray, sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _box_rows(boxes: np.ndarray) -> list[dict[str, float]]:
    corners = ("x1", "y1", "x2", "y2", "score")
    if not all(np.isfinite(boxes[name]).all() for name in corners):
        raise ValueError("a box is not finite")
    return [{name: (float if name in corners else int)(box[name]) for name in boxes.dtype.names or ()} for box in boxes]
