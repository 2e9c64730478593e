"""Checking a data set: every clip of it is decoded and held against what its row and dataset.json say.

`python rayjobs/pack.py --check FOLDER` prints what was found, and writes check.json and contact_sheet.html beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from mmkd.clip_checks import FAULTS, WARNINGS, Finding, clip_findings
from mmkd.report.contact_sheet import write_contact_sheet
from mmkd.shards import Dataset, Row, add_to_hash, open_dataset, schema
from mmkd.storage import join, open_parquet, write_bytes

MODALITIES = ("rgb", "flow", "audio", "boxes")
UNLABELLED = "no label"


@dataclass
class Survey:
    """What a data set holds.

    Attributes:
        clips: split to number of clips.
        classes: head to split to class name to number of clips.
        has, size: modality to number of clips that have it, and to its bytes.
        frames, seconds, fps, sizes: of the clips.
        places: (split, shard, row group, row) of each clip, by the first head's class.
    """

    clips: Counter = field(default_factory=Counter)
    classes: dict[str, dict[str, Counter]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Counter)))
    has: Counter = field(default_factory=Counter)
    bytes: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    fps: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    places: dict[str, list[tuple[str, str, int, int]]] = field(default_factory=lambda: defaultdict(list))


def check_dataset(folder: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Look through a data set folder, tell what was found, and write a page of example clips.

    Raises:
        ValueError: it is no data set, or has faults; the message names some, check.json lists all.
    """
    dataset = open_dataset(folder)
    survey, findings = Survey(), list[Finding]()
    total = sum(split["clips"] for split in dataset.splits.values())
    began = told = time.monotonic()
    seen: set[str] = set()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for split in dataset.splits:
            for name in sorted(dataset.splits[split]["shards"]):
                for rows, place in _row_groups(folder, dataset, split, name, findings):
                    for number, (row, found) in enumerate(
                        zip(rows, pool.map(lambda each: clip_findings(each, dataset), rows), strict=True)
                    ):
                        if row["clip_id"] in seen:
                            found.append(Finding("duplicate", "it is there more than once"))
                        seen.add(row["clip_id"])
                        findings += [Finding(f.kind, f.detail, split, row["clip_id"]) for f in found]
                        _count(survey, dataset, split, row, (*place, number))
                    if time.monotonic() - told > 5:
                        told = time.monotonic()
                        done = sum(survey.clips.values())
                        rate = done / (told - began)
                        say(f"checked {done}/{total} clips, {rate:.1f} clips/s, {(total - done) / rate:.0f} s left")
            if survey.clips[split] != dataset.splits[split]["clips"]:
                detail = f"{survey.clips[split]} clips where dataset.json says {dataset.splits[split]['clips']}"
                findings.append(Finding("shard", detail, split))
    for head, classes in dataset.heads.items():
        if "train" in dataset.splits:
            lacking = [each for each in classes if not survey.classes[head]["train"][each]]
            findings += [Finding("no clip", f"{head} {each!r}", "train") for each in lacking]
    return _tell(folder, dataset, survey, findings, time.monotonic() - began, say)


def _row_groups(
    folder: str, dataset: Dataset, split: str, name: str, findings: list[Finding]
) -> Iterator[tuple[list[Row], tuple[str, str, int]]]:
    """The rows of a shard, some at a time; what is wrong with it as a whole goes to the findings."""
    path, digest = join(folder, split, name), hashlib.sha256()
    try:
        shard = open_parquet(path)
        wanted = schema(list(dataset.heads), dataset.multi_label)
        if not shard.schema_arrow.equals(wanted):
            other = [each.name for each in wanted if each not in list(shard.schema_arrow)]
            findings.append(Finding("shard", f"{name}: columns {', '.join(other) or 'beyond those'} differ", split))
            return
        for group in range(shard.metadata.num_row_groups):
            rows = shard.read_row_group(group).to_pylist()
            for row in rows:
                add_to_hash(digest, row)
            yield rows, (split, name, group)
    except (OSError, pa.ArrowException, KeyError) as error:
        findings.append(Finding("shard", f"{name} cannot be read: {error}", split))
        return
    if digest.hexdigest() != dataset.splits[split]["shards"][name]:
        findings.append(Finding("shard", f"{name} has other content than when it was packed", split))


def _count(survey: Survey, dataset: Dataset, split: str, row: Row, place: tuple[str, str, int, int]) -> None:
    survey.clips[split] += 1
    for head, classes in dataset.heads.items():
        label = (row["labels"] or {}).get(head)
        chosen = label if isinstance(label, list) else [label]
        names = [classes[each] if each is not None and 0 <= each < len(classes) else UNLABELLED for each in chosen]
        survey.classes[head][split].update(names or [UNLABELLED])
        if head == next(iter(dataset.heads)):
            survey.places[(names or [UNLABELLED])[0]].append(place)
    for modality in MODALITIES:
        if row[modality] is not None:
            survey.has[modality] += 1
            value = row[modality]
            if modality != "boxes":
                survey.bytes[modality] += len(value) if isinstance(value, bytes) else sum(map(len, value))
    survey.seconds.append(row["num_frames"] / row["fps"])
    survey.fps[row["fps"]] += 1
    survey.sizes[(row["width"], row["height"])] += 1


def _tell(
    folder: str,
    dataset: Dataset,
    survey: Survey,
    findings: list[Finding],
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    clips = sum(survey.clips.values())
    facts = describe(dataset, survey)
    width = max(len(name) for name, _ in facts) + 2
    say("\n".join(f"{name:<{width}}{text}" for name, text in facts))
    for title, kinds in (("faults", FAULTS), ("warnings", WARNINGS)):
        counts = Counter(finding.kind for finding in findings if finding.kind in kinds)
        say(f"{title}: {sum(counts.values()) or 'none'}")
        for kind, number in counts.most_common():
            examples = [finding for finding in findings if finding.kind == kind][:2]
            said = "; ".join(" ".join(filter(None, (each.split, each.clip_id, each.detail))) for each in examples)
            say(f"  {number} where {kinds[kind]}, e.g. {said}")
    page = join(folder, "contact_sheet.html")
    write_bytes(join(folder, "check.json"), json.dumps([asdict(each) for each in findings], indent=1).encode())
    if clips:
        write_contact_sheet(page, folder, dataset, survey.places, facts, findings)
    say(f"{clips} clips in {seconds:.1f} s ({clips / max(seconds, 1e-9):.0f} clips/s); to look at: {page}")
    faults = [finding for finding in findings if finding.is_fault]
    if faults:
        said = "; ".join(f"{each.split} {each.clip_id}: {each.detail}" for each in faults[:3])
        raise ValueError(f"{folder} has {len(faults)} faults ({said}); {join(folder, 'check.json')} lists all.")
    return {
        "data_folder": folder,
        "clips": clips,
        "splits": dict(survey.clips),
        "faults": 0,
        "warnings": len(findings),
        "contact_sheet": page,
    }


def describe(dataset: Dataset, survey: Survey) -> list[tuple[str, str]]:
    """What a data set holds, as name and text."""
    clips = sum(survey.clips.values())
    facts = [("splits", ", ".join(f"{split} {number} clips" for split, number in survey.clips.items()) or "none")]
    for head, classes in dataset.heads.items():
        per_split = []
        for split, counts in survey.classes[head].items():
            known = [counts[each] for each in classes if counts[each]]
            text = f"{split} {len(known)} classes"
            each = f"{min(known)} to {max(known)}" if len(set(known)) > 1 else f"{known[0]}" if known else "no"
            text += f" with {each} clips each"
            text += f", {counts[UNLABELLED]} without a label" if counts[UNLABELLED] else ""
            per_split.append(text)
        facts.append((head, f"{len(classes)} classes: " + "; ".join(per_split)))
    for modality in MODALITIES:
        number = survey.has[modality]
        if number:
            each = f", {survey.bytes[modality] / number / 1000:.1f} kB a clip" if survey.bytes[modality] else ""
            facts.append((modality, f"{100 * number / clips:.1f} % of the clips{each}"))
    if clips:
        low, middle, high = np.quantile(survey.seconds, [0, 0.5, 1])
        facts.append(("duration", f"{low:.2f} to {high:.2f} s, median {middle:.2f} s"))
        rates = ", ".join(f"{rate:g}" for rate, _ in survey.fps.most_common(4))
        facts.append(("frame rates", rates + (" ..." if len(survey.fps) > 4 else "") + " per second"))
        sizes = ", ".join(f"{width} x {height}" for (width, height), _ in survey.sizes.most_common(4))
        facts.append(("frame sizes", sizes + (" ..." if len(survey.sizes) > 4 else "")))
    if dataset.flow:
        facts.append(("flow bound", f"0 to 255 for -{dataset.flow['bound']:g} to {dataset.flow['bound']:g} pixels"))
    return facts
