"""Settings refuse what cannot be and name the field; what a run saves can be used again."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mmkd.cli import load_settings
from mmkd.config import Settings, SettingsError


def load(*arguments: str) -> Settings:
    return load_settings(list(arguments), job="distill", about="", optim={"epochs": 3})


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        load(*arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    return captured.err + captured.out


def test_flags_override_files_and_files_override_the_jobs_defaults(tmp_path):
    assert load().optim.epochs == 3
    file = tmp_path / "a.yaml"
    file.write_text("optim: {epochs: 5, lr: 0.1}\nrun: {local: true}\n")
    settings = load("--config", str(file), "--optim.lr", "0.2", "--run.local", "false", "--run.name", "true")
    assert settings.run.name == "true" and load("--run.local").run.local and load("--run.local", "True").run.local
    assert (settings.optim.epochs, settings.optim.lr, settings.run.local) == (5, 0.2, False)


def test_saved_settings_can_be_used_again(tmp_path):
    settings = load("--loss.temperature", "3.5", "--teachers.folders", "a", "b")
    settings.save(tmp_path / "config.yaml")
    assert load(f"--config={tmp_path / 'config.yaml'}") == settings
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["loss"]["temperature"] == 3.5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--loss.temprature", "1"), "--loss.temperature"),
        (("--optim.epochs", "many"), "--optim.epochs"),
        (("--loss.temperature", "0"), "temperature"),
        (("--views.scale", "1.5", "1.2"), "views.scale"),
        (("--loss.distill_weight", "0"), "nothing to learn"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
        (("--resources.inline", "--resources.readers", "2"), "resources.readers"),
        (("--resources.ahead", "1"), "resources.ahead goes with resources.inline"),
        (("--resources.inline", "--teachers.pools", '{"all": {"teachers": ["rgb"]}}'), "teachers.pools"),
    ],
)
def test_what_cannot_be_is_refused_and_named(capsys, arguments, expected):
    assert expected in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("loss: {temprature: 1}", "loss.temprature is not a setting"),
        ("optim: {epochs: many}", "optim.epochs"),
        ("loss: {temperature: -1}", "loss.temperature"),
        ("- a list", "sections"),
    ],
)
def test_a_file_is_refused_like_flags(capsys, tmp_path, content, expected):
    (tmp_path / "bad.yaml").write_text(content)
    message = refused(capsys, "--config", str(tmp_path / "bad.yaml"))
    assert expected in message or expected.removesuffix("s") in message


def test_tables_are_given_as_json_and_replace_those_of_a_file(capsys, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("student: {arch: timm/resnet50, options: {dropout: 0.5}}\nresources: {custom: {other: 2}}\n")
    flags = ("--config", str(file), "--student.options", '{"pooling": "shift"}', "--resources.custom", '{"student": 1}')
    settings = load(*flags, "--loss.head_weights", '{"verb": 0.5}')
    assert settings.student.options == {"pooling": "shift"} and settings.student.arch == "timm/resnet50"
    assert settings.resources.custom == {"student": 1.0} and settings.loss.head_weights == {"verb": 0.5}
    assert load("--resources.custom", "student", "1").resources.custom == {"student": 1.0}
    assert "--student.options {pooling: shift} is no JSON" in refused(capsys, "--student.options", "{pooling: shift}")
    assert "resources.custom" in refused(capsys, "--resources.custom", '{"student": "many"}')


def commands():
    """Each command of a job in README.md and docs/: the page, the script and its arguments."""
    root = Path(__file__).parents[1]
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = re.sub(r" *\\\n *", " ", page.read_text())
        for name, arguments in re.findall(r"^ {4}.*?python (?:rayjobs|tuning)/(\w+)\.py(.*)$", text, re.M):
            yield pytest.param(name, shlex.split(arguments, comments=True), id=f"{page.name} {name}{arguments[:60]}")


@pytest.mark.parametrize(("name", "arguments"), list(commands()))
def test_the_commands_of_the_pages_are_understood(name, arguments, tmp_path, monkeypatch):
    while "--config" in arguments:  # files of runs that are not here
        at = arguments.index("--config")
        del arguments[at : at + 2]
    job = {"demo": "distill", "sweep": "sweep"}.get(name, name)
    assert load_settings(arguments, job=job, about="")


def test_help_names_every_field_with_its_meaning(capsys):
    with pytest.raises(SystemExit) as stop:
        load("--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert stop.value.code == 0
    for section, field in Settings.model_fields.items():
        for name, inner in field.annotation.model_fields.items():
            if (section, name) not in {("student", "options"), ("teacher", "options"), ("teachers", "pools")}:
                assert f"--{section}.{name}" in text
            assert inner.annotation is not None
    assert "Softens teachers' and student's distributions" in text


def test_a_relative_home_is_refused():
    with pytest.raises(SettingsError, match=r"run\.home"):
        _ = Settings.model_validate({"run": {"home": "here"}}).home
