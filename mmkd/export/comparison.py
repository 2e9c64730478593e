"""An exported file beside the model that it came from: the same logits, and how fast."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from mmkd.cost.network import median_seconds, use_threads
from mmkd.export.clips import Frames
from mmkd.export.opened import Opened
from mmkd.models import Recogniser

TOLERANCE = 1e-4
"""The most that a logit may differ in fp32."""


@dataclass
class Comparison:
    """What a comparison found.

    Attributes:
        clips: number of them.
        difference: head to the greatest difference of a logit; infinite where one is not finite.
        agreement: head to the share (0..1) of clips whose highest logit is of the same class.
        latency_ms: batch to the median milliseconds of the model and of the export.
        threads: that both computed on.
    """

    clips: int
    difference: dict[str, float]
    agreement: dict[str, float]
    latency_ms: dict[int, tuple[float, float]]
    threads: int

    def lines(self) -> list[str]:
        """A table for people."""
        rows = [f"{'':<14}{'largest difference':>20}{'top-1 agreement':>18}"]
        for head, value in self.difference.items():
            rows.append(f"{head:<14}{value:>20.1e}{100 * self.agreement[head]:>16.1f} %")
        rows.append(f"{'':<14}{'model':>20}{'export':>18}")
        for batch, (ours, theirs) in self.latency_ms.items():
            rows.append(f"{f'batch of {batch}':<14}{ours:>17.1f} ms{theirs:>15.1f} ms")
        said = f"{self.clips} clips; medians of repeats on the CPU, {self.threads} thread{'s' * (self.threads != 1)}"
        return [*rows, said]


def compare(
    model: Recogniser,
    exported: Opened,
    clips: Iterable[Frames],
    *,
    batches: Iterable[int] = (1, 8),
    threads: int = 1,
    seconds: float = 0.5,
) -> Comparison:
    """Ask both about the same clips.

    Args:
        model: in fp32, on the CPU.
        clips: in batches of any sizes, which may differ.
        batches: how many clips at a time latency is measured of.
        seconds: about how long to measure each; 0: latency is not measured.

    Raises:
        ValueError: there is no clip, or the heads or shapes of the logits differ.
    """
    found: dict[str, list[tuple[float, int]]] = {}
    total, first = 0, None
    latency: dict[int, tuple[float, float]] = {}
    with use_threads(threads), torch.inference_mode():
        for frames in clips:
            first, total = frames if first is None else first, total + len(frames)
            ours, theirs = model(torch.from_numpy(frames)), exported(frames)
            if set(ours) != set(theirs):
                raise ValueError(f"the export has heads {', '.join(theirs)}, and the model {', '.join(ours)}.")
            for head in ours:
                found.setdefault(head, []).append(_beside(head, ours[head].float().numpy(), theirs[head]))
        if first is None:
            raise ValueError("there is no clip to compare on.")
        for batch in batches if seconds else ():
            frames = np.resize(first, (batch, *first.shape[1:]))
            tensor = torch.from_numpy(frames)
            pair = [lambda tensor=tensor: model(tensor), lambda frames=frames: exported(frames)]
            mine, other = (1000 * median_seconds(run, seconds, least=5) for run in pair)
            latency[batch] = mine, other
    difference = {head: max(value for value, _ in pairs) for head, pairs in found.items()}
    agreement = {head: sum(same for _, same in pairs) / total for head, pairs in found.items()}
    return Comparison(total, difference, agreement, latency, threads)


def _beside(head: str, ours: np.ndarray, theirs: np.ndarray) -> tuple[float, int]:
    """The greatest difference of two arrays of logits, and the number of clips whose highest logit is of one class."""
    if ours.shape != theirs.shape:
        raise ValueError(f"the export's logits of {head} have shape {theirs.shape}, and the model's {ours.shape}.")
    whole = np.isfinite(ours).all() and np.isfinite(theirs).all()
    difference = float(np.abs(ours - theirs).max()) if whole else float("inf")
    return difference, int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
