"""Model folders: model.safetensors and model.json, never a pickle."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mmkd.models.create import ModelSpec, Recogniser, create_model

FORMAT = 1


def save_model(model: Recogniser, folder: str | os.PathLike[str], training: dict[str, Any] | None = None) -> str:
    """Write `model` to `folder` and return the hash of its weights.

    Args:
        model: made by :func:`mmkd.models.create_model`.
        training: facts about how it was trained, kept in model.json beside those already in the model's spec.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    partial = target / "model.safetensors.partial"
    save_file(weights, partial)
    digest = weights_hash(partial)
    description = {"format": FORMAT, **model.spec.as_dict(), "weights_hash": digest}
    description["training"] = {**model.spec.training, **(training or {})}
    partial.replace(target / "model.safetensors")
    partial = target / "model.json.partial"
    partial.write_text(json.dumps(description, indent=2) + "\n")
    partial.replace(target / "model.json")
    return digest


def load_model(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> Recogniser:
    """Read a model folder; the model is in evaluation mode, its `spec` says what it takes and how it was trained.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: it was written by a newer mmkd, its weights do not fit, or their hash is another one.
    """
    description = describe_model(folder)
    fields = ("arch", "modality", "heads", "options", "input", "mean", "std", "training")
    multi_label = description.get("multi_label", [])
    model = create_model(
        description["arch"],
        description["heads"],
        description["modality"],
        multi_label=multi_label,
        **_tuples(description["options"]),
    )
    model.use_spec(ModelSpec(**{key: description[key] for key in fields}, multi_label=multi_label))
    weights = _read_weights(folder, description)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit {description['arch']}: {error}") from error
    return model.eval().to(device)


def start_from(model: Recogniser, folder: str | os.PathLike[str]) -> list[str]:
    """Give a model the weights of a model folder: the backbone's, and of each head those of the classes that both have,
    matched by name.

    Returns:
        the heads of which no class was found there, and which start anew.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: its backbone is another one; what differs is named.
    """
    description = describe_model(folder)
    weights = _read_weights(folder, description)
    backbone = {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}
    try:
        model.backbone.load_state_dict(backbone, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{folder} ({description['arch']}) does not fit {model.spec.arch}: {error}") from error
    anew = []
    with torch.no_grad():
        for head, classifier in model.heads.items():
            theirs = {name: number for number, name in enumerate(description["heads"].get(head, []))}
            rows = [(row, theirs[name]) for row, name in enumerate(model.spec.heads[head]) if name in theirs]
            if not rows:
                anew.append(head)
                continue
            to, source = (torch.tensor(numbers) for numbers in zip(*rows, strict=True))
            for name, parameter in classifier.named_parameters():
                parameter[to] = weights[f"heads.{head}.{name}"][source].to(parameter)
    return anew


def _read_weights(folder: str | os.PathLike[str], description: dict[str, Any]) -> dict[str, torch.Tensor]:
    path = Path(folder) / "model.safetensors"
    if weights_hash(path) != description["weights_hash"]:
        raise ValueError(f"{path} does not have the hash that model.json names; it was changed after it was saved.")
    return load_file(path)


def describe_model(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of model.json, checked to be of a format that this version reads."""
    path = Path(folder) / "model.json"
    if not path.is_file() or not (Path(folder) / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it needs model.json and model.safetensors.")
    description = json.loads(path.read_text())
    if description.get("format", 0) > FORMAT:
        raise ValueError(f"{path} has format {description['format']}; this mmkd reads up to {FORMAT}: update mmkd.")
    return description


def weights_hash(path: str | os.PathLike[str]) -> str:
    """First 16 hex digits of the SHA-256 of a file of weights."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    """JSON makes lists of tuples; the architectures take either, but a spec should compare equal."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
