"""Submission files for the test splits of EPIC-KITCHENS-100 and Something-Something v2."""

from collections.abc import Sequence
from pathlib import Path

from mmkd.dataset import Dataset
from mmkd.report.predictions import Predictions
from mmkd.submission.epic import NOUNS, SUPERVISION, VERBS, check_epic_submission, write_epic_submission
from mmkd.submission.ssv2 import CLASSES, check_ssv2_submission, write_ssv2_submission


def write_submission(
    folder: Path,
    predictions: Predictions,
    dataset: Dataset,
    *,
    clip_ids: Sequence[str] | None = None,
    supervision: Sequence[int] = SUPERVISION,
) -> Path | None:
    """Write the submission file for the data set that these are the predictions of, and check what was written.

    Args:
        clip_ids: all clips of the split; None: those of the predictions, of which none can be missing.

    Returns:
        FOLDER/epic-submission.zip or FOLDER/ssv2-submission.csv; None where the data is of neither kind.

    Raises:
        ValueError: the file has faults, which are named; it is deleted.
    """
    source, sizes = dataset.made_by.get("source"), {head: len(names) for head, names in dataset.heads.items()}
    expected = predictions.clip_ids if clip_ids is None else clip_ids
    if source in ("epic", "reference") and sizes == {"verb": VERBS, "noun": NOUNS}:
        path = Path(folder) / "epic-submission.zip"
        write_epic_submission(path, predictions, dataset.heads, supervision=supervision)
        faults = check_epic_submission(path, expected)
    elif source in ("ssv2", "reference") and sizes == {"action": CLASSES}:
        path = Path(folder) / "ssv2-submission.csv"
        write_ssv2_submission(path, predictions, dataset.heads)
        faults = check_ssv2_submission(path, expected)
    else:
        return None
    if faults:
        path.unlink()
        more = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise ValueError(f"the submission of {predictions.name!r} is not valid: {'; '.join(faults[:10])}{more}.")
    return path
