"""Trained models as one file for other runtimes: ONNX, TorchScript or torch.export.

`convert` writes the file, `onnx_file` is what only ONNX needs, `opened` runs a file, `comparison` sets it beside the
model it came from, on the clips of `clips`, and `command` is `python -m mmkd export`.
"""

from mmkd.export.comparison import compare
from mmkd.export.convert import export_model
from mmkd.export.opened import open_export

__all__ = ["compare", "export_model", "open_export"]
