"""The contact sheet: a few clips of each class in every modality, on one page, to see whether packing went right."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from mmkd.clip_checks import FAULTS, WARNINGS, Finding, decode_clip
from mmkd.report.page import html_page
from mmkd.shards import Dataset, Row
from mmkd.storage import StrPath, join, name_of, open_parquet, write_bytes

Place = tuple[str, str, int, int]
"""Split, shard, row group and row of a clip."""

CLIPS_A_CLASS, MOST_CLASSES, FRAMES, HEIGHT = 2, 60, 6, 110
CORNERS = ("x1", "y1", "x2", "y2")
OBJECT, HAND = (230, 159, 0), (86, 180, 233)
STATES = ("", "self", "person", "object", "fixed")
CSS = """
.clip { margin: 12px 0; }
.clip h3 { margin: 0 0 8px; font-size: 1rem; }
.clip h3 .soft { font-weight: 400; margin-left: 8px; }
.clip img { display: block; width: 100%; height: auto; border-radius: 4px; margin-top: 4px; }
.clip .soft { display: block; margin-top: 4px; }
.clips { display: grid; gap: 0 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
.key { display: flex; gap: 14px; align-items: center; flex-wrap: wrap; margin: 10px 0; }
.key img { width: 84px; height: 84px; }
.swatch { display: inline-block; width: 14px; height: 14px; border-radius: 3px; margin-right: 4px; }
"""


def write_contact_sheet(
    path: StrPath,
    folder: str,
    dataset: Dataset,
    places: Mapping[str, Sequence[Place]],
    facts: Sequence[tuple[str, str]],
    findings: Sequence[Finding],
) -> None:
    """Write the page.

    Args:
        places: class of the first head to where its clips are.
        facts: what the data set holds, as name and text.
    """
    head = next(iter(dataset.heads))
    names = [name for name in [*dataset.heads[head], *(set(places) - set(dataset.heads[head]))] if places.get(name)]
    shown = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(len(names), MOST_CLASSES)).astype(int))]
    sections = [_head(folder, facts, findings, dataset, (len(shown), len(names), head))]
    for name in shown:
        cards = "".join(_card(row, split, dataset) for split, row in _rows(folder, _spread(places[name])))
        sections.append(f'<h2>{escape(name)} <span class="soft">clips: {len(places[name])}</span></h2>')
        sections.append(f'<div class="clips">{cards}</div>')
    write_bytes(path, html_page(f"Data set {name_of(folder)}", "".join(sections), CSS).encode())


def _spread(places: Sequence[Place]) -> list[Place]:
    """A few clips of a class, of different splits where it can be."""
    by_split: dict[str, list[Place]] = {}
    for place in places:
        by_split.setdefault(place[0], []).append(place)
    chosen: list[Place] = []
    for turn in range(CLIPS_A_CLASS):
        for own in by_split.values():
            at = len(own) // 2 + turn
            if len(chosen) < CLIPS_A_CLASS and at < len(own) and own[at] not in chosen:
                chosen.append(own[at])
    return chosen or list(places[:1])


def _rows(folder: str, places: Sequence[Place]) -> Iterator[tuple[str, Row]]:
    for split, name, group, row in places:
        yield split, open_parquet(join(folder, split, name)).read_row_group(group).slice(row, 1).to_pylist()[0]


def _head(
    folder: str,
    facts: Sequence[tuple[str, str]],
    findings: Sequence[Finding],
    dataset: Dataset,
    shown: tuple[int, int, str],
) -> str:
    counts = Counter(finding.kind for finding in findings)
    rows = [*facts]
    for title, kinds in (("faults", FAULTS), ("warnings", WARNINGS)):
        said = "; ".join(f"{number} where {kinds[kind]}" for kind, number in counts.most_common() if kind in kinds)
        rows.append((title, said or "none"))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    some = f"{shown[0]} of the {shown[1]}" if shown[0] < shown[1] else f"all {shown[1]}"
    lead = f"Up to {CLIPS_A_CLASS} clips of {some} classes of {shown[2]}, in every modality they have."
    key = (
        f'<span><span class="swatch" style="background: rgb{HAND}"></span>hand: L or R, what it touches</span>'
        f'<span><span class="swatch" style="background: rgb{OBJECT}"></span>object</span>'
    )
    if "flow" in dataset.modalities:
        wheel = f'<img src="{_uri(_wheel())}" alt="colour wheel of flow directions">'
        key += f"{wheel}<span>flow: a colour for each direction, strong for half the bound or more</span>"
    if "audio" in dataset.modalities:
        key += "<span>sound: log-mel spectrogram over the whole clip, low notes at the bottom</span>"
    return (
        f"<h1>Data set {escape(name_of(folder))}</h1><p>{escape(lead)}</p>"
        f'<div class="card"><dl class="facts">{listed}</dl></div><div class="key soft">{key}</div>'
    )


def _card(row: Row, split: str, dataset: Dataset) -> str:
    decoded = decode_clip(row, dataset)
    labels = []
    for head, classes in dataset.heads.items():
        label = (row["labels"] or {}).get(head)
        chosen = label if isinstance(label, list) else [label]
        said = [classes[each] if each is not None and 0 <= each < len(classes) else "unknown" for each in chosen]
        labels.append(", ".join(said) or "none")
    number = min(len(decoded.rgb), row["num_frames"])
    at = np.linspace(0, max(number - 1, 0), min(FRAMES, number)).round().astype(int).tolist()
    pictures = ""
    if decoded.rgb and at:
        boxes = row["boxes"] or []
        strip = [_with_boxes(_fit(decoded.rgb[i]), boxes[i] if i < len(boxes) else []) for i in at]
        pictures += f'<img src="{_uri(np.hstack(strip))}" alt="frames {[i + 1 for i in at]}">'
    if decoded.flow and at and max(at) < len(decoded.flow):
        strip = [flow_colours(_fit(decoded.flow[i])) for i in at]
        pictures += f'<img src="{_uri(np.hstack(strip))}" alt="optical flow of the same frames">'
    if decoded.samples is not None and len(decoded.samples) > 1:
        width = round(FRAMES * HEIGHT * (row["width"] or 4) / (row["height"] or 3))
        pictures += f'<img src="{_uri(spectrogram(decoded.samples, decoded.rate, width))}" alt="spectrogram">'
    facts = f"{row['num_frames']} frames, {row['fps']:g} a second, {row['width']} x {row['height']}"
    about = escape(f"{split} · {row['clip_id']} · {facts}")
    return (
        f'<article class="card clip"><h3>{escape(" · ".join(labels))}'
        f'<span class="soft">{about}</span></h3>{pictures}</article>'
    )


def flow_colours(flow: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Flow of 0..255 as colours: direction as hue, length as saturation; uint8 [height, width, 3]."""
    u, v = flow[..., 0].astype(np.float32) - 128, flow[..., 1].astype(np.float32) - 128
    length, angle = cv2.cartToPolar(u, v, angleInDegrees=True)
    saturation = np.clip(length / 64, 0, 1) * 255
    hsv = np.stack([angle / 2, saturation, np.full_like(length, 255)], axis=-1)
    return np.asarray(cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


def spectrogram(samples: NDArray[np.int16], rate: int, width: int) -> NDArray[np.uint8]:
    """A log-mel spectrogram as a picture, uint8 [HEIGHT / 2, width, 3], low notes at the bottom."""
    import torch

    from mmkd.models.audio import as_float, log_mel

    sound = as_float(torch.from_numpy(samples.copy()))
    if len(sound) < rate // 5:
        sound = torch.nn.functional.pad(sound, (0, rate // 5 - len(sound)))
    mel = log_mel(sound, rate, num_mels=64, n_fft=512, window_seconds=0.02, hop_seconds=0.01).numpy()
    gray = np.clip((mel[::-1] + 70) / 90, 0, 1) * 255
    picture = cv2.applyColorMap(cv2.resize(gray.astype(np.uint8), (width, HEIGHT // 2)), cv2.COLORMAP_MAGMA)
    return np.ascontiguousarray(picture[:, :, ::-1])


def _with_boxes(frame: NDArray[np.uint8], boxes: Sequence[Mapping[str, float]]) -> NDArray[np.uint8]:
    """The frame with its boxes drawn in, the likeliest last."""
    out = np.ascontiguousarray(frame.copy())
    height, width = frame.shape[:2]
    for box in sorted(boxes, key=lambda each: each["score"]):
        colour = HAND if box["category"] == 2 else OBJECT
        corners = [round(box[name] * side) for name, side in zip(CORNERS, (width, height) * 2, strict=True)]
        cv2.rectangle(out, (corners[0], corners[1]), (corners[2] - 1, corners[3] - 1), colour, 1)
        if box["category"] == 2:
            side = "LR"[int(box["side"])] if box["side"] in (0, 1) else ""
            state = STATES[int(box["state"])] if 0 <= box["state"] < len(STATES) else ""
            at = (corners[0] + 2, min(corners[1] + 10, height - 2))
            cv2.putText(out, f"{side} {state}".strip(), at, cv2.FONT_HERSHEY_SIMPLEX, 0.32, colour, 1, cv2.LINE_AA)
    return out


def _fit(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    size = (max(1, round(width * HEIGHT / height)), HEIGHT)
    how = cv2.INTER_AREA if height > HEIGHT else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=how), np.uint8)


def _wheel() -> NDArray[np.uint8]:
    y, x = np.mgrid[-64:65, -64:65]
    wheel = flow_colours(np.clip(np.stack([x, y], axis=-1) + 128, 0, 255).astype(np.uint8))
    wheel[np.hypot(x, y) > 64] = 255
    return wheel


def _uri(picture: NDArray[np.uint8]) -> str:
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
