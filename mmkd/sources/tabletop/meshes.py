"""Coarse triangle meshes as numpy arrays, and their way into Panda3D geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Points = list[tuple[float, float, float]]


@dataclass
class Mesh:
    """vertices float32 [n, 8]: position, normal, texture coordinates; triangles uint16 [m, 3]."""

    vertices: np.ndarray
    triangles: np.ndarray


def lathe(profile: list[tuple[float, float]], segments: int = 12, smooth: bool = False) -> Mesh:
    """A surface of revolution about z from (radius, z) points, listed from the bottom up.

    Texture u goes once around, v along the profile. Edges between the profile's pieces
    are sharp unless `smooth`.
    """
    points = np.asarray(profile, np.float64)
    steps = np.diff(points, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    normals = np.stack([steps[:, 1], -steps[:, 0]], 1) / np.maximum(lengths, 1e-9)[:, None]
    along = np.concatenate([[0.0], np.cumsum(lengths)]) / lengths.sum()
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    cos, sin = np.cos(angle), np.sin(angle)
    shared = np.concatenate([normals[:1], normals[:-1] + normals[1:], normals[-1:]])
    shared /= np.maximum(np.linalg.norm(shared, axis=1), 1e-9)[:, None]
    vertices: list[np.ndarray] = []
    triangles: list[np.ndarray] = []
    for i in range(len(steps)):
        base = len(vertices) * (segments + 1)
        for j in (i, i + 1):
            radial, up = shared[j] if smooth else normals[i]
            radius, z = points[j]
            ring = np.zeros((segments + 1, 8))
            ring[:, 0], ring[:, 1], ring[:, 2] = radius * cos, radius * sin, z
            ring[:, 3], ring[:, 4], ring[:, 5] = radial * cos, radial * sin, up
            ring[:, 6], ring[:, 7] = angle / (2 * np.pi), along[j]
            vertices.append(ring)
        low = base + np.arange(segments)
        high = low + segments + 1
        triangles.append(np.stack([low, low + 1, high + 1], 1))
        triangles.append(np.stack([low, high + 1, high], 1))
    return _mesh(np.concatenate(vertices), np.concatenate(triangles))


def cuboid(
    size: tuple[float, float, float],
    center: tuple[float, float, float] = (0.0, 0.0, 0.0),
    face_uv: dict[str, tuple[float, float, float, float]] | None = None,
) -> Mesh:
    """A box of full extents `size`. face_uv maps a face (such as "x+") to (u0, v0, u1, v1)."""
    vertices: list[np.ndarray] = []
    triangles: list[tuple[int, int, int]] = []
    for axis, name in enumerate("xyz"):
        for sign, mark in ((1, "+"), (-1, "-")):
            normal = np.zeros(3)
            normal[axis] = sign
            up = np.array([0.0, 0, 1]) if axis != 2 else np.array([0.0, 1, 0])
            right = np.cross(up, normal)
            u0, v0, u1, v1 = (face_uv or {}).get(name + mark, (0.0, 0.0, 1.0, 1.0))
            base = len(vertices)
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                corner = (normal + a * right + b * up) * np.asarray(size) / 2 + center
                uv = (u0 if a < 0 else u1, v0 if b < 0 else v1)
                vertices.append(np.concatenate([corner, normal, uv]))
            triangles += [(base, base + 1, base + 2), (base, base + 2, base + 3)]
    return _mesh(np.array(vertices), np.array(triangles))


def tube(path: Points, radius: float, sides: int = 5, taper: float = 1.0) -> Mesh:
    """A tube along a path in the x-z plane; its radius goes to radius * taper at the far end."""
    points = np.asarray(path, np.float64)
    tangents = np.gradient(points, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    side = np.array([0.0, 1.0, 0.0])
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    vertices, triangles = [], []
    for i, (point, tangent) in enumerate(zip(points, tangents, strict=True)):
        other = np.cross(tangent, side)
        normal = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
        thickness = radius * (1 + (taper - 1) * i / (len(points) - 1))
        uv = np.stack([angle / (2 * np.pi), np.full(sides + 1, 0.5)], 1)
        vertices.append(np.concatenate([point + normal * thickness, normal, uv], 1))
        if i:
            low = (i - 1) * (sides + 1) + np.arange(sides)
            high = low + sides + 1
            triangles.append(np.stack([low, low + 1, high + 1], 1))
            triangles.append(np.stack([low, high + 1, high], 1))
    return _mesh(np.concatenate(vertices), np.concatenate(triangles))


def capsule(radius: float, length: float, segments: int = 7) -> Mesh:
    """A capsule from the origin along +y; its rounded ends reach `radius` further."""
    arc = np.linspace(0, np.pi / 2, 3)
    low = [(radius * np.sin(a), -radius * np.cos(a)) for a in arc]
    high = [(radius * np.cos(a), length + radius * np.sin(a)) for a in arc]
    return swapped(lathe(low + high, segments, smooth=True))


def swapped(mesh: Mesh) -> Mesh:
    """The mesh turned so that its z axis lies along +y."""
    vertices = mesh.vertices.copy()
    for first in (0, 3):
        y, z = mesh.vertices[:, first + 1].copy(), mesh.vertices[:, first + 2].copy()
        vertices[:, first + 1], vertices[:, first + 2] = z, -y
    return Mesh(vertices, mesh.triangles)


def moved(mesh: Mesh, offset: tuple[float, float, float], scale: float = 1.0) -> Mesh:
    """The mesh scaled about the origin, then shifted."""
    vertices = mesh.vertices.copy()
    vertices[:, :3] = vertices[:, :3] * scale + offset
    return Mesh(vertices, mesh.triangles)


def joined(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    triangles = [mesh.triangles + start for mesh, start in zip(meshes, starts, strict=True)]
    return _mesh(np.concatenate([m.vertices for m in meshes]), np.concatenate(triangles))


def to_geom_node(mesh: Mesh, name: str = "mesh") -> Any:
    """A panda3d.core.GeomNode that draws the mesh."""
    from panda3d import core

    data = core.GeomVertexData(name, core.GeomVertexFormat.getV3n3t2(), core.Geom.UHStatic)
    data.uncleanSetNumRows(len(mesh.vertices))
    memoryview(data.modifyArray(0)).cast("B")[:] = mesh.vertices.astype("<f4").tobytes()
    primitive = core.GeomTriangles(core.Geom.UHStatic)
    for corners in mesh.triangles.tolist():
        primitive.addVertices(*corners)
    geom = core.Geom(data)
    geom.addPrimitive(primitive)
    node = core.GeomNode(name)
    node.addGeom(geom)
    return node


def _mesh(vertices: np.ndarray, triangles: np.ndarray) -> Mesh:
    return Mesh(vertices.astype(np.float32), triangles.astype(np.uint16))
