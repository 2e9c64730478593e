"""An exported file, run by the runtime that it is for."""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mmkd.export.clips import Frames
from mmkd.export.onnx_file import INPUT, METADATA
from mmkd.export.quiet import quiet

ABOUT = "mmkd.json"
"""The file within TorchScript's and torch.export's files that says what :func:`mmkd.export.convert.about` does."""
Logits = dict[str, np.ndarray]


class Opened(Protocol):
    """An exported file that is ready to answer, on the CPU.

    Attributes:
        about: what :func:`mmkd.export.convert.about` says.
    """

    about: dict[str, Any]

    def __call__(self, frames: Frames) -> Logits:
        """uint8 [batch, frames, height, width, channels] to head to float32 [batch, classes]."""


def open_export(path: str | Path, to: str = "", threads: int = 1) -> Opened:
    """Open a file that :func:`mmkd.export.export_model` wrote; like any program, only of people whom you trust.

    Args:
        to: its target; empty: as its name ends.
        threads: of ONNX Runtime; torch's files take those of the process.
    """
    kind = to or {".onnx": "onnx", ".pt2": "torch-export"}.get(Path(path).suffix, "torchscript")
    return _Onnx(path, threads) if kind == "onnx" else _Torch(path, kind)


class _Onnx:
    def __init__(self, path: str | Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map.get(METADATA, "{}"))
        self.heads = [each.name for each in self.session.get_outputs()]

    def __call__(self, frames: Frames) -> Logits:
        return dict(zip(self.heads, self.session.run(None, {INPUT: frames}), strict=True))


class _Torch:
    def __init__(self, path: str | Path, kind: str):
        extra = {ABOUT: ""}
        with quiet():
            if kind == "torchscript":
                self.run: Any = torch.jit.load(str(path), _extra_files=extra)
            else:
                self.run = torch.export.load(path, extra_files=extra).module()
        self.about = json.loads(extra[ABOUT] or "{}")

    def __call__(self, frames: Frames) -> Logits:
        with torch.inference_mode():
            return {head: logits.numpy() for head, logits in self.run(torch.from_numpy(frames)).items()}
