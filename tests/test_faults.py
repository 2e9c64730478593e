"""Faults on real processes and several raylets: after each the job ends right, with exact counts, or says why not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mmkd.jobs import distill
from mmkd.runs import read_epochs, read_lines
from tests.clusters import (
    EPOCHS,
    LARGE,
    add_node,
    assert_exact,
    cluster,
    disturbed,
    faults,
    home,
    make_home,
    settings_of,
)
from tests.processes import descendants, kill, named, position, seen, wait_for

__all__ = ["add_node", "cluster", "faults", "home"]

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("readers", [2, 0])
def test_a_killed_teacher_actor(home, cluster, readers):
    """One that is given what was read, or reads for itself."""
    settings = settings_of(home, f"teacher-{readers}", resources={"readers": readers})
    seconds, run = disturbed(settings, lambda run: kill(*wait_for(lambda: named("Pool_"), 20)))
    assert_exact(run)
    assert seconds < 30


def test_killed_reading_tasks(home, cluster):
    """Three processes, each as soon as it reads: what is read ahead is much, and read soon."""
    killed = []

    def kill_readers(run):
        while len(killed) < 3:
            killed.append(wait_for(lambda: set(named("ReadClips")) - set(killed), 60, 0.001).pop())
            kill(killed[-1])

    _, run = disturbed(settings_of(home, "reader", resources={"readers": 2}), kill_readers, after=-1)
    assert_exact(run)
    assert len(killed) == 3


@pytest.mark.parametrize("inline", [False, True])
def test_a_killed_worker_of_two_inside_an_epoch(home, cluster, inline):
    resources = {"workers": 2, "inline": inline, "ahead": int(inline), "readers": 0}
    settings = settings_of(home, f"worker-{inline}", resources=resources)
    seconds, run = disturbed(settings, lambda run: kill(read_lines(run / "trace-1.jsonl")[-1]["process"]))
    assert_exact(run)
    assert seconds < 90


@pytest.mark.parametrize("role, nodes", [("teachers", 1), ("resources", 2)])
def test_a_lost_node(home, cluster, add_node, role, nodes):
    """Of teachers, or of one worker of two; another node of its kind comes."""
    node, *_ = [add_node(role) for _ in range(nodes)]
    more = {"workers": 2} if role == "resources" else {}

    def lose(run):
        add_node(role)
        cluster.remove_node(node, allow_graceful=False)

    _, run = disturbed(settings_of(home, f"lost-{role}", **{role: {"labels": {"role": role}} | more}), lose)
    assert_exact(run)


def test_elastic_training_goes_on_with_fewer_workers(home, cluster, add_node):
    # With CPUs to spare: what Ray Data asked for in jobs before is kept for it a while, and workers have the rest.
    nodes = [add_node("elastic", num_cpus=3), add_node("elastic", num_cpus=3)]
    resources = {"workers": 2, "min_workers": 1, "custom": {"elastic": 1}}
    settings = settings_of(home, "elastic", resources=resources)
    _, run = disturbed(settings, lambda run: cluster.remove_node(nodes[1], allow_graceful=False))
    assert_exact(run)
    last = [rows[-1]["position"] for path in run.glob("trace-*.jsonl") if (rows := read_lines(path))]
    assert len(last) == 2 and min(last) < max(last)  # one of them was alone in the end


@pytest.mark.parametrize("inline", [False, True])
def test_a_teacher_that_hangs_once(home, cluster, faults, inline):
    """In an actor, or in the worker itself."""
    resources = {"inline": inline, "ahead": int(inline), "readers": 0}
    settings = settings_of(home, f"hang-{inline}", teachers={"timeout_seconds": 3.0}, resources=resources)
    _, run = disturbed(settings, lambda run: (faults / "hang_once").touch())
    assert_exact(run)
    assert len(read_lines(run / "hangs.jsonl")) == 1


def test_a_teacher_that_hangs_for_ever_is_named(home, cluster, faults):
    (faults / "hang_always").touch()
    began = time.monotonic()
    try:
        with pytest.raises(
            ValueError, match=r"the answer of teacher pool teachers to step \d+ .* within 3 s in 3 proce"
        ):
            distill(settings_of(home, "hang-always", teachers={"timeout_seconds": 3.0}))
    finally:
        (faults / "hang_always").unlink()
    assert time.monotonic() - began < 120


def test_a_slow_teacher_is_waited_for(home, cluster, faults):
    (faults / "slow").touch()
    try:
        distill(settings_of(home, "slow", optim={"epochs": 2}))
    finally:
        (faults / "slow").unlink()
    run = home / "runs" / "slow"
    assert_exact(run, epochs=2)
    assert read_epochs(run)[-1]["wait_share"] > 0.3


@pytest.mark.parametrize("fault", ["vanishes", "turns to garbage"])
def test_a_shard_that_goes_bad_between_epochs(tmp_path, cluster, fault):
    shard = make_home(tmp_path) / "data" / "small" / "train" / "00000.parquet"

    def spoil(run):
        if fault == "vanishes":
            shard.unlink()
        else:
            shard.write_bytes(b"garbage" * 100)

    with pytest.raises(ValueError, match=r"clips read are broken .* its shard cannot be read"):
        disturbed(settings_of(tmp_path, "bad", **LARGE), spoil, after=2)
    assert {row["reason"] for row in read_lines(tmp_path / "runs" / "bad" / "rejects.jsonl")} == {
        "its shard cannot be read"
    }


@pytest.mark.parametrize("readers", [3, 0])
def test_blocks_that_do_not_fit_into_shared_memory_are_spilled(home, cluster, readers):
    more = {"resources": {"prefetch": 12, "readers": readers}, "optim": {"epochs": 2, "batch_size": 32}}
    before = spilled_bytes(cluster)
    distill(settings_of(home, f"spilled-{readers}", **LARGE, **more))
    assert spilled_bytes(cluster) > before
    clips = seen(home / "runs" / f"spilled-{readers}")
    assert all(clips["train", epoch] == list(range(37)) for epoch in (1, 2))


def fill(path: Path) -> None:
    """Make a file that takes all the room of its disk, whatever others write there meanwhile."""
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def spilled_bytes(cluster):
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    return get_memory_info_reply(get_state_from_address(cluster.address)).store_stats.spilled_bytes_total


def job(home: Path, config: Path, **environment: str) -> subprocess.Popen:
    """The job as a user would type it, with a Ray of its own unless it is told of another."""
    command = [sys.executable, "rayjobs/distill.py", "--config", str(config)]
    own = os.environ | {"RAY_ADDRESS": "local"} | environment
    return subprocess.Popen(
        command, cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture
def alone(tmp_path, faults):
    """A home and a job's settings for a Ray of its own, beside which no other runs."""
    import ray

    ray.shutdown()
    make_home(tmp_path)
    resources = {"num_cpus": 3, "object_store_mb": 100}
    settings_of(tmp_path, "job", run={"max_restarts": 2}, resources=resources).save(tmp_path / "job.yaml")
    return tmp_path


class TestAlone:
    """Jobs with a Ray of their own: they come last, since they end the session that the others share."""

    def test_a_killed_driver(self, alone):
        process = job(alone, alone / "job.yaml")
        run = alone / "runs" / "job"
        wait_for(lambda: position(run) > 20, 120)
        process.kill()
        process.wait(30)
        done = position(run)
        assert finish(job(alone, alone / "job.yaml"))["epochs"] == EPOCHS
        assert_exact(run)
        assert done > 20

    def test_sigterm_ends_it_in_time_with_a_checkpoint(self, alone):
        process = job(alone, alone / "job.yaml")
        run = alone / "runs" / "job"
        wait_for(lambda: position(run) > 20, 120)
        began = time.monotonic()
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM and "stopped on SIGTERM after step" in err, err
        assert time.monotonic() - began < 30
        assert finish(job(alone, alone / "job.yaml"))["epochs"] == EPOCHS
        assert_exact(run)

    def test_a_disk_that_is_full(self, alone):
        """A file system of its own that is filled while the job runs, and has room again later."""
        if os.geteuid() != 0:
            pytest.skip("only root can mount a file system")
        disk = alone / "runs"
        disk.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
        try:
            process = job(alone, alone / "job.yaml")
            run = disk / "job"
            wait_for(lambda: position(run) > 20, 120)
            fill(disk / "filler")
            _, err = process.communicate(timeout=180)
            assert process.returncode != 0 and "No space left on device" in err, err
            (disk / "filler").unlink()
            assert finish(job(alone, alone / "job.yaml"))["epochs"] == EPOCHS
            assert_exact(run)
        finally:
            # Ray's processes may outlive the job by a moment, with files of the run open.
            wait_for(lambda: not subprocess.run(["umount", str(disk)], capture_output=True).returncode, 30, 0.5)

    def test_a_head_that_restarts(self, alone):
        """It takes everything with it; the job says so, and the same command goes on when it is back."""
        run = alone / "runs" / "job"
        with head_node(alone) as (head, address):
            process = job(alone, alone / "job.yaml", RAY_ADDRESS=address)
            wait_for(lambda: position(run) > 20, 120)
            end(head)
            began = time.monotonic()
            _, err = process.communicate(timeout=180)
            assert process.returncode != 0 and "the Ray cluster went away under the run" in err, err
            assert time.monotonic() - began < 120
        with head_node(alone) as (_, address):
            assert finish(job(alone, alone / "job.yaml", RAY_ADDRESS=address))["epochs"] == EPOCHS
        assert_exact(run)


@contextmanager
def head_node(folder: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """A head of a cluster of its own, as `ray start` makes it, and its address."""
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--port=26379", "--num-cpus=3"]
    own = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    options = ["--object-store-memory=100000000", "--include-dashboard=false"]
    log = folder / "head.log"
    log.unlink(missing_ok=True)
    with open(log, "w") as file:
        process = subprocess.Popen([*command, *options], env=own, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for(lambda: "Ray runtime started" in log.read_text(), 60)
        yield process, "127.0.0.1:26379"
    finally:
        end(process)


def end(head: subprocess.Popen) -> None:
    """Kill a node, and what it started, as a machine that fails does."""
    if head.poll() is None:
        kill(*descendants(head.pid), head.pid)
        head.wait()
