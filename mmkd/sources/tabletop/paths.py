"""Paths of the hand: what a script holds, key poses joined by smooth moves, and a little geometry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmkd.sources.tabletop.objects import Instance

Key = tuple[float, np.ndarray, np.ndarray, float]
"""Seconds, the palm's position [3] and hpr [3], and the curl of the fingers."""


@dataclass
class Script:
    """What happens in a clip of n physics steps. Decimetres, degrees, seconds.

    start: the object's centre [3]; position, hpr [n, 3], curl [n]: the hand;
    grip: steps in which the object follows the hand; contact: those in which the hand pushes things;
    tilt: the held object's extra turn about tilt_axis, radians [n];
    goal: direction of a push, [2]; area: ground points that distractors keep clear of, [m, 2].
    """

    verb: str
    side: int
    start: np.ndarray
    yaw: float
    position: np.ndarray
    hpr: np.ndarray
    curl: np.ndarray
    grip: tuple[int, int] = (0, 0)
    contact: tuple[int, int] = (0, 0)
    tilt: np.ndarray = field(default_factory=lambda: np.zeros(0))
    tilt_axis: tuple[float, float, float] = (0.0, 1.0, 0.0)
    goal: np.ndarray = field(default_factory=lambda: np.zeros(2))
    area: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))


@dataclass
class Outcome:
    """The object's centre at the first and last step, its final tilt, and its travel in between."""

    first: np.ndarray
    last: np.ndarray
    tilt: float
    max_tilt: float
    lowest: float
    highest: float


def smooth_noise(
    rng: np.random.Generator, steps: int, duration: float, size: float, max_hz: float, dims: int
) -> np.ndarray:
    """Sums of slow sines, of standard deviation about `size`: [steps, dims]."""
    time = np.linspace(0, duration, steps)[:, None, None]
    hz = rng.uniform(0.15, max_hz, (1, dims, 4))
    phase = rng.uniform(0, 2 * np.pi, (1, dims, 4))
    scale = rng.normal(0, 1, (1, dims, 4)) / np.sqrt(1 + hz)
    return (size / np.sqrt(2.0)) * (scale * np.sin(2 * np.pi * hz * time + phase)).sum(-1)


def script_of(keys: list[Key], steps: int, duration: float, **rest: Any) -> Script:
    """A script whose hand follows the keys; `rest` are its other fields."""
    position, hpr, curl = _follow(keys, steps, duration)
    return Script(position=position, hpr=hpr, curl=curl, **rest)


def _follow(keys: list[Key], steps: int, duration: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimum-jerk moves between (seconds, position, hpr, curl): [steps, 3], [steps, 3], [steps]."""
    time = np.arange(steps) * duration / steps
    marks = np.array([key[0] for key in keys])
    values = np.stack([np.concatenate([key[1], key[2], [key[3]]]) for key in keys])
    segment = np.clip(np.searchsorted(marks, time, side="right") - 1, 0, len(keys) - 2)
    span = np.maximum(marks[segment + 1] - marks[segment], 1e-6)
    share = np.clip((time - marks[segment]) / span, 0, 1)[:, None]
    ease = share**3 * (10 - 15 * share + 6 * share**2)
    path = values[segment] * (1 - ease) + values[segment + 1] * ease
    return path[:, :3], path[:, 3:6], path[:, 6]


def vec(*values: float) -> np.ndarray:
    """A float64 vector."""
    return np.array(values, np.float64)


def window(first: float, last: float, steps: int, duration: float) -> tuple[int, int]:
    """Seconds to steps."""
    return int(first * steps / duration), int(last * steps / duration)


def support(thing: Instance, yaw: float, direction: np.ndarray) -> float:
    """How far the object reaches from its centre along a ground direction."""
    if thing.noun not in ("book", "box"):
        return thing.radius
    cos, sin = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    local = vec(cos * direction[0] + sin * direction[1], -sin * direction[0] + cos * direction[1])
    return float(abs(local[0]) * thing.size[0] + abs(local[1]) * thing.size[1]) / 2


def turned(direction: np.ndarray, degrees: float) -> np.ndarray:
    """A ground direction turned counterclockwise."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vec(cos * direction[0] - sin * direction[1], sin * direction[0] + cos * direction[1])
