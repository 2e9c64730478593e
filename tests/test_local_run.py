"""A run in one process: what it leaves behind, how it goes on, and what it refuses."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from mmkd.calibration import fit_temperature
from mmkd.competence import Competence
from mmkd.config import SettingsError
from mmkd.inline import blocks_in_process
from mmkd.jobs import distill, train_teacher
from mmkd.models import load_model
from mmkd.pipeline import read
from mmkd.reader import UNREADABLE
from mmkd.report.predictions import Predictions
from mmkd.resolve import plan_student, teacher_folders
from mmkd.runs import RunFolder, Tail, read_lines, read_metrics
from tests.processes import seen
from tests.small import small_settings, write_dataset, write_teachers


def settings_of(home, name, **sections):
    return small_settings(home, **(sections | {"run": {"name": name} | sections.get("run", {})}))


def losses(run):
    return [(row["step"], row["loss"]) for row in read_metrics(run) if row["kind"] == "train"]


@pytest.fixture(scope="module")
def finished(home):
    """A distillation of two epochs."""
    result = distill(settings_of(home, "finished"))
    return home / "runs" / "finished", result


def test_a_run_leaves_settings_metrics_checkpoints_model_and_report(finished, home):
    run, result = finished
    assert result["run_folder"] == str(run) and result["epochs"] == 2
    assert json.loads((run / "result.json").read_text()) == result
    assert yaml.safe_load((run / "config.yaml").read_text())["optim"]["epochs"] == 2
    kinds = [row["kind"] for row in read_metrics(run)]
    assert (kinds.count("train"), kinds.count("epoch")) == (10, 2)
    assert load_model(run / "best").modality == "rgb"
    assert len(list((run / "checkpoints").glob("checkpoint_*"))) == 2
    assert list((run / "tensorboard").iterdir())
    assert "<html" in (run / "report.html").read_text()
    competence = json.loads((run / "competence.json").read_text())
    assert competence["names"] == ["rgb", "flow", "boxes"]
    assert load_model(run / "best").spec.training["competence"]["weight"] == competence["weight"]
    on_val = Predictions.load(run / "predictions-val.parquet")
    fitted = {head: fit_temperature(on_val.logits[head], on_val.labels[head]) for head in ("verb", "noun")}
    assert load_model(run / "best").spec.temperatures == pytest.approx(fitted)
    said = Competence(**competence).lines()
    assert [line.split()[0] for line in said[1:4]] == ["rgb", "flow", "boxes"]
    assert f"{100 * competence['accuracy']['verb'][1]:.1f} %" in said[2]


def test_a_worker_whose_reading_hung_three_times_says_so(home, tmp_path):
    settings = settings_of(home, "reading-hangs", resources={"inline": True})
    work, _ = plan_student(settings, teacher_folders(settings))
    hang = json.dumps("the reading of step 1 of the plan, worker 0") + "\n"
    (tmp_path / "hangs.jsonl").write_text(3 * hang)
    blocks = blocks_in_process(replace(work, run_folder=str(tmp_path)), 0, watched=True)
    next(blocks)
    with pytest.raises(TimeoutError, match=r"reading of step 1 of the plan, worker 0 did not come within 1800 s"):
        next(blocks)
    assert "reading of step 1" in json.loads((tmp_path / "failure.json").read_text())["error"]


@pytest.mark.parametrize("what", ["live", "features", "replay"])
def test_threads_that_read_and_ask_ahead_change_nothing(finished, home, what):
    sections = {
        "live": {},
        "features": {
            "loss": {"feature_weight": 0.1, "feature_teacher": "flow", "feature_layer": "backbone.blocks.1"},
        },
        "replay": {"teachers": {"folders": ["rgb", "flow", "boxes"], "mode": "replay", "bank": "ahead"}},
    }[what]
    if what == "replay":
        teachers = sections["teachers"] | {"mode": "record"}
        distill(settings_of(home, "ahead-record", teachers=teachers, resources={"ahead": 3}))
    found = {}
    for ahead in (0, 3):
        run = home / "runs" / f"ahead-{what}-{ahead}"
        distill(settings_of(home, run.name, **sections, resources={"ahead": ahead}))
        found[ahead] = losses(run), seen(run)
    assert found[3] == found[0]


def test_validation_and_training_see_every_clip_once(finished):
    run, _ = finished
    assert {key: clips == list(range(11 if key[0] == "val" else 37)) for key, clips in seen(run).items()} == {
        ("weigh", 1): False, ("train", 1): True, ("train", 2): True, ("val", 1): True, ("val", 2): True,
    }  # fmt: skip


def test_validating_every_other_epoch_changes_nothing_else(finished, home):
    run, _ = finished
    optim = {"epochs": 2, "batch_size": 8, "warmup_epochs": 0.5, "validate_every": 2}
    result = distill(settings_of(home, "seldom", optim=optim))
    epochs = [row for row in read_metrics(home / "runs" / "seldom") if row["kind"] == "epoch"]
    assert losses(home / "runs" / "seldom") == losses(run)
    assert [row["epoch"] for row in epochs] == [2] and result["epochs"] == 2
    assert epochs[0]["val"] == [row for row in read_metrics(run) if row["kind"] == "epoch"][1]["val"]


def test_the_same_command_again_says_that_it_is_finished(finished, home, capsys):
    _, result = finished
    assert distill(settings_of(home, "finished")) == result
    assert "is finished" in capsys.readouterr().err


def test_the_same_seeds_give_the_same_metrics_and_another_seed_others(finished, home):
    run, _ = finished
    distill(settings_of(home, "again"))
    distill(settings_of(home, "other", run={"seed": 5}))
    assert losses(home / "runs" / "again") == losses(run)
    assert losses(home / "runs" / "other") != losses(run)


def test_a_run_cut_off_after_an_epoch_goes_on_as_if_it_had_not_been(finished, home, tmp_path):
    run, result = finished
    (tmp_path / "data").symlink_to(home / "data")
    (tmp_path / "models").symlink_to(home / "models")
    cut = tmp_path / "runs" / "finished"
    shutil.copytree(run, cut)
    last = max((cut / "checkpoints").glob("checkpoint_*"))
    (last / "network.safetensors").write_bytes(b"torn")  # a torn checkpoint is passed over
    (cut / "checkpoints" / "checkpoint_999999999").mkdir()  # and is not counted as one of the newest
    (cut / "result.json").unlink()
    again = distill(settings_of(tmp_path, "finished"))
    assert again["val"] == result["val"]
    assert max((cut / "checkpoints").glob("checkpoint_*")).name == last.name
    assert losses(cut) == losses(run)
    new, old = load_model(cut / "best").state_dict(), load_model(run / "best").state_dict()
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_other_settings_data_or_teachers_on_resume_are_refused_by_name(finished, home, tmp_path):
    with pytest.raises(SettingsError, match=r"loss\.temperature was 2\.0 and is 5\.0"):
        distill(settings_of(home, "finished", loss={"temperature": 5.0}))
    assert distill(settings_of(home, "finished", resources={"readers": 5}))  # only how it is carried out
    elsewhere = tmp_path / "home"
    write_dataset(elsewhere / "data" / "small", lambda split, rows: rows[::-1])
    write_teachers(elsewhere)
    shutil.copytree(home / "runs" / "finished", elsewhere / "runs" / "finished")
    with pytest.raises(SettingsError, match=r"data was '\w+' and is '\w+'"):
        distill(settings_of(elsewhere, "finished"))


def test_the_tail_of_a_file_is_read_once_also_where_it_is_cut_back(tmp_path):
    path = tmp_path / "rows.jsonl"
    tail = Tail(path)
    assert tail.fresh() == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert tail.fresh() == [{"step": 1}, {"step": 2}] and tail.fresh() == []
    with open(path, "a") as file:
        file.write('ep": 3}\n')
    assert tail.fresh() == [{"step": 3}]
    path.write_text('{"step": 1}\n')
    assert tail.fresh() == []
    with open(path, "a") as file:
        file.write('{"step": 22}\n')
    assert tail.fresh() == [{"step": 22}]
    assert Tail(path).fresh() == []


def test_two_jobs_cannot_share_a_run_folder(home):
    with RunFolder(home / "runs" / "held"), pytest.raises(SettingsError, match=r"in use by process \d+"):
        distill(settings_of(home, "held"))


def test_a_baseline_needs_no_teachers_and_a_teacher_does_not_see_held_out_clips(home):
    labels = {"distill_weight": 0.0, "label_weight": 1.0}
    distill(settings_of(home, "labels", loss=labels, teachers={"folders": ["nowhere"]}))
    train_teacher(settings_of(home, "teacher", loss=labels, teacher={"modality": "boxes"}))
    seen = {
        name: {clip for row in read_lines(home / "runs" / name / "trace-0.jsonl") if row["phase"] == "train"
               for clip in row["clips"]}
        for name in ("labels", "teacher")
    }  # fmt: skip
    weighed = {
        clip for row in read_lines(home / "runs" / "finished" / "trace-0.jsonl") if row["phase"] == "weigh"
        for clip in row["clips"]
    }  # fmt: skip
    assert seen["labels"] == set(range(37))
    assert seen["teacher"] == set(range(37)) - weighed and weighed
    assert load_model(home / "runs" / "teacher" / "best").modality == "boxes"


@pytest.mark.slow
def test_teachers_can_be_trained_anew_before_the_student(home, capsys):
    teachers = {"folders": [], "retrain": True}
    result = distill(settings_of(home, "retrained", teachers=teachers, optim={"epochs": 1}, views={"size": 32}))
    competence = json.loads((home / "runs" / "retrained" / "competence.json").read_text())
    assert competence["names"] == ["rgb", "flow", "audio", "boxes"] and result["epochs"] == 1
    for modality in competence["names"]:
        assert load_model(home / "runs" / f"teacher-{modality}-small" / "best").modality == modality


def test_labels_can_be_learnt(home):
    many = {"epochs": 25, "lr": 0.01}
    labels = {"distill_weight": 0.0, "label_weight": 1.0}
    result = distill(settings_of(home, "learnt", loss=labels, optim=many, views={"scale": (1.0, 1.1), "jitter": 0.0}))
    assert result["val"]["noun"] > 0.85


def test_a_few_broken_clips_are_listed_and_many_fail_the_job(tmp_path):
    def spoil(split, rows):
        return [
            row | {"rgb": [frame[:50] for frame in row["rgb"]]} if row["clip_id"] == "train-004" else row
            for row in rows
        ]

    write_dataset(tmp_path / "data" / "small", spoil)
    write_teachers(tmp_path)
    result = distill(settings_of(tmp_path, "some", data={"max_broken_share": 0.1}))
    assert result["broken_clips"] == 1
    rejects = read_lines(tmp_path / "runs" / "some" / "rejects.jsonl")
    assert rejects == [
        {"split": "train", "clip_id": "train-004", "reason": "a frame cannot be decoded, or claims an absurd size"}
    ]
    with pytest.raises(ValueError, match=r"max_broken_share.*train clip train-004: a frame cannot be decoded"):
        distill(settings_of(tmp_path, "none", data={"max_broken_share": 0.0}))


def test_a_val_clip_that_cannot_be_read_in_one_epoch_is_back_in_the_next(home, monkeypatch):
    def read_once_unreadable(work, num_workers, rank, steps):
        block = read(work, num_workers, rank, steps)
        step = work.plan.step(steps.start)
        if (step.phase, step.epoch, step.number) == ("val", 0, 0):
            block["status"][0] = UNREADABLE
        return block

    monkeypatch.setattr("mmkd.inline.read", read_once_unreadable)
    result = distill(settings_of(home, "hiccup", data={"max_broken_share": 0.5}))
    rows = [row for row in read_metrics(home / "runs" / "hiccup") if row["kind"] == "epoch"]
    assert result["broken_clips"] == 1 and [row["val"]["verb"]["n"] for row in rows] == [10, 11]


def test_clips_without_what_a_network_sees_neither_teach_it_nor_judge_it(tmp_path):
    losses_of = []
    for name, change in (("right", 0), ("wrong", 1)):

        def spoil(split, rows, change=change):
            """The labels of clips without boxes, which nobody should ask for."""
            return [
                row | {"boxes": None, "labels": row["labels"] | {"verb": (row["labels"]["verb"] + change) % 3}}
                if i % 5 == 3
                else row
                for i, row in enumerate(rows)
            ]

        root = tmp_path / name
        write_dataset(root / "data" / "small", spoil)
        network = {"modality": "boxes", "arch": "stlt", "options": {"width": 16, "depth": 1, "num_heads": 2}}
        labels = {"distill_weight": 0.0, "label_weight": 1.0}
        train_teacher(settings_of(root, "boxes", teacher=network, loss=labels))
        run = root / "runs" / "boxes"
        losses_of.append(losses(run))
        kept = Predictions.load(run / "predictions-val.parquet")
        assert sorted(kept.clip_ids) == [f"val-{i:03d}" for i in range(11) if i % 5 != 3]
    assert losses_of[0] == losses_of[1]


def test_a_student_that_is_taught_ignores_labels_and_unlabelled_clips_take_part(tmp_path):
    def unlabel(split, rows):
        if split != "train":
            return rows
        return [row | {"labels": {"verb": None, "noun": None}} if i % 2 else row for i, row in enumerate(rows)]

    write_dataset(tmp_path / "data" / "small", unlabel)
    write_teachers(tmp_path)
    distill(settings_of(tmp_path, "half"))
    rows = [row for row in read_metrics(tmp_path / "runs" / "half") if row["kind"] == "train"]
    assert all(np.isfinite(row["loss"]) and row["kd"] > 0 for row in rows)


def test_a_gpu_that_is_not_there_is_refused(home, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"resources\.use_gpu asks for a GPU"):
        distill(settings_of(home, "no-gpu", resources={"use_gpu": True}))


def test_impossible_requests_are_refused_up_front(home):
    with pytest.raises(SettingsError, match="a student sees rgb"):
        distill(settings_of(home, "x", student={"modality": "flow"}))
    with pytest.raises(SettingsError, match="must be 0 for a teacher"):
        train_teacher(settings_of(home, "x"))
    with pytest.raises(FileNotFoundError, match=r"dataset\.json"):
        distill(settings_of(home, "x", data={"folder": "nothing"}))
    with pytest.raises(FileNotFoundError, match="nothing is no model folder"):
        distill(settings_of(home, "x", teachers={"folders": ["nothing"]}))
    with pytest.raises(SettingsError, match=r"data\.weigh_share"):
        distill(settings_of(home, "x", data={"weigh_share": 0.0}))
