"""What a bank holds, and whether that is sound."""

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mmkd.bank.store import Bank
from mmkd.config import Views
from mmkd.plan import TEST_VIEW
from mmkd.reader import REAL, STATUS

CHUNK = 4096
"""Answers that are read at a time."""


def inspect_bank(folder: Path) -> dict[str, Any]:
    """What a bank is made of and holds, and what of it is damaged. Reads all of it; needs neither data nor teachers.

    Raises:
        SettingsError: the folder is no bank, or bank.json is damaged.
    """
    bank = Bank(folder)
    described, number = bank.description, bank.rows
    clips, views = bank.keys()
    sound, status = np.zeros(number, bool), np.zeros(number, np.int8)
    for start in range(0, number, CHUNK):
        part = slice(start, start + CHUNK)
        rows, sound[part] = bank.read(clips[part], views[part])
        status[part] = rows["status"]
    held = {int(view): int(count) for view, count in zip(*np.unique(views[sound], return_counts=True), strict=True)}
    broken = {(int(clip), int(kind)) for clip, kind in zip(clips[sound], status[sound], strict=True) if kind != REAL}
    trained = range(max([described.kept_views, *(view + 1 for view in held)]))
    raw = number * bank.layout.logit_bytes() / 1e6
    return {
        "bank": str(folder),
        "sound": bool(sound.all()) and not bank.damaged,
        "teachers": described.teachers,
        "data": described.data,
        "heads": described.heads,
        "views": described.views,
        "kept_views": described.kept_views,
        "answers": number,
        "answers_of_test_view": held.get(TEST_VIEW, 0),
        "answers_of_views": [held.get(view, 0) for view in trained],
        "complete": all(held.get(view, 0) == described.data["clips"] for view in range(described.kept_views)),
        "parts": len(bank.parts),
        "megabytes": round(bank.megabytes(), 3),
        "over_raw_fp16_logits": round(bank.megabytes() / raw, 3) if raw else None,
        "damaged_parts": bank.damaged,
        "wrong_checksums": int((~sound).sum()),
        "broken_clips": {STATUS.get(kind, f"status {kind}"): n for kind, n in Counter(k for _, k in broken).items()},
        "superseded": bank.written - number,
    }


def inspection_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts of :func:`inspect_bank` for people, as name and text."""
    data, clips = facts["data"], facts["data"]["clips"]
    usual = Views().model_dump(mode="json")
    unusual = [f"{name} {value}" for name, value in facts["views"].items() if usual.get(name) != value]
    lines = [
        ("bank", facts["bank"]),
        ("teachers", ", ".join(f"{name} ({weights})" for name, weights in facts["teachers"].items())),
        ("data", f"{data['name']} ({data['fingerprint']}), split {data['split']}, {clips} clips"),
        ("heads", ", ".join(f"{head} {number}" for head, number in facts["heads"].items()) + " classes"),
        ("views", f"{facts['kept_views']} of each clip are kept; {', '.join([*unusual, 'the rest as by default'])}"),
        ("answers", f"{facts['answers']}; test view: {facts['answers_of_test_view']} of {clips} clips"),
    ]
    first = 0
    for number, same in groupby(facts["answers_of_views"]):
        last = first + len(list(same)) - 1
        which = f"view {first}" if first == last else f"views {first} to {last}"
        lines.append(("", f"{which}: {number} of {clips} clips{' each' if first < last else ''}"))
        first = last + 1
    lines.append(("", "all training views are there" if facts["complete"] else "training views are missing"))
    ratio = facts["over_raw_fp16_logits"]
    compared = f", {ratio} times its raw fp16 logits" if ratio is not None else ""
    lines.append(("size", f"{facts['megabytes']} MB in {facts['parts']} parts{compared}"))
    if facts["superseded"]:
        lines.append(("", f"{facts['superseded']} rows are superseded by newer ones"))
    said = "; ".join(f"{number} where {kind}" for kind, number in facts["broken_clips"].items())
    lines.append(("broken clips", said or "none"))
    lines += [("damaged", f"part {name}: {reason}") for name, reason in facts["damaged_parts"].items()]
    if facts["wrong_checksums"]:
        lines.append(("damaged", f"{facts['wrong_checksums']} answers have a wrong checksum"))
    if not facts["sound"]:
        lines.append(("", "rayjobs/record.py with the bank's settings asks for them again; then delete damaged parts"))
    return lines
