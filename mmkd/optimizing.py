"""Optimisation: timm's optimisers and parameter groups, schedules over the plan, mixed precision, and EMA."""

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from mmkd.config import Settings
from mmkd.devices import autocast
from mmkd.models import Recogniser
from mmkd.plan import Plan


def make_optimizer(trained: nn.Module, recogniser: Recogniser, settings: Settings) -> torch.optim.Optimizer:
    """timm's optimiser of the settings' name, with no weight decay on norms and biases and, where asked for, a lower
    rate in earlier layers (`lr_scale` of each parameter group).

    Args:
        trained: the module that is trained; what it has beside the recogniser is given the full rate.

    Raises:
        ValueError: timm has no optimiser of that name.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    optim = settings.optim
    known_names = [str(name) for name in list_optimizers()]
    if optim.name.lower() not in known_names:
        raise ValueError(f"optim.name is {optim.name!r}; timm has {', '.join(known_names)}.")
    decay = optim.layer_decay if optim.layer_decay < 1 else None
    optimizer = create_optimizer_v2(
        recogniser, optim.name, lr=optim.lr, weight_decay=optim.weight_decay, layer_decay=decay
    )
    known = {id(parameter) for parameter in recogniser.parameters()}
    more = [parameter for parameter in trained.parameters() if id(parameter) not in known]
    if more:
        optimizer.add_param_group({"params": more, "weight_decay": optim.weight_decay})
    return optimizer


def learning_rate(settings: Settings, plan: Plan, step: int) -> float:
    """Rate of optimiser step `step` (from 0): linear warm-up, then decay towards zero, which no step reaches."""
    warmup = min(round(settings.optim.warmup_epochs * plan.train_steps), plan.optimizer_steps - 1)
    if step < warmup:
        return settings.optim.lr * (step + 1) / warmup
    progress = (step - warmup) / (plan.optimizer_steps - warmup)
    return scheduled(settings.optim.schedule, settings.optim.lr, 0.0, progress)


def scheduled(schedule: str, start: float, end: float, progress: float) -> float:
    """A setting's value on its way from start to end: `linear`, or `cosine`, half a cosine; `constant`: start.

    Args:
        progress: place on the way, 0 (exactly start) to 1 (exactly end).
    """
    if schedule == "constant":
        return start
    left = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return left * start + (1 - left) * end


class Updater:
    """Turns losses into steps of the weights.

    Attributes:
        trained: the module in training, without what DDP wraps around it.
        ema: its moving average (timm's ModelEmaV3), whose decay grows in the first steps; None: none is kept.
        scaler: of the loss, for fp16; does nothing otherwise.
        precision: of the network; fp32 on CPUs.
    """

    def __init__(
        self,
        trained: nn.Module,
        recogniser: Recogniser,
        settings: Settings,
        plan: Plan,
        device: torch.device,
        on_cpu: bool = False,
    ):
        from timm.utils import ModelEmaV3

        self.trained, self.settings, self.plan, self.device = trained, settings, plan, device
        self.optimizer = make_optimizer(trained, recogniser, settings)
        self.precision = settings.optim.precision if device.type == "cuda" or on_cpu else "fp32"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.ema = ModelEmaV3(trained, decay=settings.optim.ema, use_warmup=True) if settings.optim.ema else None

    def autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.precision)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self, number: int) -> None:
        """Optimiser step `number` of the plan, from the gradients there are, which are then cleared.

        Raises:
            FloatingPointError: the gradients are not finite (with fp16 such a step is left out, as usual).
        """
        optim = self.settings.optim
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.plan, number) * group.get("lr_scale", 1.0)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), optim.clip_norm or math.inf)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise FloatingPointError("the gradients are not finite")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.trained, step=number + 1)
