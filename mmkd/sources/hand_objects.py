"""EPIC-KITCHENS' hand and object boxes: a pickle of a list of bytes, each a protobuf message on one frame.

The pickle is not unpickled but walked: bytes and one list are all that is known here, so nothing in it runs. Messages
are those of https://github.com/epic-kitchens/epic-kitchens-100-hand-object-bboxes (types.proto).
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd.sources.clip import BOX_DTYPE, CORNERS, FAR_OUT, HAND, MAX_BOXES, OBJECT
from mmkd.sources.recording import BoxReader, RejectedError
from mmkd.storage import StrPath, is_file, name_of, read_bytes, size_of

MAX_BYTES = 1 << 29
MAX_OPCODES = 1 << 21
"""More would be about 5 hours of frames, or meant to fill the memory."""

_BYTES = {b"C": 1, b"B": 4, b"\x8e": 8, b"U": 1, b"T": 4}
"""Opcodes of bytes, to the size of the length that follows."""
_PUT, _GET = {b"q": 1, b"r": 4}, {b"h": 1, b"j": 4}
_RUNS = {
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"),
    *("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
}
"""Opcodes by which a pickle names or calls what is outside it."""


@dataclass(frozen=True)
class HandObjectFile:
    """The first of these files that is there; see :class:`mmkd.sources.video.BoxFile`."""

    paths: tuple[str, ...]

    def open(self, rate: float) -> BoxReader | None:
        path = next((path for path in self.paths if is_file(path)), "")
        return open_hand_objects(path) if path else None


def open_hand_objects(path: StrPath) -> BoxReader:
    """The boxes in a PXX_YY.pkl.

    Raises:
        RejectedError: it cannot be read, is too large, is no list of bytes, or would run code when unpickled.
    """
    name = name_of(path)
    if size_of(path) > MAX_BYTES:
        raise RejectedError("boxes", f"{name} has more than {MAX_BYTES >> 20} MB")
    try:
        data = read_bytes(path)
    except OSError as error:
        raise RejectedError("boxes", f"{name} cannot be read: {error}") from error
    try:
        return HandObjects(name, messages_in(data))
    except RejectedError as error:
        raise RejectedError(error.kind, f"{name}: {error}") from error


class HandObjects:
    """Boxes of a video by frame number, message n on frame n; frames past the end have none."""

    def __init__(self, name: str, messages: Sequence[bytes]):
        self.name, self.messages = name, messages

    def read(self, numbers: Sequence[int], size: tuple[int, int]) -> list[NDArray]:
        """See :class:`mmkd.sources.recording.BoxReader`."""
        return [self._boxes(number) for number in numbers]

    def _boxes(self, number: int) -> NDArray:
        if number >= len(self.messages):
            return np.zeros(0, BOX_DTYPE)
        try:
            return detections(self.messages[number])
        except ValueError as error:
            raise RejectedError("boxes", f"{self.name}, frame {number + 1}: {error}") from error


def messages_in(pickled: bytes) -> list[bytes]:
    """The list of bytes that a pickle holds, of protocol 2 or higher.

    Raises:
        RejectedError: unsafe: it would run code when unpickled; boxes: it is no pickle, or one of something else.
    """
    try:
        return _walk(pickled)
    except (ValueError, IndexError, KeyError) as error:
        if opcode := _runs(pickled):
            raise RejectedError("unsafe", f"it would run code when unpickled: {opcode}") from error
        raise RejectedError("boxes", f"it is no pickled list of bytes: {error}") from error


def _walk(data: bytes) -> list[bytes]:
    """Raises ValueError, IndexError or KeyError where it is anything else."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    at, listed = 0, False

    def number(length: int) -> int:
        nonlocal at
        at += length
        if at > len(data):
            raise ValueError("it is cut short")
        return int.from_bytes(data[at - length : at], "little")

    for _ in range(MAX_OPCODES):
        code, at = data[at : at + 1], at + 1
        if code in _BYTES:
            length = number(_BYTES[code])
            if length > len(data) - at:
                raise ValueError("it is cut short")
            stack.append(data[at : at + length])
            at += length
        elif code == b"\x94":
            memo[len(memo)] = stack[-1]
        elif code in _PUT:
            memo[number(_PUT[code])] = stack[-1]
        elif code in _GET:
            stack.append(memo[number(_GET[code])])
        elif code == b"(":
            marks.append(len(stack))
        elif code in (b"a", b"e"):
            first = marks.pop() if code == b"e" else len(stack) - 1
            values = stack[first:]
            del stack[first:]
            if not isinstance(stack[-1], list) or not all(isinstance(value, bytes) for value in values):
                raise ValueError("there is something else than bytes in a list")
            stack[-1].extend(values)
        elif code == b"]" and not listed:
            listed = True
            stack.append([])
        elif code == b"\x80" and number(1) <= 5:
            pass
        elif code == b"\x95":
            number(8)
        elif code == b"." and len(stack) == 1 and not marks and isinstance(stack[0], list):
            return stack[0]
        else:
            raise ValueError(f"opcode {code!r} at byte {at - 1}" if code else "it is cut short")
    raise ValueError(f"it has more than {MAX_OPCODES} opcodes")


def _runs(data: bytes) -> str:
    """The first opcode of a pickle that would run something; empty: there is none up to where it can be followed."""
    try:
        for _, (opcode, _, at) in zip(range(MAX_OPCODES), pickletools.genops(data), strict=False):
            if opcode.name in _RUNS:
                return f"opcode {opcode.name} at byte {at}"
    except Exception:  # whatever its readers of arguments raise
        pass
    return ""


def detections(message: bytes) -> NDArray:
    """Boxes of a frame, BOX_DTYPE, from a message Detections: hands (3) and objects (4).

    Raises:
        ValueError: it is malformed, or a corner, side or state is none.
    """
    rows: list[tuple[Any, ...]] = []
    for field, value in _fields(message):
        if field not in (3, 4):
            continue
        if len(rows) == MAX_BOXES:
            raise ValueError(f"it has more than {MAX_BOXES} boxes")
        of = dict(_fields(_as(bytes, value)))
        corners = dict(_fields(_as(bytes, of.get(1, b""))))
        # proto3 leaves out what is zero: the left hand, no contact, a corner at the edge.
        box = [_as(float, corners.get(number, 0.0)) for number in (1, 2, 3, 4)]
        score = _as(float, of.get(2, 0.0))
        side, state = (of.get(5, 0), of.get(3, 0)) if field == 3 else (-1, -1)
        if field == 3 and (side not in (0, 1) or state not in range(5)):
            raise ValueError(f"a hand has side {side!r} and state {state!r}")
        if any(not -FAR_OUT <= value <= 1 + FAR_OUT for value in box if value == value):
            raise ValueError(f"corners of a box must be shares of the frame, they are {box}")
        rows.append((*box, score, HAND if field == 3 else OBJECT, side, state))
    boxes = np.array(rows, BOX_DTYPE)
    for name in CORNERS:
        boxes[name] = np.clip(boxes[name], 0, 1)
    return boxes


def _fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value of each field: varints as int, 32 bits as float, the rest as bytes.

    See https://protobuf.dev/programming-guides/encoding. Raises ValueError.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        field, kind = tag >> 3, tag & 7
        if not field:
            raise ValueError("a message has a field 0")
        if kind == 0:
            number, at = _varint(message, at)
            yield field, number
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a message has a field of wire type {kind}")
        if length > end - at:
            raise ValueError("a message is cut short")
        value = message[at : at + length]
        yield field, struct.unpack("<f", value)[0] if kind == 5 else value
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, the low ones first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("a message is cut short")
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError("a message has a number of more than 10 bytes")


def _as(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError("a field of a message has another type")
    return value
