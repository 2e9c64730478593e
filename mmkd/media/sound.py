"""Sound of recordings: from the video's own container, from sound files, or in memory."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from mmkd.media.video import said
from mmkd.sources.recording import RejectedError

Samples = NDArray[np.int16]
SANE_RATES = (100, 768_000)
"""Samples per second that sound can have; a header can claim any number."""
MAX_SAMPLES = 1 << 29
"""Of one clip's sound: 3 hours at 48 kHz. FLAC keeps hours of silence in a few bytes."""
MAX_CHANNELS = 64


def check_sound(samples: float, rate: float, channels: int = 1) -> None:
    """Refuse sound before it is decoded.

    Args:
        samples: of each channel.
        channels: that are in memory at a time.

    Raises:
        ValueError: it would be absurdly long, or its rate or its number of channels is absurd.
    """
    if not SANE_RATES[0] <= rate <= SANE_RATES[1] or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"its sound claims {rate} samples a second in {channels} channels")
    if samples * channels > MAX_SAMPLES:
        raise ValueError(f"its sound claims {samples / rate:.0f} s at {rate} samples a second, {channels} channels")


def decode_sound(data: bytes) -> tuple[Samples, int]:
    """A whole sound file in memory: int16 [samples], mono, and its samples per second.

    Raises:
        ValueError: it cannot be decoded, is not mono, or claims an absurd size.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            check_sound(sound.frames, sound.samplerate, sound.channels)
            if sound.channels != 1:
                raise ValueError(f"it has {sound.channels} channels where one is kept")
            return sound.read(dtype="int16"), int(sound.samplerate)
    except RuntimeError as error:
        raise ValueError(str(error)) from error


class ContainerSound:
    """The sound of an open container of its own (the frames need another one, since both move in it).

    Args:
        zero: time stamp of the video's first frame, seconds.
    """

    def __init__(self, container: Any, name: str, zero: float):
        self.container, self.name, self.zero = container, name, zero
        self.stream = container.streams.audio[0]
        self.rate = int(self.stream.rate or 0)

    def read(self, start: float, stop: float) -> Samples | None:
        _check(self.name, (stop - start) * self.rate, self.rate)
        window = np.zeros(max(1, round((stop - start) * self.rate)), np.int16)
        begin, heard = self.zero + start, False
        mono = av.AudioResampler(format="s16", layout="mono", rate=self.rate)
        try:
            # A little earlier, since codecs need some frames to get going.
            self.container.seek(int(max(begin - 0.5, 0) / self.stream.time_base), stream=self.stream)
            for frame in self.container.decode(self.stream):
                if frame.time is not None and frame.time >= self.zero + stop:
                    break
                for part in mono.resample(frame):
                    heard |= _lay(part.to_ndarray()[0], round(((part.time or 0.0) - begin) * self.rate), window)
        except (av.FFmpegError, ValueError) as error:
            raise RejectedError("sound", f"the sound of {self.name} cannot be decoded: {said(error)}") from error
        return window if heard else None


class FileSound:
    """An open sound file (WAV, FLAC, OGG, ...) whose first sample is heard with the first frame."""

    def __init__(self, file: Any, name: str):
        try:
            self.sound = soundfile.SoundFile(file)
        except (RuntimeError, OSError) as error:
            raise RejectedError("sound", f"{name} cannot be read: {error}") from error
        self.name, self.rate = name, int(self.sound.samplerate)

    def read(self, start: float, stop: float) -> Samples | None:
        first, number = round(start * self.rate), max(1, round((stop - start) * self.rate))
        _check(self.name, number, self.rate, self.sound.channels)
        if first >= len(self.sound):
            return None
        try:
            self.sound.seek(max(first, 0))
            samples = self.sound.read(number, dtype="int16", always_2d=True)
        except (RuntimeError, ValueError) as error:
            raise RejectedError("sound", f"{self.name} cannot be decoded: {error}") from error
        return _mono(samples, number)


class ArraySound:
    """Samples that can be sliced, int16 or float (-1..1): an array, or a data set of an HDF5 file."""

    def __init__(self, samples: Any, rate: int):
        self.samples, self.rate = samples, rate

    def read(self, start: float, stop: float) -> Samples | None:
        first, number = max(0, round(start * self.rate)), max(1, round((stop - start) * self.rate))
        _check("the array", number, self.rate)
        if first >= len(self.samples):
            return None
        samples = np.asarray(self.samples[first : first + number])
        if samples.dtype != np.int16:
            if not np.isfinite(samples).all():
                raise RejectedError("sound", "the sound has samples that are not finite")
            samples = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
        return _mono(samples.reshape(len(samples), -1), number)


def _check(name: str, samples: float, rate: int, channels: int = 1) -> None:
    try:
        check_sound(samples, rate, channels)
    except ValueError as error:
        raise RejectedError("sound", f"{name} cannot be used: {error}") from error


def _lay(samples: Samples, at: int, window: Samples) -> bool:
    """Copy samples that begin at a place of the window into it; whether any fell into it."""
    first, last = max(at, 0), min(at + len(samples), len(window))
    if last <= first:
        return False
    window[first:last] = samples[first - at : last - at]
    return True


def _mono(samples: Samples, number: int) -> Samples:
    """The mean of the channels, [samples, channels] to [number], with silence at the end."""
    mono = samples[:, 0] if samples.shape[1] == 1 else np.round(samples.mean(axis=1)).astype(np.int16)
    return np.pad(mono, (0, number - len(mono)))
