"""A model folder to one file that needs no mmkd: raw frames in, logits by head out, any number of clips at a time."""

import copy
import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from mmkd import __version__
from mmkd.cost import example_input
from mmkd.export.clips import Frames, random_clips
from mmkd.export.comparison import TOLERANCE, compare
from mmkd.export.onnx_file import quantise, write_onnx
from mmkd.export.opened import ABOUT, open_export
from mmkd.export.quiet import quiet
from mmkd.models import Recogniser, describe_model, load_model

SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript", "torch-export": ".pt2"}
"""The targets, and how their files end."""
PRECISIONS = ("fp32", "fp16", "int8")


def export_model(
    folder: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    precision: str = "fp32",
    calibration: Iterable[Frames] | None = None,
    force: bool = False,
    trust: Collection[str] = (),
) -> Path:
    """Write a model folder as one file, and return its path.

    The file takes uint8 [batch, frames, height, width, channels] as the model does, of any batch, normalises inside,
    and gives raw float32 logits [batch, classes] by head. What :func:`about` says goes with it.

    Args:
        to: onnx, torchscript or torch-export.
        out: the file; None: model.onnx and the like, in the model folder.
        precision: fp32; fp16, in which the backbone computes; or, of onnx alone, int8.
        calibration: clips by which int8 chooses the range of each activation once and for all (static); None: each
            batch has ranges of its own (dynamic).
        force: write over a file that is there.
        trust: see :func:`mmkd.models.load_model`.

    Raises:
        FileNotFoundError: the folder holds no model.
        FileExistsError: the file is there already.
        ValueError: an unknown target or precision, a network that sees neither rgb nor flow, or
            an architecture that the target cannot hold; the last says which targets can.
    """
    if to not in SUFFIXES:
        raise ValueError(f"there is no target {to!r}; it must be one of {', '.join(SUFFIXES)}.")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
    if precision == "int8" and to != "onnx":
        raise ValueError(f"int8 is for onnx, not for {to}: export to onnx, or in fp16.")
    if calibration is not None and precision != "int8":
        raise ValueError(f"calibration is for int8, not for {precision}.")
    folder = Path(folder)
    described = describe_model(folder, trust)
    if described["modality"] not in ("rgb", "flow"):
        raise ValueError(
            f"{folder} sees {described['modality']}; what is exported sees frames (rgb or flow). Students do; for this "
            "teacher use mmkd.load_model."
        )
    if lacking := {"frames", "size"} - set(described["input"]):
        raise ValueError(f"{folder}/model.json does not say the {' and '.join(sorted(lacking))} of its input.")
    named = "" if precision == "fp32" else f".{precision}"
    path = Path(out) if out is not None else folder / f"model{named}{SUFFIXES[to]}"
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already; give another --out, or --force to write over it.")
    model = load_model(folder, trust=trust)
    how = precision if precision != "int8" else f"int8, {'dynamic' if calibration is None else 'static'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
        partial = Path(scratch) / f"model{SUFFIXES[to]}"
        _write(model, to, precision, partial, json.dumps(about(model, described["weights_hash"], how)))
        if precision == "int8":
            whole, partial = partial, Path(scratch) / "quantised.onnx"
            quantise(whole, partial, calibration)
            try:
                _run(partial, to, model)
            except Exception as error:  # an operation that ONNX Runtime has in other numbers only
                raise ValueError(f"ONNX Runtime cannot run {model.spec.arch} in int8 ({error}); try fp32.") from error
        partial.replace(path)
    return path


def about(model: Recogniser, weights_hash: str, precision: str = "fp32") -> dict[str, Any]:
    """What a file says of itself: class names by head, what the network sees, and the temperatures by which its logits
    are to be divided before the softmax (none are known of a head that is not named)."""
    spec = model.spec
    return {
        "mmkd": __version__,
        "arch": spec.arch,
        "modality": spec.modality,
        "input": spec.input,
        "heads": spec.heads,
        "multi_label": spec.multi_label,
        "temperatures": spec.temperatures,
        "weights_hash": weights_hash,
        "precision": precision,
    }


def _write(model: Recogniser, to: str, precision: str, path: Path, facts: str) -> None:
    own = _in_half(model) if precision == "fp16" else model
    try:
        WRITERS[to](own, _example(model), path, facts)
        _run(path, to, model)
    except OSError:
        raise
    except Exception as error:  # whatever a tracer makes of a network that it cannot follow
        reason = str(error).strip().partition("\n")[0]
        fine = [other for other in WRITERS if other != to and _works(model, other)]
        instead = f"{' and '.join(fine)} can" if fine else "nor can any other target"
        raise ValueError(
            f"{to} cannot hold {model.spec.arch} ({type(error).__name__}: {reason[:300]}); {instead}, as tried."
        ) from error


def _works(model: Recogniser, to: str) -> bool:
    """Whether a target holds a model: it is written, opened, and asked about a few random clips."""
    try:
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / f"model{SUFFIXES[to]}"
            WRITERS[to](model, _example(model), path, "{}")
            clips = random_clips(model.spec, 5, 2)
            found = compare(model, open_export(path, to=to), clips, seconds=0)
        return max(found.difference.values()) <= TOLERANCE
    except Exception:
        return False


def _example(model: Recogniser) -> Tensor:
    """Two clips: of one, tracers would take the number for a constant."""
    return example_input(model, model.spec.input, batch=2)


def _run(path: Path, to: str, model: Recogniser) -> None:
    """Raises whatever keeps the target's runtime from answering."""
    open_export(path, to)(_example(model).numpy())


def _write_torchscript(model: nn.Module, example: Tensor, path: Path, facts: str) -> None:
    with quiet(), torch.no_grad():
        traced: Any = torch.jit.trace(model, example, strict=False, check_trace=False)
        torch.jit.save(traced, path, _extra_files={ABOUT: facts})


def _write_torch_export(model: nn.Module, example: Tensor, path: Path, facts: str) -> None:
    with quiet(), torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.export.save(program, path, extra_files={ABOUT: facts})


WRITERS: dict[str, Callable[[nn.Module, Tensor, Path, str], None]] = {
    "onnx": write_onnx,
    "torchscript": _write_torchscript,
    "torch-export": _write_torch_export,
}


class _Half(nn.Module):
    """A backbone that computes in float16 between float32 frames and features."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x.half()).float()


def _in_half(model: Recogniser) -> Recogniser:
    if not model.heads:
        raise ValueError(f"{model.spec.arch} takes raw frames itself, so mmkd cannot make it fp16; export it in fp32.")
    own = copy.deepcopy(model)
    own.backbone = _Half(own.backbone)
    return own
