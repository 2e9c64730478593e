"""Whether a bank's teachers would say the same again."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.asking import Questions, ask
from mmkd.bank.description import Description
from mmkd.bank.rows import Rows, concatenate, take, view_parameters
from mmkd.bank.store import Bank
from mmkd.config import Settings, SettingsError, Views
from mmkd.models import describe_model
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.plan import PADDING, TEST_VIEW, Clips, chosen_share
from mmkd.resolve import matched_teachers, teacher_folders
from mmkd.shards import Manifest


def verify_bank(folder: Path, settings: Settings, answers: int, seed: int, tolerance: float) -> dict[str, Any]:
    """Ask live teachers, in this process, about a sample of what a bank answers, and compare.

    An answer is right where it is of the view that is drawn for its number now, with the same status and the same
    teachers present, and each logit is within `tolerance` and 2 fp16 steps (at its size) of the teacher's.

    Args:
        settings: where the data set and the teachers are, by default those that the bank names; views are the bank's.
        answers: size of the sample, spread over all views.

    Raises:
        SettingsError: it is no bank or has no answer, the data set is another one, or a teacher is lacking.
    """
    bank = Bank(folder)
    described = bank.description
    settings = _settings_of(described, settings)
    dataset = cached_dataset(settings.data_folder())
    if dataset.fingerprint != described.data["fingerprint"]:
        raise SettingsError(
            f"bank {folder} is of data set {described.data['name']} with fingerprint {described.data['fingerprint']}; "
            f"{settings.data_folder()} has {dataset.fingerprint}. --data.folder names the one it was recorded on."
        )
    folders = _teachers_of(bank, settings)
    seen = [teacher["modality"] for teacher in matched_teachers(settings, dataset, folders)]
    clips, views = choose_answers(bank, answers, seed)
    if not len(clips):
        raise SettingsError(f"bank {folder} holds no answer; `python -m mmkd.bank inspect {folder}` says more.")
    split = described.data["split"]
    manifest = cached_manifest(settings.data_folder(), split, 0)
    questions = Questions(
        settings,
        folders,
        split,
        clips,
        views,
        tuple(dict.fromkeys(("rgb", *seen))),
        partners=_partners(described, manifest),
    )
    live = _answers(bank, questions)
    stored, sound = bank.read(clips, views)
    same_view = stored["parameters"] == view_parameters(bank.layout, settings.views, manifest, clips, views)
    same_rows = (stored["status"] == live["status"]) & (stored["present"] == live["present"]).all(axis=1)
    wrong = {
        "have a wrong checksum": ~sound,
        "are of another view than is drawn for their number now": sound & ~same_view,
        "were of a broken clip, or lack a teacher, only then or only now": sound & same_view & ~same_rows,
    }
    teachers, beyond, worst = compare(bank, stored, live, sound & same_view & same_rows, tolerance)
    where = [f"clip {manifest.clip_ids[clip]}, view {view}" for clip, view in zip(clips, views, strict=True)]
    faults = [
        f"{int(rows.sum())} of {len(clips)} answers {what}, the first for {where[rows.argmax()]}"
        for what, rows in wrong.items()
        if rows.any()
    ]
    if worst is not None:
        row = worst.pop("row")
        worst |= {"clip": manifest.clip_ids[clips[row]], "view": int(views[row])}
        if beyond.any():
            faults.append(
                f"{int(beyond.sum())} of {len(clips)} answers are not what the teachers say: the {worst['head']} logit "
                f"of class {worst['class']} by teacher {worst['teacher']} for {where[row]} is {worst['stored']:.4f} in "
                f"the bank and {worst['live']:.4f} live. Either these answers are not to be used, or they were "
                "recorded in another precision: `python -m mmkd.bank verify --help` says what to allow for"
            )
    return {
        "bank": str(folder),
        "passed": not faults,
        "faults": faults,
        "answers": len(clips),
        "views": np.unique(views).tolist(),
        "seed": seed,
        "tolerance": tolerance,
        "precision": settings.teachers.precision,
        "teachers": teachers,
        "worst": worst,
    }


def compare(
    bank: Bank, stored: Rows, live: Rows, rows: NDArray[np.bool_], tolerance: float
) -> tuple[dict[str, dict[str, dict[str, Any]]], NDArray[np.bool_], dict[str, Any] | None]:
    """Stored logits against live ones.

    Args:
        rows: bool [rows], those to compare, as far as a teacher answered.

    Returns:
        teacher to head to the number of answers, the largest and mean difference of a logit, and the share with the
        same first class; bool [rows], some logit is further off than allowed; and the logit that is the furthest off,
        measured by what is allowed, None where none was compared.
    """
    names = list(bank.description.teachers)
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in names}
    compared = rows[:, None] & stored["present"]
    beyond, worst, most = np.zeros(len(rows), bool), None, -np.inf
    for head in bank.layout.heads:
        # Rows that are not compared may hold anything. Of the largest fp16 number numpy's spacing is infinite.
        kept = np.where(compared[..., None], stored[f"logits/{head}"], np.float16(0))
        now = np.where(compared[..., None], live[f"logits/{head}"], 0)
        off = np.abs(kept.astype(np.float64) - now)
        excess = off - tolerance - 2 * np.spacing(np.minimum(np.abs(kept), np.float16(60000))).astype(np.float64)
        beyond |= (excess > 0).any(axis=(1, 2))
        if compared.any() and excess.max() > most:
            most = excess.max()
            row, teacher, number = (int(x) for x in np.unravel_index(excess.argmax(), excess.shape))
            worst = {"row": row, "teacher": names[teacher], "head": head, "class": number}
            worst |= {"stored": float(kept[row, teacher, number]), "live": float(now[row, teacher, number])}
        same = kept.argmax(axis=2) == now.argmax(axis=2)
        for column, (name, which) in enumerate(zip(names, compared.T, strict=True)):
            if which.any():
                own = off[which, column]
                found[name][head] = {
                    "answers": int(which.sum()),
                    "largest": float(own.max()),
                    "mean": float(own.mean()),
                }
                found[name][head]["same_class"] = float(same[which, column].mean())
    return found, beyond, worst


def verification_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts of :func:`verify_bank` for people, as name and text."""
    views = ", ".join("test" if view == TEST_VIEW else str(view) for view in facts["views"])
    lines = [
        ("bank", facts["bank"]),
        ("sample", f"{facts['answers']} answers of views {views} (seed {facts['seed']})"),
    ]
    for name, heads in facts["teachers"].items():
        for head, found in heads.items():
            text = (
                f"{head}: logits differ by {found['largest']:.2g} at most, {found['mean']:.2g} on average; "
                f"same class in {100 * found['same_class']:.1f} % of {found['answers']}"
            )
            lines.append((f"teacher {name}", text))
        if not heads:
            lines.append((f"teacher {name}", "gave no answer in the sample"))
    lines += [("wrong", fault) for fault in facts["faults"]]
    allowed = f"allowed: {facts['tolerance']:g} and 2 steps of fp16; teachers in {facts['precision']}"
    return [
        *lines,
        ("verdict", f"{'as the teachers say' if facts['passed'] else 'NOT as the teachers say'} ({allowed})"),
    ]


def choose_answers(bank: Bank, number: int, seed: int) -> tuple[Clips, Clips]:
    """Clips and views of some answers, as many of each view, the test view as well, as far as there are."""
    clips, views = bank.keys()
    shuffled = np.random.default_rng(seed).permutation(len(clips))
    turn = np.zeros(len(clips), np.int64)
    for view in np.unique(views):
        mine = shuffled[views[shuffled] == view]
        turn[mine] = np.arange(len(mine))
    order = shuffled[np.argsort(turn[shuffled], kind="stable")][:number]
    return clips[order], views[order]


def _partners(described: Description, manifest: Manifest) -> Clips:
    """Clips that others were mixed with."""
    if not described.views.get("mixed_clips"):
        return np.zeros(0, np.int64)
    return np.flatnonzero(chosen_share(manifest.clip_ids, described.views.get("train_share", 1.0)))


def _settings_of(described: Description, settings: Settings) -> Settings:
    """The settings with the bank's data set, if they name none, and the bank's views, in this process."""
    views = {name: value for name, value in described.views.items() if name not in ("mixed_clips", "train_share")}
    name = str(described.data["name"])
    # A bank may be anybody's, and must not say which files are read or which servers are asked.
    if not settings.data.folder and not re.fullmatch(r"\w[\w.-]*", name):
        raise SettingsError(f"the bank calls its data set {name!r}; --data.folder says which one that is.")
    data = {"folder": settings.data.folder or name, "train": described.data["split"], "limit": 0}
    teachers = {"weighting": "uniform", "drop_near_chance": False, "num_gpus": 1.0}
    return settings.model_copy(
        update={
            "run": settings.run.model_copy(update={"local": True}),
            "data": settings.data.model_copy(update=data),
            "views": Views.model_validate(views),
            "teachers": settings.teachers.model_copy(update=teachers),
        }
    )


def _teachers_of(bank: Bank, settings: Settings) -> tuple[str, ...]:
    """Folders of the bank's teachers, in its order."""
    folders = {describe_model(folder)["weights_hash"]: folder for folder in teacher_folders(settings)}
    teachers = bank.description.teachers
    lacking = [f"{name} ({weights})" for name, weights in teachers.items() if weights not in folders]
    if lacking:
        given = "those of --teachers.folders" if settings.teachers.folders else "those shipped with mmkd"
        raise SettingsError(
            f"bank {bank.folder} holds answers of teachers that are not among {given}: {', '.join(lacking)}. "
            f"--teachers.folders names the folders of all {len(teachers)}; a model.json has the hash as weights_hash."
        )
    return tuple(folders[weights] for weights in teachers.values())


def _answers(bank: Bank, questions: Questions) -> Rows:
    """What the teachers say, as rows of a bank but in float32."""
    names = {"clip": "clip", "view": "view", "status": "status", "teacher_present": "present"}
    names |= {f"teacher_logits/{head}": f"logits/{head}" for head in bank.layout.heads}
    rows = concatenate([{new: block[old] for old, new in names.items()} for block in ask(questions)])
    return take(rows, rows["clip"] != PADDING)
