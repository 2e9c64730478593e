"""Whether teachers can teach on a data set: their classes, what they see of a clip, and what they have seen before."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmkd.models import describe_model
from mmkd.teachers import class_columns


def check_teachers(
    folders: Sequence[str],
    heads: Mapping[str, Sequence[str]],
    expected_input: Mapping[str, Any],
    data: Mapping[str, Any],
    needs_held_out: bool = True,
) -> list[dict[str, Any]]:
    """Read the model.json of every teacher and refuse those that cannot teach on this data.

    Classes in another order are matched by name (:func:`mmkd.teachers.class_columns`).

    Args:
        heads: of the data set.
        expected_input: the settings' view geometry, as in model.json's `input`.
        data: fingerprint, weigh_share and weigh_seed of the data set that students will be taught on.
        needs_held_out: teachers are weighed on the clips held out, so none may have been trained on them.

    Raises:
        ValueError: other classes, another view geometry, or a teacher trained on clips that are now held out.
    """
    descriptions = []
    for folder in folders:
        description = describe_model(folder)
        for head, classes in heads.items():
            if head not in description["heads"]:
                theirs = ", ".join(description["heads"])
                raise ValueError(f"teacher {folder} has no head {head!r}, which the data has; it has {theirs}.")
            try:
                class_columns(description["heads"][head], classes)
            except ValueError as error:
                raise ValueError(
                    f"teacher {folder} has other classes than the data in head {head!r}: {error}; train it for the "
                    "classes of this data set."
                ) from None
        given = {key: value for key, value in description["input"].items() if key in expected_input}
        other = {key: (value, expected_input[key]) for key, value in given.items() if value != expected_input[key]}
        if other:
            said = ", ".join(f"views.{key} {theirs} (here {ours})" for key, (theirs, ours) in other.items())
            raise ValueError(f"teacher {folder} was trained with {said}; teachers and student must see one view.")
        if needs_held_out:
            _check_held_out(folder, description["training"].get("data", {}), data)
        descriptions.append(description)
    return descriptions


def _check_held_out(folder: str, learnt: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    if learnt.get("fingerprint") != data["fingerprint"]:
        return
    way_out = "use another, or teachers.weighting uniform with teachers.drop_near_chance false, which judges none"
    if learnt.get("saw_held_out"):
        raise ValueError(
            f"teacher {folder} was trained on all of split {learnt.get('train', 'train')!r}, as students are, so it "
            f"saw the clips it would be weighed on; {way_out}."
        )
    if any(learnt.get(key) != data[key] for key in ("weigh_share", "weigh_seed")):
        raise ValueError(
            f"teacher {folder} was trained on this data set with data.weigh_share {learnt.get('weigh_share')} and "
            f"data.weigh_seed {learnt.get('weigh_seed')}, so it saw clips it would be weighed on; use the same, or "
            f"{way_out}."
        )
