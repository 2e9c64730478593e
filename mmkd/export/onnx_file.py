"""ONNX files: written by torch's exporter, quantised by ONNX Runtime."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmkd.export.clips import Frames
from mmkd.export.quiet import quiet

INPUT = "frames"
METADATA = "mmkd"
"""Key of the file's metadata under which stands, as JSON, what :func:`mmkd.export.convert.about` says."""
MAX_BYTES = (1 << 31) - (1 << 20)
"""Of one ONNX file, whose lengths are 32-bit, but for a little that is not weights."""
QUANTISED = ["Conv", "Gemm", "MatMul"]
"""Operations with weights. The others gain little, and attention loses much: on a ViT of random weights the logits were
off by 0.31 with all of them in int8, and by 0.02 with these."""


def write_onnx(model: nn.Module, example: Tensor, path: Path, about: str) -> None:
    """Write a model that takes `example` and returns a dict of logits, in one file.

    Args:
        about: JSON, for the file's metadata.

    Raises:
        ValueError: it is too large for one file, or a head has the name of the input.
    """
    if (size := sum(tensor.nbytes for tensor in model.state_dict().values())) > MAX_BYTES:
        raise ValueError(f"its weights have {size / 1e9:.1f} GB, and an ONNX file holds 2 GB")
    with quiet(), torch.no_grad():
        heads = list(model(example))
        if INPUT in heads:
            raise ValueError(f"a head is called {INPUT}, which is the name of the file's input")
        program: Any = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=heads,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
        program.model.metadata_props[METADATA] = about
        program.save(path, external_data=False)


def quantise(source: Path, target: Path, calibration: Iterable[Frames] | None) -> None:
    """Write an ONNX file with the weights of its convolutions and matrix products in int8, each output channel on a
    scale of its own, and their inputs in int8 as well.

    With a calibration the classifiers stay as they are: logits beyond those of its clips would be cut off.

    Args:
        calibration: clips whose activations set the ranges of those inputs; None: they are taken from each batch.

    Raises:
        ValueError: there is no clip in the calibration, or nothing in the file to quantise.
    """
    import onnx
    from onnxruntime import quantization

    unsigned, signed = quantization.QuantType.QUInt8, quantization.QuantType.QInt8
    common: dict[str, Any] = {"op_types_to_quantize": QUANTISED, "per_channel": True}
    with quiet():
        if calibration is None:
            # Unsigned: ONNX Runtime has no convolution of int8 weights for ranges that are found while it runs.
            quantization.quantize_dynamic(source, target, weight_type=unsigned, **common)
        else:
            reader, graph = _reader(calibration), onnx.load(source).graph
            logits = {each.name for each in graph.output}
            common["nodes_to_exclude"] = [node.name for node in graph.node if logits & set(node.output)]
            common |= {"activation_type": signed, "weight_type": signed}
            quantization.quantize_static(source, target, reader, quant_format=quantization.QuantFormat.QDQ, **common)
    if not _has_int8(target):
        raise ValueError("nothing in it has weights that ONNX Runtime can quantise; export in fp16 or fp32.")


def _has_int8(path: Path) -> bool:
    import onnx

    small = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return any(tensor.data_type in small and np.prod(tensor.dims) > 1 for tensor in onnx.load(path).graph.initializer)


def _reader(clips: Iterable[Frames]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    batches = iter(clips)
    first = next(batches, None)
    if first is None:
        raise ValueError("there is no clip to calibrate on.")
    whole = chain([first], batches)

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:  # None at the end
            batch = next(whole, None)
            return None if batch is None else {INPUT: batch}

    return Reader()
