"""The commands of docs/data.md do what it says, on small data sets laid out as it says."""

import re
import shlex
from pathlib import Path

import pytest

from mmkd.check import check_dataset
from mmkd.cli import load_settings
from mmkd.config import Settings
from mmkd.dataset import open_dataset
from mmkd.jobs import pack_data, train_teacher
from tests import samples

DOCS = Path(__file__).parents[1] / "docs" / "data.md"


def commands() -> list[list[str]]:
    """Arguments of each `python rayjobs/pack.py` command of the page."""
    text = re.sub(r" *\\\n *", " ", DOCS.read_text())
    return [shlex.split(line)[2:] for line in re.findall(r"^ {4}(python rayjobs/pack\.py .*)$", text, re.MULTILINE)]


def about(arguments: list[str]) -> str:
    """A name for a command: where it packs to."""
    return arguments[arguments.index("--data.folder") + 1] if "--data.folder" in arguments else "check"


PACKING = {
    f"{about(each)} {number}": each
    for number, each in enumerate(commands())
    if "--data.folder" in each and "tabletop" not in each
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    samples.folder_samples(root)
    samples.ssv2_samples(root)
    samples.epic_samples(root)
    samples.epic_55_samples(root)
    samples.authors_samples(root)
    return root


def test_the_page_has_a_command_for_every_source_and_for_checking():
    kinds = {each[each.index("--source.kind") + 1] for each in commands() if "--source.kind" in each}
    assert kinds == {"folder", "epic", "ssv2", "reference", "tabletop"}
    assert any(each[0] == "--check" for each in commands())
    for each in commands():
        assert load_settings(each, job="pack", about="")


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKING)
def test_the_command_packs_a_data_set_that_passes_its_check_and_teaches(name, data, tmp_path):
    arguments = [each.replace("/data/", f"{data}/") for each in PACKING[name]]
    home = ["--run.home", str(tmp_path), "--run.local", "true"]
    settings = load_settings([*arguments, *home], job="pack", about="")
    result = pack_data(settings)
    assert result["rejects"] == 0 and result["clips"] >= sum(samples.CLIPS.values())
    checked = check_dataset(settings.data_folder(), lambda said: None)
    dataset = open_dataset(settings.data_folder())
    assert checked["clips"] == result["clips"] and set(dataset.splits) >= {"train", "val"}
    for modality in dataset.modalities:
        teacher = {"modality": modality}
        if modality in ("rgb", "flow"):
            teacher |= {"arch": "r2plus1d_tiny", "options": {"channels": [4, 8]}}
        sections = {
            "run": {"home": str(tmp_path), "local": True, "name": modality},
            "data": {"folder": settings.data.folder},
            "views": {"size": 32, "frames": 4},
            "teacher": teacher,
            "loss": {"distill_weight": 0, "label_weight": 1},
            "optim": {"epochs": 1, "batch_size": 4},
        }
        trained = train_teacher(Settings.model_validate(sections))
        assert trained["epochs"] == 1 and trained["broken_clips"] == 0


@pytest.mark.parametrize("page", ["README.md", "docs/evaluation.md", "docs/study.md"])
def test_commands_of_evaluations_and_studies_are_understood(page):
    text = re.sub(r" *\\\n *", " ", (DOCS.parents[1] / page).read_text())
    found = re.findall(r"^ {4}python rayjobs/(evaluate|study)\.py(.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert found
    for job, arguments in found:
        assert load_settings(shlex.split(arguments), job=job, about="")
