"""Checking a data set: every clip of it is decoded and held against what its row and dataset.json say.

`python rayjobs/pack.py --check FOLDER` prints what was found, and writes check.json and contact_sheet.html beside it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from mmkd.clip_checks import FAULTS, WARNINGS, Finding, Look, look_at, seconds_of
from mmkd.config import MODALITIES
from mmkd.cores import available_cores
from mmkd.dataset import Dataset, open_dataset
from mmkd.report.contact_sheet import Choice, Place, write_contact_sheet
from mmkd.shards import Row, add_to_hash, schema
from mmkd.storage import check_group, join, list_files, open_parquet, row_of, write_bytes

ASTRAY, ENOUGH = 0.05, 5
"""Flow that explains less than this share of the change between frames points elsewhere: the median of the clips that
move, of which there must be some. Flow that fits explains 0.3 and more; swapped or reversed, less than 0."""
PROGRESS_SECONDS = 5.0


@dataclass
class Survey:
    """What a data set holds.

    Attributes:
        clips: split to number of clips.
        classes: head to split to class name (None: no label) to number of clips.
        has, bytes: modality to number of clips that have it, and to its bytes in all of them.
        seconds, fps, sizes: of the clips.
        at_bound, explained: of the clips' flow, see `Look`.
    """

    clips: Counter = field(default_factory=Counter)
    classes: dict[str, dict[str, Counter]] = field(default_factory=dict)
    has: Counter = field(default_factory=Counter)
    bytes: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    fps: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    at_bound: list[float] = field(default_factory=list)
    explained: list[float] = field(default_factory=list)
    choice: Choice = field(default_factory=Choice)


def check_dataset(folder: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Look through a data set folder, tell what was found, and write a page of example clips.

    Raises:
        FileNotFoundError: it is no data set.
        ValueError: its dataset.json is of no use, or it has faults; the message names some, check.json lists all.
    """
    dataset = open_dataset(folder)
    survey, findings = Survey(Counter(dict.fromkeys(dataset.splits, 0))), list[Finding]()
    survey.classes = {head: {split: Counter() for split in dataset.splits} for head in dataset.heads}
    total = sum(split["clips"] for split in dataset.splits.values())
    began = told = time.monotonic()
    seen: set[str] = set()
    for place, row, look in _looked_at(folder, dataset, findings):
        if row["clip_id"] in seen:
            look.add("duplicate", "it is there more than once")
        seen.add(row["clip_id"])
        findings += [Finding(each.kind, each.detail, place[0], row["clip_id"]) for each in look.findings]
        _count(survey, dataset, place, row, look)
        if time.monotonic() - told > PROGRESS_SECONDS:
            told, done = time.monotonic(), survey.clips.total()
            rate = done / (told - began)
            say(f"checked {done}/{total} clips, {rate:.1f} clips/s, {max(total - done, 0) / rate:.0f} s left")
    findings += _whole(folder, dataset, survey)
    return _tell(folder, dataset, survey, findings, time.monotonic() - began, say)


def _looked_at(folder: str, dataset: Dataset, findings: list[Finding]) -> Iterator[tuple[Place, Row, Look]]:
    """Every clip in order with a look at it; some are under way at a time, since decoding lets other threads run."""
    threads = available_cores()
    waiting: deque[tuple[Place, Row, Future[Look]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for split in dataset.splits:
            for name in sorted(dataset.splits[split]["shards"]):
                for place, row in _rows(folder, dataset, split, name, findings):
                    waiting.append((place, row, pool.submit(look_at, row, dataset)))
                    if len(waiting) > 2 * threads:
                        place, row, look = waiting.popleft()
                        yield place, row, look.result()
        for place, row, look in waiting:
            yield place, row, look.result()


def _rows(folder: str, dataset: Dataset, split: str, name: str, findings: list[Finding]) -> Iterator[tuple[Place, Row]]:
    """The rows of a shard, a row group in memory at a time; what is wrong with it as a whole goes to the findings."""
    path, digest = join(folder, split, name), hashlib.sha256()
    try:
        shard = open_parquet(path)
        wanted = schema(list(dataset.heads), dataset.multi_label)
        if not shard.schema_arrow.equals(wanted):
            other = [each.name for each in wanted if each not in list(shard.schema_arrow)]
            findings.append(Finding("shard", f"{name}: columns {', '.join(other) or 'beyond those'} differ", split))
            return
        for group in range(shard.metadata.num_row_groups):
            check_group(shard, group, shard.schema_arrow.names)
            rows = shard.read_row_group(group)
            for number in range(rows.num_rows):
                row = row_of(rows, number)
                add_to_hash(digest, row)
                yield (split, name, group, number), row
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        findings.append(Finding("shard", f"{name} cannot be read: {error}", split))
        return
    if digest.hexdigest() != dataset.splits[split]["shards"][name]:
        findings.append(Finding("shard", f"{name} has other content than when it was packed", split))


def _count(survey: Survey, dataset: Dataset, place: Place, row: Row, look: Look) -> None:
    split = place[0]
    survey.clips[split] += 1
    for number, (head, classes) in enumerate(dataset.heads.items()):
        label = (row["labels"] or {}).get(head)
        chosen = label if isinstance(label, list) else [label]
        known = [classes[each] for each in chosen if each is not None and 0 <= each < len(classes)]
        names: list[str | None] = [*known] or [None]
        survey.classes[head][split].update(names)
        if number == 0:
            survey.choice.offer(row["clip_id"], place, names, look.findings)
    for modality in MODALITIES:
        value = row[modality]
        if value is not None:
            survey.has[modality] += 1
            if modality != "boxes":
                survey.bytes[modality] += len(value) if isinstance(value, bytes) else sum(len(x or b"") for x in value)
    if (seconds := seconds_of(row)) is not None:
        survey.seconds.append(seconds)
        survey.fps[row["fps"]] += 1
    survey.sizes[(row["width"], row["height"])] += 1
    survey.at_bound += [] if look.at_bound is None else [look.at_bound]
    survey.explained += [] if look.explained is None else [look.explained]


def _whole(folder: str, dataset: Dataset, survey: Survey) -> Iterator[Finding]:
    """What is wrong with the data set as a whole."""
    for split, entry in dataset.splits.items():
        if survey.clips[split] != entry["clips"]:
            detail = f"{survey.clips[split]} clips where dataset.json says {entry['clips']}"
            yield Finding("dataset", detail, split)
        for name in list_files(join(folder, split)):
            if name.endswith(".parquet") and name not in entry["shards"]:
                yield Finding("stray", name, split)
    found = [name for name in MODALITIES if survey.has[name]]
    if survey.clips.total() and set(found) != set(dataset.modalities):
        yield Finding("dataset", f"clips have {', '.join(found)}; dataset.json names {', '.join(dataset.modalities)}")
    for head, classes in dataset.heads.items():
        lacking = [each for each in classes if "train" in dataset.splits and not survey.classes[head]["train"][each]]
        if lacking:
            named = ", ".join(lacking[:5]) + (" ..." if len(lacking) > 5 else "")
            yield Finding("no clip", f"{head}, {len(lacking)} of {len(classes)}: {named}", "train")
    if len(survey.explained) >= ENOUGH and (share := float(np.median(survey.explained))) < ASTRAY:
        detail = f"it explains {100 * share:.0f} % of what changes; are u and v swapped or reversed, or frames apart?"
        yield Finding("astray flow", detail)


def _tell(
    folder: str,
    dataset: Dataset,
    survey: Survey,
    findings: list[Finding],
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    clips = survey.clips.total()
    facts = describe(dataset, survey)
    width = max(len(name) for name, _ in facts) + 2
    say("\n".join(f"{name:<{width}}{text}" for name, text in facts))
    for title, kinds in (("faults", FAULTS), ("warnings", WARNINGS)):
        counts = Counter(finding.kind for finding in findings if finding.kind in kinds)
        say(f"{title}: {counts.total() or 'none'}")
        for kind, number in counts.most_common():
            examples = [finding for finding in findings if finding.kind == kind][:2]
            said = "; ".join(map(str, examples))
            say(f"  {number} where {kinds[kind]}, e.g. {said}")
    page, full = join(folder, "contact_sheet.html"), join(folder, "check.json")
    content = {
        "clips": dict(survey.clips),
        "classes": {
            head: {
                split: {name: counts[name] for name in dataset.heads[head]} | {"": counts[None]}
                for split, counts in splits.items()
            }
            for head, splits in survey.classes.items()
        },
        "findings": [asdict(each) for each in findings],
    }
    write_bytes(full, json.dumps(content, indent=1).encode())
    if clips:
        write_contact_sheet(page, folder, dataset, survey.choice, facts, survey.classes, findings)
    say(f"{clips} clips in {seconds:.1f} s ({clips / max(seconds, 1e-9):.0f} clips/s); to look at: {page}")
    faults = [finding for finding in findings if finding.is_fault]
    if faults:
        said = "; ".join(map(str, faults[:3]))
        raise ValueError(f"{folder} has {len(faults)} faults ({said}); {full} lists all.")
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
    clips = survey.clips.total()
    facts = [("splits", ", ".join(f"{split} {number} clips" for split, number in survey.clips.items()) or "none")]
    for head, classes in dataset.heads.items():
        per_split = []
        for split, counts in survey.classes[head].items():
            known = [counts[each] for each in classes if counts[each]]
            text = f"{split} {len(known)} classes"
            each = f"{min(known)} to {max(known)}" if len(set(known)) > 1 else f"{known[0]}" if known else "no"
            text += f" with {each} clips each"
            text += f", {counts[None]} without a label" if counts[None] else ""
            per_split.append(text)
        facts.append((head, f"{len(classes)} classes: " + "; ".join(per_split)))
    more = {"flow": "", "rgb": ", as videos" if dataset.rgb_codec == "h264" else ""}
    if survey.at_bound:
        bound = dataset.flow["bound"]
        more["flow"] = f", -{bound:g} to {bound:g} pixels, {100 * np.mean(survey.at_bound):.1f} % at the bound"
    if survey.explained:
        more["flow"] += f", explains {100 * np.median(survey.explained):.0f} % of what changes between frames"
    for modality in MODALITIES:
        if number := survey.has[modality]:
            each = f", {survey.bytes[modality] / number / 1000:.1f} kB a clip" if survey.bytes[modality] else ""
            facts.append((modality, f"{100 * number / clips:.1f} % of the clips{each}{more.get(modality, '')}"))
    if survey.seconds:
        low, middle, high = np.quantile(survey.seconds, [0, 0.5, 1])
        facts.append(("duration", f"{low:.2f} to {high:.2f} s, median {middle:.2f} s"))
        facts.append(("frame rates", _commonest({f"{rate:.5g}": n for rate, n in survey.fps.items()})))
        facts.append(("frame sizes", _commonest({f"{size[0]} x {size[1]}": n for size, n in survey.sizes.items()})))
    return facts


def _commonest(counts: dict[str, int]) -> str:
    """The four commonest values with their numbers of clips."""
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    said = [value if len(ordered) == 1 else f"{value} in {counts[value]}" for value in ordered[:4]]
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return ", ".join(said) + (" clips" if len(ordered) > 1 else "") + more
