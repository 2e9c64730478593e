"""The study as a whole, on the small data, in one process."""

import shutil

import pytest
import torch

from mmkd.models import load_model
from mmkd.study.arms import BAD, recipes
from mmkd.study.job import study
from mmkd.study.tasks import Task, carry_out
from mmkd.study.teaching import TeacherSet, corrupt, plan_set
from mmkd.study.training import student_settings
from tests.small import small_settings


def test_given_teachers_are_found_by_the_names_of_their_runs(home):
    best = home / "runs" / "teacher-flow-given" / "best"
    shutil.copytree(home / "models" / "flow", best)
    settings = small_settings(
        home,
        run={"home": str(home), "local": True, "dry_run": True},
        teachers={"folders": ["rgb", "teacher-flow-given"]},
        study={"groups": ["weighting"]},
    )
    assert study(settings)["dry_run"]
    given = plan_set(settings, "s", ["rgb", "flow"], 0, 1.0).folders
    assert (given["rgb"], given["flow"]) == (str(home / "models" / "rgb"), str(best))


@pytest.mark.slow
def test_a_study_trains_tests_and_reports_and_a_second_call_finds_all_there(home, capsys):
    settings = small_settings(
        home,
        run={"name": "study"},
        teachers={"folders": [], "drop_near_chance": False},
        study={
            "seeds": 1,
            "more_seeds": 1,
            "groups": ["weighting"],
            "search_lr": [2e-3],
            "search_epochs": [1],
            "teacher_epochs": 1,
            "teacher_sets": 1,
            "views": "2x3",
        },
        data={"folder": "small", "weigh_share": 0.4},
        views={"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1, "distinct": 2},
    )
    result = study(settings)
    said = capsys.readouterr().err
    run = home / "runs" / "study"
    assert result["report"] == str(run / "study.html") and (run / "study.html").is_file()
    assert len(result["claims"]) == 5 and "students 7/7" in said
    assert {path.name for path in (run / "tables").iterdir()} >= {"students.csv", "contrasts.csv", "claims.csv"}
    assert (run / "figures" / "weighting.png").is_file()
    students = (run / "tables" / "students.csv").read_text()
    assert all(arm in students for arm in ("distilled", "bad-held-out", "ensemble", "teacher-boxes"))

    # What was lost is done again, and nothing else.
    (run / "result.json").unlink()
    (run / "students" / "uniform-0" / "result.json").unlink()
    again = study(settings)
    said = capsys.readouterr().err
    assert "students: 1 to do (6 more are there)" in said and "teachers:" not in said and "search:" not in said
    assert again["claims"] == result["claims"]
    study(settings)
    assert "is finished" in capsys.readouterr().err


def test_the_corrupted_teacher_is_sure_and_wrong(home, tmp_path):
    before = load_model(home / "models" / "flow")
    folders = {"rgb": str(home / "models" / "rgb"), "flow": str(home / "models" / "flow"), BAD: str(tmp_path / "bad")}
    corrupt(TeacherSet("0", 0, 1.0, folders, ""), ["verb", "noun"])
    after, frames = load_model(tmp_path / "bad"), torch.randint(0, 255, (4, 4, 16, 16, 2), dtype=torch.uint8)
    with torch.inference_mode():
        for head, logits in before(frames).items():
            turned = after(frames)[head]
            assert torch.allclose(logits.sort(dim=1).values, turned.sort(dim=1).values, atol=1e-6)
            assert not (logits.argmax(dim=1) == turned.argmax(dim=1)).any()


def test_arms_follow_the_modalities_and_the_settings(home):
    settings = small_settings(
        home, teachers={"folders": []}, study={"groups": ["teachers", "loss", "data"], "temperatures": [2.0, 8.0]}
    )
    arms = {recipe.arm.name: recipe for recipe in recipes(settings, ["rgb", "flow"])}
    assert list(arms) == [
        *("labels", "distilled", "from-rgb", "from-rgb-flow", "temperature-8", "mixed"),
        *("labels-10", "distilled-10", "unlabelled-10", "labels-30", "distilled-30", "unlabelled-30"),
    ]
    assert arms["labels"].seeds == 5 and arms["mixed"].seeds == 2 and not arms["labels"].arm.exploratory
    set_0 = plan_set(settings, "s", ["rgb", "flow"], 0, 0.1)
    own = student_settings(settings, arms["unlabelled-10"], set_0, 3, 1e-3, 10, "name")
    assert own.data.labelled_share == 0.1 and own.data.train_share == 1.0 and own.run.seed == 3
    alone = student_settings(settings, arms["labels-10"], set_0, 3, 1e-3, 10, "name")
    assert alone.data.train_share == 0.1 and alone.loss.distill_weight == 0 and alone.optim.epochs == 20


def test_a_failed_task_is_named_when_the_others_are_done(home, tmp_path):
    settings = small_settings(home)

    def work(settings, number):
        if number == 1:
            raise ValueError("it has no leg to stand on")
        (tmp_path / f"{number}").touch()
        return number

    tasks = [Task(f"task {n}", work, settings, tmp_path / f"{n}", {"number": n}) for n in range(3)]
    with pytest.raises(ValueError, match="1 of 3 failed: task 1: it has no leg to stand on"):
        carry_out("things", tasks, settings, tmp_path / "records")
    assert (tmp_path / "0").exists() and (tmp_path / "2").exists()
    with pytest.raises(ValueError, match="1 of 1 failed"):
        carry_out("things", tasks, settings, tmp_path / "records")
