"""The submission file of EPIC-KITCHENS-100, action recognition: written, and checked.

A zip archive of one file, test.json: a header and, for each clip, a score of every verb and noun and, at will, of
exactly 100 actions "verb,noun". The server takes the softmax of verbs and nouns to make actions of them itself, so
their scores are logits here; those of actions are p(verb) p(noun). Sources: epic-kitchens/C1-Action-Recognition
(create_submission.py, utils/challenge.py), epic-kitchens/epic-kitchens-55-lib (docs/source/submission_format.md, for
the actions), epic-kitchens/C3-Action-Anticipation (evaluate_anticipation_json_ek100.py: `validate_submission`, which is
for both challenges) and epic-kitchens/SLS.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from mmkd.metrics import softmax
from mmkd.report.predictions import Predictions
from mmkd.submission.common import Heads, id_faults, logits_of, some

HEADER = {"version": "0.2", "challenge": "action_recognition"}
LEVELS = ("sls_pt", "sls_tl", "sls_td")
SUPERVISION = (2, 4, 3)
"""Levels of pre-training (2: public images and videos), training labels (4: times and boxes, which a teacher may see)
and training data (3: the training split), each 0 to 5; see epic-kitchens/SLS. Say less where a run used less."""
VERBS, NOUNS, ACTIONS = 97, 300, 100
CHUNK = 1024
"""Clips whose actions are ranked at once."""


def epic_submission(
    predictions: Predictions, heads: Heads, *, supervision: Sequence[int] = SUPERVISION
) -> dict[str, Any]:
    """What test.json says; some 40 KB of memory a clip.

    Raises:
        ValueError: the predictions don't fit the heads verb and noun, or a level of supervision is not 0 to 5.
    """
    logits = [logits_of(predictions, heads, head) for head in ("verb", "noun")]
    return {**_header(supervision), "results": dict(_results(predictions.clip_ids, *logits))}


def write_epic_submission(
    path: Path, predictions: Predictions, heads: Heads, *, supervision: Sequence[int] = SUPERVISION
) -> None:
    """Write a .zip that holds test.json, or the bare .json, clip by clip; it is there when it is whole.

    Raises:
        ValueError: as `epic_submission`, or the path ends in neither.
    """
    path = Path(path)
    if path.suffix not in (".zip", ".json"):
        raise ValueError(f"{path} must end in .zip or .json.")
    logits = [logits_of(predictions, heads, head) for head in ("verb", "noun")]
    start = json.dumps({**_header(supervision), "results": {}}).removesuffix("}}")

    def fill(out: IO[bytes]) -> None:
        out.write(start.encode())
        for number, (clip_id, scores) in enumerate(_results(predictions.clip_ids, *logits)):
            text = f"{json.dumps(clip_id)}: {json.dumps(scores, separators=(',', ':'))}"
            out.write(f"{',' if number else ''}\n{text}".encode())
        out.write(b"}}\n")

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".json":
        with open(partial, "wb") as file:
            fill(file)
    else:
        with ZipFile(partial, "w", ZIP_DEFLATED) as archive, archive.open("test.json", "w") as entry:
            fill(entry)
    partial.replace(path)


def check_epic_submission(
    content: Mapping[str, Any] | Path | str,
    clip_ids: Iterable[str] | None = None,
    verbs: int = VERBS,
    nouns: int = NOUNS,
) -> list[str]:
    """What is wrong by the published form with a submission, or the file of one: a line a fault; none: it is valid.

    Args:
        clip_ids: those that must be there, and no others; None: any.

    Raises:
        FileNotFoundError: there is no such file.
    """
    classes = {"verb": {str(n) for n in range(verbs)}, "noun": {str(n) for n in range(nouns)}}
    if not isinstance(content, Mapping):
        try:
            content = _read_json(Path(content), classes)
        except ValueError as error:
            return [str(error)]
    faults, results = _header_faults(content), content.get("results")
    if not isinstance(results, Mapping):
        return [*faults, "results is no object of clips"]
    faults += id_faults([*results, *_doubled(results)], clip_ids)
    clips = [each if isinstance(each, _Clip) else _check_clip(each, classes) for each in results.values()]
    some_with = any(clip.has_actions for clip in clips)
    for clip_id, clip in zip(results, clips, strict=True):
        without = ["it has no action, and others do"] if some_with and clip.has_actions is False else []
        faults += [f"clip {clip_id!r}: {fault}" for fault in (*clip.faults, *without)]
    return faults


def top_actions(verb: NDArray[Any], noun: NDArray[Any], count: int = ACTIONS) -> tuple[NDArray[Any], ...]:
    """The actions of the highest p(verb) p(noun), the highest first.

    The verb of rank i with the noun of rank j, from 1 on, has i j - 1 others before it, so only those of i j up to
    `count` are ranked: for the best 100 some 480 of 97 x 300.

    Args:
        verb, noun: logits [n, verbs] and [n, nouns].

    Returns:
        Verbs, nouns and probabilities, [n, count] each, or as many as there are.
    """
    order_v, order_n = (np.argsort(-x, axis=1, kind="stable") for x in (verb, noun))
    i, j = np.nonzero(np.multiply.outer(np.arange(1, verb.shape[1] + 1), np.arange(1, noun.shape[1] + 1)) <= count)
    verbs, nouns = order_v[:, i], order_n[:, j]
    log_p = np.take_along_axis(verb, verbs, axis=1).astype(np.float64) + np.take_along_axis(noun, nouns, axis=1)
    best = np.argsort(-log_p, axis=1, kind="stable")[:, :count]
    verbs, nouns = (np.take_along_axis(x, best, axis=1) for x in (verbs, nouns))
    p = np.take_along_axis(softmax(verb), verbs, axis=1) * np.take_along_axis(softmax(noun), nouns, axis=1)
    return verbs, nouns, p


def _results(
    clip_ids: Sequence[str], verb: NDArray[Any], noun: NDArray[Any]
) -> Iterator[tuple[str, dict[str, dict[str, float]]]]:
    for first in range(0, len(clip_ids), CHUNK):
        part = slice(first, first + CHUNK)
        columns = [x.tolist() for x in (verb[part], noun[part], *top_actions(verb[part], noun[part]))]
        for clip_id, of_verbs, of_nouns, verbs, nouns, of_actions in zip(clip_ids[part], *columns, strict=True):
            of_pairs = ((f"{v},{n}", p) for v, n, p in zip(verbs, nouns, of_actions, strict=True))
            scores = {"verb": enumerate(of_verbs), "noun": enumerate(of_nouns), "action": of_pairs}
            yield clip_id, {task: {str(k): float(f"{x:.6g}") for k, x in pairs} for task, pairs in scores.items()}


def _header(supervision: Sequence[int]) -> dict[str, Any]:
    """Raises ValueError."""
    header = {**HEADER, **dict(zip(LEVELS, supervision, strict=True))}
    if faults := _header_faults(header):
        raise ValueError(f"supervision {tuple(supervision)}: {'; '.join(faults)}.")
    return header


class _Object(dict[str, Any]):
    """A JSON object; `doubled` are the keys that it has more than once."""

    doubled: list[str] = []


class _Clip(NamedTuple):
    faults: list[str]
    has_actions: bool | None


def _read_json(path: Path, classes: Mapping[str, set[str]]) -> Mapping[str, Any]:
    """What a file says, with the clips checked as they are read: their scores would take half a gigabyte.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no zip archive of test.json, or no JSON object.
    """

    def take(pairs: list[tuple[str, Any]]) -> _Object | _Clip:
        found = _Object(pairs)
        if len(found) < len(pairs):
            found.doubled = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        return found if found.keys().isdisjoint(classes) else _check_clip(found, classes)

    try:
        if path.suffix == ".json":
            raw = path.read_bytes()
        else:
            with ZipFile(path) as archive:
                if (names := archive.namelist()) != ["test.json"]:
                    raise ValueError(f"{path} holds {some(names) or 'nothing'} instead of test.json alone")
                raw = archive.read("test.json")
    except (BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is no zip archive, or a damaged one: {error}") from error
    try:
        content = json.loads(raw, object_pairs_hook=take)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no JSON: {error}") from error
    if not isinstance(content, _Object):
        raise ValueError(f"{path} holds no object of header and results")
    return content


def _header_faults(content: Mapping[str, Any]) -> list[str]:
    faults = [f"{key!r} is there more than once" for key in _doubled(content)]
    for name, wanted in HEADER.items():
        if content.get(name) != wanted:
            faults.append(f"{name} is {content.get(name)!r} instead of {wanted!r}")
    for name in LEVELS:
        level = content.get(name)
        if type(level) is not int or not 0 <= level <= 5:
            faults.append(f"{name} is {level!r} instead of 0 to 5")
    return faults


def _check_clip(clip: Any, classes: Mapping[str, set[str]]) -> _Clip:
    if not isinstance(clip, Mapping):
        return _Clip(["it is no object of scores of verbs and nouns"], None)
    faults = [f"{key!r} is there more than once" for key in _doubled(clip)]
    for task in (*classes, *(["action"] if "action" in clip else [])):
        scores = clip.get(task)
        if not isinstance(scores, Mapping):
            faults.append(f"{task} is no object of scores")
            continue
        if task == "action" and len(scores) != ACTIONS:
            faults.append(f"action has {len(scores)} scores instead of {ACTIONS}")
        if missing := sorted(classes.get(task, set()) - scores.keys(), key=int):
            faults.append(f"{task} lacks {len(missing)} of {len(classes[task])} classes: {some(missing)}")
        if wrong := [key for key in scores if not _is_class(task, key, classes)]:
            faults.append(f"{task} has keys that are no class: {some(wrong)}")
        if again := _doubled(scores):
            faults.append(f"{task} has classes more than once: {some(again)}")
        if bad := [key for key, score in scores.items() if not _is_finite(score)]:
            faults.append(f"{task} has scores that are no finite numbers: those of {some(bad)}")
    return _Clip(faults, "action" in clip)


def _is_class(task: str, key: Any, classes: Mapping[str, set[str]]) -> bool:
    if task != "action":
        return key in classes[task]
    verb, _, noun = key.partition(",") if isinstance(key, str) else ("", "", "")
    return verb in classes["verb"] and noun in classes["noun"]


def _is_finite(score: Any) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and -np.inf < score < np.inf


def _doubled(content: Mapping[str, Any]) -> list[str]:
    return content.doubled if isinstance(content, _Object) else []
