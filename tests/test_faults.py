"""Faults on real processes and several raylets: after each the job ends right, with exact counts, or says why not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from mmkd.jobs import distill
from mmkd.models import create_model, save_model
from mmkd.runs import read_epochs, read_lines, read_metrics
from tests.processes import kill, named, position, seen, wait_for
from tests.small import HEADS, small_settings, write_dataset, write_teachers

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
EPOCHS, STORE = 8, 100 * 2**20
FAULTY = "tests.faulty:faulty_backbone"


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """The folder in which the faulty teacher looks for what to do."""
    folder = tmp_path_factory.mktemp("faults")
    os.environ |= {"MMKD_FAULTS": str(folder), "MMKD_TRUST_ARCH": FAULTY}
    yield folder
    del os.environ["MMKD_FAULTS"], os.environ["MMKD_TRUST_ARCH"]


@pytest.fixture(scope="module")
def cluster(faults):
    """A head, and nodes that tests add and take away."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 4, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A root with the small data set and teachers."""
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def add_node(cluster):
    """Adds a node with a label, and a resource, that say its role; those left are taken away after the test."""
    nodes = []

    def add(role):
        node = {"num_cpus": 1, "object_store_memory": STORE, "labels": {"role": role}, "resources": {role: 1}}
        nodes.append(cluster.add_node(**node))
        return nodes[-1]

    yield add
    for node in nodes:
        if node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)


def make_home(root):
    """The small data set, and teachers of which one looks for faults."""
    write_dataset(root / "data" / "small")
    write_teachers(root)
    torch.manual_seed(0)
    model = create_model(FAULTY, HEADS, "flow")
    model.spec.input = {"frames": 4, "sampling": "uniform"}
    save_model(model, root / "models" / "faulty")
    for name in ("rgb", "flow"):
        model = create_model("r2plus1d_tiny", HEADS, name, channels=(4, 8))
        model.spec.input = {"frames": 16, "sampling": "uniform"}
        save_model(model, root / "models" / f"large-{name}")
    return root


LARGE = {
    "views": {"frames": 16, "size": 112, "boxes": 3, "audio_seconds": 0.1},
    "teachers": {"folders": ["large-rgb", "large-flow"]},
    "student": {"options": {"channels": [4, 8]}},
}
"""Blocks of 8 clips have 8 MB, so that few fit into shared memory and reading cannot run far ahead."""


def settings_of(home, name, **sections):
    base = {
        "run": {"name": name, "local": False, "checkpoint_steps": 2, "max_restarts": 10},
        "student": {"options": {"channels": [16, 32, 64]}, "arch": "r2plus1d_tiny"},
        "teachers": {"folders": ["rgb", "faulty"], "drop_near_chance": False},
        "optim": {"epochs": EPOCHS, "batch_size": 8},
    }
    return small_settings(home, **{key: base.get(key, {}) | sections.get(key, {}) for key in base | sections})


def disturbed(settings, act, after=20):
    """Carry out a job; when it is past a step of its plan, something happens. Returns the seconds from then until the
    next step, and the run folder."""
    run, began, recovered = settings.home / "runs" / settings.run.name, [], []

    def watch():
        wait_for(lambda: position(run) > after, 120)
        act(run)
        began.append(time.monotonic())
        reached = position(run)
        wait_for(lambda: position(run) > reached + 2 or not thread_runs.is_set(), 120)
        recovered.append(time.monotonic())

    thread_runs = threading.Event()
    thread_runs.set()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        distill(settings)
    finally:
        thread_runs.clear()
        thread.join()
    return recovered[0] - began[0], run


def assert_exact(run, epochs=EPOCHS):
    """Each clip once in each epoch, each step recorded once, and no clip rejected."""
    clips = seen(run)
    for epoch in range(1, epochs + 1):
        assert clips["train", epoch] == list(range(37)), epoch
        assert clips["val", epoch] == list(range(11)), epoch
    assert [row["step"] for row in read_metrics(run) if row["kind"] == "train"] == list(range(1, 5 * epochs + 1))
    assert [row["epoch"] for row in read_epochs(run)] == list(range(1, epochs + 1))
    assert not (run / "rejects.jsonl").exists()


def test_a_killed_teacher_actor(home, cluster):
    seconds, run = disturbed(settings_of(home, "teacher"), lambda run: kill(*wait_for(lambda: named("Pool_"), 20)))
    assert_exact(run)
    assert seconds < 30


def test_killed_reading_tasks(home, cluster):
    """Three processes, each as soon as it reads: what is read ahead is much, and read soon."""
    killed = []

    def kill_readers(run):
        while len(killed) < 3:
            killed.append(wait_for(lambda: set(named("ReadClips")) - set(killed), 60, 0.001).pop())
            kill(killed[-1])

    _, run = disturbed(settings_of(home, "reader"), kill_readers, after=-1)
    assert_exact(run)
    assert len(killed) == 3


def test_a_killed_worker_of_two_inside_an_epoch(home, cluster):
    settings = settings_of(home, "worker", resources={"workers": 2})
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
    nodes = [add_node("elastic"), add_node("elastic")]
    resources = {"workers": 2, "min_workers": 1, "custom": {"elastic": 1}}
    settings = settings_of(home, "elastic", resources=resources)
    _, run = disturbed(settings, lambda run: cluster.remove_node(nodes[1], allow_graceful=False))
    assert_exact(run)
    last = [rows[-1]["position"] for path in run.glob("trace-*.jsonl") if (rows := read_lines(path))]
    assert len(last) == 2 and min(last) < max(last)  # one of them was alone in the end


def test_a_teacher_that_hangs_once(home, cluster, faults):
    settings = settings_of(home, "hang-once", teachers={"timeout_seconds": 3.0})
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


def test_blocks_that_do_not_fit_into_shared_memory_are_spilled(home, cluster):
    more = {"resources": {"prefetch": 12, "readers": 3}, "optim": {"epochs": 2, "batch_size": 32}}
    distill(settings_of(home, "spilled", **LARGE, **more))
    clips = seen(home / "runs" / "spilled")
    assert all(clips["train", epoch] == list(range(37)) for epoch in (1, 2))


def job(home: Path, config: Path, **environment: str) -> subprocess.Popen:
    """The job as a user would type it, with a Ray of its own unless it is told of another."""
    command = [sys.executable, "rayjobs/distill.py", "--config", str(config)]
    own = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | environment
    return subprocess.Popen(
        command, cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> dict:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture
def alone(tmp_path):
    """A home and a job's settings for a Ray of its own, beside which no other runs."""
    import ray

    ray.shutdown()
    make_home(tmp_path)
    resources = {"num_cpus": 3, "object_store_mb": 100}
    settings_of(tmp_path, "job", resources=resources).save(tmp_path / "job.yaml")
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
            free = shutil.disk_usage(disk).free
            (disk / "filler").write_bytes(bytes(free))
            _, err = process.communicate(timeout=180)
            assert process.returncode != 0 and "No space left on device" in err, err
            (disk / "filler").unlink()
            assert finish(job(alone, alone / "job.yaml"))["epochs"] == EPOCHS
            assert_exact(run)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
