"""Packing as a job on Ray: a task or the whole job may be killed, and the data set comes out the same."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd.dataset import open_dataset
from tests.processes import descendants, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
ARGUMENTS = ["--source.train", "160", "--source.val", "4", "--source.test", "4", "--pack.clips_per_shard", "4"]


def start(home: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "rayjobs/pack.py", "--run.home", str(home), *ARGUMENTS, *more]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def packing(pid: int) -> int:
    """A process of the job that packs a shard just now; 0 where there is none."""
    return next((one for one, name in descendants(pid).items() if name.startswith("ray::") and "(work)" in name), 0)


def test_a_killed_task_and_a_killed_job_lose_nothing_and_double_nothing(tmp_path):
    straight = start(tmp_path / "straight", "--run.local")
    assert straight.wait(120) == 0
    home = tmp_path / "killed"
    done = home / "data" / "tabletop" / ".pack"

    def shards():
        return len(list(done.glob("*.parquet.json")))

    job = start(home)
    try:
        wait_for(lambda: shards() >= 2, 120)
        os.kill(wait_for(lambda: packing(job.pid), 30), signal.SIGKILL)
        before = shards()
        wait_for(lambda: shards() >= before + 2, 120)  # its shard is packed by another process
        job.kill()
        job.wait(30)
    finally:
        job.kill()
    there = shards()
    assert 4 <= there < 42 and not (home / "data" / "tabletop" / "dataset.json").exists()
    again = start(home)
    _, err = again.communicate(timeout=180)
    assert again.returncode == 0, err
    found = int(re.search(r"(\d+) of them there", err).group(1))
    assert there <= found < 42, err  # a worker of the killed job may have finished one more meanwhile
    assert open_dataset(home / "data" / "tabletop").splits == open_dataset(tmp_path / "straight/data/tabletop").splits
