"""From a model's logits to what is said of a clip: class names, and probabilities that are calibrated where the model
folder knows how."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmkd.inference.sampling import Frames
from mmkd.inputs import view_logits
from mmkd.metrics import softmax
from mmkd.models import ModelSpec, Recogniser, load_model

VIEWS_AT_ONCE = 32
ACTION = "action"


@dataclass(frozen=True)
class Prediction:
    """What a model says of a clip.

    Attributes:
        start, stop: of the clip, seconds from the first frame of its video.
        logits: head to float32 [classes]; empty where there is no answer.
        error: why there is none.
        features: [width], what the classifiers see, averaged over the views, where it was asked for.
        spec: of the model.
    """

    spec: ModelSpec = field(repr=False)
    start: float
    stop: float
    logits: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    error: str = ""
    features: NDArray[np.float32] | None = field(default=None, repr=False)

    @cached_property
    def probabilities(self) -> dict[str, NDArray[np.float64]]:
        """Head to [classes]: the softmax (in multi-label heads each class's sigmoid) of the logits, divided by the
        head's temperature where the model folder has one."""
        temperatures, multi_label = self.spec.temperatures, self.spec.multi_label
        scaled = {head: x.astype(np.float64) / temperatures.get(head, 1.0) for head, x in self.logits.items()}
        return {head: _sigmoid(x) if head in multi_label else softmax(x) for head, x in scaled.items()}

    def top(self, k: int = 5) -> dict[str, list[dict[str, Any]]]:
        """The likeliest classes of each head, {"class": name, "probability": 0..1}, the likeliest first; and where two
        heads or more have one class a clip, the likeliest `action`s, {"verb": name, "noun": name, "probability":
        product of theirs}."""
        best = {head: _best(p, self.spec.heads[head], k) for head, p in self.probabilities.items()}
        said = {head: [{"class": name, "probability": p} for name, p in each] for head, each in best.items()}
        if self.logits and (together := joint_heads(self.spec)):
            joint: list[tuple[dict[str, str], float]] = [({}, 1.0)]
            for head in together:  # the best of all are made of the best of each
                both = [({**names, head: name}, p * q) for names, p in joint for name, q in best[head]]
                joint = sorted(both, key=lambda each: -each[1])[:k]
            said[ACTION] = [{**names, "probability": p} for names, p in joint]
        return said


def joint_heads(spec: ModelSpec) -> list[str]:
    """The heads whose classes together are an `action`: those of one class a clip, where there are two or more."""
    single = [head for head in spec.heads if head not in spec.multi_label]
    return single if len(single) > 1 and ACTION not in spec.heads else []


def open_model(
    model: Recogniser | str | os.PathLike[str], device: str | torch.device = "cpu", trust: Collection[str] = ()
) -> Recogniser:
    """A model by its folder, see :func:`mmkd.load_model`, or in memory, where it stays; in evaluation mode."""
    return model.eval() if isinstance(model, Recogniser) else load_model(model, device, trust)


def clip_logits(model: Recogniser, rgb: Frames, at_once: int = VIEWS_AT_ONCE) -> dict[str, NDArray[np.float32]]:
    """Logits of clips, averaged over their views: head to float32 [clips, classes].

    Args:
        rgb: uint8 [clips, views, frames, size, size, 3].
        at_once: views that are answered at once, about; memory does not grow with their number.
    """
    return _forward(model, rgb, at_once)[0]


def answers(
    model: Recogniser,
    rgb: Frames,
    times: Sequence[tuple[float, float]],
    at_once: int = VIEWS_AT_ONCE,
    features: bool = False,
) -> list[Prediction]:
    """What a model says of clips.

    Args:
        rgb: uint8 [clips, views, frames, size, size, 3].
        times: start and stop of each clip.
        at_once: views that are answered at once, about.
        features: give what the classifiers see, too.

    Raises:
        ValueError: the network has classifiers of its own, so that nobody knows what they see.
    """
    logits, seen = _forward(model, rgb, at_once, features)
    said = []
    for number, (start, stop) in enumerate(times):
        mine = {head: values[number] for head, values in logits.items()}
        if wrong := [head for head, values in mine.items() if not np.isfinite(values).all()]:
            error = f"the model's logits of {', '.join(wrong)} are not finite"
            said.append(Prediction(model.spec, start, stop, error=error))
        else:
            said.append(Prediction(model.spec, start, stop, mine, features=None if seen is None else seen[number]))
    return said


def answer(model: Recogniser, rgb: Frames, start: float, stop: float) -> Prediction:
    """What a model says of one clip.

    Args:
        rgb: uint8 [views, frames, size, size, 3].
    """
    return answers(model, rgb[None], [(start, stop)])[0]


@torch.inference_mode()
def _forward(
    model: Recogniser, rgb: Frames, at_once: int, features: bool = False
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32] | None]:
    """Logits by head, and features where they are asked for, each float32 [clips, ...] and averaged over the views."""
    if features and not model.heads:
        raise ValueError(f"{model.spec.arch} has classifiers of its own, so that its features are not known.")
    seen: list[torch.Tensor] = []
    hook = model.backbone.register_forward_hook(lambda *call: seen.append(call[2])) if features else None
    try:
        flat = rgb.reshape(-1, *rgb.shape[2:])  # so that the views of one clip can be divided as well
        logits = view_logits(model, "rgb", {"rgb": flat}, np.arange(len(flat)), model.mean.device, at_once)
    finally:
        if hook is not None:
            hook.remove()
    mean = {head: x.unflatten(0, rgb.shape[:2]).mean(dim=(1, 2)).cpu().numpy() for head, x in logits.items()}
    whole = torch.cat(seen).float().unflatten(0, rgb.shape[:2]).mean(dim=1).cpu().numpy() if seen else None
    return mean, whole


def _best(p: NDArray[np.float64], names: Sequence[str], k: int) -> list[tuple[str, float]]:
    return [(names[i], float(p[i])) for i in np.argsort(-p, kind="stable")[:k]]


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -x))
