"""The stage: Panda3D's software renderer without a window, with camera, lights and table.

One stage is made a process, on first use. Nothing of one clip survives into the next:
transforms are not cached, since Panda3D shares nearly equal ones and a clip's last bits
would then depend on the clips before it.
"""

from __future__ import annotations

import atexit
import colorsys
import functools
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mmkd.sources.tabletop import meshes, textures
from mmkd.sources.tabletop.hand import SKINS, Hand

SUPERSAMPLE = 2
SEEN_TABLES = 36
UNSEEN_TABLES = 12
_SETTINGS = """
load-display p3tinydisplay
audio-library-name null
notify-level warning
transform-cache 0
uniquify-transforms 0
"""


@dataclass
class Look:
    """How a clip's surroundings look. Colours are three shares of 1."""

    table: int
    turn: float
    edge: float
    background: tuple[float, float, float]
    ambient: tuple[float, float, float]
    sun: tuple[float, float, float]
    sun_hpr: tuple[float, float, float]
    skin: int
    sleeve: tuple[float, float, float]
    exposure: float
    sensor_noise: float


def draw_look(unseen: bool, rng: np.random.Generator) -> Look:
    """Draw light, table and sleeve; unseen tables are of families that training never shows."""
    table = SEEN_TABLES + int(rng.integers(UNSEEN_TABLES)) if unseen else int(rng.integers(SEEN_TABLES))
    tint = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.18), 1.0)
    ambient, sun = rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.85)
    return Look(
        table=table,
        turn=float(rng.uniform(-40, 40)),
        edge=float(rng.uniform(1.5, 5.0)),
        background=_hsv(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.1, 0.8)),
        ambient=(ambient, ambient, ambient),
        sun=(tint[0] * sun, tint[1] * sun, tint[2] * sun),
        sun_hpr=(float(rng.uniform(-180, 180)), float(rng.uniform(-75, -30)), 0.0),
        skin=int(rng.integers(len(SKINS))),
        sleeve=_hsv(rng.random(), rng.uniform(0.0, 0.4), rng.uniform(0.2, 0.9)),
        exposure=float(rng.uniform(0.75, 1.15)),
        sensor_noise=float(rng.uniform(1.5, 5.0)),
    )


@functools.cache
def get_stage(width: int, height: int) -> Stage:
    """This process's stage for frames of that size."""
    return Stage(width, height)


class Stage:
    """A scene graph and an off-screen buffer. `things` holds what belongs to one clip."""

    def __init__(self, width: int, height: int) -> None:
        from panda3d import core

        core.loadPrcFileData("mmkd tabletop", _SETTINGS)
        self.width, self.height = width, height
        self._core = core
        pipe = core.GraphicsPipeSelection.getGlobalPtr().makePipe("TinyOffscreenGraphicsPipe")
        if pipe is None:
            raise RuntimeError(
                "Panda3D has no software renderer here: its wheel should ship p3tinydisplay; reinstall panda3d"
            )
        self._engine = core.GraphicsEngine.getGlobalPtr()
        properties = core.FrameBufferProperties()
        properties.setRgbColor(True)
        properties.setDepthBits(16)
        size = core.WindowProperties.size(width * SUPERSAMPLE, height * SUPERSAMPLE)
        self._buffer = self._engine.makeOutput(
            pipe, f"tabletop {width}x{height}", 0, properties, size, core.GraphicsPipe.BFRefuseWindow
        )
        self._texture = core.Texture()
        self._buffer.addRenderTexture(self._texture, core.GraphicsOutput.RTMCopyRam)
        self.root = core.NodePath("tabletop")
        # By default what is opaque is drawn in the order of its state's address in memory, which
        # shows where depths are equal. Here: in the scene's order, then shadows one by one.
        core.CullBinManager.getGlobalPtr().addBin("shadow", core.CullBinManager.BTFixed, 60)
        self.root.setBin("unsorted", 0)
        self._lens = core.PerspectiveLens()
        self._lens.setAspectRatio(width / height)
        self._lens.setFov(50.0)
        self._lens.setNearFar(0.8, 40.0)
        self.camera = self.root.attachNewNode(core.Camera("eye", self._lens))
        self._buffer.makeDisplayRegion().setCamera(self.camera)
        self._ambient = self.root.attachNewNode(core.AmbientLight("ambient"))
        self._sun = self.root.attachNewNode(core.DirectionalLight("sun"))
        self.root.setLight(self._ambient)
        self.root.setLight(self._sun)
        self._table = self.root.attachNewNode(meshes.to_geom_node(meshes.cuboid((30.0, 20.0, 0.4), (0, -10.0, -0.2))))
        self.hands = {side: Hand(self.root, side) for side in (-1, 1)}
        self.things = self.root.attachNewNode("things")
        self._shadow = self._make_shadow()
        # Left to the interpreter's end, buffers go after the renderer they need, and it crashes.
        atexit.register(self._engine.removeAllWindows)

    def set_up(self, look: Look, side: int) -> Hand:
        """Clear what is left of the last clip and dress the scene. Returns the hand to pose."""
        self.things.removeNode()
        self.things = self.root.attachNewNode("things")
        self._buffer.setClearColor((*look.background, 1.0))
        self._ambient.node().setColor((*look.ambient, 1.0))
        self._sun.node().setColor((*look.sun, 1.0))
        self._sun.setHpr(*look.sun_hpr)
        self._table.setTexture(_table_texture(look.table))
        self._table.setTexTransform(
            self._core.TextureStage.getDefault(),
            self._core.TransformState.makePosRotateScale2d((0.37, 0.61), look.turn, (9.0, 6.0)),
        )
        self._table.setY(look.edge)
        for each, hand in self.hands.items():
            hand.show(each == side)
        self.hands[side].dress(SKINS[look.skin], look.sleeve)
        return self.hands[side]

    def add_shadow(self) -> Any:
        """A blob of shadow for one body; place it with `place_shadow`."""
        shadow = self._shadow.copyTo(self.things)
        shadow.setBin("shadow", self.things.getNumChildren())
        return shadow

    def place_shadow(self, shadow: Any, x: float, y: float, radius: float, height: float) -> None:
        """Under a body whose underside is `height` above the table: wider and paler as it rises."""
        shadow.setPos(x, y, 0.02)
        shadow.setScale(radius * 2 * (1.15 + 0.25 * max(height, 0.0)))
        shadow.setAlphaScale(float(np.clip(1.0 - 0.3 * height, 0.3, 1.0)))

    def capture(self) -> np.ndarray:
        """Render: float32 [height, width, 3], RGB, 0..255, smoothed by supersampling."""
        self._engine.renderFrame()
        raw = np.frombuffer(self._texture.getRamImage(), np.uint8)
        raw = raw.reshape(self.height * SUPERSAMPLE, self.width * SUPERSAMPLE, 4)
        small = cv2.resize(raw, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return small[::-1, :, 2::-1].astype(np.float32)

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points [n, 3] to shares of the frame [n, 2], origin at the top left."""
        matrix = np.array(self.root.getMat(self.camera) * self._lens.getProjectionMat())
        clip = points @ matrix[:3] + matrix[3]
        depth = np.maximum(clip[:, 3:4], 1e-3)
        return clip[:, :2] / depth * (0.5, -0.5) + 0.5

    def _make_shadow(self) -> Any:
        maker = self._core.CardMaker("shadow")
        maker.setFrame(-0.5, 0.5, -0.5, 0.5)
        card = self._core.NodePath(maker.generate())
        card.setP(-90)
        card.flattenLight()
        card.setTexture(textures.to_texture(textures.shadow(), repeat=False))
        card.setTransparency(self._core.TransparencyAttrib.MAlpha)
        card.setLightOff(1)
        card.setDepthWrite(False)
        return card


def grain(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Sensor noise of deviation 1, float32: a stretch of one fixed bank, for drawing it costs more than a frame."""
    bank, size = _noise_bank(), int(np.prod(shape))
    start = int(rng.integers(len(bank) - size))
    return bank[start : start + size].reshape(shape)


@functools.cache
def _noise_bank() -> np.ndarray:
    return np.random.default_rng(34).standard_normal(1 << 20, np.float32)


@functools.cache
def _table_texture(number: int) -> Any:
    rng = np.random.default_rng([33, number])
    families = textures.TABLE_FAMILIES if number < SEEN_TABLES else textures.UNSEEN_TABLE_FAMILIES
    base = np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.03, 0.3), rng.uniform(0.35, 0.9)))
    return textures.to_texture(textures.table(families[number % len(families)], base, rng))


def _hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return float(red), float(green), float(blue)
