"""Counting: parameters are in the model; floating-point operations per view, without computing anything."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmkd.models.create import Recogniser, create_model


def example_input(model: Recogniser, seen: dict[str, Any], batch: int = 1, device: str = "cpu") -> Any:
    """A raw input of zeros of the shape that the model sees.

    Args:
        seen: `input` of model.json: frames, and by modality size, boxes, or audio_seconds and sample_rate.

    Returns:
        a tensor, or for boxes a dict of them; see :class:`mmkd.models.create.Recogniser`.
    """
    frames = int(seen.get("frames", 8))
    if model.modality in ("rgb", "flow"):
        size, channels = int(seen.get("size", 224)), 3 if model.modality == "rgb" else 2
        return torch.zeros(batch, frames, size, size, channels, dtype=torch.uint8, device=device)
    if model.modality == "audio":
        samples = int(seen.get("audio_seconds", 1.116) * seen.get("sample_rate", 16000))
        return torch.zeros(batch, frames, samples, dtype=torch.int16, device=device)
    shape = (batch, frames, int(seen.get("boxes", 14)))
    whole: dict[str, Tensor] = {
        name: torch.ones(shape, dtype=torch.int8, device=device) for name in ("category", "side", "state")
    }
    return whole | {"boxes": torch.zeros(*shape, 4, device=device), "score": torch.ones(shape, device=device)}


def flops_per_view(model: Recogniser, seen: dict[str, Any]) -> float:
    """Floating-point operations of one view, a multiplication and an addition being two, as torch counts them.

    Counted on a copy without data (torch's meta device): convolutions, matrix products and attention; what changes
    element by element, and the Fourier transform of a spectrogram, are left out.
    """
    spec = model.spec
    # In training mode, as attention's fast path for inference looks at values, which the copy has not.
    with torch.device("meta"), torch.inference_mode():
        copy = create_model(spec.arch, spec.heads, spec.modality, multi_label=spec.multi_label, **spec.options)
        counter = FlopCounterMode(display=False)
        with counter:
            copy(example_input(copy, seen, device="meta"))
    return float(counter.get_total_flops())
