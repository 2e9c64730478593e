"""The nouns: shape, instances (size, colours, pattern, material) and collision shape of each.

Lengths are in decimetres throughout the package: Bullet is at its best near 1.
"""

from __future__ import annotations

import colorsys
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmkd.sources.tabletop import meshes, textures
from mmkd.sources.tabletop.meshes import Mesh

NOUNS = ("ball", "book", "bottle", "bowl", "box", "can", "mug", "teapot")
CAN_TIP = ("book", "bottle", "box", "can", "mug")
"""Nouns that stand high enough to be tipped over."""
SEEN_INSTANCES = 12
UNSEEN_INSTANCES = 6

# Each hue is worn by two nouns and each noun wears two, so colour alone names none.
_HUES = ((0.0, 0.8), (0.07, 0.85), (0.14, 0.8), (0.33, 0.65), (0.48, 0.65), (0.6, 0.75), (0.78, 0.55), (0.1, 0.06))
# The last pattern of each noun is on instances that training never shows.
_PATTERNS = {
    "ball": ("stripes", "plain", "dots"),
    "book": ("plain", "label", "dots"),
    "bottle": ("plain", "bands", "label"),
    "bowl": ("plain", "dots", "bands"),
    "box": ("checks", "label", "stripes"),
    "can": ("bands", "stripes", "label"),
    "mug": ("dots", "plain", "checks"),
    "teapot": ("checks", "plain", "bands"),
}
_MATERIALS = {
    "ball": ("rubber", "wood"),
    "book": ("paper",),
    "bottle": ("glass", "plastic"),
    "bowl": ("china", "wood"),
    "box": ("paper", "wood"),
    "can": ("metal",),
    "mug": ("china", "metal"),
    "teapot": ("china", "metal"),
}


@dataclass(frozen=True)
class Instance:
    """One object. `number` counts from SEEN_INSTANCES on for those that training never shows.

    height: upright extent; radius: of the upright bounding cylinder (of the ball itself);
    size: full extents of cuboid nouns; loose: how much its content rattles, 0..1.
    """

    noun: str
    number: int
    lying: bool
    height: float
    radius: float
    size: tuple[float, float, float]
    material: str
    mass: float
    loose: float

    @property
    def half_height(self) -> float:
        return self.height / 2


@functools.cache
def instance(noun: str, number: int, lying: bool = False) -> Instance:
    """The noun's instance of that number, the same for every seed; only a book can lie."""
    rng = _instance_rng(noun, number)
    x, y, z = _proportions(noun, rng)
    if lying:
        y, z = z, y
    material = str(rng.choice(_MATERIALS[noun]))
    loose = float(rng.uniform(0.4, 1.0) if noun in ("box", "can", "bottle", "teapot") else rng.uniform(0, 0.35))
    mass = float(x * y * z * {"metal": 0.5, "glass": 0.7, "china": 0.7}.get(material, 0.35) + 0.05)
    return Instance(noun, number, lying, z, max(x, y) / 2, (x, y, z), material, mass, loose)


@functools.cache
def geometry(noun: str, number: int, lying: bool = False) -> tuple[Any, np.ndarray]:
    """A textured NodePath to copy into a scene, centred on the body, and its vertices [n, 3]."""
    from panda3d import core

    thing = instance(noun, number, lying)
    mesh = _shape(thing)
    node = core.NodePath(meshes.to_geom_node(mesh, noun))
    node.setTexture(textures.to_texture(_skin(noun, number)))
    if noun in ("bowl", "mug"):
        node.setTwoSided(True)
    return node, np.unique(mesh.vertices[:, :3].round(4), axis=0)


def collision_shape(thing: Instance) -> Any:
    """The Bullet shape, centred on the body."""
    from panda3d import bullet, core

    if thing.noun == "ball":
        return bullet.BulletSphereShape(thing.radius)
    if thing.noun in ("book", "box"):
        shape = bullet.BulletBoxShape(core.Vec3(*(extent / 2 for extent in thing.size)))
    else:
        shape = bullet.BulletCylinderShape(thing.radius, thing.height, bullet.ZUp)
    shape.setMargin(0.02)
    return shape


def _instance_rng(noun: str, number: int) -> np.random.Generator:
    return np.random.default_rng([31, NOUNS.index(noun), number])


def _proportions(noun: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Full extents (x, y, z) of an upright instance; x and y are a cylinder's diameter."""
    grow, stretch = rng.uniform(1.0, 1.25), rng.uniform(0.95, 1.12)
    x, y, z = {
        "ball": (0.95, 0.95, 0.95),
        "book": (1.15, 0.28, 1.5),
        "bottle": (0.68, 0.68, 1.85),
        "bowl": (1.45, 1.45, 0.6),
        "box": (1.0, 0.65, 1.3),
        "can": (0.74, 0.74, 1.2),
        "mug": (0.86, 0.86, 1.0),
        "teapot": (1.1, 1.1, 0.95),
    }[noun]
    if noun == "ball":
        stretch = grow
    return x * grow, y * grow, z * stretch


def _shape(thing: Instance) -> Mesh:
    _x, _y, z = thing.size
    radius, low, high = thing.radius, -thing.height / 2, thing.height / 2
    if thing.noun == "ball":
        angles = np.linspace(-np.pi / 2, np.pi / 2, 8)
        return meshes.lathe([(radius * np.cos(a), radius * np.sin(a)) for a in angles], 12, smooth=True)
    if thing.noun == "box":
        return meshes.cuboid(thing.size)
    if thing.noun == "book":
        cover, pages = (0.0, 0.0, 0.75, 1.0), (0.8, 0.0, 1.0, 1.0)
        broad = "z" if thing.lying else "y"
        faces = {axis + sign: cover if axis == broad else pages for axis in "xyz" for sign in "+-"}
        faces["x-"] = cover
        return meshes.cuboid(thing.size, face_uv=faces)
    if thing.noun == "bottle":
        neck = radius * 0.38
        body = [(0, low), (radius, low), (radius, low + z * 0.55), (neck, low + z * 0.75), (neck, high), (0, high)]
        return meshes.lathe(body, 10)
    if thing.noun == "can":
        rim = radius * 0.88
        body = [(0, low), (radius, low), (radius, high - 0.08), (rim, high), (rim, high - 0.04), (0, high - 0.04)]
        return meshes.lathe(body, 12)
    if thing.noun == "bowl":
        outer = [(0, low), (radius * 0.45, low), (radius * 0.8, low + z * 0.4), (radius, high)]
        inner = [(radius * 0.93, high), (radius * 0.7, low + z * 0.45), (0, low + 0.1)]
        return meshes.lathe(outer + inner, 14)
    if thing.noun == "mug":
        cup = meshes.lathe(
            [
                (0, low),
                (radius, low),
                (radius, high),
                (radius * 0.88, high),
                (radius * 0.85, low + 0.1),
                (0, low + 0.1),
            ],
            12,
        )
        return meshes.joined(cup, _handle(radius, z * 0.3, 0.32))
    body = [(0, low), (radius * 0.65, low), (radius, low + z * 0.35), (radius * 0.8, low + z * 0.68)]
    lid = [(radius * 0.3, low + z * 0.82), (radius * 0.1, low + z * 0.85), (radius * 0.16, high), (0, high)]
    spout = meshes.tube(
        [(-radius * 0.8, 0, -z * 0.1), (-radius * 1.3, 0, z * 0.08), (-radius * 1.65, 0, z * 0.4)], 0.17, taper=0.5
    )
    return meshes.joined(meshes.lathe(body + lid, 12), spout, _handle(radius * 0.85, z * 0.3, 0.38))


def _handle(start: float, half: float, reach: float) -> Mesh:
    angles = np.linspace(-np.pi / 2, np.pi / 2, 6)
    return meshes.tube([(start + reach * np.cos(a), 0.0, half * np.sin(a)) for a in angles], 0.075)


def _skin(noun: str, number: int) -> np.ndarray:
    """The instance's texture; unseen ones wear a new pattern in another shade of the noun's hues."""
    rng = np.random.default_rng([32, NOUNS.index(noun), number])
    unseen = number >= SEEN_INSTANCES
    hue, saturation = _HUES[(NOUNS.index(noun) + number % 2) % len(_HUES)]
    hue += 0.03 if unseen else 0.0
    base = _colour(hue + rng.uniform(-0.025, 0.025), saturation, rng.uniform(0.55, 0.95))
    light = rng.random() < 0.75
    accent = _colour(rng.random(), 0.05 if light else 0.3, rng.uniform(0.85, 1.0) if light else 0.35)
    kind = _PATTERNS[noun][2 if unseen else number // 2 % 2]
    image = textures.pattern(kind, base, accent, rng)
    if noun == "book":
        image[:, int(textures.SIZE * 0.78) :] = (232, 226, 208)
    return image


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
