"""Checking a data set finds what is wrong with it, and shows it to a person."""

import io
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
import soundfile

from mmkd.check import check_dataset
from mmkd.clip_checks import clip_findings
from mmkd.media.clips import VideoWriter
from mmkd.report.contact_sheet import flow_colours
from mmkd.shards import Dataset, open_dataset
from tests.small import FPS, FRAMES, HEADS, HEIGHT, RATE, WIDTH, encode_clip, make_clip, small_settings, write_dataset


def quiet(text: str) -> None:
    pass


def test_a_good_data_set_has_no_fault_and_its_counts_are_told(home, capsys):
    said = []
    result = check_dataset(str(home / "data" / "small"), said.append)
    assert (result["clips"], result["faults"], result["splits"]) == (55, 0, {"train": 37, "val": 11, "test": 7})
    text = "\n".join(said)
    assert "verb" in text and "3 classes: train 3 classes with 12 to 13 clips each" in text and "faults: none" in text
    assert re.search(r"boxes +100.0 % of the clips", text) and f"{WIDTH} x {HEIGHT}" in text


@pytest.fixture
def row(tmp_path):
    return encode_clip(make_clip("train", 5), small_settings(tmp_path))


def flac(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.astype(np.int16), RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def jpeg(width: int, height: int, value: int = 128) -> bytes:
    return simplejpeg.encode_jpeg(np.full((height, width, 3), value, np.uint8), 90, "RGB", "444")


SECONDS = FRAMES / FPS
BOX = {"x1": 0.1, "y1": 0.1, "x2": 0.2, "y2": 0.2, "score": 0.5, "category": 1, "side": -1, "state": -1}


@pytest.mark.parametrize(
    ("change", "kind", "detail"),
    [
        ({"labels": {"verb": 3, "noun": 0}}, "label", "verb is 3, of 3 classes"),
        ({"rgb": [b"no image"] * FRAMES}, "frames", ""),
        ({"rgb": [jpeg(WIDTH, HEIGHT)] * 4}, "frames", "4 frames where num_frames is 6"),
        ({"rgb": [jpeg(WIDTH, HEIGHT)] * 5 + [jpeg(9, 9)]}, "frames", "different sizes"),
        ({"width": 99}, "frames", "where the row says"),
        ({"flow": [jpeg(WIDTH, HEIGHT)] * 3}, "flow", "3 frames of flow for 6 frames"),
        ({"flow": [jpeg(HEIGHT, WIDTH)] * FRAMES}, "flow", "24 x 32 for frames of 32 x 24"),
        ({"flow": [b"x"] * FRAMES}, "flow", ""),
        ({"audio": b"no sound"}, "sound", ""),
        ({"audio": flac(np.arange(int(RATE * SECONDS / 2)))}, "sound", "0.38 s of sound for 0.75 s"),
        ({"audio": flac(np.zeros(int(RATE * SECONDS)))}, "silent", "every sample is 0"),
        ({"boxes": [[BOX]] * 2}, "boxes", "2 frames of boxes for 6"),
        ({"boxes": [[BOX | {"x1": float("nan")}]] * FRAMES}, "boxes", "in frame 1, a value is not finite"),
        ({"boxes": [[], [BOX | {"y2": 1.5}], [], [], [], []]}, "boxes", "in frame 2, a value is out of 0..1: 1.5"),
        ({"boxes": [[BOX | {"x2": 0.05}]] * FRAMES}, "boxes", "an end lies before its start"),
        ({"boxes": [[BOX | {"category": 7}]] * FRAMES}, "boxes", "category 7"),
        ({"flow": [jpeg(WIDTH, HEIGHT)] * FRAMES}, "still flow", "128 everywhere"),
        ({"flow": [jpeg(WIDTH, HEIGHT, v) for v in (255, 0) * 3]}, "saturated", "100 % of the values"),
    ],
)
def test_each_thing_that_can_be_wrong_with_a_clip_is_found(row, home, change, kind, detail):
    dataset = open_dataset(home / "data" / "small")
    assert clip_findings(row, dataset) == []
    found = clip_findings(row | change, dataset)
    assert [(each.kind, each.is_fault) for each in found] == [(kind, kind not in ("silent", "still flow", "saturated"))]
    assert detail in found[0].detail


def test_faults_of_shards_and_doubles_fail_the_job_and_are_all_listed(tmp_path):
    def double(split, rows):
        return [*rows, rows[0]] if split == "val" else rows

    folder = write_dataset(tmp_path / "data" / "bad", double)
    table = pq.read_table(folder / "test" / "00000.parquet")
    pq.write_table(table.slice(1), folder / "test" / "00000.parquet")
    (folder / "train" / "00000.parquet").write_bytes(b"gone")
    said = []
    with pytest.raises(ValueError, match=r"faults .*check\.json lists all"):
        check_dataset(str(folder), said.append)
    found = {(each["kind"], each["split"], each["detail"]) for each in json.loads((folder / "check.json").read_text())}
    assert ("duplicate", "val", "it is there more than once") in found
    assert ("shard", "val", "12 clips where dataset.json says 11") in found
    assert ("shard", "test", "00000.parquet has other content than when it was packed") in found
    assert ("shard", "test", "6 clips where dataset.json says 7") in found
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
    found = json.loads((folder / "check.json").read_text())
    assert any("columns fps" in each["detail"] for each in found)
    assert {"kind": "no clip", "detail": "verb 'juggle'", "split": "train", "clip_id": ""} in found


def test_clips_kept_as_videos_are_decoded_too(tmp_path):
    def as_videos(split, rows):
        for row in rows:
            writer = VideoWriter((WIDTH, HEIGHT), FPS, 20, 4)
            for frame in row["rgb"][: 4 if row["clip_id"] == "train-003" else None]:
                writer.add(simplejpeg.decode_jpeg(frame, "RGB"))
            row["rgb"] = [writer.close()]
        return rows

    folder = write_dataset(tmp_path / "data" / "video", as_videos)
    dataset = open_dataset(folder)
    Dataset(**(vars(dataset) | {"rgb_codec": "h264"})).save(folder)
    with pytest.raises(ValueError, match=r"1 faults \(train train-003: the video of the clip has no frame 4"):
        check_dataset(str(folder), quiet)


def test_the_page_shows_every_modality_loads_nothing_and_is_the_same_again(tmp_path):
    heads = {"verb": ["<script>alert(1)</script>", *HEADS["verb"][1:]], "noun": HEADS["noun"]}
    folder = write_dataset(tmp_path / "data" / "small")
    dataset = open_dataset(folder)
    Dataset(**(vars(dataset) | {"heads": heads})).save(folder)
    check_dataset(str(folder), quiet)
    page = (folder / "contact_sheet.html").read_text()
    cards = page.count('<article class="card clip">')
    assert cards == 6 and page.count("data:image/jpeg") == 3 * cards + 1
    for alt in ('alt="frames [', 'alt="optical flow', 'alt="spectrogram"'):
        assert page.count(alt) == cards
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "train-" in page and "val-" in page
    check_dataset(str(folder), quiet)
    assert (folder / "contact_sheet.html").read_text() == page


def test_flow_has_a_colour_for_each_direction_and_none_where_nothing_moves():
    flow = np.array([[[128, 128], [255, 128], [0, 128], [128, 255]]], np.uint8)
    still, right, left, down = flow_colours(flow)[0].tolist()
    assert still == [255, 255, 255] and right == [255, 0, 0] and left == [0, 255, 255]
    assert down[1] > 200 and down[2] == 0
