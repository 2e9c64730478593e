"""Checking a data set finds what is wrong with it, and shows it to a person."""

import json
import re

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from mmkd.check import check_dataset
from mmkd.clip_checks import WARNINGS, Finding, look_at
from mmkd.cutting import as_bytes, flow_jpeg
from mmkd.dataset import Dataset, open_dataset
from mmkd.media.clips import VideoWriter
from mmkd.report.contact_sheet import MOST_CLIPS, Choice
from mmkd.report.pictures import flow_colours, with_boxes
from tests.hostile import endless, flac, huge
from tests.small import FPS, FRAMES, HEADS, HEIGHT, RATE, WIDTH, encode_clip, make_clip, small_settings, write_dataset


def quiet(text: str) -> None:
    pass


def findings(folder) -> list[dict]:
    return json.loads((folder / "check.json").read_text())["findings"]


def test_a_good_data_set_has_no_fault_and_its_counts_are_told(home):
    said = []
    result = check_dataset(str(home / "data" / "small"), said.append)
    assert (result["clips"], result["faults"], result["splits"]) == (55, 0, {"train": 37, "val": 11, "test": 7})
    assert result["warnings"] == 0
    told = json.loads((home / "data" / "small" / "check.json").read_text())
    assert told["classes"]["verb"]["val"] == {"push": 4, "lift": 4, "drop": 3, "": 0} and told["findings"] == []
    text = "\n".join(said)
    assert "verb" in text and "3 classes: train 3 classes with 12 to 13 clips each" in text and "faults: none" in text
    assert re.search(r"boxes +100.0 % of the clips", text) and f"{WIDTH} x {HEIGHT}" in text


@pytest.fixture
def row(tmp_path):
    return encode_clip(make_clip("train", 5), small_settings(tmp_path))


def jpeg(width: int, height: int, value: int = 128) -> bytes:
    return simplejpeg.encode_jpeg(np.full((height, width, 3), value, np.uint8), 90, "RGB", "444")


SECONDS = FRAMES / FPS
BOX = {"x1": 0.1, "y1": 0.1, "x2": 0.2, "y2": 0.2, "score": 0.5, "category": 1, "side": -1, "state": -1}


@pytest.mark.parametrize(
    ("change", "kind", "detail"),
    [
        ({"labels": {"verb": 3, "noun": 0}}, "label", "verb is 3, of 3 classes"),
        ({"rgb": [b"no image"] * FRAMES}, "frames", ""),
        ({"rgb": [None] * FRAMES}, "frames", "frame 1 is no JPEG"),
        ({"rgb": [huge(jpeg(WIDTH, HEIGHT))] * FRAMES}, "frames", "claims 65000 x 65000"),
        ({"rgb": [jpeg(WIDTH, HEIGHT)] * 4}, "frames", "4 frames where num_frames is 6"),
        ({"rgb": [jpeg(WIDTH, HEIGHT)] * 5 + [jpeg(9, 9)]}, "frames", "different sizes"),
        ({"width": 99}, "frames", "32 x 24 where the row says 99 x 24"),
        ({"width": None}, "row", "its size is None x 24"),
        ({"fps": None}, "row", "fps is None"),
        ({"fps": 0.0}, "row", "fps is 0.0"),
        ({"rgb": None, "flow": None, "audio": None, "boxes": None}, "row", "no modality"),
        ({"rgb": None}, "no rgb", "null"),
        ({"flow": [jpeg(WIDTH, HEIGHT)] * 3}, "flow", "3 frames of flow for 6 frames"),
        ({"flow": [jpeg(HEIGHT, WIDTH)] * FRAMES}, "flow", "24 x 32 for frames of 32 x 24"),
        ({"flow": [b"x"] * FRAMES}, "flow", ""),
        ({"flow": [jpeg(WIDTH, HEIGHT)] * 5 + [jpeg(9, 9)]}, "flow", "different sizes"),
        ({"audio": b"no sound"}, "sound", ""),
        ({"audio": endless(flac(np.arange(int(RATE * SECONDS))))}, "sound", ""),
        ({"audio": flac(np.arange(int(2 * RATE * SECONDS)).reshape(-1, 2))}, "sound", "2 channels"),
        ({"audio": flac(np.arange(int(RATE * SECONDS / 2)))}, "sound", "0.38 s of sound for 0.75 s"),
        ({"audio": flac(np.zeros(int(RATE * SECONDS)))}, "silent", "every sample is 0"),
        ({"boxes": [[BOX]] * 2}, "boxes", "2 frames of boxes for 6"),
        ({"boxes": [[BOX | {"x1": float("nan")}]] * FRAMES}, "boxes", "in frame 1, a value is not finite"),
        ({"boxes": [[BOX | {"score": None}]] * FRAMES}, "boxes", "in frame 1, a value is not finite"),
        ({"boxes": [[]] * 5 + [None]}, "boxes", "in frame 6, there is null"),
        ({"boxes": [[], [BOX | {"y2": 1.5}], [], [], [], []]}, "boxes", "in frame 2, a value is out of 0..1: 1.5"),
        ({"boxes": [[BOX | {"x2": 0.05}]] * FRAMES}, "boxes", "an end lies before its start"),
        ({"boxes": [[BOX | {"category": 7}]] * FRAMES}, "boxes", "category 7"),
        ({"flow": [jpeg(WIDTH, HEIGHT)] * FRAMES}, "still flow", "128 everywhere"),
        ({"flow": [jpeg(WIDTH, HEIGHT, v) for v in (255, 0) * 3]}, "saturated", "100 % of the values"),
    ],
)
def test_each_thing_that_can_be_wrong_with_a_clip_is_found(row, home, change, kind, detail):
    dataset = open_dataset(home / "data" / "small")
    assert look_at(row, dataset).findings == []
    found = look_at(row | change, dataset).findings
    assert [(each.kind, each.is_fault) for each in found] == [(kind, kind not in WARNINGS)]
    assert detail in found[0].detail


def test_faults_of_shards_and_doubles_fail_the_job_and_are_all_listed(tmp_path):
    def double(split, rows):
        return [*rows, rows[0]] if split == "val" else rows

    folder = write_dataset(tmp_path / "data" / "bad", double)
    table = pq.read_table(folder / "test" / "00000.parquet")
    plain = {"compression": "none", "use_dictionary": False}
    pq.write_table(table.slice(1), folder / "test" / "00000.parquet", **plain)
    (folder / "train" / "00000.parquet").write_bytes(b"gone")
    said = []
    with pytest.raises(ValueError, match=r"faults .*check\.json lists all"):
        check_dataset(str(folder), said.append)
    found = {(each["kind"], each["split"], each["detail"]) for each in findings(folder)}
    assert ("duplicate", "val", "it is there more than once") in found
    assert ("dataset", "val", "12 clips where dataset.json says 11") in found
    assert ("shard", "test", "00000.parquet has other content than when it was packed") in found
    assert ("dataset", "test", "6 clips where dataset.json says 7") in found
    assert any(kind == "shard" and split == "train" and "cannot be read" in detail for kind, split, detail in found)
    assert any("where a shard is missing" in line for line in said)


def test_a_schema_of_others_and_classes_without_clips_are_told(tmp_path):
    folder = write_dataset(tmp_path / "data" / "small")
    path = folder / "test" / "00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["fps"]), path)
    dataset = open_dataset(folder)
    dataset.heads["verb"].append("juggle")
    dataset.save(folder)
    with pytest.raises(ValueError, match="faults"):
        check_dataset(str(folder), quiet)
    found = findings(folder)
    assert any("columns fps" in each["detail"] for each in found)
    assert {"kind": "no clip", "detail": "verb, 1 of 4: juggle", "split": "train", "clip_id": ""} in found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"heads": ["verb"]}, "of another kind"),
        ({"heads": {"verb": ["push", "push"]}}, "class names that differ"),
        ({"splits": {"train": {"clips": 1}}}, "'shards'"),
        ({"splits": {"train": {"clips": 1, "shards": {"../../secret.parquet": ""}}}}, "not a plain file name"),
        ({"splits": {"..": {"clips": 1, "shards": {}}}}, "not a plain file name"),
        ({"flow": {}}, "'bound'"),
        ({"rgb_codec": "av1"}, "rgb_codec is 'av1'"),
        ({"version": 0}, "version is 0"),
    ],
)
def test_a_dataset_json_of_no_use_is_refused_before_anything_is_read(tmp_path, home, content, said):
    Dataset(**(vars(open_dataset(home / "data" / "small")) | content)).save(tmp_path)
    with pytest.raises(ValueError, match=rf"dataset\.json cannot be used.*{re.escape(said)}"):
        check_dataset(str(tmp_path), quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_modalities_that_no_clip_has_and_shards_that_nobody_names_are_told(tmp_path):
    folder = write_dataset(tmp_path / "data" / "small", lambda split, rows: [row | {"audio": None} for row in rows])
    (folder / "val" / "00001.parquet").write_bytes((folder / "val" / "00000.parquet").read_bytes())
    with pytest.raises(
        ValueError, match=r"has 1 faults .*clips have rgb, flow, boxes; dataset\.json names rgb, flow, audio"
    ):
        check_dataset(str(folder), quiet)
    assert {"kind": "stray", "detail": "00001.parquet", "split": "val", "clip_id": ""} in findings(folder)


def moving_row(change=lambda flow: flow) -> dict:
    """A texture that moves 3 px to the right and 1 px down from frame to frame, and its flow, changed, at bound 8."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (90, 120), np.uint8), (0, 0), 2)
    wide = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    rgb = [wide[20 - t : 68 - t, 40 - 3 * t : 104 - 3 * t, None].repeat(3, axis=2) for t in range(FRAMES)]
    flow = as_bytes(change(np.full((48, 64, 2), (3.0, 1.0), np.float32)), 8.0)
    return {
        "clip_id": "moving", "rgb": [simplejpeg.encode_jpeg(np.ascontiguousarray(frame), 95) for frame in rgb],
        "flow": [flow_jpeg(flow, 95)] * FRAMES, "audio": None, "boxes": None, "num_frames": FRAMES, "width": 64,
        "height": 48, "labels": {"verb": 0, "noun": 0}, "fps": 8.0, "start": 0.0, "stop": FRAMES / 8, "meta": [],
    }  # fmt: skip


def test_flow_that_fits_explains_how_frames_change_and_flow_that_does_not_is_told(tmp_path, home):
    dataset = open_dataset(home / "data" / "small")
    dataset.flow["size"] = [64, 48]
    share = {
        name: look_at(moving_row(change), dataset).explained
        for name, change in (
            ("right", lambda flow: flow),
            ("swapped", lambda flow: flow[..., ::-1]),
            ("back", np.negative),
        )
    }
    assert share["right"] > 0.7 and share["swapped"] < 0.3 and share["back"] < 0

    def astray(split, rows):
        return [row | moving_row(np.negative) | {"clip_id": row["clip_id"]} for row in rows]

    folder = write_dataset(tmp_path / "data" / "astray", astray)
    dataset = open_dataset(folder)
    dataset.modalities, dataset.flow["size"] = ["rgb", "flow"], [64, 48]
    dataset.save(folder)
    check_dataset(str(folder), quiet)
    assert {each["kind"] for each in findings(folder)} == {"no clip", "astray flow"}


def as_video(row: dict, frames: int = FRAMES, parts: int = 1) -> dict:
    """The row with its frames, so many of them, as one MP4."""
    writer = VideoWriter((WIDTH, HEIGHT), FPS, 20, 4)
    for number in range(frames):
        writer.add(simplejpeg.decode_jpeg(row["rgb"][number % FRAMES], "RGB"))
    return row | {"rgb": [writer.close()] * parts}


def test_clips_kept_as_videos_are_decoded_too(tmp_path):
    spoiled = {"train-003": {"frames": 4}, "train-004": {"frames": 9}, "train-005": {"parts": 2}}

    def as_videos(split, rows):
        return [as_video(row, **spoiled.get(row["clip_id"], {})) for row in rows]

    folder = write_dataset(tmp_path / "data" / "video", as_videos)
    dataset = open_dataset(folder)
    Dataset(**(vars(dataset) | {"rgb_codec": "h264"})).save(folder)
    with pytest.raises(ValueError, match="3 faults"):
        check_dataset(str(folder), quiet)
    found = {each["clip_id"]: each["detail"] for each in findings(folder)}
    assert found["train-003"] == "4 frames where num_frames is 6"
    assert found["train-004"] == "9 frames where num_frames is 6"
    assert "2 parts" in found["train-005"] and set(found) == set(spoiled)
    assert 'alt="RGB frames' in (folder / "contact_sheet.html").read_text()


def test_the_page_shows_every_modality_loads_nothing_and_is_the_same_again(tmp_path):
    heads = {"verb": ["<script>alert(1)</script>", *HEADS["verb"][1:]], "noun": HEADS["noun"]}

    def named(split, rows):
        return [row | {"meta": [("narration", "<b>take")]} for row in rows]

    folder = write_dataset(tmp_path / "data" / "small", named)
    dataset = open_dataset(folder)
    Dataset(**(vars(dataset) | {"heads": heads})).save(folder)
    check_dataset(str(folder), quiet)
    page = (folder / "contact_sheet.html").read_text()
    cards = page.count('<article class="card clip">')
    assert cards == 6 and page.count("data:image/jpeg") == 3 * cards + 1
    for alt in ('alt="RGB frames 1, 2, 3, 4, 5, 6 with boxes"', 'alt="optical flow', 'alt="spectrogram"'):
        assert page.count(alt) == cards
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "default-src 'none'" in page
    assert "narration: &lt;b&gt;take" in page and "<b>" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "//" not in re.sub(r'base64,[^"]*', "", page)
    assert all(f"{split} {split}-0" in page for split in ("train", "val", "test"))  # clips of every split
    assert "lift · ball" in page and "0.75 s · 6 frames at 8 a second · 32 x 24" in page
    check_dataset(str(folder), quiet)
    assert (folder / "contact_sheet.html").read_text() == page


def test_a_clip_with_a_fault_is_shown_as_far_as_it_can_be_and_says_what_is_wrong(tmp_path):
    spoiled = {
        "train-004": {"rgb": [b"no image"] * FRAMES},
        "train-007": {"boxes": [[BOX | {"x1": float("nan")}, BOX]] * FRAMES, "audio": b"no sound"},
    }
    folder = write_dataset(
        tmp_path / "data" / "bad", lambda split, rows: [row | spoiled.get(row["clip_id"], {}) for row in rows]
    )
    with pytest.raises(ValueError, match="faults"):
        check_dataset(str(folder), quiet)
    page = (folder / "contact_sheet.html").read_text()
    odd = page.partition("Worth a look</h2>")[2].partition("<h2>")[0]
    first, second = sorted(re.findall(r"<article.*?</article>", odd), key=lambda card: "train-007" in card)
    assert "rgb cannot be shown" in first and "frames: frame 1 is no JPEG" in first and first.count("<img") == 2
    assert "boxes: in frame 1, a value is not finite" in second and second.count("<img") == 2
    assert "sound cannot be shown" in second


def test_clips_are_chosen_from_all_splits_whatever_the_order_they_come_in():
    faults = [Finding("flow", "")]
    choice, turned = Choice(), Choice()
    clips = [(f"{split}-{i}", (split, "s", 0, i), [f"class {i % 9}"]) for split in ("a", "b", "c") for i in range(90)]
    for each, order in ((choice, clips), (turned, clips[::-1])):
        for clip_id, place, names in order:
            each.offer(clip_id, place, names, faults if place == ("b", "s", 0, 4) else [])
    sections = choice.sections([f"class {i}" for i in range(9)])
    assert sections == turned.sections([f"class {i}" for i in range(9)])
    assert choice.odd_clips() == turned.odd_clips() == [("b", "s", 0, 4)]
    for number, (name, places) in enumerate(sections):
        assert name == f"class {number}" and all(place[3] % 9 == number for place in places)
        assert [place[0] for place in places] == [("a", "b", "c")[(number + turn) % 3] for turn in range(2)]
        assert ("b", "s", 0, 4) not in places


def test_many_classes_are_sampled_evenly_and_clips_without_a_label_are_not_forgotten():
    choice, names = Choice(), [f"class {i}" for i in range(200)]
    for i in range(1000):
        choice.offer(f"clip {i}", ("a", "s", 0, i), [names[i % 200] if i % 5 else None], [])
    shown = choice.sections(names)
    assert sum(len(places) for _, places in shown) <= MOST_CLIPS and len(shown) == 60
    assert [name for name, _ in shown][::59] == ["class 1", None] and shown[58][0] == "class 199"
    unlabelled = Choice()
    for i in range(100):
        unlabelled.offer(f"clip {i}", ("a", "s", 0, i), [None], [])
    assert [(name, len(places)) for name, places in unlabelled.sections(names)] == [(None, 12)]


def test_boxes_are_drawn_where_they_are_hands_and_objects_apart():
    hand = BOX | {"x1": 0.5, "y1": 0.5, "x2": 0.9, "y2": 0.9, "category": 2, "side": 0, "state": 3}
    drawn = with_boxes(np.zeros((101, 101, 3), np.uint8), [BOX, hand, BOX | {"x1": None}])
    edge = drawn[15, 10], drawn[70, 90]
    assert edge[0][2] > edge[0][0] and edge[1][0] > edge[1][2]  # blue, orange
    assert not drawn[30:49, :49].any() and not drawn[65:85, 55:85].any()


def test_flow_has_a_colour_for_each_direction_and_none_where_nothing_moves():
    flow = np.array([[[128, 128], [255, 128], [0, 128], [128, 255], [160, 128]]], np.uint8)
    still, right, left, down, slowly = flow_colours(flow, 64)[0].tolist()
    assert still == [255, 255, 255] and right == [255, 0, 0] and left == [0, 255, 255]
    assert down[1] > 200 and down[2] == 0 and slowly == [255, 128, 128]
