"""Which networks can be exported to what, and how far the logits then are from the model's.

    python benchmarks/export.py [--arch NAME ...] [--out FILE.json]

Each network has random weights, norms that have seen some clips, and a small input; it is exported to each target in
each precision (static int8 is calibrated on 16 clips), and compared on 8 clips of random patches, in batches of 1, 2
and 5. A difference is the greatest of a logit, over the standard deviation of the model's logits over clips. The table
goes to standard error, the same as one JSON object to the last line of standard output.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmkd.export import compare, export_model, open_export
from mmkd.export.clips import Frames, random_clips
from mmkd.models import Recogniser, create_model, save_model
from mmkd.progress import say

HEADS = {"verb": 10, "noun": 8}
NETWORKS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "r2plus1d_tiny": (8, 64, {}),
    "resnet3d_18": (8, 64, {}),
    "timm/test_vit": (4, 160, {}),
    "timm/test_efficientnet": (4, 64, {"pooling": "shift"}),
    "timm/resnet18": (4, 64, {"pooling": "transformer"}),
    "torchvision/swin3d_t": (4, 64, {}),
    "torchvision/s3d": (16, 64, {}),
    "torchvision/r2plus1d_18": (4, 64, {}),
    "torchvision/mvit_v2_s": (16, 224, {}),
}
"""Architecture to frames, size and options."""
WAYS = [
    ("onnx", "fp32"),
    ("onnx", "fp16"),
    ("onnx", "int8 dynamic"),
    ("onnx", "int8 static"),
    ("torchscript", "fp32"),
    ("torchscript", "fp16"),
    ("torch-export", "fp32"),
    ("torch-export", "fp16"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--out", help="also write the JSON there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    say(f"{'':<24}{'target':<14}{'precision':<14}{'difference':>12}{'top-1 agreement':>18}{'seconds':>10}")
    for arch in arguments.arch:
        found[arch] = {}
        with TemporaryDirectory() as folder:
            model = network(arch)
            save_model(model, folder)
            for to, precision in WAYS:
                found[arch][f"{to} {precision}"] = told = tried(model, folder, to, precision)
                said = told.get("error") or f"{told['difference']:>12.1e}{100 * told['agreement']:>16.1f} %"
                say(f"{arch:<24}{to:<14}{precision:<14}{said}{told['seconds']:>10.1f}")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


def network(arch: str) -> Recogniser:
    """Random weights that tell clips apart."""
    frames, size, options = NETWORKS[arch]
    torch.manual_seed(0)
    model = create_model(arch, HEADS, **options)
    model.spec.input = {"frames": frames, "sampling": "uniform", "size": size}
    for norm in (module for module in model.modules() if isinstance(module, _BatchNorm)):
        norm.momentum = None
    with torch.no_grad():
        model.train()(torch.from_numpy(next(random_clips(model.spec, 8, 8))))
    for head in model.heads.values():
        nn.init.normal_(head.weight, std=head.in_features**-0.5)  # type: ignore[operator, arg-type]
    return model.eval()


def tried(model: Recogniser, folder: str, to: str, precision: str) -> dict[str, Any]:
    """Export, and compare; an error is told and not raised."""
    kind, _, how = precision.partition(" ")
    calibration = random_clips(model.spec, 16, 8, seed=9) if how == "static" else None
    began = time.monotonic()
    try:
        path = export_model(folder, to, Path(folder) / "file", precision=kind, calibration=calibration, force=True)
        result = compare(model, open_export(path, to), clips(model), seconds=0)
    except ValueError as error:
        return {"error": str(error), "seconds": time.monotonic() - began}
    spread = spreads(model)
    return {
        "difference": max(each / spread[head] for head, each in result.difference.items()),
        "agreement": min(result.agreement.values()),
        "seconds": time.monotonic() - began,
    }


def clips(model: Recogniser) -> Iterator[Frames]:
    for size in (1, 2, 5):
        yield from random_clips(model.spec, size, size, seed=size)


def spreads(model: Recogniser) -> dict[str, float]:
    with torch.inference_mode():
        answers = model(torch.from_numpy(np.concatenate(list(clips(model)))))
    return {head: float(logits.std(dim=0).mean()) for head, logits in answers.items()}


if __name__ == "__main__":
    main()
