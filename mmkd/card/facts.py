"""What is on record about a model: in its folder, in the folder of its run, and in evaluations of the same weights."""

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmkd.config import Settings
from mmkd.config.yaml_text import load_yaml
from mmkd.cost import flops_per_view
from mmkd.models import describe_model, load_model
from mmkd.runs import read_epochs
from mmkd.teachers import SHIPPED

GEOMETRY = {
    "rgb": {"frames", "size"},
    "flow": {"frames", "size"},
    "audio": {"frames", "audio_seconds", "sample_rate"},
    "boxes": {"frames", "boxes"},
}
"""What must be known of a view, by modality, to count what it costs."""
OURS = "Apache-2.0, as mmkd itself"
UNKNOWN = "unknown; it is not on record"


@dataclass
class Evaluated:
    """What an evaluation says of these weights.

    Attributes:
        run: name of its folder.
        views: of its first grid, such as 3x3.
        scores: head to what :func:`mmkd.scoring.score` says.
        cost: as in mmkd.cost.record.Cost; empty: it was not measured.
    """

    run: str
    split: str
    views: str
    scores: dict[str, dict[str, Any]]
    cost: dict[str, Any] = field(default_factory=dict)


@dataclass
class Facts:
    """What is on record.

    Attributes:
        name: of the model for people.
        folder: where it is.
        description: model.json.
        parameters: number of its weights.
        gflops: 10^9 floating-point operations a view, see :func:`mmkd.cost.flops_per_view`; None: they cannot be
            counted, or the view is not known.
        config: the settings of its run; empty: there is no run beside it.
        epochs: that the run has done.
        result: of the run; empty: it is not finished.
        evaluations: of the same weights, by name.
        licences: (what, licence) of all that went into it.
    """

    name: str
    folder: str
    description: dict[str, Any]
    parameters: int
    gflops: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    evaluations: list[Evaluated] = field(default_factory=list)
    licences: list[tuple[str, str]] = field(default_factory=list)


def gather(folder: str | Path, trust: Collection[str] = ()) -> Facts:
    """All that is on record about a model folder.

    A folder named best belongs to the run around it. Evaluations are looked for beside that run, else in HOME/runs, and
    are those that name the hash of these weights.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: the model, or a record of it, cannot be read.
    """
    folder = Path(folder).absolute()
    described, model = describe_model(folder, trust), load_model(folder, trust=trust)
    run = folder.parent if folder.name == "best" and (folder.parent / "config.yaml").is_file() else None
    facts = Facts(folder.name if run is None else run.name, str(folder), described, model.num_parameters)
    if GEOMETRY[described["modality"]] <= set(described["input"]):
        with suppress(Exception):  # whatever a network of one's own does without data
            facts.gflops = flops_per_view(model, described["input"]) / 1e9
    try:
        if run is not None:
            facts.config = load_yaml((run / "config.yaml").read_text())
            facts.epochs = len(read_epochs(run))
            facts.result = _json(run / "result.json")
        runs = Settings().home / "runs" if run is None else run.parent
        found = [_evaluated(path.parent, described["weights_hash"]) for path in sorted(runs.glob("*/identity.json"))]
        facts.evaluations = [each for each in found if each is not None]
        facts.licences = _licences(described, facts.config)
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"a record of {folder} cannot be read: {error!r}.") from error
    return facts


def _evaluated(run: Path, weights_hash: str) -> Evaluated | None:
    """An evaluation's figures of these weights; None where it is of others, of something else, or not finished."""
    identity, scores = _json(run / "identity.json"), _json(run / "scores.json")
    if identity.get("kind") != "evaluation" or not scores:
        return None
    name = next((name for name, digest in identity["models"].items() if digest == weights_hash), None)
    if name is None:
        return None
    views, figures = next(iter(scores["models"][name]["views"].items()))
    costs = [row for row in scores["costs"] if row["name"] == name]
    return Evaluated(run.name, scores["split"], views, figures, *costs)


def _licences(described: dict[str, Any], config: dict[str, Any]) -> list[tuple[str, str]]:
    training = described["training"]
    data = training.get("data", {})
    rendered = data.get("made_by", {}).get("source") == "tabletop"
    rows = [(f"data set {data.get('name', '')}".strip(), OURS + ", which renders it" if rendered else UNKNOWN)]
    rows.append(("weights that it started from", _start(described, config)))
    shipped = {describe_model(each)["weights_hash"] for each in SHIPPED.iterdir()}
    for name, digest in training.get("teachers", {}).items():
        rows.append((f"teacher {name}", OURS + ", which ships it" if digest in shipped else UNKNOWN))
    return rows


def _start(described: dict[str, Any], config: dict[str, Any]) -> str:
    """Where the first weights came from, and their licence."""
    if not config:
        return UNKNOWN
    network = config["teacher" if described["training"].get("kind", "").startswith("teacher") else "student"]
    if network["init"]:
        return f"those of model {network['init']}, whose card may tell"
    if network["weights"] == "default":
        return f"those published for {described['arch']}: {_published(described['arch'])}"
    if network["weights"]:
        return f"those of the file {network['weights']}: {UNKNOWN}"
    if network["arch"].startswith("hf/"):
        return f"those of the folder {network['arch'].removeprefix('hf/')}: {UNKNOWN}"
    return "none: they were drawn at random"


def _published(arch: str) -> str:
    """The licence that a library names for its weights."""
    if arch.startswith("timm/"):
        import timm

        config = timm.get_pretrained_cfg(arch.removeprefix("timm/"))
        if config is not None and config.license:
            return f"{config.license}, says timm"
    return UNKNOWN


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
