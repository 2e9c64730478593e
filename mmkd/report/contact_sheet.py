"""The contact sheet: a few clips of each class in every modality, on one page, to see whether packing went right."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from mmkd.clip_checks import FAULTS, WARNINGS, Finding, seconds_of
from mmkd.dataset import Dataset
from mmkd.report.figures import frame_image
from mmkd.report.page import html_page
from mmkd.report.pictures import (
    GAP,
    HAND,
    OBJECT,
    Pixels,
    fitted,
    flow_colours,
    flow_wheel,
    frames_at,
    full_length,
    spectrogram,
    strip,
    with_boxes,
)
from mmkd.shards import Row
from mmkd.storage import StrPath, join, name_of, open_parquet, row_of, write_bytes

Place = tuple[str, str, int, int]
"""Split, shard, row group and row of a clip."""
Classes = Mapping[str, Mapping[str, Mapping[str | None, int]]]
"""Head to split to class name to number of clips; None: those without a label."""

CLIPS_A_CLASS, MOST_CLASSES, MOST_CLIPS, MOST_ODD, FRAMES = 2, 60, 120, 12, 6
CSS = """
.clip { margin: 12px 0; }
.clip h3 { margin: 0; font-size: 1rem; }
.clip h3 .soft { font-weight: 400; margin-left: 8px; }
.clip .wrong { white-space: normal; }
.strips img { display: block; width: 100%; height: auto; border-radius: 4px; margin-top: 4px; }
.strips { margin-top: 8px; }
.times { display: flex; color: var(--soft); font-size: .75rem; margin-top: 2px; }
.times span { flex: 1; text-align: center; }
.key { display: flex; gap: 8px 18px; align-items: center; flex-wrap: wrap; margin: 12px 0; }
.key img { width: 72px; height: 72px; border-radius: 50%; margin-right: 8px; flex: none; }
.key span { display: flex; align-items: center; }
.key .swatch { display: inline-block; width: 14px; height: 14px; border-radius: 3px; margin-right: 6px; flex: none; }
ul { margin: 2px 0; padding-left: 1.2rem; }
details { margin: 12px 0; }
"""
KEY = (
    f'<span><span class="swatch" style="background: rgb{HAND}"></span>hand: L or R, and what it touches (no, self, '
    "another person, a portable object, a fixed one)</span>"
    f'<span><span class="swatch" style="background: rgb{OBJECT}"></span>object</span>'
)
FLOW_KEY = (
    '<span><img src="{}" alt="colour wheel of flow directions">flow: a colour for each direction of motion, white '
    "where there is none, full at the length that the clip's heading says</span>"
)


@dataclass
class Choice:
    """Which clips the page shows, chosen as they come by; the same for the same clips, in whatever order.

    Attributes:
        classes: class of the first head, or None, to split to its clips with the smallest hashes.
        odd: kind of finding to its clips with the smallest hashes.
    """

    classes: dict[str | None, dict[str, list[tuple[str, Place]]]] = field(default_factory=dict)
    odd: dict[str, list[tuple[str, Place]]] = field(default_factory=dict)

    def offer(self, clip_id: str, place: Place, names: Iterable[str | None], findings: Sequence[Finding]) -> None:
        """A clip, its classes of the first head, and what was found in it."""
        ranked = hashlib.sha256(clip_id.encode()).hexdigest(), place
        for kind in {finding.kind for finding in findings}:
            _keep(self.odd.setdefault(kind, []), ranked, CLIPS_A_CLASS)
        if not any(finding.is_fault for finding in findings):
            for name in names:
                own = self.classes.setdefault(name, {}).setdefault(place[0], [])
                _keep(own, ranked, CLIPS_A_CLASS if name is not None else MOST_ODD)

    def odd_clips(self) -> list[Place]:
        """Clips in which something was found, faults first, some of each kind."""
        kinds = [kind for kind in (*FAULTS, *WARNINGS) if kind in self.odd]
        turns = [[self.odd[kind][turn][1] for kind in kinds if turn < len(self.odd[kind])] for turn in range(2)]
        return list(dict.fromkeys(turns[0] + turns[1]))[:MOST_ODD]

    def sections(self, names: Sequence[str]) -> list[tuple[str | None, list[Place]]]:
        """Classes spread evenly over those of `names` that have clips, and None, each with some of its clips."""
        named: list[str | None] = [name for name in names if name in self.classes]
        most = min(MOST_CLASSES, (MOST_CLIPS - len(self.odd_clips())) // CLIPS_A_CLASS)
        if None in self.classes:
            most -= 1
        chosen = np.linspace(0, len(named) - 1, min(most, len(named))).round().astype(int)
        shown = [named[i] for i in chosen] + [None] * (None in self.classes)
        alone = shown == [None]
        return [
            (name, self.clips_of(name, number, MOST_ODD if alone else CLIPS_A_CLASS))
            for number, name in enumerate(shown)
        ]

    def clips_of(self, name: str | None, first: int, number: int) -> list[Place]:
        """Some clips of a class, from as many splits as can be, beginning with the `first` one."""
        by_split = self.classes[name]
        splits = sorted(by_split)
        order = splits[first % len(splits) :] + splits[: first % len(splits)]
        turns = range(max(map(len, by_split.values())))
        return [by_split[split][turn][1] for turn in turns for split in order if turn < len(by_split[split])][:number]


def write_contact_sheet(
    path: StrPath,
    folder: str,
    dataset: Dataset,
    choice: Choice,
    facts: Sequence[tuple[str, str]],
    classes: Classes,
    findings: Sequence[Finding],
) -> None:
    """Write the page.

    Args:
        facts: what the data set holds, as name and text.
        classes: the clips of each class.
    """
    head = next(iter(dataset.heads))
    odd, shown = choice.odd_clips(), choice.sections(dataset.heads[head])
    wrong: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.clip_id:
            wrong.setdefault((finding.split, finding.clip_id), []).append(finding)

    def cards(places: Iterable[Place]) -> str:
        return "".join(_card(row, split, dataset, wrong) for split, row in _rows(folder, places))

    number, most = sum(name is not None for name, _ in shown), sum(name is not None for name in choice.classes)
    some = "" if number == most else f", evenly chosen from the {most} that have clips"
    lead = f"Up to {CLIPS_A_CLASS} clips of each of {number} classes of {head}{some}, in every modality they have."
    key = KEY + (FLOW_KEY.format(frame_image(flow_wheel())) if "flow" in dataset.modalities else "")
    if "audio" in dataset.modalities:
        key += "<span>sound: log-mel spectrogram over the time of the clip, low notes at the bottom</span>"
    sections = [f"<h1>Data set {escape(name_of(folder))}</h1><p>{escape(lead)}</p>", _summary(facts, findings)]
    sections += [_class_table(head, dataset.heads[head], classes[head]) for head in dataset.heads]
    sections.append(f'<div class="key soft">{key}</div>')
    if odd:
        sections.append(f"<h2>Worth a look</h2>{cards(odd)}")
    seen = set(odd)
    for name, places in shown:
        count = sum(counts.get(name, 0) for counts in classes[head].values())
        title = "no label" if name is None else name
        sections.append(f'<h2>{escape(title)} <span class="soft">{count:,} clip{"s" * (count != 1)}</span></h2>')
        sections.append(cards(place for place in places if place not in seen) or '<p class="soft">shown above</p>')
        seen.update(places)
    write_bytes(path, html_page(f"Data set {name_of(folder)}", "".join(sections), CSS).encode())


def _keep(kept: list[tuple[str, Place]], ranked: tuple[str, Place], most: int) -> None:
    kept.append(ranked)
    kept.sort()
    del kept[most:]


def _rows(folder: str, places: Iterable[Place]) -> Iterator[tuple[str, Row]]:
    for split, name, group, row in places:
        yield split, row_of(open_parquet(join(folder, split, name)).read_row_group(group), row)


def _summary(facts: Sequence[tuple[str, str]], findings: Sequence[Finding]) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    for title, kinds in (("faults", FAULTS), ("warnings", WARNINGS)):
        lines = []
        for kind, number in Counter(each.kind for each in findings if each.kind in kinds).most_common():
            examples = [each for each in findings if each.kind == kind][:3]
            told = "; ".join(map(str, examples))
            lines.append(
                f'<li>{number:,} where {escape(kinds[kind])} <span class="soft">such as {escape(told)}</span></li>'
            )
        listed += f"<dt>{title}</dt><dd>{'<ul>' + ''.join(lines) + '</ul>' if lines else 'none'}</dd>"
    return f'<dl class="card facts">{listed}</dl>'


def _class_table(head: str, names: Sequence[str], counts: Mapping[str, Mapping[str | None, int]]) -> str:
    top = f'<th class="first">{escape(head)}</th>' + "".join(f"<th>{escape(split)}</th>" for split in counts)
    body = ""
    for name in (*names, None):
        numbers = [counts[split].get(name, 0) for split in counts]
        if name is not None or any(numbers):
            cells = "".join(f"<td>{number:,}</td>" for number in numbers)
            body += f'<tr><th class="first">{escape("no label" if name is None else name)}</th>{cells}</tr>'
    return (
        f'<details class="card"><summary>Clips of each class of {escape(head)}</summary><div class="scroll"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _card(row: Row, split: str, dataset: Dataset, wrong: Mapping[tuple[str, str], Sequence[Finding]]) -> str:
    labels = []
    for head, classes in dataset.heads.items():
        label = (row["labels"] or {}).get(head)
        chosen = label if isinstance(label, list) else [label]
        said = [classes[each] if each is not None and 0 <= each < len(classes) else "unknown" for each in chosen]
        labels.append(", ".join(said) or "none")
    seconds = seconds_of(row)
    facts = [] if seconds is None else [f"{seconds:.2f} s"]
    facts.append(f"{row['num_frames']} frames" + ("" if row["fps"] is None else f" at {row['fps']:.4g} a second"))
    facts.append(f"{row['width']} x {row['height']}")
    strips, more = _strips(row, dataset, seconds or 0.0)
    told = [f"{name}: {text}"[:80] for name, text in row["meta"] or []][:4]
    about = " · ".join([f"{split} {row['clip_id']}", *facts, *more])
    found = "; ".join(f"{each.kind}: {each.detail}" for each in wrong.get((split, row["clip_id"]), ()))
    return (
        f'<article class="card clip"><h3>{escape(" · ".join(labels))}</h3><div class="soft">{escape(about)}</div>'
        + (f'<div class="soft">{escape(" · ".join(told))}</div>' if told else "")
        + (f'<div class="wrong">{escape(found)}</div>' if found else "")
        + f"{strips}</article>"
    )


def _strips(row: Row, dataset: Dataset, seconds: float) -> tuple[str, list[str]]:
    """The pictures of a clip, one below the other on one axis of time, and what else is to be said of it."""
    # The middle of each of some equal parts of the clip, so that it lies above the same moment of the spectrogram.
    cells = max(1, min(FRAMES, row["num_frames"]))
    at = [int((2 * i + 1) * row["num_frames"] / (2 * cells)) for i in range(cells)]
    width, pictures, more = 0, "", list[str]()
    for modality, draw in (("rgb", _rgb_strip), ("flow", _flow_strip)):
        if row[modality] is None:
            more.append(f"no {modality}")
            continue
        try:
            picture, alt, said = draw(row, dataset, at)
        except ValueError as error:
            more.append(f"{modality} cannot be shown: {error}")
            continue
        width = width or picture.shape[1]
        pictures += f'<img src="{frame_image(picture)}" alt="{alt}">'
        more += said
    width = width or cells * (128 + GAP)
    if row["audio"] is None:
        more.append("no sound")
    else:
        try:
            picture, rate, peak = spectrogram(row, width, seconds)
            pictures += f'<img src="{frame_image(picture)}" alt="spectrogram">'
            more.append(f"sound of {rate} Hz, peak {peak:.0f} dB")
        except ValueError as error:
            more.append(f"sound cannot be shown: {error}")
    times = "".join(f"<span>{seconds * (i + 0.5) / cells:.2f} s</span>" for i in range(cells))
    style = f"max-width: {width}px; min-width: {min(width, 640)}px"
    inner = f'<div class="strips" style="{style}">{pictures}<div class="times">{times}</div></div>'
    return f'<div class="scroll">{inner}</div>', more


def _rgb_strip(row: Row, dataset: Dataset, at: Sequence[int]) -> tuple[Pixels, str, list[str]]:
    """Frames with their boxes drawn in, what to call them, and what else is to be said."""
    boxes = dict(enumerate(row["boxes"] or []))
    frames = zip(at, frames_at(row, dataset, "rgb", at), strict=True)
    picture = strip([with_boxes(fitted(frame), boxes.get(number) or []) for number, frame in frames])
    named = f"RGB frames {', '.join(str(number + 1) for number in at)}"
    return (picture, f"{named} with boxes", []) if boxes else (picture, named, ["no boxes"])


def _flow_strip(row: Row, dataset: Dataset, at: Sequence[int]) -> tuple[Pixels, str, list[str]]:
    frames = frames_at(row, dataset, "flow", at)
    full = full_length(frames)
    picture = strip([flow_colours(fitted(frame), full) for frame in frames])
    said = f"flow in full colour from {full * dataset.flow.get('bound', 0) / 127:.2g} pixels"
    return picture, "optical flow of the same frames", [said]
