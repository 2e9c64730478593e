"""Anybody's videos: a folder per class, or a manifest that names clips and their labels, see docs/data.md."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mmkd.config import Source as Settings
from mmkd.media.files import EXTENSIONS, videos_below
from mmkd.plan import hold_out
from mmkd.sources.box_files import boxes_of, videos_of
from mmkd.sources.manifest import SPLITS, ManifestRow, make_heads, read_classes, read_manifest
from mmkd.sources.recording import Reject, RejectedError, Segment
from mmkd.sources.video import BoxFile, VideoRecording
from mmkd.storage import inside, is_folder, is_remote

HEAD = "action"
Found = list[tuple[str, VideoRecording] | Reject]


@dataclass
class Folder:
    """The videos below a folder; attributes as in :class:`mmkd.sources.recording.Source`."""

    heads: dict[str, list[str]]
    found: Found
    multi_label: list[str] = field(default_factory=list)
    name: str = "folder"
    notes: dict[str, object] = field(default_factory=dict)
    flow: dict[str, object] = field(default_factory=dict)
    flow_bound: float = 20.0

    def recordings(self) -> Iterator[tuple[str, VideoRecording] | Reject]:
        yield from self.found


def make(settings: Settings) -> Folder:
    """The source.

    Raises:
        FileNotFoundError: the folder, the manifest, the classes or the boxes are not there.
        ValueError: there is no video, or one of the files cannot be read.
    """
    if not is_folder(settings.root):
        raise FileNotFoundError(f"source.root: there is no folder {settings.root}.")
    if settings.val_share + settings.test_share >= 1:
        raise ValueError(
            f"source.val_share {settings.val_share:g} and test_share {settings.test_share:g} leave nothing for train."
        )
    return _by_manifest(settings) if settings.annotations else _by_class(settings)


def split_of(stem: str, settings: Settings) -> str:
    """train, val or test by a hash of a video's path without its extension, whatever other videos there are."""
    # The hash must not be that by which clips are held out of train later, or none of those would be left.
    one = [f"split/{stem}"]
    if len(hold_out(one, settings.val_share, settings.seed)[1]):
        return "val"
    return "test" if len(hold_out(one, settings.val_share + settings.test_share, settings.seed)[1]) else "train"


def _by_class(settings: Settings) -> Folder:
    videos = sorted(videos_below(settings.root))
    if not videos:
        raise ValueError(f"{settings.root} has no videos; they should be in CLASS/ or SPLIT/CLASS/ ({_said()}).")
    first = {name.split("/")[0] for name in videos if "/" in name}
    depth = 1 if first and all(name.lower() in SPLITS for name in first) else 0
    declared = read_classes(settings.classes) if settings.classes else {}
    if declared and list(declared) != [HEAD]:
        raise ValueError(f"{settings.classes} has the heads {', '.join(declared)}; a folder per class has {HEAD}.")
    if declared:
        classes = declared[HEAD].classes
    else:
        classes = sorted({name.split("/")[depth] for name in videos if name.count("/") > depth})
    if not classes:
        raise ValueError(f"{settings.root} has videos, but in no folder of a class: they should be in CLASS/.")
    ids, boxes = _ids(videos), _Boxes(settings.boxes)
    found: Found = []
    for name in videos:
        parts = name.split("/")
        split = SPLITS[parts[0].lower()] if depth and len(parts) > 1 else split_of(_stem(name), settings)
        try:
            path = _inside(settings.root, name)
            if len(parts) < depth + 2:
                raise RejectedError("label", f"{name} lies in no folder of a class")
            if parts[depth] not in classes:
                raise RejectedError("label", f"{HEAD} {parts[depth]!r} is not among its {len(classes)} classes")
            segment = Segment(ids[name], {HEAD: classes.index(parts[depth])})
            found.append((split, VideoRecording(path, name, (segment,), boxes=boxes.of(name, name))))
        except RejectedError as error:
            found.append(Reject(split, ids[name], name, error.kind, str(error)))
    boxes.check()
    return Folder({HEAD: classes}, _in_order(found))


def _by_manifest(settings: Settings) -> Folder:
    columns, rows = read_manifest(settings.annotations)
    heads = make_heads(rows, columns, read_classes(settings.classes) if settings.classes else {})
    names: dict[str, str | RejectedError] = {}
    paths: dict[str, str] = {}
    for row in rows:
        if row.path and row.path not in names:
            try:
                names[row.path] = _name_in(settings.root, row.path)
                paths[str(names[row.path])] = _inside(settings.root, str(names[row.path]))
            except RejectedError as error:
                names[row.path] = error
    ids = _ids(list(paths))
    clips = Counter(name for row in rows if isinstance(name := names.get(row.path), str))
    groups: dict[tuple[str, str], list[tuple[Segment, str]]] = {}
    found: Found = []
    for row in rows:
        name = names.get(row.path)
        known = isinstance(name, str)
        split = row.split or (split_of(_stem(str(name)), settings) if known else "")
        clip_id = row.clip_id or (_clip_id(ids[str(name)], row, clips[str(name)]) if known else row.path or row.where)
        try:
            if row.fault:
                raise RejectedError(*row.fault)
            if not isinstance(name, str):
                raise RejectedError("path", f"{row.where}: {name}")
            labels = {head.name: head.label(row.labels[head.name]) for head in heads}
            segment = Segment(clip_id, labels, row.start, row.stop, meta=dict(row.meta))
            groups.setdefault((split, name), []).append((segment, row.path))
        except RejectedError as error:
            reason = str(error) if row.where in str(error) else f"{row.where}: {error}"
            found.append(Reject(split, clip_id, name if isinstance(name, str) else row.path, error.kind, reason))
    boxes = _Boxes(settings.boxes)
    for (split, name), group in groups.items():
        segments = sorted((segment for segment, _ in group), key=lambda each: (each.start, each.stop or 0.0))
        found.append((split, VideoRecording(paths[name], name, tuple(segments), boxes=boxes.of(name, group[0][1]))))
    boxes.check()
    multi_label = [head.name for head in heads if head.multi_label]
    return Folder({head.name: head.classes for head in heads}, _in_order(found), multi_label)


class _Boxes:
    """Where the boxes of each video are, if there are any."""

    def __init__(self, path: str):
        self.path = path
        self.known = videos_of(path) if path else ()
        self.asked: list[str] = []
        self.matched = False

    def of(self, name: str, written: str) -> BoxFile | None:
        """Boxes of a video by its name, or as the manifest writes it."""
        if not self.path:
            return None
        self.asked.append(name)
        self.matched |= any(each in self.known for each in (name, written, _stem(name)))
        return boxes_of(self.path, written if written in self.known else name)

    def check(self) -> None:
        if self.asked and not self.matched:
            there = next(iter(self.known), None)
            raise ValueError(
                f"source.boxes {self.path} has boxes of no video of the source: it names {there!r}, the source has "
                f"{self.asked[0]!r}. Videos are named as in the manifest, or by their path below source.root."
            )


def _said() -> str:
    return ", ".join(EXTENSIONS)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _ids(names: Sequence[str]) -> dict[str, str]:
    """Clip ids of videos: their paths without extension, with it where two differ in nothing else."""
    counts = Counter(map(_stem, names))
    return {name: _stem(name) if counts[_stem(name)] == 1 else name for name in names}


def _clip_id(video: str, row: ManifestRow, clips: int) -> str:
    stop = "end" if row.stop is None else f"{row.stop:.12g}"
    return video if clips == 1 else f"{video}@{row.start:.12g}-{stop}"


def _inside(root: str, name: str) -> str:
    try:
        return inside(root, name)
    except (ValueError, OSError, RuntimeError) as error:
        raise RejectedError("path", str(error)) from error


def _name_in(root: str, path: str) -> str:
    """A path of the manifest as one below the root, the same for all ways to write it."""
    bases = [root.partition("?")[0] if is_remote(root) else root]
    if not is_remote(root):
        bases.append(str(Path(root).resolve()))
    for base in bases:
        if path.startswith(base.rstrip("/") + "/"):
            path = path[len(base.rstrip("/")) + 1 :]
            break
    _inside(root, path)
    name = posixpath.normpath(path)
    if name.startswith("/") or name.split("/")[0] == ".." or name == ".":
        raise RejectedError("path", f"{path!r} leads out of {root}")
    return name


def _in_order(found: Found) -> Found:
    """train, val and test first, and by name in each; rejects at the end."""

    def key(each: tuple[str, VideoRecording] | Reject) -> tuple[bool, int, str, str]:
        split = each.split if isinstance(each, Reject) else each[0]
        name = each.clip_id if isinstance(each, Reject) else each[1].name
        order = ("train", "val", "test")
        return isinstance(each, Reject), order.index(split) if split in order else len(order), split, name

    return sorted(found, key=key)
