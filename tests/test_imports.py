"""What is imported where: the processes that only read, and the help, should not wait for what they do not need."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module, heavy",
    [
        ("mmkd.cli", {"torch", "ray", "timm", "matplotlib", "pandas"}),
        ("mmkd.pipeline", {"torch", "timm", "matplotlib"}),
        ("mmkd.units", {"torch", "timm", "matplotlib"}),
        ("mmkd.jobs", {"ray", "timm", "matplotlib"}),
    ],
)
def test_modules_do_not_pull_in_what_their_processes_do_not_need(module, heavy):
    said = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout
    assert not heavy & set(said.split())
