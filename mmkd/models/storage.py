"""Model folders: model.safetensors and model.json, never a pickle.

Anybody may have made one. So model.json is checked before anything is built of it, and code that it names is not
imported unless it is trusted (:mod:`mmkd.trust`): also by the caller, or because this process kept such a network.
"""

import hashlib
import inspect
import json
import math
import os
from collections.abc import Collection, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from mmkd.models.create import ModelSpec, Recogniser, create_model
from mmkd.models.huggingface import without_code
from mmkd.trust import is_own, refuse_untrusted

FORMAT = 1
FIELDS = {"arch": str, "modality": str, "heads": dict, "options": dict, "input": dict, "mean": list, "std": list}
FIELDS |= {"training": dict, "weights_hash": str}
"""What model.json must have, and of which kind."""
LATER: dict[str, Any] = {"multi_label": [], "temperatures": {}}
"""What it may have, and what that is where it has not."""
MAX_BYTES = 1 << 26
"""Of model.json."""
MAX_NUMBER, MAX_LAYERS, MAX_INPUT = 1 << 20, 1000, 1 << 31
"""Of any size that it says of a network, of numbers of layers, and of the numbers in one input of it."""
_kept: set[str] = set()
"""Networks of users' own that this process has kept: it was told to make them."""


def save_model(model: Recogniser, folder: str | os.PathLike[str], training: dict[str, Any] | None = None) -> str:
    """Write `model` to `folder` and return the hash of its weights.

    Args:
        model: made by :func:`mmkd.models.create_model`.
        training: facts about how it was trained, kept in model.json beside those already in the model's spec.
    """
    _kept.add(model.spec.arch)
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


def load_model(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu", trust: Collection[str] = ()
) -> Recogniser:
    """Read a model folder; the model is in evaluation mode, its `spec` says what it takes and how it was trained.

    Args:
        trust: networks of one's own (`module:function`, or `module` for all of it) that model.json may name.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: it was written by a newer mmkd, its weights do not fit, their hash is another one, or it names code
            that is not trusted.
    """
    description = describe_model(folder, trust)
    fields = ("arch", "modality", "heads", "options", "input", "mean", "std", "training", *LATER)
    weights = _read_weights(folder, description)
    if not is_own(description["arch"]):
        _check_fits(folder, description, weights)
    model = _create(description)
    model.use_spec(ModelSpec(**{key: description[key] for key in fields}))
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
    description = describe_model(folder, [model.spec.arch])
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
            try:
                for name, parameter in classifier.named_parameters():
                    parameter[to] = weights[f"heads.{head}.{name}"][source].to(parameter)
            except (KeyError, IndexError, RuntimeError) as error:
                raise ValueError(f"{folder} has no weights for the classes that it names in {head}: {error}") from error
    return anew


def _read_weights(folder: str | os.PathLike[str], description: dict[str, Any]) -> dict[str, torch.Tensor]:
    path = Path(folder) / "model.safetensors"
    if (found := weights_hash(path)) != description["weights_hash"]:
        raise ValueError(
            f"{path} has the hash {found}, and model.json names {description['weights_hash']}: it was changed or "
            "damaged after it was saved. Copy the folder again from where it was made."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or a damaged one: {error}") from error


def find_model(name: str | os.PathLike[str], folders: Sequence[Path]) -> Path:
    """A model folder by its path, or by its name in one of some folders; a run folder stands for its best model.

    Raises:
        FileNotFoundError: there is none; what was looked at is named.
    """
    places = [folder / Path(name).expanduser() for folder in folders]
    places = list(dict.fromkeys([*places, *(each / "best" for each in places)]))
    for each in places:
        if (each / "model.json").is_file():
            return each
    looked = ", ".join(map(str, places))
    raise FileNotFoundError(f"{os.fspath(name)} is no model folder; looked for model.json in {looked}.")


def describe_model(folder: str | os.PathLike[str], trust: Collection[str] = ()) -> dict[str, Any]:
    """The content of model.json, checked to be of a format that this version reads, and to name no code that is not
    trusted; see :func:`load_model`.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: model.json cannot be used.
    """
    path = Path(folder) / "model.json"
    if not path.is_file() or not (Path(folder) / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it needs model.json and model.safetensors.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        description = json.loads(path.read_text())
        if description.get("format", 0) > FORMAT:
            raise ValueError(f"it has format {description['format']}; this mmkd reads up to {FORMAT}: update mmkd")
        _check(description)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be used: {error}.") from error
    refuse_untrusted(description["arch"], path, {*trust, *_kept})
    if description["arch"].startswith("hf/"):
        description["options"]["config"] = without_code(description["options"]["config"])
    return {**deepcopy(LATER), **description}


def weights_hash(path: str | os.PathLike[str]) -> str:
    """First 16 hex digits of the SHA-256 of a file of weights."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _check(description: dict[str, Any]) -> None:
    """Raises ValueError or TypeError."""
    for name, kind in FIELDS.items():
        if not isinstance(description.get(name), kind):
            raise ValueError(f"{name} is missing or no {kind.__name__}")
    for head, names in description["heads"].items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"the classes of {head} are no list of names")
    temperatures = description.get("temperatures", {})
    if not isinstance(temperatures, dict) or not set(temperatures) <= set(description["heads"]):
        raise ValueError("temperatures are no table of its heads")
    for head, value in temperatures.items():
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"the temperature of {head} is {str(value)[:20]}, no number above 0")
    options, seen = description["options"], description["input"]
    if reserved := set(options) & set(inspect.signature(create_model).parameters):
        raise ValueError(f"{', '.join(sorted(reserved))} is no option of a network")
    if description["arch"].startswith("hf/") and not isinstance(options.get("config"), dict):
        raise ValueError("the network's config is missing")
    for part in (options, seen, {"mean": description["mean"], "std": description["std"]}):
        _check_numbers(part, "")
    for sizes in (("frames", "size", "size"), ("frames", "audio_seconds", "sample_rate"), ("frames", "boxes")):
        numbers = [seen.get(name, 1) for name in sizes]
        if not all(isinstance(number, int | float) for number in numbers) or not math.prod(numbers) <= MAX_INPUT:
            raise ValueError(f"its input has {', '.join(dict.fromkeys(sizes))} {numbers}")


def _check_numbers(value: Any, name: str) -> None:
    """Raises ValueError where a number, or how many there are in a list, is absurd."""
    if isinstance(value, dict):
        for key, each in value.items():
            _check_numbers(each, key)
    elif isinstance(value, list):
        _check_numbers(len(value), name)
        for each in value:
            _check_numbers(each, name)
    elif isinstance(value, int):
        most = MAX_LAYERS if "depth" in name or "layers" in name else MAX_NUMBER
        if abs(value) > most:
            raise ValueError(f"{name} is {str(value)[:20]}, more than {most}")


def _create(description: dict[str, Any]) -> Recogniser:
    return create_model(
        description["arch"],
        description["heads"],
        description["modality"],
        multi_label=description["multi_label"],
        **_tuples(description["options"]),
    )


def _check_fits(folder: str | os.PathLike[str], description: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Refuse a network of other shapes than its weights before memory is taken for it: it may be of any size.

    Raises:
        ValueError: it is, or it cannot be built.
    """
    arch = description["arch"]
    try:
        with torch.device("meta"), _NothingDrawn():
            shapes = _create(description)
    except ValueError:
        raise
    except Exception as error:  # whatever a library makes of the options of an unknown file
        if "meta" in str(error).lower():
            return  # it cannot be built without memory
        raise ValueError(f"{folder} cannot be built as {arch}: {error!r}") from error
    try:
        shapes.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{folder} does not fit {arch}: {error}") from error


class _NothingDrawn(TorchFunctionMode):
    """Leaves normal numbers undrawn: for tensors without memory torch has that in Python alone, and imports its
    compiler first, which takes a second or two."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in (torch.Tensor.normal_, torch.nn.init.normal_):
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    """JSON makes lists of tuples; the architectures take either, but a spec should compare equal."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
