"""Models of the authors' code: `python -m mmkd.reference EXPERIMENT OUT` makes a model folder of an experiment.

An experiment is what github.com/gorjanradevski/multimodal-distillation leaves: config.yaml and model_checkpoint.pt.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from mmkd.models import Recogniser, create_model, save_model
from mmkd.models.weights import TABLES, read_weights, strip

MODALITIES = {"video": "rgb", "flow": "flow", "audio": "audio", "layout": "boxes"}
MAX_BOXES = 14
MAX_BYTES, MAX_NUMBER = 1 << 20, 100_000
"""Of an experiment's config.yaml, which anybody may have written, and of any number in it."""
TEXTS = ("MODEL_NAME", "DATASET_TYPE")
NUMBERS = (
    *("NUM_FRAMES", "STRIDE", "FRAME_UNIFORM", "RESNET3D_DEPTH"),
    *("AUDIO_RESAMPLE_RATE", "AUDIO_SAMPLE_RATE", "AUDIO_SEGMENT_LENGTH"),
)
"""What is read of it, besides the numbers of classes."""

Rule = tuple[str, str]
_HEADS: list[Rule] = [(r"classifiers\.(.+)", r"heads.\1")]


def _swin_stage(match: re.Match[str]) -> str:
    return f"backbone.features.{2 * int(match[1])}.{match[2]}.{match[3]}"


def _swin_merge(match: re.Match[str]) -> str:
    return f"backbone.features.{2 * int(match[1]) + 1}.{match[2]}"


_BLOCK = r"((?:conv|bn|downsample).+)"
_TEMPORAL = r"temporal_transformer\."
_BOX = _TEMPORAL + r"layout_embedding\.category_box_embeddings\."
RULES: dict[str, list[tuple[str, Any]]] = {
    "torchvision/swin3d": [
        (r"(?:backbone\.)?layers\.(\d+)\.blocks\.(\d+)\.(.+)", _swin_stage),
        (r"(?:backbone\.)?layers\.(\d+)\.downsample\.(.+)", _swin_merge),
        (r"(?:backbone\.)?((?:patch_embed|norm|features)\..+)", r"backbone.\1"),
    ],
    "resnet3d": [
        (r"resnet\.0\.(.+)", r"backbone.stem.0.\1"),
        (r"resnet\.1\.(.+)", r"backbone.stem.1.\1"),
        (r"resnet\.(\d+)\.(\d+)\." + _BLOCK, lambda m: f"backbone.layers.{int(m[1]) - 4}.{m[2]}.{m[3]}"),
        (r"conv1\.(.+)", r"backbone.stem.0.\1"),
        (r"bn1\.(.+)", r"backbone.stem.1.\1"),
        (r"layer(\d)\.(\d+)\." + _BLOCK, lambda m: f"backbone.layers.{int(m[1]) - 1}.{m[2]}.{m[3]}"),
        (r"(?:backbone\.)?((?:projector|stem|layers)\..+)", r"backbone.\1"),
    ],
    "stlt": [
        *(
            (_BOX + f"{theirs}(.*)", rf"backbone.embedding.{ours}\1")
            for theirs, ours in (
                ("category_embeddings", "category"),
                ("box_embedding", "box"),
                ("score_embedding", "score"),
                ("side_embedding", "side"),
                ("state_embedding", "state"),
                ("layer_norm", "norm"),
            )
        ),
        (_TEMPORAL + r"layout_embedding\.cls_token", "backbone.space_token"),
        (_TEMPORAL + r"layout_embedding\.transformer\.(.+)", r"backbone.space.\1"),
        (_TEMPORAL + r"position_embeddings\.(.+)", r"backbone.position.\1"),
        (_TEMPORAL + r"layer_norm\.(.+)", r"backbone.norm.\1"),
        (_TEMPORAL + r"cls_token", "backbone.time_token"),
        (_TEMPORAL + r"transformer\.(.+)", r"backbone.time.\1"),
        (r"(backbone\..+)", r"\1"),
    ],
}
"""Patterns of the authors' names, by the beginning of the arch, and what they are here."""

DROPPED = r"(cls_head|head|fc|avgpool)\..*"
"""Classifiers for the data that a backbone was trained on before."""


def convert_state_dict(arch: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' weights under this project's names: what `create_model(arch, ...)` loads.

    For `torchvision/swin3d_t|s|b` (also Video Swin's own checkpoints, and bare backbones), `resnet3d_*` (also those of
    Hara et al.) and `stlt`. Names may begin with `module.` or `_orig_mod.`; those of this project stay as they are.

    Raises:
        ValueError: the authors have no such arch, or a name is none of theirs; all such names are listed.
    """
    rules = next((rules for start, rules in RULES.items() if arch.startswith(start)), None)
    if rules is None:
        raise ValueError(f"the authors' code has no {arch}; it has {', '.join(f'{start}*' for start in RULES)}.")
    converted, unknown = {}, []
    for name, value in strip(state_dict).items():
        if re.fullmatch(DROPPED, name):
            continue
        for pattern, replacement in [*rules, *_HEADS, (r"(heads\..+)", r"\1")]:
            if match := re.fullmatch(pattern, name):
                new = replacement(match) if callable(replacement) else match.expand(replacement)
                break
        else:
            unknown.append(name)
            continue
        if arch.startswith("torchvision/swin3d"):
            new = new.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
        converted[new] = value
    if unknown:
        raise ValueError(f"{len(unknown)} names are none of the authors' {arch}: {', '.join(unknown)}.")
    return converted


def describe_experiment(config: Mapping[str, Any]) -> tuple[str, str, dict[str, int], dict[str, Any], dict[str, Any]]:
    """What an experiment's config.yaml tells of its model.

    Returns:
        arch, modality, head to number of classes, options of the arch, and what the model sees of a clip.

    Raises:
        ValueError: a model or kind of input that mmkd does not know.
    """
    config = _plain(config)
    name, kind = config.get("MODEL_NAME"), str(config.get("DATASET_TYPE"))
    arch = {"swin": "torchvision/swin3d_t", "resnet3d": f"resnet3d_{config.get('RESNET3D_DEPTH')}", "stlt": "stlt"}.get(
        str(name)
    )
    # A student's input comes first: video_flow_audio is RGB taught by flow and sound.
    modality = "boxes" if name == "stlt" else MODALITIES.get(kind.split("_")[0])
    if arch is None or modality is None:
        raise ValueError(f"MODEL_NAME {name!r} with DATASET_TYPE {kind!r} is not a model that mmkd knows.")
    heads = {head.lower(): int(n) for head, n in config["TOTAL_ACTIONS"].items()}
    if not heads:
        raise ValueError("TOTAL_ACTIONS names no head.")
    frames = int(config.get("NUM_FRAMES") or 8)
    seen: dict[str, Any] = {"frames": frames}
    uniform = config.get("FRAME_UNIFORM") or name == "stlt"
    seen |= {"sampling": "uniform"} if uniform else {"sampling": "strided", "stride": int(config.get("STRIDE") or 8)}
    options: dict[str, Any] = {}
    if modality in ("rgb", "flow"):
        seen["size"] = 224
    elif modality == "boxes":
        options["num_frames"], seen["boxes"] = frames, MAX_BOXES
    else:
        rate = int(config.get("AUDIO_RESAMPLE_RATE") or config.get("AUDIO_SAMPLE_RATE") or 24000)
        seen |= {"sample_rate": rate, "audio_seconds": float(config.get("AUDIO_SEGMENT_LENGTH") or 1.116)}
        options["sample_rate"] = 16000  # their filterbank is for 16 kHz whatever the rate is
    return arch, modality, heads, options, seen


def _plain(config: Any) -> dict[str, Any]:
    """What is read of an experiment's settings, and nothing else: lists of a YAML file may contain themselves.

    Raises:
        ValueError: it is no table, or a number is none or absurd.
    """
    classes = config.get("TOTAL_ACTIONS") if isinstance(config, Mapping) else None
    if not isinstance(classes, Mapping):
        raise ValueError("TOTAL_ACTIONS of config.yaml is no table of head to number of classes.")
    heads = {str(head): number for head, number in classes.items() if number is not None}
    numbers = {name: config[name] for name in NUMBERS if config.get(name) is not None}
    for name, value in (heads | numbers).items():
        if not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
            raise ValueError(f"{name} of config.yaml is no number, or more than {MAX_NUMBER}.")
    texts = {name: config[name] for name in TEXTS if isinstance(config.get(name), str)}
    return texts | numbers | {"TOTAL_ACTIONS": heads}


def read_experiment(folder: Path, classes: Mapping[str, Sequence[str]] | None = None) -> Recogniser:
    """The model of an experiment folder.

    Args:
        classes: head to its class names, in the order of the training; None: they are numbered.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: an unknown model, other numbers of classes, or weights that do not fit; all names are listed.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no experiment of the authors' code: it has no config.yaml.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES} bytes.")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    arch, modality, heads, options, seen = describe_experiment(config)
    named: dict[str, Any] = dict(heads)
    for head, names in (classes or {}).items():
        if head not in heads or len(names) != heads[head]:
            raise ValueError(f"head {head!r} has {heads.get(head, 'no')} classes in {path}, and {len(names)} names.")
        named[head] = list(names)
    model = create_model(arch, named, modality, **options)
    weights = convert_state_dict(arch, read_weights(folder / "model_checkpoint.pt"))
    tables = {name: value for name, value in model.state_dict().items() if name.endswith(TABLES)}
    try:
        model.load_state_dict(tables | weights)
    except RuntimeError as error:
        raise ValueError(f"model_checkpoint.pt of {folder} does not fit {arch}: {error}") from error
    model.spec.input = seen
    return model.eval()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mmkd.reference", description=__doc__)
    parser.add_argument("experiment", type=Path, help="folder with config.yaml and model_checkpoint.pt")
    parser.add_argument("out", type=Path, help="model folder to write")
    parser.add_argument("--heads", type=Path, help='JSON file of class names, {"verb": ["take", ...]}')
    arguments = parser.parse_args(argv)
    try:
        if (arguments.out / "model.json").exists():
            raise ValueError(f"{arguments.out} holds a model already; choose another folder, or delete it.")
        classes = json.loads(arguments.heads.read_text()) if arguments.heads else None
        model = read_experiment(arguments.experiment, classes)
        made_by = {"kind": "reference", "experiment": str(arguments.experiment)}
        digest = save_model(model, arguments.out, made_by)
    except (ValueError, OSError) as error:
        print(f"mmkd.reference: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    spec = model.spec
    heads = ", ".join(f"{head} {len(names)}" for head, names in spec.heads.items())
    print(f"{spec.arch} for {spec.modality} ({heads} classes), sees {spec.input}", file=sys.stderr)
    print(json.dumps({"model": str(arguments.out), "arch": spec.arch, "weights_hash": digest}))


if __name__ == "__main__":
    main()
