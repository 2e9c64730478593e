"""Tabletop as a source: which clips there are, and how one is made from (seed, split, index)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from mmkd import config
from mmkd.sources.clip import Clip, Made
from mmkd.sources.tabletop import objects
from mmkd.sources.tabletop.actions import VERBS, agrees, write_script
from mmkd.sources.tabletop.boxes import Detector, Truth, extents
from mmkd.sources.tabletop.objects import CAN_TIP, NOUNS, Instance
from mmkd.sources.tabletop.paths import Script, smooth_noise
from mmkd.sources.tabletop.physics import SUBSTEPS, Placement, Recording, perform
from mmkd.sources.tabletop.scene import Stage, draw_look, get_stage, grain
from mmkd.sources.tabletop.sound import SAMPLE_RATE, synthesise

HEADS: dict[str, list[str]] = {"verb": list(VERBS), "noun": list(NOUNS)}
SPLITS = ("train", "val", "test", "unseen")
DEFAULT_CLIPS = {"train": 2000, "val": 500, "test": 1000, "unseen": 500}
_MAX_TRIES = 40


class Tabletop:
    """A clip is a function of (seed, split, index) alone, bit for bit, on one kind of machine.

    clips: how many each split has; a split that is not named has none. The renderer starts
    with the first clip, so making and pickling a source is cheap. `unseen` shows tables and
    object instances that no other split does.
    """

    name = "tabletop"
    heads = HEADS
    multi_label: list[str] = []
    notes: dict[str, object] = {}
    flow: dict[str, object] = {}
    flow_bound = 8.0

    def __init__(
        self,
        seed: int = 0,
        clips: dict[str, int] | None = None,
        width: int = 96,
        height: int = 72,
        frames: int = 16,
        fps: float = 8.0,
    ) -> None:
        counts = dict(DEFAULT_CLIPS if clips is None else clips)
        for split, count in counts.items():
            if split not in SPLITS:
                raise ValueError(f"tabletop has no split {split!r}; it has {', '.join(SPLITS)}")
            if count < 0:
                raise ValueError(f"tabletop: clips of {split} must be 0 or more, not {count}")
        if seed < 0:
            raise ValueError(f"tabletop: seed must be 0 or more, not {seed}")
        if min(width, height) < 16 or frames < 2 or fps <= 0:
            raise ValueError(f"tabletop: frames of {width}x{height}, {frames} at {fps}/s, are too small or too few")
        self.seed, self.counts = seed, counts
        self.width, self.height, self.frames, self.fps = width, height, frames, fps

    def recordings(self) -> Iterator[tuple[str, Made]]:
        """Each clip is a recording of its own."""
        for split, count in self.counts.items():
            for index in range(count):
                verb, noun = _labels(self._labels_rng(split, index))
                labels: dict[str, int | list[int]] = {"verb": VERBS.index(verb), "noun": NOUNS.index(noun)}
                yield split, Made(clip_name(split, index), labels, partial(self.clip, split, index))

    def clip(self, split: str, index: int) -> Clip:
        """One clip of a split.

        Raises:
            IndexError: the split has no such clip.
            RuntimeError: no try of acting it out went as it should.
        """
        if not 0 <= index < self.counts.get(split, 0):
            raise IndexError(f"tabletop: {split} has {self.counts.get(split, 0)} clips, so none is number {index}")
        return self._make(split, index)

    def _labels_rng(self, split: str, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, SPLITS.index(split), index, 0])

    def _make(self, split: str, index: int) -> Clip:
        stage = get_stage(self.width, self.height)
        duration = self.frames / self.fps
        key = [self.seed, SPLITS.index(split), index]
        verb, noun = _labels(self._labels_rng(split, index))
        for attempt in range(1, _MAX_TRIES + 1):
            rng = np.random.default_rng([*key, attempt])
            cast = _draw_cast(verb, noun, split == "unseen", rng)
            script = write_script(verb, cast[0], self.frames * SUBSTEPS, duration, rng)
            placements = _place(cast, script, rng)
            recording = perform(script, placements, duration)
            if agrees(script, cast[0], recording.outcome):
                break
        else:
            raise RuntimeError(f"tabletop: {verb} {noun} ({split} {index}, seed {self.seed}) failed {_MAX_TRIES} times")
        rgb, boxes = _film(stage, split == "unseen", script, placements, recording, self.fps, rng)
        return Clip(
            clip_id=clip_name(split, index),
            rgb=rgb,
            labels={"verb": VERBS.index(verb), "noun": NOUNS.index(noun)},
            fps=self.fps,
            audio=synthesise(cast[0], recording, duration, rng),
            sample_rate=SAMPLE_RATE,
            boxes=boxes,
            meta={"instance": str(cast[0].number), "material": cast[0].material, "attempt": str(attempt)},
        )


def make(settings: config.Source) -> Tabletop:
    """The source of the settings."""
    counts = {split: getattr(settings, split) for split in SPLITS if getattr(settings, split)}
    return Tabletop(settings.seed, counts, settings.width, settings.height, settings.frames)


def clip_name(split: str, index: int) -> str:
    return f"{split}-{index:06d}"


def _labels(rng: np.random.Generator) -> tuple[str, str]:
    """Verbs are equally likely; so are nouns that the verb can act on."""
    verb = VERBS[int(rng.integers(len(VERBS)))]
    nouns = CAN_TIP if verb == "tip over" else NOUNS
    return verb, nouns[int(rng.integers(len(nouns)))]


def _draw_cast(verb: str, noun: str, unseen: bool, rng: np.random.Generator) -> list[Instance]:
    """The target, then distractors, all of different nouns."""
    others = [name for name in NOUNS if name != noun]
    names = [noun, *rng.permutation(others)[: int(rng.choice(4, p=(0.3, 0.4, 0.2, 0.1)))]]
    cast = []
    for position, name in enumerate(names):
        low, high = (
            (objects.SEEN_INSTANCES, objects.SEEN_INSTANCES + objects.UNSEEN_INSTANCES)
            if unseen
            else (0, objects.SEEN_INSTANCES)
        )
        lying = name == "book" and rng.random() < 0.5 and not (verb == "tip over" and position == 0)
        cast.append(objects.instance(str(name), int(rng.integers(low, high)), bool(lying)))
    return cast


def _place(cast: list[Instance], script: Script, rng: np.random.Generator) -> list[Placement]:
    """The target where the script wants it, distractors where there is room beside its way."""
    target = Placement(cast[0], script.start, script.yaw)
    placed = [target]
    for thing in cast[1:]:
        for _ in range(25):
            spot = np.array([rng.uniform(-2.6, 2.6), rng.uniform(-1.6, 2.8)])
            room = np.linalg.norm(script.area - spot, axis=1).min() - thing.radius - cast[0].radius
            gaps = [np.linalg.norm(spot - p.centre[:2]) - thing.radius - p.thing.radius for p in placed[1:]]
            if room > 0.25 and min(gaps, default=1.0) > 0.15:
                placed.append(Placement(thing, np.append(spot, thing.half_height + 0.005), float(rng.uniform(0, 360))))
                break
    return placed


def _film(
    stage: Stage,
    unseen: bool,
    script: Script,
    placements: list[Placement],
    recording: Recording,
    fps: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Render the recording: uint8 [frames, height, width, 3], and each frame's detections."""
    from panda3d import core

    look = draw_look(unseen, rng)
    hand = stage.set_up(look, script.side)
    bodies, shadows, shapes = [], [], []
    for placement in placements:
        thing = placement.thing
        model, points = objects.geometry(thing.noun, thing.number, thing.lying)
        bodies.append(model.copyTo(stage.things))
        shadows.append(stage.add_shadow())
        shapes.append(points)
    palm_shadow = stage.add_shadow()
    frames = len(recording.poses)
    duration = frames / fps
    eye = np.array([0.0, -4.7, 4.1]) + rng.normal(0, 0.2, 3) + smooth_noise(rng, frames, duration, 0.06, 1.0, 3)
    focus = np.array([0.0, 0.1, 0.35]) + rng.normal(0, 0.15, 3) + smooth_noise(rng, frames, duration, 0.09, 1.0, 3)
    roll = rng.normal(0, 3) + smooth_noise(rng, frames, duration, 0.8, 1.0, 1)[:, 0]
    elbow = np.array([script.side * rng.uniform(1.4, 3.2), -5.0, rng.uniform(-0.5, 1.0)])
    detector = Detector(len(bodies), rng)
    rgb = np.empty((frames, stage.height, stage.width, 3), np.uint8)
    boxes = []
    for frame, matrices in enumerate(recording.poses):
        step = frame * SUBSTEPS
        outlines = []
        for body, shadow, points, matrix, placement in zip(bodies, shadows, shapes, matrices, placements, strict=True):
            body.setMat(core.Mat4(*matrix.ravel().tolist()))
            world = points @ matrix[:3, :3] + matrix[3, :3]
            stage.place_shadow(
                shadow, float(matrix[3, 0]), float(matrix[3, 1]), placement.thing.radius, float(world[:, 2].min())
            )
            outlines.append(world)
        position = script.position[step]
        hand.pose(position, script.hpr[step], float(script.curl[step]), elbow)
        stage.place_shadow(palm_shadow, float(position[0]), float(position[1]) + 0.2, 0.6, float(position[2]) - 0.3)
        stage.camera.setPos(*eye[frame].tolist())
        stage.camera.lookAt(*focus[frame].tolist())
        stage.camera.setR(stage.camera.getR() + float(roll[frame]))
        picture = stage.capture() * look.exposure
        picture += grain(picture.shape, rng) * look.sensor_noise
        rgb[frame] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
        touch = bool(recording.held[step] or recording.hand[max(step - 6, 0) : step + 7].sum() > 0.05)
        outlines.append(hand.points())
        found = extents(stage.project(np.concatenate(outlines)), [len(outline) for outline in outlines])
        boxes.append(detector.detect(Truth(found[-1], found[:-1], script.side, touch)))
    return rgb, boxes
