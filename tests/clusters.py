"""Fixtures for jobs on several raylets of this machine, and what the tests of them ask."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmkd.jobs import distill
from mmkd.models import create_model, save_model
from mmkd.runs import read_epochs, read_metrics
from tests.processes import position, seen, wait_for
from tests.small import HEADS, small_settings, write_dataset, write_teachers

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

    def add(role, num_cpus=1):
        node = {"num_cpus": num_cpus, "object_store_memory": STORE, "labels": {"role": role}, "resources": {role: 1}}
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
        "resources": {"steps_per_block": 2},
    }
    return small_settings(home, **{key: base.get(key, {}) | sections.get(key, {}) for key in base | sections})


def disturbed(settings, act, after=20):
    """Carry out a job; when it is past a step of its plan, something happens. Returns the seconds from then until it is
    farther than what was under way can have brought it, and the run folder."""
    run = settings.home / "runs" / settings.run.name
    with ThreadPoolExecutor() as pool:
        running = pool.submit(distill, settings)  # not the other way round: nodes are added in the main thread only
        wait_for(lambda: position(run) > after or running.done(), 120)
        began, reached = time.monotonic(), position(run)
        act(run)
        wait_for(lambda: position(run) > reached + 16 or running.done(), 240)
        seconds = time.monotonic() - began
        running.result()
    print(f"RECOVERED {settings.run.name} after {seconds:.1f} s")
    return seconds, run


def assert_exact(run, epochs=EPOCHS):
    """Each clip once in each epoch, each step recorded once, and no clip rejected."""
    clips = seen(run)
    for epoch in range(1, epochs + 1):
        assert clips["train", epoch] == list(range(37)), epoch
        assert clips["val", epoch] == list(range(11)), epoch
    assert [row["step"] for row in read_metrics(run) if row["kind"] == "train"] == list(range(1, 5 * epochs + 1))
    assert [row["epoch"] for row in read_epochs(run)] == list(range(1, epochs + 1))
    assert not (run / "rejects.jsonl").exists()
