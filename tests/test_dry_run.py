"""Dry runs tell what would be done by the code that would do it, and change nothing; recipes are valid settings."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmkd.cli import load_settings
from mmkd.config import Settings, SettingsError
from mmkd.jobs import distill, pack_data, train_teacher
from mmkd.weigh import weigh
from tests.small import small_settings

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
TEACHERS = sorted(path.stem for path in (ROOT / "configs" / "teachers").glob("*.yaml"))


def dry(home, **sections):
    return small_settings(home, **(sections | {"run": {"dry_run": True} | sections.get("run", {})}))


def test_a_dry_run_of_a_student_prints_everything_and_leaves_nothing(home, capsys):
    facts = distill(dry(home, run={"name": "dry", "local": False}, loss={"label_weight": 0.5, "feature_weight": 0.1}))
    said = capsys.readouterr().err
    assert not (home / "runs" / "dry").exists()
    assert facts["dry_run"] and facts["state"] == "new" and facts["fits"]
    assert (facts["steps_per_epoch"], facts["optimizer_steps"]) == (5, 10)
    assert {name: each["modality"] for name, each in facts["networks"].items()} == {
        "network": "rgb", "teacher rgb": "rgb", "teacher flow": "flow", "teacher boxes": "boxes",
    }  # fmt: skip
    assert all(each["gflops_per_view"] >= 0 and each["parameters"] > 0 for each in facts["networks"].values())
    for expected in ("train 37, val 11, test 7 clips", "verb 3, noun 2 classes", "2 epochs x 5 steps of 8 = 10",
                     "rgb   [8, 4, 16, 16, 3] uint8", "boxes [8, 4, 3, 4] float32", "1 x kl at temperature 2",
                     "0.5 x cross-entropy", "0.1 x mse of features with teacher rgb", "this machine: fits",
                     "teachers weighted held_out", "runs/dry: new"):  # fmt: skip
        assert expected in said, expected


def test_a_dry_run_says_what_would_be_resumed_and_refuses_what_the_job_would(home, capsys):
    distill(small_settings(home, run={"name": "wet"}, optim={"epochs": 1, "batch_size": 8}))
    assert distill(dry(home, run={"name": "wet"}))["state"] == "finished already"
    with pytest.raises(SettingsError, match=r"needs 100\.5 CPUs \(resources\.workers 100 x 1"):
        distill(dry(home, run={"local": False}, resources={"workers": 100}))
    assert "DOES NOT FIT" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"views\.frames 4 \(here 6\)"):
        distill(dry(home, views={"frames": 6, "size": 16}))


def test_dry_runs_of_the_other_jobs(home, tmp_path, capsys):
    teacher = {"modality": "flow", "arch": "r2plus1d_tiny", "options": {"channels": [4, 8]}}
    labels = {"distill_weight": 0.0, "label_weight": 1.0}
    assert list(train_teacher(dry(home, teacher=teacher, loss=labels))["networks"]) == ["network"]
    assert weigh(dry(home))["dry_run"]
    missing = Settings.model_validate({"run": {"home": str(tmp_path), "dry_run": True}})
    assert distill(missing)["dry_run"] and "tabletop would be made first" in capsys.readouterr().err
    packed = pack_data(missing)
    assert packed["clips"] == {"train": 2000, "val": 500, "test": 1000} and packed["shards"]["train"] == 8
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_flag_works_on_a_command_line(tmp_path):
    command = [sys.executable, str(ROOT / "rayjobs" / "demo.py"), "--dry-run", "--run.home", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["dry_run"] and set(facts) == {"dry_run", "baseline", "student"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_run(recipe, home, tmp_path):
    tree = yaml.safe_load((ROOT / "configs" / f"{recipe}.yaml").read_text())
    settings = Settings.model_validate(tree)
    if recipe == "tabletop":
        assert settings == Settings()
        for section in ("views", "student", "loss", "optim"):
            assert set(tree[section]) == set(getattr(settings, section).model_dump()), section
        return
    (tmp_path / "data").mkdir()
    shutil.copytree(home / "data" / "small", tmp_path / "data" / settings.data.folder)
    arguments = ["--config", str(ROOT / "configs" / f"{recipe}.yaml")]
    arguments += ["--run.home", str(tmp_path), "--dry-run", "--run.local"]
    labels = ["--loss.distill_weight", "0", "--loss.label_weight", "1"]
    facts = distill(load_settings([*arguments, *labels], job="distill", about=""))
    assert facts["networks"]["network"]["arch"] == "torchvision/swin3d_t"
    assert facts["networks"]["network"]["gflops_per_view"] > 20
    for teacher in TEACHERS if recipe == "epic100" else []:
        more = ["--config", str(ROOT / "configs" / "teachers" / f"{teacher}.yaml")]
        facts = train_teacher(load_settings([*arguments, *more], job="train_teacher", about=""))
        assert facts["networks"]["network"]["parameters"] > 2e7


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe != "tabletop"])
def test_the_commands_of_a_recipe_train_the_teachers_that_it_distils_from(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = re.sub(r" *\\\n# *", " ", (ROOT / "configs" / f"{recipe}.yaml").read_text())
    *teachers, (last, arguments) = re.findall(r"^# +python rayjobs/(\w+)\.py (.*)$", text, re.MULTILINE)
    trained = []
    for job, each in teachers:
        settings = load_settings(shlex.split(each), job=job, about="")
        assert job == "train_teacher" and not settings.loss.distils
        trained.append(f"teacher-{settings.teacher.modality}-{settings.data.folder}")
    settings = load_settings(shlex.split(arguments), job=last, about="")
    assert (last, settings.teachers.folders, len(trained)) == ("distill", trained, 3)
    gpus = settings.resources.workers + settings.teachers.actors * settings.teachers.num_gpus
    assert settings.resources.use_gpu and f"{gpus:g} GPUs" in text
