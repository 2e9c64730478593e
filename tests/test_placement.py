"""Where a job's parts run, what it waits for, and what can be seen of it, on several raylets."""

import json
import re
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mmkd.config import SettingsError
from mmkd.jobs import distill
from tests.clusters import add_node, assert_exact, cluster, disturbed, faults, home, settings_of
from tests.processes import named

__all__ = ["add_node", "cluster", "faults", "home"]
ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]


def raylet_of(node):
    (raylet,) = node.all_processes["raylet"]
    return raylet.process.pid


def test_each_pool_the_readers_and_the_student_run_where_their_labels_are(home, cluster, add_node):
    nodes = {role: add_node(role) for role in ("large", "small", "reading", "student")}
    pools = {
        "large": {"teachers": ["rgb"], "labels": {"role": "large"}},
        "small": {"teachers": ["flow"], "labels": {"role": "small"}},
    }
    resources = {"labels": {"role": "student"}, "reader_labels": {"role": "reading"}}
    parts = {"Pool_large": "large", "Pool_small": "small", "ReadClips": "reading", "TrainWorker": "student"}
    there = {part: set() for part in parts}
    done = threading.Event()

    def look():
        while not done.is_set():
            for part in parts:
                there[part] |= {role for role, node in nodes.items() if named(part, raylet_of(node))}
                there[part] |= {"head"} if named(part, raylet_of(cluster.head_node)) else set()
            done.wait(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        distill(settings_of(home, "placed", teachers={"pools": pools}, resources=resources))
    finally:
        done.set()
        thread.join()
    assert there == {part: {role} for part, role in parts.items()}
    assert_exact(home / "runs" / "placed")


def test_a_job_waits_for_resources_where_it_is_told_to(home, cluster, add_node, capsys):
    resources = {"custom": {"late": 1}}
    with pytest.raises(SettingsError, match=r"needs 1 of resource late .* the cluster has 0"):
        distill(settings_of(home, "refused", resources=resources))
    settings = settings_of(home, "late", resources={"wait_for_resources": True, **resources}, optim={"epochs": 1})
    said = ""
    with ThreadPoolExecutor() as pool:
        running = pool.submit(distill, settings)
        while "waiting for resources: the job needs 1 of resource late" not in said and not running.done():
            said += capsys.readouterr().err
            time.sleep(0.1)
        add_node("late")
        running.result()
    assert_exact(home / "runs" / "late", epochs=1)


def scraped():
    """What Prometheus would be told by all nodes."""
    import ray

    text = ""
    for node in ray.nodes():
        if node["Alive"]:
            address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(address, timeout=10) as answer:
                text += answer.read().decode()
    return text


def test_metrics_reach_prometheus_and_a_profile_has_every_part(home, cluster):
    board = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    # There is no GPU here, and no loss of features.
    wanted = set(re.findall(r"\bray_\w+", asked)) - {"ray_node_gpus_utilization", "ray_mmkd_feature"}

    def scrape(run):
        missing, text = wanted, ""
        deadline = time.monotonic() + 60
        while missing and time.monotonic() < deadline:
            time.sleep(0.5)
            text = scraped()
            missing = {name for name in wanted if f"\n{name}{{" not in text}
        assert not missing
        assert 'pool="teachers"' in text and 'teacher="rgb"' in text and 'run="seen"' in text

    settings = settings_of(home, "seen", run={"profile": True}, optim={"epochs": 40})
    _, run = disturbed(settings, scrape)
    assert json.loads((run / "profile" / "steps-0.json").read_text())["traceEvents"]
    names = {event["cat"] for event in json.loads((run / "profile" / "ray-timeline.json").read_text())}
    assert any("ReadClips" in name for name in names) and any("Pool_teachers" in name for name in names)
