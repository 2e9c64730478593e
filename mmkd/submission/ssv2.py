"""The submission file of Something-Something v2: written, and checked.

A line "id;class;class;class;class;class" a clip, the five likeliest classes by number, the likeliest first. The
leaderboard's own page was not to be found, so this rests on what its entrants wrote: mit-han-lab/temporal-shift-module
(test_models.py: --csv_file; tools/gen_label_sthv2.py: the numbers).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmkd.report.predictions import Predictions
from mmkd.storage import write_bytes
from mmkd.submission.common import Heads, id_faults, logits_of, some

CLASSES, GUESSES = 174, 5


def ssv2_submission(predictions: Predictions, heads: Heads) -> list[str]:
    """The lines of the file. Classes are numbered as in the official list, which is in the order of the alphabet,
    whatever order the data set has them in; that of Something-Else is another.

    Raises:
        ValueError: the predictions don't fit the head action.
    """
    logits, names = logits_of(predictions, heads, "action"), list(heads["action"])
    official = np.array([sorted(names).index(name) for name in names])
    best = official[np.argsort(-logits, axis=1, kind="stable")[:, :GUESSES]].tolist()
    return [";".join(map(str, (clip_id, *row))) for clip_id, row in zip(predictions.clip_ids, best, strict=True)]


def write_ssv2_submission(path: Path, predictions: Predictions, heads: Heads) -> None:
    """Write the lines of `ssv2_submission`, whole or not at all; raises ValueError as it does."""
    write_bytes(path, "".join(f"{line}\n" for line in ssv2_submission(predictions, heads)).encode())


def check_ssv2_submission(
    content: Sequence[str] | Path, clip_ids: Iterable[str] | None = None, classes: int = CLASSES
) -> list[str]:
    """As `mmkd.submission.epic.check_epic_submission`, of lines or the file of them."""
    if isinstance(content, str | Path):
        try:
            content = Path(content).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            return [f"{content} is no text: {error}"]
    rows = [line.split(";") for line in content]
    faults, known = id_faults([row[0] for row in rows], clip_ids), {str(n) for n in range(classes)}
    for number, (clip_id, *guesses) in enumerate(rows, 1):
        where = f"clip {clip_id!r} in line {number}"
        if len(guesses) != GUESSES:
            faults.append(f"{where}: it has {len(guesses)} classes instead of {GUESSES}")
        if wrong := [guess for guess in guesses if guess not in known]:
            faults.append(f"{where}: {some(wrong)} is no class from 0 to {classes - 1}")
        if len(set(guesses)) < len(guesses):
            faults.append(f"{where}: it names a class more than once")
    return faults
