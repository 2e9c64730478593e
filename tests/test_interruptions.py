"""Checkpoints inside an epoch, and SIGTERM: the run goes on as if nothing had been, in one process."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import mmkd.interruptions
import mmkd.training
from mmkd.checkpoint import Checkpoints, kept_position
from mmkd.config import StoppedError
from mmkd.jobs import distill
from mmkd.models import load_model
from mmkd.runs import read_epochs, read_lines, read_metrics
from tests.small import small_settings, write_dataset, write_teachers

STEPS = 5
"""Of an epoch: 37 clips in batches of 8."""


def settings_of(home, name, ahead=0, **run):
    return small_settings(home, run={"name": name, **run}, resources={"ahead": ahead})


def records(run):
    """What was recorded of each optimiser step and epoch, but for the times; and what was seen, by step."""
    steps = [(row["step"], row["loss"], row["lr"]) for row in read_metrics(run) if row["kind"] == "train"]
    epochs = [(row["epoch"], row["val"], row["teacher_answers"]) for row in read_epochs(run)]
    seen = [(row["position"], row["clips"]) for row in read_lines(run / "trace-0.jsonl")]
    return steps, epochs, seen


def assert_same(run, undisturbed):
    assert records(run) == records(undisturbed)
    ours, theirs = (load_model(folder / "best").state_dict() for folder in (run, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def undisturbed(home):
    distill(settings_of(home, "undisturbed"))
    return home / "runs" / "undisturbed"


def before_step(monkeypatch, phase, number, act):
    """Do something before step `number` of each epoch's `phase`, the first time."""
    check, done = mmkd.training._check_place, []

    def checked(block, step):
        check(block, step)
        if (step.phase, step.epoch, step.number) == (phase, 1, number) and not done:
            done.append(step)
            act()

    monkeypatch.setattr(mmkd.training, "_check_place", checked)


def die():
    raise KeyboardInterrupt


@pytest.mark.parametrize("number, ahead", [(1, 0), (2, 2), (4, 0)])
def test_a_run_cut_off_inside_an_epoch_goes_on_from_its_last_checkpoint(home, undisturbed, monkeypatch, number, ahead):
    settings = settings_of(home, f"cut-{number}", ahead, checkpoint_steps=2)
    run = home / "runs" / f"cut-{number}"
    before_step(monkeypatch, "train", number, die)
    with pytest.raises(KeyboardInterrupt):
        distill(settings)
    weighing = read_metrics(undisturbed)[0]["position"] - 1
    done = STEPS + number
    # Steps of the second epoch come after the first one's validation, of two steps.
    assert kept_position(run / "checkpoints") == weighing + 2 + (STEPS if done == STEPS else done - done % 2)
    distill(settings)
    assert_same(run, undisturbed)


@pytest.mark.parametrize(("phase", "number"), [("train", 2), ("val", 0), ("weigh", 0)])
def test_sigterm_keeps_a_checkpoint_wherever_the_run_is(home, undisturbed, monkeypatch, phase, number):
    monkeypatch.setattr(mmkd.interruptions, "STOP_SECONDS", 0.0)
    settings = settings_of(home, f"stopped-{phase}")
    run = home / "runs" / f"stopped-{phase}"

    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    if phase == "weigh":
        judge = mmkd.training._judge
        monkeypatch.setattr(mmkd.training, "_judge", lambda *parts: judge(*parts) or terminate())
    else:
        before_step(monkeypatch, phase, number, terminate)
    with pytest.raises(StoppedError, match=r"after step \d+ of 10; the same command"):
        distill(settings)
    assert signal.getsignal(signal.SIGTERM) == before and not (run / "result.json").exists()
    monkeypatch.undo()
    distill(settings)
    assert_same(run, undisturbed)


def test_checkpoints_come_by_the_clock_too(home, monkeypatch):
    written = []
    add = Checkpoints.add
    monkeypatch.setattr(
        Checkpoints, "add", lambda self, position, *rest: written.append(position) or add(self, position, *rest)
    )
    distill(settings_of(home, "clock", checkpoint_minutes=1e-9))
    steps = [row["position"] for row in read_metrics(home / "runs" / "clock")]
    assert set(steps) <= set(written)


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2, notice=pytest.fail)
    for position, score in [(1, None), (2, 0.9), (3, None), (4, 0.5), (5, None), (6, None)]:
        assert checkpoints.add(position, lambda folder: (folder / "x").write_text("x"), score)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "5", "6"]


def test_a_disk_that_is_full_costs_a_checkpoint_and_not_the_run(home, undisturbed, monkeypatch):
    """It fills up after the first epoch: the run goes on with the checkpoint it has."""
    write = mmkd.recording.write_checkpoint

    def full_later(folder, updater, state):
        if state["position"] > full_from:
            (folder / "network.safetensors").write_bytes(b"half of i")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, updater, state)

    full_from = read_epochs(undisturbed)[0]["position"]
    monkeypatch.setattr(Checkpoints, "PAUSE", 0.0)
    monkeypatch.setattr(mmkd.recording, "write_checkpoint", full_later)
    distill(settings_of(home, "full-disk", checkpoint_steps=2))
    run = home / "runs" / "full-disk"
    assert kept_position(run / "checkpoints") == full_from
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"checkpoint_{full_from:09d}"]
    notices = [row["text"] for row in read_lines(run / "notices.jsonl")]
    assert len(notices) == 4 and all("No space left on device" in text for text in notices)
    assert_same(run, undisturbed)


def test_storage_that_fails_now_and_then_costs_nothing(tmp_path, monkeypatch):
    calls = []

    def flaky(folder):
        calls.append(folder)
        if len(calls) % 3:
            raise OSError(errno.EIO, "Input/output error")
        (folder / "x").write_text("x")

    monkeypatch.setattr(Checkpoints, "PAUSE", 0.0)
    checkpoints = Checkpoints(tmp_path, 5, notice=pytest.fail)
    assert all(checkpoints.add(position, flaky, None) for position in range(4))


@pytest.mark.slow
def test_a_terminated_job_says_so_and_its_command_again_finishes_it(tmp_path):
    write_dataset(tmp_path / "data" / "small")
    write_teachers(tmp_path)
    config = tmp_path / "job.yaml"
    small_settings(tmp_path, run={"name": "job"}, optim={"epochs": 300}).save(config)
    command = [sys.executable, "rayjobs/distill.py", "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    metrics = tmp_path / "runs" / "job" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while len(read_lines(metrics)) < 12 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped on SIGTERM after step" in said.splitlines()[-1] and "Traceback" not in said
    position = kept_position(tmp_path / "runs" / "job" / "checkpoints")
    assert position >= read_metrics(metrics.parent)[-1]["position"] > 0
