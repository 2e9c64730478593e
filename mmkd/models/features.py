"""Features of a named layer, pooled to one vector a clip: what the feature term of the loss compares."""

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.models.create import Recogniser


class LayerTap:
    """Keeps the output of one module of a recogniser at each forward pass.

    Args:
        layer: name of the module, as in `named_modules()`; `backbone` is what the classifiers see.

    Raises:
        ValueError: there is no such module; near matches are named.
    """

    def __init__(self, model: Recogniser, layer: str):
        modules = dict(model.named_modules())
        if layer not in modules or not layer:
            near = difflib.get_close_matches(layer, list(modules), n=3, cutoff=0.3) or ["backbone"]
            raise ValueError(f"{model.spec.arch} has no layer {layer!r}; did you mean {', '.join(near)}?")
        self.layer = layer
        self.channels_last = bool(getattr(model.backbone, "channels_last", False))
        self.output: Tensor | None = None
        self._hook = modules[layer].register_forward_hook(self._keep)

    def remove(self) -> None:
        """Stop keeping outputs."""
        self._hook.remove()

    def take(self) -> Tensor:
        """The last output, averaged over time and space: [batch, width]."""
        assert self.output is not None
        output, self.output = self.output, None
        return output

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim < 2:
            raise ValueError(f"layer {self.layer!r} does not give one tensor [batch, ...]; choose another.")
        # Sequences of tokens are [batch, tokens, channels] in every network here.
        last = self.channels_last or output.ndim == 3
        axes = tuple(range(1, output.ndim - 1)) if last else tuple(range(2, output.ndim))
        self.output = output.mean(dim=axes) if axes else output


def layer_width(model: Recogniser, layer: str) -> int:
    """Width of a layer's pooled output."""
    if layer == "backbone":
        return int(model.backbone.num_features)  # type: ignore[arg-type]
    from mmkd.cost import example_input

    tap, training = LayerTap(model, layer), model.training
    with torch.inference_mode():
        model.eval()(example_input(model, model.spec.input))
    model.train(training)
    tap.remove()
    return tap.take().shape[1]


class FeatureStudent(nn.Module):
    """A recogniser whose answer also has `FEATURES`: a layer's output, projected to the width of a teacher's.

    Float [batch, width] beside the logits of the heads.
    """

    FEATURES = "/features"

    def __init__(self, recogniser: Recogniser, layer: str, width: int):
        super().__init__()
        self.recogniser = recogniser
        self.projection = nn.Linear(layer_width(recogniser, layer), width)
        self.tap = LayerTap(recogniser, layer)

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        logits = self.recogniser(inputs)
        return logits | {self.FEATURES: self.projection(self.tap.take())}
