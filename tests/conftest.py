"""Fixtures that more than one test file uses."""

import os
from pathlib import Path

# Small matrices: threads of OpenBLAS wait for each other longer than they work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from tests.small import write_dataset, write_teachers


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the small data set and teachers; tests give their runs names of their own."""
    root = tmp_path_factory.mktemp("home")
    write_dataset(root / "data" / "small")
    write_teachers(root)
    return root
