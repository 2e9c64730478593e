"""The hand: an articulated model of capsules with a forearm, posed and measured by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmkd.sources.tabletop import meshes

SKINS = (
    (0.98, 0.83, 0.72),
    (0.93, 0.74, 0.6),
    (0.83, 0.62, 0.47),
    (0.68, 0.47, 0.34),
    (0.5, 0.34, 0.25),
    (0.36, 0.24, 0.18),
)
_PALM = (0.8, 0.85, 0.26)
_FINGERS = (-0.3, -0.1, 0.1, 0.3)
_SEGMENTS = (0.36, 0.32)


class Hand:
    """A left (side -1) or right (+1) hand under `parent`.

    In the hand's frame the fingers point along +y and the palm faces -z; the origin is the
    palm's centre. Lengths in decimetres, angles in degrees.
    """

    def __init__(self, parent: Any, side: int) -> None:
        self.side = side
        self.parent = parent
        self.root = parent.attachNewNode("hand")
        self._joints: list[tuple[Any, Any]] = []
        self._measured: list[tuple[Any, np.ndarray]] = []
        self._add(self.root, meshes.cuboid(_PALM))
        for x in _FINGERS:
            length = 1.0 - 0.9 * abs(x - 0.05)
            self._finger((x, 0.38, 0.0), 0.0, 0.105, length)
        self._thumb = self._finger((-side * 0.38, -0.2, -0.06), side * 50.0, 0.12, 0.85)
        self.arm = parent.attachNewNode("arm")
        self.arm.attachNewNode(meshes.to_geom_node(meshes.capsule(0.23, 1.2, 8)))
        self.sleeve = self.arm.attachNewNode(
            meshes.to_geom_node(meshes.moved(meshes.capsule(0.31, 5.0, 8), (0, 1.1, 0)))
        )

    def dress(self, skin: tuple[float, float, float], sleeve: tuple[float, float, float]) -> None:
        """Colours, each three shares of 1."""
        self.root.setColor(*skin, 1)
        self.arm.setColor(*skin, 1)
        self.sleeve.setColor(*sleeve, 1)

    def show(self, visible: bool) -> None:
        for node in (self.root, self.arm):
            if visible:
                node.show()
            else:
                node.hide()

    def pose(self, position: np.ndarray, hpr: np.ndarray, curl: float, elbow: np.ndarray) -> None:
        """Set the palm's place and turn; curl 0 is a flat hand, 1 a fist."""
        self.root.setPosHpr(*map(float, position), *map(float, hpr))
        for base, tip in self._joints:
            base.setP(-75.0 * curl)
            tip.setP(-85.0 * curl)
        thumb, tip = self._thumb
        thumb.setP(-45.0 * curl)
        tip.setH(-self.side * 40.0 * curl)
        wrist = self.parent.getRelativePoint(self.root, (0.0, -0.35, 0.0))
        self.arm.setPos(wrist)
        self.arm.lookAt(*map(float, elbow))

    def points(self) -> np.ndarray:
        """Points that bound the hand without its arm, in the parent's frame: [n, 3]."""
        found = []
        for node, local in self._measured:
            matrix = np.array(node.getMat(self.parent))
            found.append(local @ matrix[:3, :3] + matrix[3, :3])
        return np.concatenate(found)

    def _finger(
        self, base: tuple[float, float, float], heading: float, radius: float, length: float
    ) -> tuple[Any, Any]:
        first = self.root.attachNewNode("finger")
        first.setPos(*base)
        first.setH(heading)
        self._add(first, meshes.capsule(radius, _SEGMENTS[0] * length, 6))
        second = first.attachNewNode("tip")
        second.setPos(0, _SEGMENTS[0] * length, 0)
        self._add(second, meshes.capsule(radius * 0.9, _SEGMENTS[1] * length, 6))
        if heading == 0.0:
            self._joints.append((first, second))
        return first, second

    def _add(self, node: Any, mesh: meshes.Mesh) -> None:
        node.attachNewNode(meshes.to_geom_node(mesh))
        low, high = mesh.vertices[:, :3].min(0), mesh.vertices[:, :3].max(0)
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
        self._measured.append((node, corners))
