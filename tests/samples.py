"""Small data sets in the formats that `pack` reads, as docs/data.md lays them out, in a folder for /data."""

import json
from pathlib import Path

import h5py
import numpy as np
import simplejpeg

from tests.videos import click, picture, write_video

CLIPS = {"train": 12, "val": 4}


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def moving(number: int, frames: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Frames of a bar that moves to the right or, in clips of odd number, to the left."""
    out = []
    for t in range(frames):
        image = picture(number, width, height)
        x = (4 * t if number % 2 == 0 else -4 * t) % (width - 12)
        image[10:40, x : x + 12] = (250, 80, 40)
        out.append(image)
    return out


def jpegs(number: int, frames: int) -> list[bytes]:
    return [simplejpeg.encode_jpeg(image, 90) for image in moving(number, frames)]


def folder_samples(root: Path) -> None:
    """Videos by class, and the same by a manifest with classes and boxes."""
    lines, boxes = ["path,start,stop,split,verb,tags,meta.camera"], []
    for split, number in CLIPS.items():
        for n in range(number):
            name = f"{'open' if n % 2 else 'close'}/{split}{n}.mp4"
            write_video(root / "videos" / name, 20, sound=click(2.0, 0.5))
            for start in (0, 1):
                lines.append(f"{name},{start},{start + 1},{split},{'open' if n % 2 else 'close'},left|fast,")
            for frame in range(20):
                box = {"x1": 8, "y1": 8, "x2": 30, "y2": 40, "category": "hand", "side": "left", "state": 3}
                boxes.append(json.dumps({"video": name, "frame": frame, "size": [64, 48], "boxes": [box]}))
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    (root / "boxes.jsonl").write_text("\n".join(boxes) + "\n")
    write_json(
        root / "classes.json",
        {"verb": ["open", "close"], "tags": {"classes": ["left", "fast"], "multi_label": True}},
    )


def ssv2_samples(root: Path) -> None:
    """Something-Something's tables, a few clips as frames, Something-Else's boxes and compositional split."""
    folder, names = root / "ssv2", ["Closing something", "Opening something"]
    write_json(folder / "tables" / "something-something-v2-labels.json", {name: str(i) for i, name in enumerate(names)})
    write_json(folder / "compositional" / "labels.json", {name: str(1 - i) for i, name in enumerate(names)})
    boxes: dict[str, list] = {}
    for split, number in CLIPS.items():
        entries = []
        for n in range(number):
            clip_id = str((1000 if split == "val" else 0) + n)
            entries.append(
                {"id": clip_id, "label": "x", "template": ["Closing [something]", "Opening [something]"][n % 2]}
            )
            (folder / "videos" / clip_id).mkdir(parents=True)
            for t, jpeg in enumerate(jpegs(n, 10)):
                (folder / "videos" / clip_id / f"{t + 1:04d}.jpg").write_bytes(jpeg)
            box = {"box2d": {"x1": 4, "y1": 10, "x2": 16, "y2": 40}, "category": "hand", "standard_category": "hand"}
            boxes[clip_id] = [{"name": f"{clip_id}/{t + 1:04d}.jpg", "labels": [box]} for t in range(1, 8)]
        long = {"train": "train", "val": "validation"}[split]
        write_json(folder / "tables" / f"something-something-v2-{long}.json", entries)
        write_json(folder / "compositional" / f"{long}.json", entries)
    write_json(folder / "boxes.json", boxes)


CLASS_COLUMNS = "id,key,instances,category"
EPIC_COLUMNS = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
EPIC_VIDEOS = {"train": ("P01_01", 60), "val": ("P01_101", 50)}
LENGTH = 10


def epic_tables(folder: Path) -> None:
    """EPIC-KITCHENS-100's tables of clips of 10 frames, one after the other, in a video of each part."""
    folder.mkdir(parents=True)
    for head, names in (("verb", ("take", "put")), ("noun", ("tap", "spoon"))):
        lines = [CLASS_COLUMNS, *(f"{number},{name},\"['{name}']\",x" for number, name in enumerate(names))]
        (folder / f"EPIC_100_{head}_classes.csv").write_text("\n".join(lines) + "\n")
    for split, name in (("train", "train"), ("val", "validation")):
        video, rate = EPIC_VIDEOS[split]
        lines = [EPIC_COLUMNS]
        for n in range(CLIPS[split]):
            first, last = n * LENGTH + 1, (n + 1) * LENGTH
            stamps = f"00:00:{first / rate:05.2f},00:00:{last / rate:05.2f}"
            labels = f"x,{('take', 'put')[n % 2]},{n % 2},tap,{n // 2 % 2},\"['tap']\",[0]"
            lines.append(f"{video}_{n},P01,{video},,{stamps},{first},{last},{labels}")
        (folder / f"EPIC_100_{name}.csv").write_text("\n".join(lines) + "\n")


def gray_jpeg(level: int) -> bytes:
    return simplejpeg.encode_jpeg(np.full((48, 64, 1), level, np.uint8), 90, "GRAY")


def epic_samples(root: Path) -> None:
    """EPIC-KITCHENS-100 as it is downloaded."""
    epic_tables(root / "epic-kitchens-100-annotations")
    epic_media(root / "EPIC-KITCHENS", EPIC_VIDEOS)


VIDEOS_55 = {"train": ("P01_01", 60), "val": ("P01_02", 60)}


def epic_55_samples(root: Path) -> None:
    """EPIC-KITCHENS-55 with its table of train divided into two, as a training needs it."""
    classes = root / "epic-kitchens-55-annotations"
    for folder in (classes, root / "epic55"):
        folder.mkdir(parents=True)
    (classes / "EPIC_verb_classes.csv").write_text("verb_id,class_key,verbs\n0,take,[]\n1,put,[]\n")
    (classes / "EPIC_noun_classes.csv").write_text("noun_id,class_key,nouns\n0,Nothing,[]\n1,tap,[]\n2,spoon,[]\n")
    for split, (video, _) in VIDEOS_55.items():
        lines = ["uid,video_id,start_frame,stop_frame,verb_class,noun_class"]
        for n in range(CLIPS[split]):
            lines.append(f"{n},{video},{n * LENGTH + 1},{(n + 1) * LENGTH},{n % 2},{1 + n // 2 % 2}")
        (root / "epic55" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    epic_media(root / "EPIC-KITCHENS-55", VIDEOS_55)


def epic_media(root: Path, videos: dict[str, tuple[str, int]]) -> None:
    """Extracted frames and flow, and the videos for their sound; name and frame rate of each split's video."""
    for split, (video, rate) in videos.items():
        folder = root / "P01"
        number = CLIPS[split] * LENGTH
        (folder / "rgb_frames" / video).mkdir(parents=True)
        for t in range(number):
            image = moving(t // LENGTH, LENGTH)[t % LENGTH]
            path = folder / "rgb_frames" / video / f"frame_{t + 1:010d}.jpg"
            path.write_bytes(simplejpeg.encode_jpeg(image, 90))
        for axis in ("u", "v"):
            (folder / "flow_frames" / video / axis).mkdir(parents=True)
            for t in range(number if rate == 50 else number // 2):
                (folder / "flow_frames" / video / axis / f"frame_{t + 1:010d}.jpg").write_bytes(gray_jpeg(100 + t % 50))
        write_video(folder / "videos" / f"{video}.MP4", number, fps=rate, sound=click(number / rate, 0.3))


def write_images(group: h5py.Group, name: str, images: list[bytes]) -> None:
    made = group.create_dataset(name, (len(images),), dtype=h5py.vlen_dtype(np.uint8))
    for number, image in enumerate(images):
        made[number] = np.frombuffer(image, np.uint8)


def authors_samples(root: Path) -> None:
    """The packs of the authors' code, of both data sets; after `ssv2_samples` and in their numbers."""
    folder = root / "authors"
    epic_tables(folder / "epic" / "tables")
    with (
        h5py.File(folder / "epic" / "rgb.hdf5", "w") as rgb,
        h5py.File(folder / "epic" / "flow.hdf5", "w") as flow,
        h5py.File(folder / "epic" / "audio.hdf5", "w") as audio,
    ):
        for split, (video, _) in EPIC_VIDEOS.items():
            audio[video] = np.random.default_rng(0).normal(0, 0.1, 24000 * 4).astype(np.float32)
            for n in range(CLIPS[split]):
                write_images(rgb.require_group(video), f"{video}_{n}", jpegs(n, LENGTH))
                pairs = [gray_jpeg(100 + t) for t in range(2 * LENGTH)]
                write_images(flow.require_group(video), f"{video}_{n}", pairs)
    something, detections = folder / "something", []
    (something / "tables").mkdir(parents=True)
    for path in (root / "ssv2" / "tables").iterdir():
        (something / "tables" / path.name).write_bytes(path.read_bytes())
    with h5py.File(something / "dataset.hdf5", "w") as rgb, h5py.File(something / "flow.hdf5", "w") as flow:
        for clip_id in sorted(path.name for path in (root / "ssv2" / "videos").iterdir()):
            write_images(rgb, clip_id, jpegs(int(clip_id), LENGTH))
            write_images(flow, clip_id, jpegs(int(clip_id), LENGTH))
            box = {"x1": 4, "y1": 10, "x2": 16, "y2": 40, "category": "hand", "score": 0.9}
            detections.append({"id": clip_id, "template": "x", "size": [64, 48], "frames": [[box]] * LENGTH})
    write_json(something / "detections.json", detections)
