"""The verbs: a scripted, noisy path of the hand for each, and the check of what came of it."""

from __future__ import annotations

import numpy as np

from mmkd.sources.tabletop.objects import Instance
from mmkd.sources.tabletop.paths import Key, Outcome, Script, script_of, smooth_noise, support, turned, vec, window

VERBS = (
    "push left",
    "push right",
    "push away",
    "pull closer",
    "lift",
    "put down",
    "drop",
    "tip over",
    "shake",
    "pretend to take",
)
_PUSHES = {"push left": (-1.0, 0.0), "push right": (1.0, 0.0), "push away": (0.0, 1.0), "pull closer": (0.0, -1.0)}
_FRONT = 0.65  # from the palm's centre to the knuckles of a curled hand: the collider's front
_THICK = 0.18


def write_script(verb: str, thing: Instance, steps: int, duration: float, rng: np.random.Generator) -> Script:
    """Draw one performance of the verb on the object."""
    side = 1 if rng.random() < 0.75 else -1
    if verb in _PUSHES:
        script = _push(verb, thing, side, steps, duration, rng)
    elif verb == "tip over":
        script = _tip(thing, steps, duration, rng)
    else:
        script = _handle(verb, thing, side, steps, duration, rng)
    script.position += smooth_noise(rng, steps, duration, 0.04, 3.0, 3)
    script.hpr += smooth_noise(rng, steps, duration, 4.0, 2.0, 3)
    if len(script.tilt) == 0:
        script.tilt = np.zeros(steps)
    return script


def agrees(script: Script, thing: Instance, outcome: Outcome) -> bool:
    """Whether what was simulated is what the verb says."""
    moved = outcome.last - outcome.first
    rest = thing.half_height
    verb = script.verb
    in_view = abs(outcome.last[0]) < 2.2 and -1.9 < outcome.last[1] < 2.6
    if verb in _PUSHES:
        along = float(moved[:2] @ script.goal)
        across = float(abs(moved[0] * script.goal[1] - moved[1] * script.goal[0]))
        upright = thing.noun == "ball" or outcome.max_tilt < 15
        return 0.7 < along < 2.4 and across < 0.55 * along and upright and in_view
    if verb == "tip over":
        return outcome.tilt > 60 and in_view
    if verb == "lift":
        return moved[2] > 0.55 and in_view
    if verb == "put down":
        return moved[2] < -0.5 and abs(outcome.last[2] - rest) < 0.1 and outcome.max_tilt < 25 and in_view
    if verb == "drop":
        return moved[2] < -0.6 and outcome.last[2] < 1.3 and in_view
    if verb == "shake":
        return outcome.lowest > rest - 0.05
    return bool(np.linalg.norm(moved) < 0.05 and outcome.max_tilt < 5)


def _rest(side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where the hand comes from: low in the frame or just below it."""
    position = vec(side * rng.uniform(0.2, 2.0), rng.uniform(-2.9, -2.1), rng.uniform(0.6, 1.6))
    return position, vec(side * rng.uniform(-5, 30), rng.uniform(-20, 10), side * rng.uniform(0, 70))


def _ground(rng: np.random.Generator) -> np.ndarray:
    return vec(rng.uniform(-0.85, 0.85), rng.uniform(-0.6, 0.8))


def _push(verb: str, thing: Instance, side: int, steps: int, duration: float, rng: np.random.Generator) -> Script:
    nominal = vec(*_PUSHES[verb])
    veer = rng.uniform(-22, 22)
    goal = turned(nominal, veer)
    travel = rng.uniform(0.9, 1.7)
    ground = _ground(rng) - 0.4 * travel * goal
    yaw = rng.uniform(0, 360) if thing.noun not in ("book", "box") else rng.choice([0.0, 90.0]) + rng.uniform(-20, 20)
    direction = np.append(goal, 0.0)
    reach = support(thing, yaw, goal)
    if verb in ("push left", "push right"):
        hpr = vec(veer + rng.uniform(-12, 12), rng.uniform(-25, 0), side * 90 + rng.uniform(-30, 20))
        contact = np.append(ground - goal * (reach + _THICK), 0.52) - vec(0, 0.2, 0)
        curl = rng.uniform(0.0, 0.6)
    elif verb == "push away":
        hpr = vec(veer, rng.uniform(-12, 5), side * rng.uniform(0, 90))
        contact = np.append(ground - goal * (reach + _FRONT), 0.5)
        curl = rng.uniform(0.3, 1.0)
    else:
        hpr = vec(veer, rng.uniform(-85, -65), side * rng.uniform(-15, 25))
        contact = np.append(ground - goal * (reach + _THICK + 0.05), 0.72)
        curl = rng.uniform(0.0, 0.5)
    # A hand that must get to the object's far side goes over it, not through it.
    crossing = verb == "pull closer" or (goal[0] * side > 0.7)
    over = max(thing.height - contact[2], 0.0) + 0.75 if crossing else rng.uniform(0.15, 0.6)
    before = contact - direction * rng.uniform(0.15, 0.5) + vec(0, 0, over)
    near = contact - direction * 0.08
    end = contact + direction * travel
    off = end - direction * rng.uniform(0.2, 0.5) + vec(0, 0, rng.uniform(0.0, 0.5) + (over if crossing else 0))
    away, away_hpr = _rest(side, rng)
    leave = rng.random() < 0.5
    onset, approach, act = rng.uniform(0.0, 0.4), rng.uniform(0.3, 0.5), rng.uniform(0.45, 0.8)
    start, start_hpr = _rest(side, rng)
    t1 = onset + approach
    t2 = t1 + (rng.uniform(0.2, 0.3) if crossing else rng.uniform(0.1, 0.2))
    t3 = t2 + act
    keys: list[Key] = [
        (onset, start, start_hpr, rng.uniform(0, 0.5)),
        (t1, before, hpr, curl),
        (t2, near, hpr, curl),
        (t3, end, hpr, curl),
        (t3 + 0.25, off, hpr, curl),
        (t3 + 0.7, away if leave else off, away_hpr if leave else hpr, curl),
    ]
    area = np.stack([ground + goal * d for d in (-1.0, -0.5, 0.0, 0.5, travel, travel + 0.3)])
    centre = np.append(ground, thing.half_height)
    return script_of(
        keys,
        steps,
        duration,
        verb=verb,
        side=side,
        start=centre,
        yaw=yaw,
        goal=goal,
        area=area,
        contact=window(t2, t3 + 0.1, steps, duration),
    )


def _tip(thing: Instance, steps: int, duration: float, rng: np.random.Generator) -> Script:
    angle = rng.choice([90.0, -90.0, 0.0]) + rng.uniform(-25, 25)
    goal = turned(vec(0.0, 1.0), angle)
    side = 1 if rng.random() < (0.9 if angle > 45 else 0.1 if angle < -45 else 0.75) else -1
    ground = _ground(rng) - 0.4 * goal
    yaw = angle + rng.uniform(-20, 20) if thing.noun in ("book", "box") else rng.uniform(0, 360)
    direction = np.append(goal, 0.0)
    hpr = vec(angle + rng.uniform(-15, 15), rng.uniform(-10, 5), side * rng.uniform(-20, 20))
    contact = np.append(ground - goal * (support(thing, yaw, goal) + _FRONT), thing.height * rng.uniform(0.82, 0.92))
    travel = thing.height * rng.uniform(0.55, 0.8) + 0.2
    onset, approach, act = rng.uniform(0.0, 0.35), rng.uniform(0.3, 0.5), rng.uniform(0.3, 0.55)
    start, start_hpr = _rest(side, rng)
    away, away_hpr = _rest(side, rng)
    leave = rng.random() < 0.5
    curl = rng.uniform(0.3, 0.9)
    end = contact + direction * travel + vec(0, 0, -0.1 * thing.height)
    off = end - direction * rng.uniform(0.3, 0.6) + vec(0, 0, rng.uniform(0.1, 0.5))
    t1 = onset + approach
    t2 = t1 + rng.uniform(0.1, 0.2)
    t3 = t2 + act
    keys: list[Key] = [
        (onset, start, start_hpr, rng.uniform(0, 0.5)),
        (t1, contact - direction * rng.uniform(0.2, 0.5), hpr, curl),
        (t2, contact - direction * 0.1, hpr, curl),
        (t3, end, hpr, curl),
        (t3 + 0.25, off, hpr, curl),
        (t3 + 0.7, away if leave else off, away_hpr if leave else hpr, curl),
    ]
    area = np.stack([ground + goal * d for d in (-1.0, -0.5, 0.0, 0.7, 1.4, 1.8)])
    centre = np.append(ground, thing.half_height)
    return script_of(
        keys,
        steps,
        duration,
        verb="tip over",
        side=side,
        start=centre,
        yaw=yaw,
        goal=goal,
        area=area,
        contact=window(t2, t3 + 0.1, steps, duration),
    )


def _grasp(thing: Instance, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """The palm's offset from the object's centre, its turn, and the curl of a grip."""
    low = thing.height < 0.7
    if low or rng.random() < 0.4:
        offset = vec(side * rng.uniform(-0.1, 0.4), -0.35 - 0.3 * thing.radius, thing.half_height + 0.2)
        return offset, vec(side * rng.uniform(-5, 30), rng.uniform(-55, -30), side * rng.uniform(0, 35)), 0.45
    offset = vec(
        side * (thing.radius + 0.18),
        -0.3 + rng.uniform(-0.1, 0.15),
        max(rng.uniform(-0.1, 0.25) * thing.height, 0.48 - thing.half_height),
    )
    return offset, vec(side * rng.uniform(0, 25), rng.uniform(-25, 0), side * rng.uniform(65, 95)), 0.55


def _handle(verb: str, thing: Instance, side: int, steps: int, duration: float, rng: np.random.Generator) -> Script:
    """lift, put down, drop, shake and pretend to take: all that grasp, or seem to."""
    ground = _ground(rng) - vec(0, 0.25)  # what is held high would leave the frame at the top
    centre = np.append(ground, thing.half_height)
    offset, hpr, grip_curl = _grasp(thing, side, rng)
    height = rng.uniform(0.75, 1.35)
    drift = np.append(rng.uniform(-0.45, 0.45, 2), 0.0)
    start, start_hpr = _rest(side, rng)
    away, away_hpr = _rest(side, rng)
    leave = rng.random() < 0.5
    onset = rng.uniform(0.05, 0.4)
    outward = offset * vec(1, 1, 0.6) / np.linalg.norm(offset)
    near = outward * rng.uniform(0.3, 0.6) + vec(0, 0, 0.1)
    first_grip, last_grip = 0.0, duration + 1
    tilt, axis = np.zeros(0), (0.0, 1.0, 0.0)
    palm = centre + offset
    up = drift + vec(0, 0, height)
    if verb == "lift":
        t1, close = onset + rng.uniform(0.3, 0.5), rng.uniform(0.12, 0.25)
        t2 = t1 + 0.15
        t3 = t2 + close
        first_grip = t3
        t4 = t3 + rng.uniform(0.4, 0.75)
        keys: list[Key] = [
            (onset, start, start_hpr, rng.uniform(0, 0.5)),
            (t1, palm + near, hpr, 0.05),
            (t2, palm, hpr, 0.1),
            (t3, palm, hpr, grip_curl),
            (t4, palm + up, hpr, grip_curl),
            (t4 + 1.0, palm + up, hpr, grip_curl),
        ]
    elif verb == "pretend to take":
        gap = outward * rng.uniform(0.3, 0.55) + vec(0, 0, 0.15)
        t1 = onset + rng.uniform(0.35, 0.6)
        t2 = t1 + rng.uniform(0.12, 0.25)
        t3 = t2 + rng.uniform(0.4, 0.75)
        end = palm + gap + up * rng.uniform(0.8, 1.0)
        keys = [
            (onset, start, start_hpr, rng.uniform(0, 0.5)),
            (t1, palm + gap, hpr, 0.1),
            (t2, palm + gap, hpr, grip_curl + 0.1),
            (t3, away if leave else end, hpr, grip_curl + 0.15),
            (t3 + 1.0, away if leave else end, hpr, grip_curl + 0.15),
        ]
    elif verb == "put down":
        centre = centre + up
        t1 = onset + rng.uniform(0.45, 0.8)
        t2 = t1 + rng.uniform(0.1, 0.2)
        last_grip = t1 + 0.06
        keys = [
            (onset, palm + up, hpr, grip_curl),
            (t1, palm - vec(0, 0, 0.015), hpr, grip_curl),
            (t2, palm, hpr, 0.1),
            (t2 + 0.25, palm + near, hpr, 0.05),
            (t2 + 0.65, away if leave else palm + near, away_hpr if leave else hpr, 0.1),
        ]
    elif verb == "drop":
        centre = centre + up
        onset = rng.uniform(0.3, 0.9)
        last_grip = onset + 0.05
        held = palm + up
        keys = [
            (onset, held, hpr, grip_curl),
            (onset + 0.1, held + outward * 0.2, hpr, 0.0),
            (onset + 0.4, held + near, hpr, 0.05),
            (onset + 0.9, away if leave else held + near, away_hpr if leave else hpr, 0.1),
        ]
    else:
        centre = centre + up
        keys = [(0.0, palm + up, hpr, grip_curl), (duration, palm + up, hpr, grip_curl)]
    script = script_of(keys, steps, duration, verb=verb, side=side, start=centre, yaw=rng.uniform(0, 360))
    if thing.noun in ("book", "box"):
        script.yaw = float(rng.uniform(-30, 30))
    if verb == "shake":
        _shake(script, steps, duration, rng)
    elif verb == "drop":
        tilt = np.full(steps, rng.uniform(-0.5, 0.5))
        axis = (float(rng.normal()), float(rng.normal()), 0.0)
        script.tilt, script.tilt_axis = tilt, axis
    per_second = steps / duration
    if verb != "pretend to take":
        script.grip = (int(first_grip * per_second), int(last_grip * per_second))
    script.area = np.stack([ground, ground + drift[:2], ground + offset[:2]])
    return script


def _shake(script: Script, steps: int, duration: float, rng: np.random.Generator) -> None:
    """Add strokes along one direction and a matching turn to a hand that holds still."""
    time = np.arange(steps) * duration / steps
    onset = rng.uniform(0.0, 0.5)
    stop = rng.uniform(1.4, duration + 0.3)
    swell = np.clip((time - onset) / 0.2, 0, 1) * np.clip((stop - time) / 0.2, 0, 1)
    wave = swell * np.sin(2 * np.pi * rng.uniform(1.6, 2.8) * (time - onset))
    stroke = rng.normal(0, 1, 3) * (1.0, 0.5, 1.0)
    stroke *= rng.uniform(0.22, 0.45) / np.linalg.norm(stroke)
    script.position += wave[:, None] * stroke
    turn = rng.uniform(-0.5, 0.5)
    script.tilt = turn * wave
    script.hpr[:, 2] += np.degrees(script.tilt) * 0.8
