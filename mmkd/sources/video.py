"""A recording in a video file, with sound from it or from elsewhere: what most sources are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from mmkd.media.sound import ContainerSound, FileSound
from mmkd.media.video import VideoReader, open_container
from mmkd.sources.recording import BoxReader, FlowReader, Media, RejectedError, Segment, SoundReader
from mmkd.storage import name_of, open_input


class BoxFile(Protocol):
    """Where the boxes of a recording are; small and cheap to send."""

    def open(self, rate: float) -> BoxReader | None:
        """The boxes of a recording with that many frames per second; None where it has none.

        Raises:
            RejectedError: they cannot be read.
        """


class SoundFile(Protocol):
    """The same for its sound."""

    def open(self) -> AbstractContextManager[SoundReader | None]: ...


class FlowFile(Protocol):
    """The same for ready-made flow."""

    def open(self) -> AbstractContextManager[FlowReader | None]: ...


@dataclass(frozen=True)
class VideoRecording:
    """A video file.

    Attributes:
        name: for people, as a path below the source's root.
        rate: frames per second that segments count frames in; 0: the video's own.
        sound: where the sound is; None: in the video.
    """

    path: str
    name: str
    segments: tuple[Segment, ...]
    rate: float = 0.0
    sound: SoundFile | None = None
    boxes: BoxFile | None = None
    flow: FlowFile | None = None

    @contextmanager
    def open(self) -> Iterator[Media]:
        with ExitStack() as stack:
            container = stack.enter_context(open_container(self.path))
            frames = VideoReader(container, self.name, self.rate)
            sound: Any = None
            if self.sound is not None:
                sound = stack.enter_context(self.sound.open())
            elif container.streams.audio:
                own = stack.enter_context(open_container(self.path))
                sound = ContainerSound(own, self.name, frames.zero)
            boxes = None if self.boxes is None else self.boxes.open(frames.rate)
            flow = None if self.flow is None else stack.enter_context(self.flow.open())
            yield Media(frames, flow, sound, boxes)


@dataclass(frozen=True)
class SoundInFile:
    """Sound in a file of its own (WAV, FLAC, ...) that begins with the recording's first frame."""

    path: str

    @contextmanager
    def open(self) -> Iterator[SoundReader | None]:
        try:
            file = open_input(self.path)
        except OSError as error:
            raise RejectedError("sound", f"{name_of(self.path)} cannot be opened: {error}") from error
        with file:
            yield FileSound(file, name_of(self.path))
