"""Fixtures that more than one test file uses."""

import os
from pathlib import Path

# Small matrices: threads of OpenBLAS wait for each other longer than they work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several test processes, which have a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.small import write_dataset, write_teachers


@pytest.fixture(autouse=True)
def no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in the process of a test end without their report, whose pictures take twice as long as a small training;
    those of fixtures for more than one test, and of tests marked `report`, have one."""
    if not request.node.get_closest_marker("report"):
        monkeypatch.setattr("mmkd.run_report.write_run_report", lambda settings, run: None)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the small data set and teachers; tests give their runs names of their own."""
    root = tmp_path_factory.mktemp("home")
    write_dataset(root / "data" / "small")
    write_teachers(root)
    return root
