"""Bullet: carries out a script with the hand as a kinematic body and records what happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmkd.sources.tabletop.objects import Instance, collision_shape
from mmkd.sources.tabletop.paths import Outcome, Script

SUBSTEPS = 12
"""Physics steps a stored frame."""
GRAVITY = 98.1
_HAND_HALF = (0.42, 0.5, 0.15)
_HAND_CENTRE = (0.0, 0.15, 0.0)
_SETTLE = 4


@dataclass
class Placement:
    """A body's start: centre in decimetres, heading in degrees."""

    thing: Instance
    centre: np.ndarray
    yaw: float


@dataclass
class Recording:
    """What the physics reports of one clip.

    poses: [frames][bodies] 4x4 matrices (rows times matrix), the target first;
    table, hand, bump: impulse a step between the target and the table, the hand and other
    objects, beyond what rest needs, as a change of the target's speed in dm/s, [n];
    sliding: speed along the table while they touch, [n];
    motion: the target's velocity, [n, 3]; held: whether the hand holds it, [n].
    """

    poses: list[list[np.ndarray]]
    table: np.ndarray
    hand: np.ndarray
    bump: np.ndarray
    sliding: np.ndarray
    motion: np.ndarray
    held: np.ndarray
    outcome: Outcome


def perform(script: Script, placements: list[Placement], duration: float) -> Recording:
    """Simulate; placements[0] is the target. A fresh world each time, so clips are independent."""
    from panda3d import bullet, core

    steps = len(script.curl)
    dt = duration / steps
    world = bullet.BulletWorld()
    world.setGravity(0, 0, -GRAVITY)
    table = bullet.BulletRigidBodyNode("table")
    table.addShape(bullet.BulletPlaneShape(core.Vec3(0, 0, 1), 0))
    table.setFriction(0.7)
    table.setRestitution(0.5)
    world.attach(table)
    bodies = [_body(world, placement, str(i)) for i, placement in enumerate(placements)]
    target, node = bodies[0], bodies[0].node()
    node.setDeactivationEnabled(False)
    pushes = bool(np.any(script.goal)) and script.verb != "tip over"
    if pushes and placements[0].thing.noun != "ball":
        node.setAngularFactor(core.Vec3(0, 0, 1))
    if script.verb == "tip over":
        node.setFriction(2.0)
    palm = _palm()
    reach = script.contact
    names = {"table": 0, "palm": 1}
    impulses = np.zeros((steps, 3))
    touching = np.zeros(steps, bool)
    path, motion, up = np.zeros((steps, 3)), np.zeros((steps, 3)), np.zeros(steps)
    held = np.zeros(steps, bool)
    held[max(script.grip[0], 0) : script.grip[1]] = True
    axis = core.Vec3(*script.tilt_axis)
    axis.normalize()
    turns = np.diff(script.tilt, append=script.tilt[-1]) / dt
    offset = None
    poses: list[list[np.ndarray]] = []
    if held[0]:
        target.setQuat(target.getQuat() * _turn(core, axis, script.tilt[0]))
    met = False
    places, turns_of_hand = script.position.tolist(), script.hpr.tolist()
    for step in range(-_SETTLE, steps):
        now = max(step, 0)
        if step >= 0 and step % SUBSTEPS == 0:
            poses.append([np.array(body.getMat()) for body in bodies])
        if reach[0] <= step < reach[1]:
            palm.setPosHpr(*places[now], *turns_of_hand[now])
            if step == reach[0]:
                world.attach(palm.node())
        elif step == reach[1] and step > 0:
            world.remove(palm.node())
        if held[now]:
            here = np.array([*target.getPos()])
            if offset is None:
                offset = here - script.position[now]
            following = min(now + 1, steps - 1) if step >= 0 else 0
            speed = (script.position[following] + offset - here) / dt
            node.setLinearVelocity(core.Vec3(*speed.tolist()))
            node.setAngularVelocity(axis * float(turns[now] if step >= 0 else 0.0))
        elif pushes and met and step <= reach[1]:
            _keep_in_palm(
                node, np.array([*target.getPos()])[:2] - placements[0].centre[:2], script.goal, step == reach[1]
            )
        elif step > 0 and held[step - 1] and script.verb == "put down":
            node.setAngularVelocity(core.Vec3(0))
            node.setLinearVelocity(core.Vec3(0))
        world.doPhysics(dt, 0)
        if step < 0:
            continue
        path[step] = [*target.getPos()]
        motion[step] = [*node.getLinearVelocity()]
        up[step] = target.getQuat().xform(core.Vec3(0, 0, 1)).z
        for manifold in world.getManifolds():
            if not manifold.getNumManifoldPoints():
                continue
            first, second = manifold.getNode0().getName(), manifold.getNode1().getName()
            if first != "0" and second != "0":
                continue
            kind = names.get(second if first == "0" else first, 2)
            total = sum(point.getAppliedImpulse() for point in manifold.getManifoldPoints())
            impulses[step, kind] += total
            touching[step] |= kind == 0 and total > 0
            met |= kind == 1 and total > 0
    mass = placements[0].thing.mass
    changes = impulses / mass
    tilt = np.degrees(np.arccos(np.clip(up, -1, 1)))
    outcome = Outcome(
        placements[0].centre,
        path[-1],
        float(tilt[-1]),
        float(tilt.max()),
        float(path[:, 2].min()),
        float(path[:, 2].max()),
    )
    sliding = np.linalg.norm(motion[:, :2], axis=1) * touching
    return Recording(
        poses=poses,
        table=np.maximum(changes[:, 0] - 1.5 * GRAVITY * dt, 0),
        hand=changes[:, 1],
        bump=changes[:, 2],
        sliding=sliding,
        motion=motion,
        held=held,
        outcome=outcome,
    )


def _body(world: Any, placement: Placement, name: str) -> Any:
    from panda3d import bullet, core

    thing = placement.thing
    node = bullet.BulletRigidBodyNode(name)
    node.addShape(collision_shape(thing))
    node.setMass(thing.mass)
    node.setFriction(0.5)
    node.setRestitution({"rubber": 0.75, "metal": 0.45, "plastic": 0.45}.get(thing.material, 0.3))
    node.setLinearDamping(0.1)
    node.setAngularDamping(0.9 if thing.noun == "ball" else 0.6)
    path = core.NodePath(node)
    path.setPosHpr(*placement.centre.tolist(), placement.yaw, 0, 0)
    world.attach(node)
    return path


def _keep_in_palm(node: Any, moved: np.ndarray, goal: np.ndarray, last: bool) -> None:
    """A real hand cups what it pushes, a flat collider lets it slip: steer along the push."""
    from panda3d import core

    across = np.array([-goal[1], goal[0]])
    velocity = np.array([*node.getLinearVelocity()])
    along = float(velocity[:2] @ goal) * (0.3 if last else 1.0)
    ground = along * goal - 8.0 * float(moved @ across) * across
    node.setLinearVelocity(core.Vec3(float(ground[0]), float(ground[1]), float(velocity[2])))
    node.setAngularVelocity(node.getAngularVelocity() * (0.3 if last else 0.97))


def _palm() -> Any:
    from panda3d import bullet, core

    node = bullet.BulletRigidBodyNode("palm")
    node.addShape(bullet.BulletBoxShape(core.Vec3(*_HAND_HALF)), core.TransformState.makePos(core.Vec3(*_HAND_CENTRE)))
    node.setKinematic(True)
    node.setFriction(0.3)
    node.setDeactivationEnabled(False)
    return core.NodePath(node)


def _turn(core: Any, axis: Any, radians: float) -> Any:
    turn = core.Quat()
    turn.setFromAxisAngleRad(float(radians), axis)
    return turn
