"""What is imported where: the processes that only read, and the help, should not wait for what they do not need."""

import subprocess
import sys

import pytest

from mmkd.teachers import SHIPPED

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "module, heavy",
    [
        ("mmkd.cli", {"torch", "ray", "timm", "matplotlib", "pandas"}),
        ("mmkd.pipeline", {"torch", "timm", "matplotlib"}),
        ("mmkd.units", {"torch", "timm", "matplotlib"}),
        ("mmkd.ray_data", {"torch", "timm", "matplotlib"}),
        ("mmkd.jobs", {"ray", "timm", "matplotlib"}),
    ],
)
def test_modules_do_not_pull_in_what_their_processes_do_not_need(module, heavy):
    said = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout
    assert not heavy & set(said.split())


def test_teachers_are_loaded_without_the_compiler_and_libraries_that_they_do_not_use():
    teachers = [str(folder) for folder in SHIPPED.iterdir() if folder.is_dir()]
    code = f"import sys; from mmkd.models import load_model; [load_model(f) for f in {teachers}]; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len(teachers) >= 4 and not {"torch._dynamo", "timm", "torchvision", "ray"} & set(said.split())
