"""The command line of every job: its defaults, then `--config FILE.yaml`, then `--section.field VALUE`."""

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import ValidationError

from mmkd.config import JobError, Settings, SettingsError, StoppedError
from mmkd.config.changes import explain
from mmkd.config.yaml_text import load_yaml
from mmkd.extras import TRAIN, require_extra
from mmkd.trust import trust

require_extra("train", *TRAIN)  # before a job imports them

SHORT = {
    "--dry-run": "--run.dry_run",
    "--dry_run": "--run.dry_run",
    "--wait-for-resources": "--resources.wait_for_resources",
    "--profile": "--run.profile",
    "--check": "--pack.check",
    "--space": "--sweep.space",
    "--model": "--evaluate.models",
    "--views": "--evaluate.views",
    "--logits": "--evaluate.logits",
    "--data": "--data.folder",
    "--quick": "--study.quick",
}
"""Flags without a section."""
OF_JOB = {
    "predict": {"--model": "--predict.model", "--views": "--predict.views", "--videos": "--predict.videos"},
}
"""Those that mean something else to a job."""
FILES = """

Settings can also come from files: --config FILE.yaml, once or more; a later file counts over an earlier one,
and flags over files (configs/ has recipes). Tables are given as JSON, as --student.options '{"pooling": "shift"}'.
--dry-run prints what would be done and reserved, and stops."""


def main(
    job: str,
    about: str,
    run: Callable[[Settings], dict[str, Any]],
    program: str = "",
    **defaults: dict[str, Any],
) -> None:
    """Run a job from the command line; the last line of standard output is its result as one JSON object."""
    settings = load_settings(None, job=job, about=about, program=program, **defaults)
    trust([settings.student.arch, settings.teacher.arch])
    try:
        result = run(settings)
    except StoppedError as error:
        print(f"{job}: {error}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None
    except (ValueError, OSError, JobError) as error:  # with a message that says what to do
        print(f"{job}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(json.dumps(result), flush=True)


def load_settings(
    argv: Sequence[str] | None, *, job: str, about: str, program: str = "", **defaults: dict[str, Any]
) -> Settings:
    """Settings of a job from its command line; prints help or an error and exits as command lines do.

    Args:
        argv: arguments after the program's name; None: those of this process.
        job: the job's name, for the help.
        about: what the job does, shown by --help.
        program: what a user types to start it; empty: python rayjobs/JOB.py.
        defaults: section name to the fields in which this job's defaults differ.
    """
    import tyro

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        tree = _merge(defaults, _read_yaml(*_take_config(arguments)))
        for (section, name), table in _take_tables(arguments).items():
            tree = tree | {section: {**tree.get(section, {}), name: table}}
        base = Settings.model_validate(tree)
        settings = tyro.cli(
            Settings,
            args=_flags(arguments, SHORT | OF_JOB.get(job, {})),
            default=base,
            prog=program or f"python rayjobs/{job}.py",
            description=about + FILES,
            use_underscores=True,
        )
        return Settings.model_validate(settings.model_dump())
    except ValidationError as error:
        print(f"{job}: " + explain(error), file=sys.stderr)
    except (SettingsError, OSError, yaml.YAMLError) as error:
        print(f"{job}: {error}", file=sys.stderr)
    raise SystemExit(2)


def _take_config(arguments: list[str]) -> list[str]:
    """Remove `--config FILE` from the arguments and return the files named."""
    files: list[str] = []
    while True:
        at = next((i for i, a in enumerate(arguments) if a == "--config" or a.startswith("--config=")), None)
        if at is None:
            return files
        flag = arguments.pop(at)
        if "=" in flag:
            files.append(flag.split("=", 1)[1])
        elif at < len(arguments):
            files.append(arguments.pop(at))
        else:
            raise SettingsError("--config needs the path of a YAML file.")


def _take_tables(arguments: list[str]) -> dict[tuple[str, str], Any]:
    """Remove `--section.field {"key": value}`, of fields that are tables, from the arguments; section and field to what
    was given. What does not begin with a brace is left to tyro, which takes `key value` pairs of some."""
    found: dict[tuple[str, str], Any] = {}
    for section, field in Settings.model_fields.items():
        for name, inner in getattr(field.annotation, "model_fields", {}).items():
            flag = f"--{section}.{name}"
            at = arguments.index(flag) if flag in arguments[:-1] else -1
            if at < 0 or get_origin(inner.annotation) is not dict or not arguments[at + 1].lstrip().startswith("{"):
                continue
            _, text = arguments.pop(at), arguments.pop(at)
            try:
                found[section, name] = json.loads(text)
            except json.JSONDecodeError as error:
                raise SettingsError(f"{flag} {text} is no JSON ({error}); write '{{\"key\": value}}'.") from None
    return found


def _flags(arguments: list[str], short: Mapping[str, str] = SHORT) -> list[str]:
    """`--run.local true` and `--run.local false` as the flags `--run.local` and `--run.no_local`, and
    `--resources auto` as `--resources.auto`."""
    switches = {
        f"--{section}.{name}"
        for section, field in Settings.model_fields.items()
        for name, inner in getattr(field.annotation, "model_fields", {}).items()
        if inner.annotation is bool
    }
    flags: list[str] = []
    for argument in (short.get(each, each) for each in arguments):
        if argument == "auto" and flags and flags[-1] == "--resources":
            flags[-1] = "--resources.auto"
        elif argument.lower() not in ("true", "false") or not flags or flags[-1] not in switches:
            flags.append(argument)
        elif argument.lower() == "false":
            section, _, field = flags[-1].rpartition(".")
            flags[-1] = f"{section}.no_{field}"
    return flags


def _read_yaml(*files: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for file in files:
        if not Path(file).is_file():
            raise SettingsError(f"--config {file}: there is no such file.")
        content = load_yaml(Path(file).read_text()) or {}
        if not isinstance(content, dict):
            raise SettingsError(f"--config {file}: it must map section names to fields.")
        tree = _merge(tree, content)
    return tree


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
