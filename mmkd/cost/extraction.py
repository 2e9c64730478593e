"""Measuring how flow and boxes are extracted from the frames of a view: by the methods that packing has."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from mmkd.config import Settings, Views
from mmkd.cost.clips import CLIPS, Frames, StoredClip, median_over
from mmkd.cost.network import peak_megabytes
from mmkd.cost.record import Cost
from mmkd.cutting import as_bytes
from mmkd.dataset import Dataset
from mmkd.extract.boxes import TorchvisionDetector
from mmkd.extract.flow import FlowMethod, OpenCVFlow, RaftFlow
from mmkd.views import view_flow


def flow_cost(
    settings: Settings, dataset: Dataset, views: Views, clips: Sequence[StoredClip], seconds: float
) -> tuple[Cost, str]:
    """Cost of the optical flow of a view, with the decoding of the frames that only the flow needs; and a note."""
    method, whose = _flow_method(settings, dataset)
    step, bound = int(dataset.flow.get("step", 1)), float(dataset.flow.get("bound", 20.0))
    clips = [each for each in clips if each.pairs(step)] or clips

    def both(clip: StoredClip) -> set[int]:
        return clip.shown | {frame for pair in clip.pairs(step) for frame in pair}

    def compute(clip: StoredClip, frames: Frames) -> None:
        pairs = clip.pairs(step)
        ready = {frame: method.prepare(frames[frame]) for frame in sorted({frame for pair in pairs for frame in pair})}
        flow = [as_bytes(method.flow(ready[first], ready[second]), bound) for first, second in pairs]
        if flow:
            view_flow(flow, clip.view, views.size)

    spent = median_over(clips, compute, seconds, lambda clip: clip.decode(both(clip)))
    decoding = median_over(clips, lambda clip: clip.decode(both(clip)), seconds)
    usual = median_over(clips, lambda clip: clip.decode(clip.shown), seconds)
    pairs = round(median(len(each.pairs(step)) for each in clips))
    more = round(median(len(both(each)) - len(each.shown) for each in clips))
    frame = clips[0].decode({0})[0]
    height, width = frame.shape[:2]
    ready = method.prepare(frame)
    cost = _method_cost(
        "optical flow", spent + max(0.0, decoding - usual), method, lambda: method.flow(ready, ready), pairs
    )
    counted = "" if cost.gflops else " It is not among the GFLOPs, as torch does not compute it."
    note = (
        f"Optical flow: {method.about} ({whose}), {pairs} times a view on frames of {width} x {height} px, with {more} "
        f"more frames decoded.{counted}"
    )
    return cost, note


def detection_cost(name: str, weights: str, pixels: NDArray[np.uint8], frames: int, seconds: float) -> Cost:
    """Cost of detecting boxes in all frames of a view, from that of one frame.

    Args:
        name: of torchvision's detection models.
        weights: file of its weights, or random ones where that is not there. They take as long, but for the number of
            boxes that are looked at closely.
        pixels: a frame, uint8 RGB [height, width, 3].
        frames: of the view.
    """
    from torchvision.models import detection

    with TemporaryDirectory() as folder:
        file = _weights(weights, folder, getattr(detection, name), weights=None, weights_backbone=None)
        detector = TorchvisionDetector(name, file)
    spent = median_over([pixels] * CLIPS, detector.boxes, seconds)
    return _method_cost("object detection", frames * spent, detector, lambda: detector.boxes(pixels), frames)


def step_cost(name: str, seconds: float, parameters: int = 0, gflops: float = 0.0, peak_mb: float = 0.0) -> Cost:
    """Cost of a step that is done for one clip at a time and takes so many seconds."""
    return Cost(name, parameters, gflops, 1000 * seconds, 1 / max(seconds, 1e-9), peak_mb)


def _flow_method(settings: Settings, dataset: Dataset) -> tuple[FlowMethod, str]:
    """The method that made the data's flow, or one in its place, and which of the two it is."""
    made_by = dataset.made_by
    name, whose = made_by.get("pack", {}).get("flow", settings.pack.flow), "as in the data"
    if name == "none" or made_by.get("flow") == "the source's":
        name, whose = settings.pack.flow.replace("none", "dis"), "in place of the method of the data's source"
    if not name.startswith("raft_"):
        try:
            return OpenCVFlow(name), whose
        except ValueError:
            return OpenCVFlow("dis"), f"in place of {name}, which this OpenCV lacks"
    from torchvision.models import optical_flow

    with TemporaryDirectory() as folder:
        file = _weights(settings.pack.flow_weights, folder, getattr(optical_flow, name), weights=None)
        return RaftFlow(name.removeprefix("raft_"), file), whose


def _weights(file: str, folder: str, make: Callable[..., torch.nn.Module], **options: Any) -> str:
    """The file of weights where it is there, else a new one in `folder` with random weights."""
    if file and Path(file).is_file():
        return file
    path = str(Path(folder) / "weights.pt")
    torch.save(make(**options).state_dict(), path)
    return path


def _method_cost(name: str, seconds: float, method: Any, run: Callable[[], Any], times: int) -> Cost:
    """Cost of a step that calls `method` so many times, which has a `network` if it is one."""
    network = getattr(method, "network", None)
    if network is None:
        return step_cost(name, seconds)
    with FlopCounterMode(display=False) as counter:
        run()
    weights = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers())) / 1e6
    return step_cost(
        name,
        seconds,
        sum(each.numel() for each in network.parameters()),
        times * counter.get_total_flops() / 1e9,
        weights + peak_megabytes(run, method.device.type),
    )
