"""Weighing: each teacher's accuracy, calibration and weight on held-out clips, before anything is distilled."""

from typing import Any

from mmkd.competence import judge
from mmkd.config import Settings, SettingsError
from mmkd.dry_run import describe_training
from mmkd.evaluation.split import split_logits
from mmkd.jobs import ensure_data, session
from mmkd.pipeline import cached_dataset
from mmkd.progress import say
from mmkd.resolve import check_folders, matched_teachers, teach_and_weigh, teacher_folders
from mmkd.teachers import teacher_names


def weigh(settings: Settings) -> dict[str, Any]:
    """Run the teachers over the clips of `train` that are held out from them, and print what came of it.

    Raises:
        ValueError: there are no teachers, they do not fit the data or saw these clips, or one is of no use.
    """
    folders = teacher_folders(settings)
    if not folders:
        raise SettingsError("loss.distill_weight is 0, so there are no teachers to weigh.")
    check_folders(settings)
    if settings.run.dry_run:
        return describe_training(settings, teach=False)
    with session(settings):
        ensure_data(settings)
        data, names = settings.data, teacher_names(folders)
        dataset = cached_dataset(settings.data_folder())
        matched_teachers(settings, dataset, folders)
        _, held_out = teach_and_weigh(settings)
        if not len(held_out):
            raise SettingsError("no clip is held out to weigh the teachers on; raise data.weigh_share.")
        say(f"weighing {len(folders)} teachers on {len(held_out)} clips of split {data.train} that are held out")
        answers = split_logits(settings, folders, data.train, held_out, [(1, 1)])
    teachers = settings.teachers
    competence = judge(
        names,
        answers.averaged(),
        answers.present,
        answers.labels,
        weighting=teachers.weighting,
        gamma=teachers.gamma,
        drop_near_chance=teachers.drop_near_chance,
    )
    say("\n".join(competence.lines()))
    for clip_id, reason in answers.broken:
        say(f"left out: {clip_id}: {reason}")
    return {"teachers": list(folders), "clips": len(held_out), "broken_clips": len(answers.broken)} | {
        key: value for key, value in competence.as_dict().items() if key != "names"
    }
