"""`ray job submit` to a head node with token authentication, as a user would type it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from tests.small import small_settings

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
DASHBOARD = "http://127.0.0.1:8299"


@pytest.fixture
def head(home, tmp_path):
    """A head node of its own, with its own token; yields the environment of a client that has it."""
    binaries = str(Path(sys.executable).parent)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "HOME": str(tmp_path),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "MMKD_HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    ray = str(Path(binaries) / "ray")
    subprocess.run([ray, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    # Short, as sockets lie in it; its own, so that no later job takes this cluster for one that still runs.
    folder = tempfile.mkdtemp(prefix="mmkd-ray-")
    arguments = [
        "--head",
        f"--temp-dir={folder}",
        "--block",
        "--port=6399",
        "--dashboard-port=8299",
        "--num-cpus=3",
        "--disable-usage-stats",
    ]
    node = subprocess.Popen(
        [ray, "start", *arguments, "--object-store-memory=300000000"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while not _answers() and time.monotonic() < deadline:
            time.sleep(0.5)
        yield environment
    finally:
        # Its children are of its group; it would wait half a minute for them.
        os.killpg(node.pid, signal.SIGTERM)
        try:
            node.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _answers() -> bool:
    try:
        urllib.request.urlopen(f"{DASHBOARD}/api/version", timeout=2)
    except urllib.error.HTTPError:
        return True  # it is up, and wants a token
    except OSError:
        return False
    return True


def submit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", DASHBOARD, "--working-dir", "."]
    return subprocess.run(
        [*command, "--", "python", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )


def test_a_submitted_job_streams_its_log_and_leaves_its_run_under_mmkd_home(head, home):
    small_settings(home, run={"local": False, "name": "submitted"}).save(home / "submitted.yaml")
    done = submit(head, "rayjobs/distill.py", "--config", str(home / "submitted.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    ours = [line for line in done.stdout.splitlines() if line.startswith(("distill:", "run ", "{", "Ray dashboard"))]
    result = json.loads(ours[-1])
    assert result["run_folder"] == str(home / "runs" / "submitted")
    assert (home / "runs" / "submitted" / "best" / "model.safetensors").is_file()
    assert any(line.startswith("distill: epoch 2/2") for line in ours)


def test_without_the_token_nothing_is_run(head, home):
    stranger = {key: value for key, value in head.items() if key != "RAY_AUTH_MODE"} | {"HOME": "/nonexistent"}
    done = submit(stranger, "rayjobs/distill.py", "--help")
    assert done.returncode != 0
    assert "401" in done.stdout + done.stderr or "token" in (done.stdout + done.stderr).lower()
