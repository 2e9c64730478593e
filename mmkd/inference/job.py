"""A model on any number of videos, or on a split, over a cluster: `rayjobs/predict.py`.

The work is divided up front into shares, each a fixed list of videos or clips that becomes one Parquet file. A file
that is there is whole, so that a second call goes on where one stopped.
"""

from __future__ import annotations

import glob
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmkd.config import Settings, SettingsError
from mmkd.inference.bulk import Bulk, Predictor, Share
from mmkd.inference.sampling import sampling_of
from mmkd.inference.windows import check_windows
from mmkd.jobs import ensure_data, session
from mmkd.media.files import EXTENSIONS, is_video, videos_below
from mmkd.models import describe_model, find_model, load_model
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.progress import duration, say
from mmkd.ray_data import configure_context
from mmkd.reader import Block
from mmkd.resources import Demand, check_demands, room_for
from mmkd.runs import RunFolder, differences
from mmkd.storage import is_file, is_folder, is_remote, join, list_files, name_of, open_parquet, read_text, write_bytes

IDENTITY = {"split", "views", "window", "hop", "top", "probabilities", "features", "per_file", "precision"}
"""Settings that decide what the files hold."""
OF = "_prediction.json"
"""Beside the files: what they are of. Readers of Parquet folders pass over names that begin like this."""
LISTED = 5
"""Errors that are said; errors.jsonl has all of them."""


def predict_all(settings: Settings) -> dict[str, Any]:
    """Predict what the settings name, but for what is there already; returns a summary.

    Raises:
        ValueError: the model cannot be used, or there is nothing to predict.
    """
    bulk, weights = _bulk(settings)
    if settings.run.dry_run:
        shares, _ = _work(settings, bulk)
        return {"dry_run": True, "inputs": sum(map(len, shares)), "files": len(shares), "out": bulk.out}
    with session(settings):
        if bulk.data:
            ensure_data(settings)
        shares, inputs = _work(settings, bulk)
        with RunFolder(_run_folder(settings, bulk.model)) as run:
            kept = settings.predict.model_dump(mode="json", include=IDENTITY)
            identity = {"kind": "prediction", "model": weights, "inputs": inputs, "out": bulk.out, **kept}
            run.claim(settings, identity)
            _claim_out(bulk.out, identity)
            Path(bulk.notes).mkdir(exist_ok=True)
            if (result := run.result()) is not None:
                say(f"prediction {run.path} is finished; delete it, or choose another run.name, to predict again")
                return result
            began = time.monotonic()
            _carry_out(settings, bulk, shares)
            result = _summary(shares, bulk.out, run.path) | {"seconds": round(time.monotonic() - began, 1)}
            run.finish(result)
            return result


def _bulk(settings: Settings) -> tuple[Bulk, str]:
    """What every actor is told, and the hash of the model's weights."""
    chosen = settings.predict
    if not chosen.model:
        raise SettingsError("predict.model is empty; --model names a model folder, or a run under HOME/runs.")
    check_windows(chosen.window, chosen.hop)
    folder = find_model(chosen.model, (settings.home / "models", settings.home / "runs"))
    weights, model = describe_model(folder)["weights_hash"], load_model(folder)
    if chosen.features and not model.heads:
        raise SettingsError(f"predict.features: {folder} has classifiers of its own; nobody knows what they see.")
    about = {"model": weights, **chosen.model_dump(mode="json", include={"views", "window", "hop", "precision"})}
    data = settings.data_folder() if chosen.split else ""
    run = _run_folder(settings, str(folder))
    out = chosen.out or str(run / "predictions")
    out = out if is_remote(out) else str(Path(out).expanduser())
    sampling = sampling_of(model.spec, chosen.views, folder)
    return Bulk(chosen, str(folder), sampling, out, str(run / "reading"), about, data, settings.data.limit), weights


def _run_folder(settings: Settings, model: str) -> Path:
    folder, split = Path(model), settings.predict.split
    name = folder.parent.name if folder.name == "best" else folder.name
    of = f"{name_of(settings.data_folder())}-{split}" if split else "videos"
    return settings.home / "runs" / (settings.run.name or f"predict-{name}-{of}")


def _claim_out(out: str, identity: dict[str, Any]) -> None:
    """Note in the folder of the files what they are of, or refuse to add to those of something else."""
    path = join(out, OF)
    if is_file(path):
        changed = [name for name, _, _ in differences(json.loads(read_text(path)), identity)]
        if changed:
            raise SettingsError(
                f"predict.out {out} holds predictions that differ in {', '.join(changed)}; delete them, or choose "
                "another folder."
            )
    elif any(name.startswith("part-") for name in list_files(out)):
        raise SettingsError(f"predict.out {out} holds files of something else; choose another folder.")
    write_bytes(path, json.dumps(identity, indent=2).encode())


def _work(settings: Settings, bulk: Bulk) -> tuple[list[Share], Any]:
    """The work of each file, and what tells these inputs from others; says what they are."""
    chosen = settings.predict
    if bulk.data:
        inputs: Any = [cached_dataset(bulk.data).fingerprint, chosen.split, bulk.limit]
        shares = shares_of(range(len(cached_manifest(bulk.data, chosen.split, bulk.limit))), chosen.per_file)
        said = f"{sum(map(len, shares))} clips of split {chosen.split} of {bulk.data}"
    else:
        videos = list_videos(chosen.videos, chosen.videos_file)
        inputs = hashlib.sha256("\n".join(videos).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        shares, said = shares_of(videos, chosen.per_file), f"{len(videos)} videos"
    say(f"model {bulk.model} on {said}; {len(shares)} files in {bulk.out}")
    return shares, inputs


def list_videos(names: Sequence[str], listing: str = "") -> list[str]:
    """The videos that paths, folders and patterns mean, each once, in that order; a path that is not there is one.

    Args:
        listing: a text file with more of them, one a line.

    Raises:
        SettingsError: a folder or a pattern has no video, or there is none at all.
        OSError: a folder or the listing cannot be read.
    """
    lines = read_text(listing if is_remote(listing) else Path(listing).expanduser()).splitlines() if listing else []
    found: dict[str, None] = {}
    for name in [*names, *(line.strip() for line in lines if line.strip())]:
        path = name if is_remote(name) else str(Path(name).expanduser())
        if not is_remote(path) and not path.startswith("/"):
            raise SettingsError(f"{listing} has {path!r}, which is relative; give absolute paths.")
        matched = sorted(glob.glob(path, recursive=True)) if _is_pattern(path) else [path]  # noqa: PTH207
        videos = [video for each in matched for video in _below(each)]
        if not videos:
            raise SettingsError(f"{name} has no videos; they are files that end in {', '.join(EXTENSIONS)}.")
        found |= dict.fromkeys(videos)
    if not found:
        raise SettingsError("there is nothing to predict: --videos, predict.videos_file or predict.split says of what.")
    return list(found)


def _is_pattern(path: str) -> bool:
    return not is_remote(path) and glob.has_magic(path) and not Path(path).exists()


def _below(path: str) -> list[str]:
    if is_video(name_of(path)) or not is_folder(path):
        return [path]
    return [join(path, name) for name in sorted(videos_below(path))]


def shares_of(inputs: Sequence[str] | range, per_file: int) -> list[Share]:
    """The work of each file; inputs are videos, or numbers of clips."""
    starts = range(0, len(inputs), per_file)
    if isinstance(inputs, range):
        return [Share(number, (), first, min(first + per_file, len(inputs))) for number, first in enumerate(starts)]
    return [Share(number, tuple(inputs[first : first + per_file])) for number, first in enumerate(starts)]


def _carry_out(settings: Settings, bulk: Bulk, shares: Sequence[Share]) -> None:
    """Make the files that are not there, and say how far it is."""
    there = set(list_files(bulk.out))
    left = [share for share in shares if share.name not in there]
    if len(left) < len(shares):
        say(f"{len(shares) - len(left)} of {len(shares)} files are there")
    total, began, said = sum(map(len, left)), time.monotonic(), 0.0
    inputs, rows, failed = 0, 0, 0
    for counts in _here(bulk, left) if settings.run.local else _on_ray(settings, bulk, left):
        inputs, rows, failed = inputs + counts["inputs"], rows + counts["rows"], failed + counts["failed"]
        now = time.monotonic()
        if now - said >= settings.run.progress_seconds or inputs == total:
            said, rate = now, inputs / (now - began)
            say(
                f"predicted {inputs}/{total}, {rate:.1f}/s ({rows / (now - began):.1f} answers/s), {failed} errors, "
                f"{duration((total - inputs) / rate)} left"
            )


def _here(bulk: Bulk, shares: Sequence[Share]) -> Iterator[dict[str, int]]:
    predictor = Predictor(bulk)
    for share in shares:
        yield predictor(share)


def _on_ray(settings: Settings, bulk: Bulk, shares: Sequence[Share]) -> Iterator[dict[str, int]]:
    """A pool of actors, each of which decodes, answers and writes files; only counts come back.

    Raises:
        SettingsError: the cluster has no room for the actors.
    """
    from ray.data import ActorPoolStrategy, DataContext

    from mmkd.units import read_units

    if not shares:
        return
    chosen = settings.predict
    configure_context(settings)
    DataContext.get_current().execution_no_progress_timeout_s = -1  # a file of long videos takes as long as it takes
    one = Demand("predict.actors", 1, chosen.num_cpus, chosen.num_gpus)
    actors = min(chosen.actors or max(1, room_for(one)), len(shares))
    check_demands(settings, [replace(one, count=actors)])
    dataset = read_units(partial(_as_block, shares), range(len(shares)), readers=1, num_cpus=0)
    done = dataset.map_batches(
        _Stage,
        fn_constructor_kwargs={"bulk": bulk},
        batch_size=1,
        num_cpus=chosen.num_cpus,
        num_gpus=chosen.num_gpus or None,
        compute=ActorPoolStrategy(size=actors),
    )
    for row in done.iter_rows():
        yield {name: int(value) for name, value in row.items()}


def _as_block(shares: Sequence[Share], number: int) -> Block:
    share = shares[number]
    return {"share": np.array([json.dumps([share.number, share.videos, share.first, share.last])])}


class _Stage:
    """A predictor as Ray Data calls it."""

    def __init__(self, bulk: Bulk):
        self.predictor = Predictor(bulk)

    def __call__(self, block: Block) -> Block:
        number, videos, first, last = json.loads(str(block["share"][0]))
        counts = self.predictor(Share(number, tuple(videos), first, last))
        return {name: np.array([value]) for name, value in counts.items()}


def _summary(shares: Sequence[Share], out: str, run: Path) -> dict[str, Any]:
    """What all files hold together; their errors go to errors.jsonl."""
    answers, errors = 0, 0
    with open(run / "errors.jsonl", "w") as file:
        for share in shares:
            table = open_parquet(join(out, share.name)).read(["clip", "window", "error"]).to_pydict()
            for clip, window, error in zip(table["clip"], table["window"], table["error"], strict=True):
                answers, errors = answers + (error is None), errors + (error is not None)
                if error is not None:
                    file.write(json.dumps({"clip": clip, "window": window, "error": error}) + "\n")
                    if errors <= LISTED:
                        say(f"{clip}: {error}")
    if errors:
        say(f"{errors} errors; {run / 'errors.jsonl'} lists all of them")
    inputs = sum(map(len, shares))
    return {"out": out, "inputs": inputs, "answers": answers, "errors": errors, "files": len(shares)}
