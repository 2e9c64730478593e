"""Frames that come one by one, from a camera or a robot: an answer on the last window every few frames."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Collection

import numpy as np
import torch

from mmkd.inference.answers import Prediction, answer, open_model
from mmkd.inference.sampling import Frames, sampling_of, stacked
from mmkd.media.video import MAX_PIXELS
from mmkd.models import Recogniser


class StreamingRecognizer:
    """Recognises what the last window of a stream shows, every few frames.

    There is no answer before a window is full: every answer is on a whole one, as :func:`mmkd.predict` gives it on the
    same frames. Of a frame only the squares that the model sees are kept, at its size, only if an answer will show the
    frame, and only until the last such answer; so neither memory nor the time of a push grows with the stream.

    Args:
        model: a model folder, or a model in memory, which is put into evaluation mode.
        every: frames from one answer to the next.
        window: frames that an answer looks back over. 0: those that strided sampling spans (frames x stride); of
            uniform sampling, twice those that the model sees. Clips as long as those of its training suit it best.
        rate: frames per second that are pushed. Where the model learnt on fewer a second, as many are left out as
            packing would leave out. 0: not known; all frames count, and without times `start` and `stop` count them.
        views: grid of test views, in time x in space (1 or 3); logits are averaged.
        device: of a model folder.
        trust: networks of one's own that the model folder may name.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: the model or an argument cannot be used.
    """

    def __init__(
        self,
        model: Recogniser | str | os.PathLike[str],
        every: int,
        *,
        window: int = 0,
        rate: float = 0.0,
        views: str = "1x1",
        device: str | torch.device = "cpu",
        trust: Collection[str] = (),
    ):
        for what, value, least in (("every", every, 1), ("window", window, 0), ("rate", rate, 0)):
            if not least <= value < math.inf:
                raise ValueError(f"{what} is {value:g}; it must be {least} or more.")
        self.model = open_model(model, device, trust)
        name = "the model" if isinstance(model, Recogniser) else model
        self.sampling = sampling_of(self.model.spec, views, name)
        step = rate / self.sampling.pack.kept_rate(rate) if rate else 1.0
        seen = self.sampling.views
        spanned = seen.frames * (seen.stride if seen.sampling == "strided" else 2)
        self.every, self.rate = every, rate
        self.window = window or round(spanned * step)
        self._shown = self.sampling.shown(self.sampling.span(0, self.window, rate or 1.0))
        # A frame is at one place of each window that it is in: those that are `every` apart. So by the rest of the
        # division by `every`, the first place that a view shows: where the frame is in the last window to show it.
        self._kept: dict[int, int] = {}
        for place in sorted({number for _, numbers in self._shown for number in numbers}):
            self._kept.setdefault(place % every, place)
        self.reset()

    def reset(self) -> None:
        """Forget all frames, as before another stream."""
        self._count = 0
        self._size: tuple[int, ...] = ()
        self._crops: dict[int, Frames] = {}
        self._ends: dict[int, int] = {}
        self._times: deque[float | None] = deque(maxlen=self.window)

    def push(self, frame: Frames, time: float | None = None) -> Prediction | None:
        """Take the next frame; the answer on the last window where one is due, else None.

        Args:
            frame: uint8 [height, width, 3], RGB; it is not kept.
            time: seconds, of any clock: `start` and `stop` of an answer are then those of its first and last frame.

        Raises:
            ValueError: it is no such frame, or another size than those before it.
        """
        self._check(frame)
        number, self._count = self._count, self._count + 1
        self._times.append(time)
        place = self._kept.get((number + self.window) % self.every)
        if place is not None and place <= number:
            self._crops[number] = self.sampling.crops(frame)
            self._ends[number] = number - place + self.window
        if self._count % self.every or self._count < self.window:
            return None
        first = self._count - self.window
        rgb = stacked([(crop, [first + each for each in places]) for crop, places in self._shown], self._crops)
        for old in [each for each, end in self._ends.items() if end <= self._count]:
            del self._crops[old], self._ends[old]
        start, stop = self._times[0], self._times[-1]
        if start is None or stop is None:
            start, stop = first / (self.rate or 1.0), self._count / (self.rate or 1.0)
        return answer(self.model, rgb, start, stop)

    def _check(self, frame: Frames) -> None:
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            said = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ValueError(f"a frame is {said}; it must be an array, uint8 [height, width, 3], RGB.")
        height, width, _ = frame.shape
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"a frame has {width} x {height} pixels; 1 to {MAX_PIXELS} are taken.")
        if self._size and frame.shape != self._size:
            raise ValueError(f"a frame is {frame.shape}, those before are {self._size}; reset() begins a new stream.")
        self._size = frame.shape
