"""Packing: clips of a source to shards, as a Ray Data job or in this process; a second call goes on where one stopped.

The work is divided up front into shards, each a fixed list of recordings. A finished shard leaves its facts under .pack
in the data set folder; dataset.json comes last and .pack goes, so that a folder without dataset.json is unfinished.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mmkd import __version__
from mmkd.config import MODALITIES, Pack, Settings
from mmkd.cutting import cut
from mmkd.dataset import Dataset
from mmkd.extract.boxes import TorchvisionDetector
from mmkd.extract.flow import make_flow
from mmkd.packing_plan import FREE_TO_CHANGE, Packing, Task, plan_packing
from mmkd.rejects import save_rejects, summary
from mmkd.runs import differences
from mmkd.shards import ShardWriter
from mmkd.sources.recording import Reject
from mmkd.storage import delete_folder, is_file, join, list_files, read_text, size_of, write_bytes

COUNTED = ("fps", "size", "sample_rate", "modalities")
"""What of a shard's clips is counted, for dataset.json."""
Say = Callable[[str], None]


def pack(settings: Settings, say: Say, on_ray: bool = True) -> dict[str, Any]:
    """Make the data set that the settings describe, or go on with an unfinished one; returns a summary.

    Raises:
        ValueError: there is a data set already, an unfinished one of other settings, or too many clips could not be
            packed.
    """
    folder = settings.data_folder()
    if is_file(join(folder, "dataset.json")):
        raise ValueError(f"{folder} holds a data set already; choose another data.folder or delete it.")
    planned = plan_packing(settings)
    _claim(folder, planned.identity(settings))
    done = _finished(folder, settings.pack.retry)
    left = [task for task in planned.tasks if f"{task.split}-{task.name}" not in done]
    total, began = sum(task.clips for task in planned.tasks), time.monotonic()
    ready = sum(part["clips"] + len(part["rejects"]) for part in done.values())
    there = f", {len(done)} of them there" if done else ""
    say(f"packing {total} clips into {folder} ({len(planned.tasks)} shards{there})")
    now = ready
    for part in (_run_on_ray if on_ray else _run_here)(settings, planned, folder, left):
        done[f"{part['split']}-{part['name']}"] = part
        now += part["clips"] + len(part["rejects"])
        rate = (now - ready) / (time.monotonic() - began)
        say(f"packed {now}/{total} clips, {rate:.1f} clips/s, {(total - now) / max(rate, 1e-9):.0f} s left")
    parts = [done[f"{task.split}-{task.name}"] for task in planned.tasks]
    rejects = planned.rejects + [Reject(**reject) for part in parts for reject in part["rejects"]]
    clips = sum(part["clips"] for part in parts)
    save_rejects(join(folder, "rejects.parquet"), rejects)
    if rejects:
        say(f"{len(rejects)} of {clips + len(rejects)} clips could not be packed: {summary(rejects)}")
        say(f"all are listed in {join(folder, 'rejects.parquet')}")
    if not clips or len(rejects) > settings.pack.max_reject_share * (clips + len(rejects)):
        raise ValueError(
            f"{len(rejects)} of {clips + len(rejects)} clips could not be packed, more than pack.max_reject_share "
            f"{settings.pack.max_reject_share:g} allows: {summary(rejects)}. E.g. {rejects[0].clip_id}: "
            f"{rejects[0].reason}. What was packed is kept: with a larger share the same command takes it, and with "
            "pack.retry it packs shards with rejects again, after files were repaired."
        )
    _describe(settings, planned, parts).save(folder)
    delete_folder(join(folder, ".pack"))
    seconds = time.monotonic() - began
    return {
        "data_folder": folder,
        "clips": clips,
        "rejects": len(rejects),
        "seconds": round(seconds, 1),
        "clips_per_second": round((clips - min(ready, clips)) / seconds, 1),
        "megabytes": round(sum(part["bytes"] for part in parts) / 1e6, 1),
    }


def pack_task(
    settings: Pack, heads: dict[str, list[str]], multi_label: Sequence[str], folder: str, task: Task
) -> dict[str, Any]:
    """Write one shard, and leave and return what is in it."""
    flow = make_flow(settings.flow, settings.flow_weights)
    detector = None
    if settings.detector:
        detector = TorchvisionDetector(settings.detector, settings.detector_weights)
    path = join(folder, task.split, task.name)
    writer = ShardWriter(path, list(heads), settings.row_group, multi_label)
    rejects: list[dict[str, str]] = []
    counts: dict[str, Counter] = {name: Counter() for name in COUNTED}
    for recording in task.recordings:
        for row in cut(task.split, recording, heads, settings, flow, detector):
            if isinstance(row, Reject):
                rejects.append(asdict(row))
                continue
            writer.add(row)
            counts["fps"][row["fps"]] += 1
            counts["size"][f"{row['width']} {row['height']}"] += 1
            counts["modalities"].update(name for name in MODALITIES if row[name] is not None)
            counts["sample_rate"][_rate_of(row["audio"])] += 1
    digest = writer.close()
    part = {
        "split": task.split,
        "name": task.name,
        "hash": digest,
        "clips": writer.rows,
        "rejects": rejects,
        "bytes": max(size_of(path), 0),
        **{name: list(counter.items()) for name, counter in counts.items()},
    }
    write_bytes(join(folder, ".pack", f"{task.split}-{task.name}.json"), json.dumps(part).encode())
    return part


def _claim(folder: str, identity: dict[str, Any]) -> None:
    """Note what is being packed, or refuse to go on with something else."""
    path = join(folder, ".pack", "identity.json")
    if is_file(path):
        changed = differences(json.loads(read_text(path)), identity)
        if changed:
            said = "; ".join(
                "the source has other clips now" if name == "clips" else f"{name} was {old!r} and is {new!r}"
                for name, old, new in changed
            )
            raise ValueError(
                f"{folder} holds an unfinished packing that differs: {said}. Go on with what it was, choose another "
                "data.folder, or delete it."
            )
    write_bytes(path, json.dumps(identity).encode())


def _finished(folder: str, retry: bool) -> dict[str, dict[str, Any]]:
    """SPLIT-NAME to the facts of each shard that is there, whole; with `retry` those without rejects."""
    parts = {}
    for name in list_files(join(folder, ".pack")):
        if name.endswith(".parquet.json"):
            part = json.loads(read_text(join(folder, ".pack", name)))
            whole = max(size_of(join(folder, part["split"], part["name"])), 0) == part["bytes"]
            if whole and not (retry and part["rejects"]):
                parts[name.removesuffix(".json")] = part
    return parts


def _run_here(settings: Settings, planned: Packing, folder: str, tasks: list[Task]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        yield pack_task(planned.pack, planned.source.heads, planned.source.multi_label, folder, task)


def _run_on_ray(settings: Settings, planned: Packing, folder: str, tasks: list[Task]) -> Iterator[dict[str, Any]]:
    import cv2
    import ray

    from mmkd.ray_data import configure_context

    if not tasks:
        return
    configure_context(settings)
    refs = [ray.put(task) for task in tasks]  # each travels to the one process that packs it
    pack, heads, multi_label = planned.pack, planned.source.heads, planned.source.multi_label

    def work(batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        cv2.setNumThreads(1)  # Ray runs one of these on each core
        return {
            "part": [json.dumps(pack_task(pack, heads, multi_label, folder, ray.get(refs[i]))) for i in batch["id"]]
        }

    learned = pack.flow.startswith("raft") or pack.detector
    gpus = 1 if learned and ray.cluster_resources().get("GPU") else None
    dataset = ray.data.range(len(tasks), override_num_blocks=len(tasks)).map_batches(
        work, batch_size=1 if gpus else None, num_cpus=1, num_gpus=gpus
    )
    for row in dataset.iter_rows():
        yield json.loads(row["part"])


def _describe(settings: Settings, planned: Packing, parts: list[dict[str, Any]]) -> Dataset:
    """What dataset.json says: the splits, and of frame rate, size and sample rate those of the most clips."""
    counts: dict[str, Counter] = {name: Counter() for name in COUNTED}
    for part in parts:
        for name, counter in counts.items():
            counter.update(dict(tuple(item) for item in part[name]))
    del counts["sample_rate"][0]
    source, pack = planned.source, planned.pack
    modalities: list[str] = [name for name in MODALITIES if counts["modalities"][name]]
    size = [int(side) for side in _most(counts["size"]).split()]
    method = make_flow(pack.flow, pack.flow_weights) if not source.flow else None
    return Dataset(
        heads=source.heads,
        modalities=modalities,
        splits={split: _split_entry(parts, split) for split in planned.splits},
        fps=_most(counts["fps"]),
        flow=(source.flow or {"bound": pack.flow_bound, "step": 1, "size": size}) if "flow" in modalities else {},
        sample_rate=_most(counts["sample_rate"]) if counts["sample_rate"] else 0,
        made_by={
            "mmkd": __version__,
            "source": source.name,
            **_used(settings.source.model_dump(), source.name),
            "flow": "the source's" if source.flow else getattr(method, "about", "none"),
            "detector": pack.detector or "none",
            "pack": {key: value for key, value in pack.model_dump().items() if key not in FREE_TO_CHANGE},
        },
        multi_label=list(source.multi_label),
        rgb_codec=pack.rgb_codec,
        notes=dict(source.notes),
    )


def _used(settings: dict[str, Any], kind: str) -> dict[str, Any]:
    """The settings of a source that its kind reads and that are not empty."""
    own: dict[str, tuple[str, ...]] = {
        "tabletop": ("train", "val", "test", "unseen", "width", "height", "frames", "seed")
    }
    shares = ("val_share", "test_share", "seed")
    own |= {"folder": shares, "epic": ("version",), "reference": ("version",)}
    special = {name for names in own.values() for name in names} - set(own.get(kind, ()))
    return {name: value for name, value in settings.items() if value != "" and name not in {*special, "kind"}}


def _split_entry(parts: list[dict[str, Any]], split: str) -> dict[str, Any]:
    mine = [part for part in parts if part["split"] == split and part["clips"]]
    return {"clips": sum(part["clips"] for part in mine), "shards": {part["name"]: part["hash"] for part in mine}}


def _most(counter: Counter) -> Any:
    """The commonest value; of equally common ones the smallest, whatever order they came in."""
    return min(counter, key=lambda value: (-counter[value], value))


def _rate_of(audio: bytes | None) -> int:
    """Samples per second of a FLAC file, from its header; 0 without one."""
    return 0 if audio is None else int.from_bytes(audio[18:21], "big") >> 4
