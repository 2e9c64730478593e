"""Sound from the contacts that the physics reports, under background noise of any level.

Struck bodies ring in a few decaying modes (van den Doel and Pai, "The Sounds of Physical
Shapes", Presence 7(4), 1998); sliding is noise whose loudness and pitch follow the speed.
"""

from __future__ import annotations

import numpy as np

from mmkd.sources.tabletop.objects import Instance
from mmkd.sources.tabletop.physics import Recording

SAMPLE_RATE = 16_000

# Modal frequencies in Hz for a body of 1 dm, decay times in seconds, brightness of the strike.
_MODES: dict[str, tuple[tuple[float, ...], float, float]] = {
    "china": ((1900, 3100, 4700, 6400), 0.09, 0.5),
    "glass": ((2300, 3900, 5600, 7000), 0.12, 0.45),
    "metal": ((900, 1700, 2900, 4300), 0.16, 0.6),
    "paper": ((180, 320, 560), 0.02, 0.9),
    "plastic": ((420, 900, 1500), 0.03, 0.7),
    "rubber": ((140, 260), 0.03, 0.25),
    "wood": ((380, 760, 1300), 0.04, 0.6),
}
_TABLE = ((95, 170, 290), 0.05, 0.5)


def synthesise(thing: Instance, recording: Recording, duration: float, rng: np.random.Generator) -> np.ndarray:
    """The clip's sound: int16 [samples] at SAMPLE_RATE."""
    count = round(duration * SAMPLE_RATE)
    sound = np.zeros(count)
    body = _ring(_MODES[thing.material], (thing.height + 2 * thing.radius) / 2, rng)
    table = _ring(_TABLE, rng.uniform(0.7, 1.5), rng)
    steps = len(recording.table)
    weight = np.sqrt(thing.mass + 0.1)
    strikes = [(recording.table, 0.022, 0.7), (recording.hand, 0.006, 0.15), (recording.bump, 0.012, 0.1)]
    for changes, loudness, share in strikes:
        for step, strength in _events(changes):
            wave = (body + share * table) * loudness * weight * min(strength, 18.0)
            _add(sound, wave, step * count // steps)
    grabs = np.flatnonzero(np.diff(recording.held.astype(int)) != 0)
    for step in grabs.tolist():
        _add(sound, body * weight * rng.uniform(0.004, 0.02), step * count // steps)
    moments = np.linspace(0, steps - 1, count)
    sound += _friction(recording.sliding, moments, thing, rng)
    sound += _rattle(recording, moments, thing, body, duration, rng)
    sound += _background(count, rng)
    sound *= 10 ** rng.uniform(-0.3, 0.3)
    return (np.clip(sound, -1, 1) * 32767).round().astype(np.int16)


def _ring(modes: tuple[tuple[float, ...], float, float], size: float, rng: np.random.Generator) -> np.ndarray:
    """The sound of a unit strike, 0.25 s."""
    frequencies, decay, brightness = modes
    time = np.arange(SAMPLE_RATE // 4) / SAMPLE_RATE
    wave = np.zeros(len(time))
    for number, frequency in enumerate(frequencies):
        pitch = min(frequency * rng.uniform(0.92, 1.08) / np.sqrt(size), 7600.0)
        fade = decay * rng.uniform(0.7, 1.4) / (1 + 0.4 * number)
        wave += brightness**number * np.exp(-time / fade) * np.sin(2 * np.pi * pitch * time)
    click = np.exp(-time / 0.003) * rng.normal(0, 0.5, len(time))
    return wave + click


def _events(changes: np.ndarray, threshold: float = 0.35) -> list[tuple[int, float]]:
    """Runs of impulses above the threshold, as (first step, total change of speed)."""
    events: list[tuple[int, float]] = []
    last = -10
    for step in np.flatnonzero(changes > threshold):
        if step - last <= 2 and events:
            events[-1] = (events[-1][0], events[-1][1] + 0.3 * float(changes[step]))
        else:
            events.append((int(step), float(changes[step])))
        last = int(step)
    return events[:40]


def _friction(sliding: np.ndarray, moments: np.ndarray, thing: Instance, rng: np.random.Generator) -> np.ndarray:
    rough = {"paper": 1.0, "wood": 1.0, "china": 0.8, "rubber": 0.35}.get(thing.material, 0.6)
    noise = _band_noise(len(moments), rng.uniform(250, 700), rng.uniform(1500, 4000), rng)
    loud = np.interp(moments, np.arange(len(sliding)), np.minimum(sliding, 6.0))
    return noise * loud * rough * 0.012 * rng.uniform(0.4, 1.3)


def _rattle(
    recording: Recording,
    moments: np.ndarray,
    thing: Instance,
    body: np.ndarray,
    duration: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Loose content knocks as a held object's speed changes."""
    sound = np.zeros(len(moments))
    steps = len(recording.motion)
    force = np.linalg.norm(np.gradient(recording.motion, duration / steps, axis=0), axis=1) * recording.held
    force = np.convolve(force, np.ones(5) / 5, "same")
    chance = np.clip((force - 15.0) / 400.0, 0, 0.5)
    for step in np.flatnonzero(rng.random(steps) < chance):
        strength = 0.03 * thing.loose * min(force[step] / 60.0, 1.5) * rng.uniform(0.3, 1.0)
        _add(sound, body[: SAMPLE_RATE // 12] * strength, int(step) * len(moments) // steps)
    return sound


def _background(count: int, rng: np.random.Generator) -> np.ndarray:
    """A hiss or rumble, hum, and now and then a knock from elsewhere."""
    level = 10 ** rng.uniform(-3.0, -1.6)
    noise = _band_noise(count, rng.uniform(20, 200), rng.uniform(500, 6000), rng) * level
    time = np.arange(count) / SAMPLE_RATE
    noise += level * rng.uniform(0, 0.5) * np.sin(2 * np.pi * rng.choice([50.0, 60.0]) * time)
    for _ in range(rng.poisson(0.5)):
        name = str(rng.choice(list(_MODES)))
        knock = _ring(_MODES[name], rng.uniform(0.6, 2.0), rng) * 10 ** rng.uniform(-2.3, -1.2)
        _add(noise, knock, int(rng.integers(count)))
    return noise


def _band_noise(count: int, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit power, mostly between two frequencies in Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE) + 1.0
    spectrum *= 1 / np.sqrt((1 + (low / hz) ** 2) * (1 + (hz / high) ** 4))
    noise = np.fft.irfft(spectrum, count)
    return noise / (noise.std() + 1e-9)


def _add(sound: np.ndarray, wave: np.ndarray, start: int) -> None:
    stop = min(start + len(wave), len(sound))
    if stop > start:
        sound[start:stop] += wave[: stop - start]
