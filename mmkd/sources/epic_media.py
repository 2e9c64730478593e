"""Where the frames, flow, sound and boxes of an EPIC-KITCHENS video lie, as downloads leave them, and their readers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmkd.media.images import MAX_IMAGE_BYTES, ImageReader, TarImages, decode_image, resized
from mmkd.media.sound import ArraySound, ContainerSound
from mmkd.media.video import VideoReader, open_container
from mmkd.sources.hand_objects import HandObjectFile
from mmkd.sources.recording import FlowReader, Media, RejectedError, Segment, SoundReader
from mmkd.sources.reference_media import check_array
from mmkd.sources.video import SoundInFile, VideoRecording
from mmkd.storage import inside, is_file, join, list_files, list_folders, name_of, open_input, read_bytes

FRAME = re.compile(r"(.*/)?frame_([0-9]{10})\.jpg")
VIDEO_ENDINGS = (".MP4", ".mp4")
PACK_RATE = 24000
"""Samples per second of the sound in an HDF5 pack."""
FLOW_TAIL = 2
"""Flow may end this many of its frames before the video does; the last one is repeated then."""


@dataclass(frozen=True)
class Part:
    """What holds for one part of EPIC-KITCHENS.

    Attributes:
        rate: frames per second of the extracted frames, in which the tables count.
        stride: RGB frames for each flow frame.
        flow_step: RGB frames between the two that a flow frame was computed of.
        flow_bound: pixels that are 0 or 255.
    """

    rate: float
    stride: int
    flow_step: int
    flow_bound: float

    def flow_meta(self) -> dict[str, str]:
        return {"flow_bound": f"{self.flow_bound:g}", "flow_step": str(self.flow_step)}


EPIC_55 = Part(60.0, 2, 6, 25.0)
"""Flow of stride 2 and dilation 3 (counted after the stride) and bound 25: README of epic-kitchens-55-annotations, and
https://github.com/dl-container-registry/furnari-flow/issues/2."""
EXTENSION = Part(50.0, 1, 1, 8.0)
"""Flow by furnari-flow -s 1 -d 1 -b 8: README of epic-kitchens-100-annotations."""


def part_of(video: str) -> Part:
    """EPIC-KITCHENS-55 recorded PXX_01, ..., the extension PXX_101, ..."""
    return EPIC_55 if len(video.partition("_")[2]) == 2 else EXTENSION


@dataclass(frozen=True)
class Places:
    """Folders, local or remote.

    Attributes:
        flow: folder of ready-made flow; empty: flow is computed.
        boxes: folder of the hand-object files, with `loose` perhaps without a folder hand-objects.
        audio: folder of WAV files, or an HDF5 file; empty: sound is in the videos only.
    """

    root: str
    flow: str
    boxes: str
    loose: bool
    audio: str


def videos_with_flow(folder: str, videos: Iterable[str]) -> list[str]:
    """Those of the videos that have flow in a folder, by the names of its files and folders."""
    listed: dict[str, set[str]] = {}
    found = []
    for video in videos:
        for place in _flow_places(video):
            above, _, name = place.rpartition("/")
            if above not in listed:
                path = join(folder, above)
                listed[above] = {*list_files(path), *list_folders(path)}
            if name in listed[above]:
                found.append(video)
                break
    return found


@dataclass(frozen=True)
class EpicRecording:
    """A video, as extracted frames or as it was filmed."""

    name: str
    segments: tuple[Segment, ...]
    places: Places

    @contextmanager
    def open(self) -> Iterator[Media]:
        part, root = part_of(self.name), self.places.root
        flow = EpicFlow(self.places.flow, self.name) if self.places.flow else None
        boxes = HandObjectFile(_box_paths(self.places, self.name))
        with ExitStack() as stack:
            for place in _media_places(self.name):
                path = join(root, place)
                if place.endswith(VIDEO_ENDINGS):
                    if not is_file(path):
                        continue
                    recording = VideoRecording(path, self.name, self.segments, part.rate, None, boxes, flow)
                    media = stack.enter_context(recording.open())
                elif images := _open_images(path, ("",), stack):
                    frames = images.reader(part.rate)
                    ready = None if flow is None else stack.enter_context(flow.open())
                    media = Media(frames, ready, open_sound(self.places, self.name, stack), boxes.open(part.rate))
                else:
                    continue
                media.meta = {"media": place} | ({} if flow is None else part.flow_meta())
                yield media
                return
        looked = ", ".join(_media_places(self.name))
        raise RejectedError("unreadable", f"{self.name} has neither frames nor a video in {root}: looked for {looked}")


def _media_places(video: str) -> list[str]:
    person, early = video.partition("_")[0], part_of(video) is EPIC_55
    frames = [f"{person}/rgb_frames/{video}"]
    if early:
        frames += [f"frames_rgb_flow/rgb/{split}/{person}/{video}" for split in ("train", "test")]
    images = [place + ending for place in frames for ending in ("", ".tar")]
    videos = _video_places(video)
    return [*images[:2], *videos[:2], *images[2:], *videos[2:]]


def _video_places(video: str) -> list[str]:
    person = video.partition("_")[0]
    places = [f"{person}/videos/{video}"]
    if part_of(video) is EPIC_55:
        places += [f"videos/{split}/{person}/{video}" for split in ("train", "test")]
    return [place + ending for place in places for ending in VIDEO_ENDINGS]


def _flow_places(video: str) -> list[str]:
    person = video.partition("_")[0]
    places = [f"{person}/flow_frames/{video}"]
    if part_of(video) is EPIC_55:
        places += [f"frames_rgb_flow/flow/{split}/{person}/{video}" for split in ("train", "test")]
    return [place + ending for place in places for ending in ("", ".tar")]


def _box_paths(places: Places, video: str) -> tuple[str, ...]:
    person = video.partition("_")[0]
    names = [f"{person}/hand-objects/{video}.pkl", f"hand-objects/{person}/{video}.pkl"]
    if places.loose:
        names += [f"{person}/{video}.pkl", f"{video}.pkl"]
    return tuple(join(places.boxes, name) for name in names)


class _Images:
    """frame_0000000001.jpg, ... in a folder or a tar file.

    Attributes:
        last: folder of frames in it, with / at its end, to the highest number there.
    """

    def __init__(self, names: Iterable[str], fetch: Callable[[str], bytes]):
        self._fetch = fetch
        self.last: dict[str, int] = {}
        for name in names:
            if found := FRAME.fullmatch(name):
                self.last[found[1] or ""] = max(self.last.get(found[1] or "", 0), int(found[2]))

    def fetch(self, folder: str, number: int) -> bytes:
        return self._fetch(f"{folder}frame_{number:010d}.jpg")

    def reader(self, rate: float) -> ImageReader:
        folder = max(self.last, key=lambda name: self.last[name])
        return ImageReader(lambda number: self.fetch(folder, number + 1), rate, self.last[folder])

    def channel(self, name: str) -> str:
        """The folder of u or v; empty where there is none."""
        return next((folder for folder in sorted(self.last) if f"/{folder}".endswith(f"/{name}/")), "")


def _open_images(path: str, folders: Sequence[str], stack: ExitStack) -> _Images | None:
    """The frames in a tar file, or in these folders of a folder; None where there are none."""
    if path.partition("?")[0].endswith(".tar"):
        if not is_file(path):
            return None
        tar = TarImages(path)
        stack.callback(tar.close)
        images = _Images(tar.places, tar.fetch)
        if not images.last:
            raise RejectedError("unreadable", f"{name_of(path)} has no frame_0000000001.jpg or the like")
        return images
    names = [folder + name for folder in folders for name in list_files(join(path, folder.rstrip("/")))]
    images = _Images(names, lambda name: read_bytes(inside(path, name), MAX_IMAGE_BYTES))
    return images if images.last else None


@dataclass(frozen=True)
class EpicFlow:
    """Where the shipped flow of a video is."""

    folder: str
    video: str

    @contextmanager
    def open(self) -> Iterator[FlowReader]:
        with ExitStack() as stack:
            try:
                flow = self._find(stack)
            except RejectedError as error:
                raise RejectedError("flow", str(error)) from error
            yield flow

    def _find(self, stack: ExitStack) -> FlowFrames:
        for place in _flow_places(self.video):
            if images := _open_images(join(self.folder, place), ("u/", "v/"), stack):
                return FlowFrames(images, place, part_of(self.video).stride)
        looked = ", ".join(_flow_places(self.video))
        raise RejectedError("flow", f"{self.video} has no flow in {self.folder}, as others have: looked for {looked}")


class FlowFrames:
    """Flow as pairs of grey JPEGs; of stride 2 each pair is that of two RGB frames."""

    def __init__(self, images: _Images, name: str, stride: int):
        self.images, self.name, self.stride = images, name, stride
        self.folders = [images.channel("u"), images.channel("v")]
        if not all(self.folders):
            raise RejectedError("flow", f"{name} has no frames in a folder u and a folder v")
        self.last = min(images.last[folder] for folder in self.folders)
        self._read: tuple[tuple[int, tuple[int, int]], NDArray[np.uint8]] | None = None

    def read(self, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See :class:`mmkd.sources.recording.FlowReader`."""
        index = -(-(number + 1) // self.stride)
        if index > self.last + FLOW_TAIL:
            raise RejectedError(
                "flow", f"{self.name} ends with frame {self.last}; RGB frame {number + 1} needs {index}"
            )
        key = min(index, self.last), size
        if self._read is None or self._read[0] != key:
            self._read = key, self._decode(*key)
        return self._read[1]

    def _decode(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        try:
            u, v = (decode_image(self.images.fetch(folder, index))[..., 0] for folder in self.folders)
        except (OSError, KeyError, ValueError) as error:
            raise RejectedError("flow", f"frame {index} of {self.name} cannot be read: {error}") from error
        if u.shape != v.shape:
            raise RejectedError("flow", f"u and v of frame {index} of {self.name} differ in size")
        flow = np.stack([u, v], axis=-1)
        return flow if flow.shape[1::-1] == size else resized(flow, size)


def open_sound(places: Places, video: str, stack: ExitStack) -> SoundReader | None:
    """The sound of a video whose frames were extracted: from `places.audio`, else from the video beside the frames."""
    if places.audio and is_file(places.audio):
        if packed := _packed_sound(places.audio, video, stack):
            return packed
    elif places.audio:
        for name in (f"{video}.wav", f"{video.partition('_')[0]}/{video}.wav"):
            if is_file(join(places.audio, name)):
                return stack.enter_context(SoundInFile(join(places.audio, name)).open())
    path = next((path for place in _video_places(video) if is_file(path := join(places.root, place))), "")
    if not path:
        return None
    try:
        with open_container(path) as container:
            zero = VideoReader(container, name_of(path)).zero
        container = stack.enter_context(open_container(path))
    except RejectedError as error:
        raise RejectedError("sound", str(error)) from error
    return ContainerSound(container, name_of(path), zero) if container.streams.audio else None


def _packed_sound(path: str, video: str, stack: ExitStack) -> SoundReader | None:
    """The sound of a video in an HDF5 file; None where it has none."""
    name = name_of(path)
    try:
        pack = stack.enter_context(h5py.File(stack.enter_context(open_input(path)), "r"))
        # Only what lies in this file: links and virtual data sets can name any other.
        if not isinstance(pack.get(video, getlink=True), h5py.HardLink):
            return None
        samples = pack[video]
        if not isinstance(samples, h5py.Dataset) or samples.is_virtual or samples.external:
            raise RejectedError("sound", f"{video} in {name} is no plain data set")
        check_array(samples, f"{video} in {name}")
    except (OSError, KeyError, RuntimeError) as error:
        raise RejectedError("sound", f"{name} cannot be read: {error}") from error
    if samples.ndim != 1 or not (samples.dtype.kind == "f" or samples.dtype == np.int16):
        raise RejectedError("sound", f"{video} in {name} is {samples.dtype} {samples.shape}, not [samples] of floats")
    return PackedSound(samples, f"{video} in {name}")


class PackedSound:
    """Samples in an HDF5 file, read as they are asked for."""

    def __init__(self, samples: Any, name: str):
        self.sound, self.rate, self.name = ArraySound(samples, PACK_RATE), PACK_RATE, name

    def read(self, start: float, stop: float) -> NDArray[np.int16] | None:
        try:
            return self.sound.read(start, stop)
        except OSError as error:
            raise RejectedError("sound", f"{self.name} cannot be read: {error}") from error
