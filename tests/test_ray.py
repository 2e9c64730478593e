"""On Ray: the same plan with any number of workers, through deaths, and nothing that cannot fit."""

import os
import threading
import time

import numpy as np
import pytest
import torch
import yaml

from mmkd.bank.store import Bank
from mmkd.config import SettingsError
from mmkd.dataset import open_dataset
from mmkd.inputs import mean_logits
from mmkd.jobs import distill, pack_data, train_teacher
from mmkd.models import load_model, save_model
from mmkd.pipeline import read
from mmkd.ray_data import build_dataset, configure_context, of_row, units_of
from mmkd.reader import REAL
from mmkd.report.predictions import Predictions
from mmkd.resolve import plan_student, teacher_folders
from mmkd.resources import check_fits
from mmkd.runs import read_lines, read_metrics
from mmkd.stage_costs import size_job
from mmkd.weigh import weigh
from tests.processes import seen
from tests.small import small_settings

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for the file, with more logical CPUs than the machine has, and GPUs that it has not."""
    import ray

    memory = 300 * 2**20
    ray.init("local", num_cpus=5, num_gpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=memory)
    yield
    ray.shutdown()


def settings_of(home, name, **sections):
    run = {"name": name, "local": False} | sections.pop("run", {})
    resources = {"steps_per_block": 3} | sections.pop("resources", {})
    return small_settings(home, run=run, resources=resources, **sections)


def clips_by_step(run):
    """Position in the plan to the clips that all workers saw there, in the order of their ranks."""
    seen: dict[int, list[int]] = {}
    for path in sorted(run.glob("trace-*.jsonl")):
        for row in read_lines(path):
            seen.setdefault(row["position"], []).extend(row["clips"])
    return seen


@pytest.fixture(scope="module")
def local(home):
    """The oracle: the same settings in one process."""
    distill(settings_of(home, "oracle", run={"local": True}))
    return home / "runs" / "oracle"


@pytest.mark.parametrize("inline", [False, True])
def test_one_worker_gives_the_losses_and_the_model_of_the_local_run(home, local, inline):
    distill(settings_of(home, f"one-{inline}", resources={"inline": inline, "ahead": int(inline)}))
    run = home / "runs" / f"one-{inline}"
    rows = [[row for row in read_metrics(path) if row["kind"] == "train"] for path in (run, local)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], rel=1e-5)
    assert clips_by_step(run) == clips_by_step(local)
    assert load_model(run / "best").spec.heads == load_model(local / "best").spec.heads


@pytest.mark.parametrize("inline", [False, True])
def test_three_workers_see_the_same_clips_in_each_step(home, local, inline):
    resources = {"workers": 3, "inline": inline, "ahead": int(inline)}
    teachers, optim = ({}, {"ema": 0.5}) if inline else ({"actors": 2, "num_gpus": 0.5}, {})
    settings = settings_of(home, f"three-{inline}", resources=resources, teachers=teachers, optim=optim)
    distill(settings)
    run = home / "runs" / f"three-{inline}"
    assert len(list(run.glob("trace-*.jsonl"))) == 3
    assert clips_by_step(run) == clips_by_step(local)
    first = [next(row["loss"] for row in read_metrics(path) if row["kind"] == "train") for path in (run, local)]
    # Batch statistics are a worker's own, so only the size of the loss is the same.
    assert first[0] == pytest.approx(first[1], rel=0.5)
    assert_every_worker_validated_the_model_that_was_kept(run, settings)


def assert_every_worker_validated_the_model_that_was_kept(run, settings):
    """Running means included, though in training they are a worker's own."""
    work, _ = plan_student(settings, teacher_folders(settings))
    model, kept = load_model(run / "best").eval(), Predictions.load(run / "predictions-val.parquet")
    place = {clip_id: number for number, clip_id in enumerate(kept.clip_ids)}
    clip_ids, seen = work.manifests()["val"].clip_ids, 0
    for step in [step for step in range(work.plan.num_steps) if work.plan.step(step).phase == "val"]:
        block = read(work, 1, 0, range(step, step + 1))
        rows = np.flatnonzero(block["status"] == REAL)
        with torch.inference_mode():
            logits = mean_logits(model, "rgb", block, rows, torch.device("cpu"), len(rows))
        theirs = [place[clip_ids[clip]] for clip in block["clip"][rows]]
        for head, values in logits.items():
            np.testing.assert_allclose(kept.logits[head][theirs], values, atol=1e-4)
        seen += len(rows)
    assert seen >= len(kept.clip_ids)


def test_the_loss_is_normalised_over_the_global_batch_whatever_the_shares(home):
    """37 clips in batches of 8 on 3 workers: uneven shares, and one that is all padding, in each epoch's last step.

    The box network has no batch statistics, and no dropout here, so one worker and three must agree.
    """
    box = {"modality": "boxes", "arch": "stlt", "options": {"width": 16, "depth": 1, "num_heads": 2, "dropout": 0.0}}
    shared = {"loss": {"distill_weight": 0.0, "label_weight": 1.0}, "teacher": box, "data": {"weigh_share": 0.0}}
    for name, workers in (("alone", 1), ("three", 3)):
        run = {"local": workers == 1}
        train_teacher(settings_of(home, name, run=run, resources={"workers": workers}, **shared))
    alone, three = (
        [row["loss"] for row in read_metrics(home / "runs" / name) if row["kind"] == "train"]
        for name in ("alone", "three")
    )
    assert len(alone) == 10
    assert three == pytest.approx(alone, rel=1e-4)


@pytest.mark.faults
def test_a_killed_worker_costs_no_clip_and_doubles_none(home):
    """SIGKILL in the middle of an epoch: the run goes on from the last checkpoint."""
    optim = {"epochs": 12}
    student = {"options": {"channels": [16, 32, 64]}, "arch": "r2plus1d_tiny"}
    settings = settings_of(home, "killed", optim=optim, student=student, resources={"workers": 2})
    run, killed = home / "runs" / "killed", []

    def kill_when_under_way():
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            rows = read_lines(run / "trace-1.jsonl")
            if rows and rows[-1]["position"] > 25:
                os.kill(rows[-1]["process"], 9)
                killed.append(rows[-1])
            time.sleep(0.002)

    thread = threading.Thread(target=kill_when_under_way)
    thread.start()
    result = distill(settings)
    thread.join()
    assert killed and result["epochs"] == 12
    processes = {row["process"] for row in read_lines(run / "trace-1.jsonl")}
    assert len(processes) == 2 and killed[0]["process"] in processes
    clips = seen(run)
    for epoch in range(1, 13):
        assert clips["train", epoch] == list(range(37))
        assert clips["val", epoch] == list(range(11))
    steps = [row["step"] for row in read_metrics(run) if row["kind"] == "train"]
    assert steps == list(range(1, 61))


def test_more_workers_than_cpus_are_refused_with_the_sum(home):
    with pytest.raises(SettingsError, match=r"needs 9\.5 CPUs \(resources\.workers 9 x 1 \+ .* has 5;"):
        distill(settings_of(home, "too-many", resources={"workers": 9}))
    with pytest.raises(SettingsError, match=r"needs 2 GPUs"):
        distill(settings_of(home, "no-gpus", resources={"workers": 2, "use_gpu": True}))


def test_teachers_on_cpus_read_for_themselves_so_that_only_what_the_student_needs_is_moved(home):
    """One stage; where reading tasks are asked for there are two. Units of three steps make a block."""
    blocks, stages = {}, {}
    for readers in (0, 1):
        settings = settings_of(home, f"reading-{readers}", resources={"readers": readers})
        work, _ = plan_student(settings, teacher_folders(settings))
        configure_context(settings)
        dataset = build_dataset(work, 0, 2).materialize()
        rows = dataset.iter_batches(batch_size=None, batch_format="numpy")
        blocks[readers] = [unit for row in rows for unit in units_of(of_row(row))]
        stages[readers] = "ReadClips->MapBatches(Pool_teachers)" in dataset.stats()
    assert stages == {0: True, 1: False}
    assert len(blocks[0]) == len(blocks[1]) == 2 * work.plan.num_steps
    for ours, theirs in zip(*blocks.values(), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_sizes_are_measured_once_and_kept(home, tmp_path):
    settings = settings_of(home, "auto", resources={"auto": True})
    work, _ = plan_student(settings, teacher_folders(settings))
    sized = size_job(work, tmp_path, longest=0.02).settings
    check_fits(sized, work.live_teachers)
    kept = yaml.safe_load((tmp_path / "resources.yaml").read_text())
    assert kept["resources"]["workers"] == sized.resources.workers
    kept["resources"]["prefetch"] = 3
    (tmp_path / "resources.yaml").write_text(yaml.safe_dump(kept))
    assert size_job(work, tmp_path).settings.resources.prefetch == 3


def test_a_teacher_that_answers_nan_fails_the_job_and_is_named(home, tmp_path):
    import torch

    model = load_model(home / "models" / "flow")
    with torch.no_grad():
        model.heads["noun"].bias[0] = float("inf")
    save_model(model, tmp_path / "bad")
    teachers = {"folders": ["rgb", str(tmp_path / "bad")]}
    with pytest.raises(ValueError, match=r"teacher flow gave non-finite noun logits for clips number"):
        distill(settings_of(home, "nan", teachers=teachers))


def test_clips_packed_on_ray_are_those_packed_in_one_process(tmp_path):
    source = {"train": 5, "val": 2, "test": 1, "seed": 3}
    for name, local in (("ray", False), ("here", True)):
        pack = {"clips_per_shard": 2}
        pack_data(settings_of(tmp_path, "", data={"folder": name}, source=source, pack=pack, run={"local": local}))
    first, second = open_dataset(tmp_path / "data" / "ray"), open_dataset(tmp_path / "data" / "here")
    assert first.fingerprint == second.fingerprint
    assert {name: split["clips"] for name, split in first.splits.items()} == {"train": 5, "val": 2, "test": 1}


def test_everything_at_once_is_the_same_on_two_workers_as_in_one_process(home):
    """Mixing, repeated views, a grid of test views, a third term with a projection, weights of each clip's own,
    accumulation and a moving average, with a network that has no batch statistics."""
    views = {"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1, "mixup": 0.5, "repeats": 2, "test_crops": 3}
    sections = {
        "views": views,
        "student": {"arch": "tests.test_models:own_backbone", "options": {"width": 6}},
        "loss": {"label_weight": 0.5, "feature_weight": 0.5, "feature_teacher": "flow"},
        "teachers": {"folders": ["rgb", "flow", "boxes"], "drop_near_chance": False, "weighting": "per_sample"},
        "optim": {"epochs": 2, "batch_size": 8, "accumulate": 2, "ema": 0.9, "clip_norm": 0},
    }
    rows = {}
    for name, run in (("all-local", {"local": True}), ("all-ray", {})):
        distill(settings_of(home, name, run=run, resources={"workers": 2}, **sections))
        rows[name] = read_metrics(home / "runs" / name)
    for kind, key in (("train", "loss"), ("train", "feature"), ("epoch", "score")):
        a, b = ([row[key] for row in rows[name] if row["kind"] == kind] for name in ("all-local", "all-ray"))
        assert a == pytest.approx(b, rel=1e-4) and len(a) == (20 if kind == "train" else 2)
    trust = ["tests.test_models:own_backbone"]
    ours, theirs = (load_model(home / "runs" / name / "best", trust=trust).state_dict() for name in rows)
    assert all((ours[name] - theirs[name]).abs().max() < 1e-4 for name in ours)
    assert weigh(settings_of(home, "weighed", **sections))["weight"]["verb"]


def test_a_bank_that_two_workers_recorded_is_completed_by_pools_and_replayed_as_in_one_process(home):
    """The pools are asked for the views that it lacks, in blocks of which it answers others."""
    sections = {"views": {"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1, "distinct": 2}}
    pools = {"one": {"teachers": ["rgb"]}, "other": {"teachers": ["flow", "boxes"]}}
    folder = home / "banks" / "half"

    def run(name, mode, epochs, workers=1, local=False, **more):
        teachers = {"folders": ["rgb", "flow", "boxes"], "drop_near_chance": False, "bank": "half", "mode": mode}
        optim, resources = {"epochs": epochs, "batch_size": 8}, {"workers": workers}
        own = settings_of(
            home, name, run={"local": local}, teachers=teachers | more, optim=optim, resources=resources, **sections
        )
        answers = distill(own)["teacher_answers"]
        return answers, [row["loss"] for row in read_metrics(home / "runs" / name) if row["kind"] == "train"]

    answers, _ = run("half", "record", 1, workers=2)
    weighed = answers["computed"] // 3 - 37
    assert 0 < weighed < 37 and Bank(folder).rows == weighed + 37
    assert {part.rpartition("-")[2] for part in Bank(folder).parts} == {"0.parquet", "1.parquet"}
    answers, _ = run("whole", "auto", 3, workers=2, pools=pools)
    assert answers == {"computed": 3 * 37, "replayed": 3 * (2 * 37 + weighed)}
    assert Bank(folder).rows == weighed + 2 * 37
    (ours, losses), (theirs, same) = run("on-ray", "replay", 3), run("here", "replay", 3, local=True)
    assert ours == theirs == {"computed": 0, "replayed": 3 * (3 * 37 + weighed)}
    assert losses == pytest.approx(same, rel=1e-5)
