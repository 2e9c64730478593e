"""Something-Something v2 and Something-Else: what is packed is what their files say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from mmkd.config import Settings
from mmkd.cutting import cut
from mmkd.packing import pack
from mmkd.sources import make_source
from mmkd.sources.recording import Reject
from mmkd.sources.something_else import read_boxes
from mmkd.sources.ssv2 import class_of, read_classes

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
true_samples = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the true samples are not here")
NAMES = ["Closing something", "Stacking number of something", "Something falling like a rock"]
WIDTH, HEIGHT, FRAMES = 40, 24, 5


def write(path: Path, content) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def entry(clip_id, template="Closing [something]") -> dict:
    return {"id": clip_id, "label": f"video {clip_id}", "template": template, "placeholders": ["a box"]}


def write_frames(folder: Path, frames: int = FRAMES) -> None:
    folder.mkdir(parents=True)
    for number in range(1, frames + 1):
        image = np.full((HEIGHT, WIDTH, 3), number * 20, np.uint8)
        (folder / f"{number:04d}.jpg").write_bytes(simplejpeg.encode_jpeg(image, 90))
    (folder / "DONE").write_text("")


def box(x1, y1, x2, y2, **more) -> dict:
    return {"box2d": {"y1": y1, "x2": x2, "x1": x1, "y2": y2}, **more}


def ssv2(tables: Path, **source) -> Settings:
    """Settings of a data set in TABLES/data, unless a root is given."""
    (tables / "data").mkdir(exist_ok=True)
    given = {"kind": "ssv2", "root": str(tables / "data"), "annotations": str(tables)} | source
    return Settings.model_validate(
        {"run": {"home": str(tables / "home"), "local": True}, "source": given, "pack": {"flow": "none"}}
    )


def labels(root: Path, names=NAMES) -> None:
    write(root / "something-something-v2-labels.json", {name: str(number) for number, name in enumerate(names)})


def found(settings: Settings) -> tuple[dict, list[Reject]]:
    """Recordings by split and name, and rejects."""
    each = list(make_source(settings).recordings())
    rejects = [one for one in each if isinstance(one, Reject)]
    return {(one[0], one[1].name): one[1] for one in each if not isinstance(one, Reject)}, rejects


def rows_of(settings: Settings, **changed) -> dict[str, dict]:
    """Rows of the clips of a packed data set by clip_id, packed in this process."""
    settings = settings.model_copy(update={"pack": settings.pack.model_copy(update=changed)})
    pack(settings, lambda said: None, on_ray=False)
    files = sorted(Path(settings.data_folder()).glob("*/*.parquet"))
    rows = [row | {"split": path.parent.name} for path in files for row in pq.read_table(path).to_pylist()]
    return {row["clip_id"]: row for row in rows}


def cut_one(settings: Settings, split: str, name: str):
    recording = found(settings)[0][split, name]
    (result,) = cut(split, recording, make_source(settings).heads, settings.pack)
    return result


def test_classes_are_matched_by_name_whatever_their_numbers_and_placeholders(tmp_path):
    labels(tmp_path)
    write(tmp_path / "other.json", {name: 2 - number for number, name in enumerate(NAMES)})
    templates = ["[Something] falling like a rock", "Stacking [number of] [something]", "closing  [Something] "]
    write(tmp_path / "train.json", [entry(str(n), template) for n, template in enumerate(templates)])
    for classes, expected in [("", [2, 1, 0]), ("other.json", [0, 1, 2])]:
        settings = ssv2(tmp_path, classes=classes)
        recordings, rejects = found(settings)
        numbers = [recordings["train", str(n)].segments[0].labels["action"] for n in range(3)]
        assert numbers == expected and not rejects
        assert [make_source(settings).heads["action"][n] for n in numbers] == [NAMES[2], NAMES[1], NAMES[0]]


def test_a_very_name_goes_before_one_that_differs_in_case():
    classes = {"closing Something": 0, "Closing something": 1}
    assert class_of("Closing [something]", classes) == 1
    assert class_of("CLOSING [something]", classes) == 0
    assert class_of("Opening [something]", classes) is None


@pytest.mark.parametrize(
    "content", [{"a": "0", "b": "2"}, {"a": 0, "b": 0}, {"a": "one"}, {"a": True}, {"a": -1, "b": 0}, {}, ["a"]]
)
def test_labels_that_are_not_numbered_from_0_once_each_are_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"labels\.json"):
        read_classes(write(tmp_path / "labels.json", content))


def test_entries_that_cannot_be_packed_are_rejects_with_their_number(tmp_path):
    labels(tmp_path)
    outside = ["../../etc/passwd", "/etc/passwd", ".", "a/../..", "a\0b"]
    bad = [{"template": "Closing [something]"}, {"id": "7"}, "8", entry("9", "Juggling [something]"), entry(True)]
    write(tmp_path / "train.json", [entry("1"), *bad, *(entry(name) for name in outside), entry(2)])
    recordings, rejects = found(ssv2(tmp_path))
    assert list(recordings) == [("train", "1"), ("train", "2")]
    assert [one.kind for one in rejects] == ["row", "row", "row", "label", "row"] + ["path"] * len(outside)
    assert [one.clip_id for one in rejects[:4]] == ["", "7", "", "9"]
    assert all(f"entry {number}" in rejects[number - 1].reason for number in range(1, 6))


def test_a_table_may_have_either_official_name_and_be_missing_but_not_where_it_is_named(tmp_path):
    labels(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no table.*validation\.json"):
        make_source(ssv2(tmp_path))
    write(tmp_path / "something-something-v2-test.json", [{"id": "3"}])
    write(tmp_path / "validation.json", [entry("2")])
    recordings, _ = found(ssv2(tmp_path))
    assert {key: one.segments[0].labels["action"] for key, one in recordings.items()} == {
        ("val", "2"): 0,
        ("test", "3"): -1,
    }
    write(tmp_path / "COMPOSITIONAL" / "train.json", [entry("4")])
    recordings, _ = found(ssv2(tmp_path, train_table="COMPOSITIONAL/train.json"))
    assert ("train", "4") in recordings
    with pytest.raises(FileNotFoundError, match=r"few\.json"):
        make_source(ssv2(tmp_path, train_table="few.json"))
    with pytest.raises(ValueError, match="no JSON list"):
        found(ssv2(tmp_path, train_table="something-something-v2-labels.json"))
    (tmp_path / "something-something-v2-labels.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels\.json"):
        make_source(ssv2(tmp_path))


def test_boxes_belong_to_the_frame_of_their_name_and_frames_left_out_have_none(tmp_path):
    labels(tmp_path)
    for name in ("1", "2", "3"):
        write_frames(tmp_path / "data" / name)
    write(tmp_path / "train.json", [entry("1"), entry("2"), entry("3")])
    frames = [
        {"name": "1/0004.jpg", "labels": [box(4, 6, 20, 12, standard_category="0000", score=0.5)], "url": "x"},
        {"name": "1/0002.jpg", "labels": [box(8, 3, 10, 24.5, category="hand"), box(0, 0, 5, 6, category="cup")]},
        {"name": "1/0003.jpg", "labels": []},
    ]
    boxes = write(tmp_path / "boxes.json", {"unwanted": "rubbish", "1": frames, "2": []})
    rows = rows_of(ssv2(tmp_path, boxes=boxes))
    assert [len(one) for one in rows["1"]["boxes"]] == [0, 2, 0, 1, 0]
    hand, cup = rows["1"]["boxes"][1]
    assert (hand["category"], cup["category"], hand["side"], hand["state"], hand["score"]) == (2, 1, -1, -1, 1.0)
    assert [hand[name] for name in ("x1", "y1", "x2", "y2")] == pytest.approx([8 / 40, 3 / 24, 10 / 40, 23 / 24])
    assert [rows["1"]["boxes"][3][0][name] for name in ("x2", "score")] == pytest.approx([20 / 40, 0.5])
    assert rows["2"]["boxes"] == [[]] * FRAMES and rows["3"]["boxes"] is None
    assert dict(rows["1"]["meta"])["label"] == "video 1"


def test_boxes_of_frames_that_were_scaled_down_stay_shares_of_the_frame(tmp_path):
    labels(tmp_path)
    write_frames(tmp_path / "data" / "1")
    write(tmp_path / "train.json", [entry("1")])
    boxes = write(tmp_path / "boxes.json", {"1": [{"name": "1/0001.jpg", "labels": [box(10, 6, 20, 12)]}]})
    row = rows_of(ssv2(tmp_path, boxes=boxes), short_side=12)["1"]
    assert row["height"] == 12 and row["boxes"][0][0]["x2"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "frames",
    [
        [{"name": "1/0001.jpg", "labels": [{"category": "hand"}]}],
        [{"name": "1/cover.jpg", "labels": []}],
        [{"name": "1/0000.jpg", "labels": []}],
        [{"labels": []}],
        [{"name": "1/0001.jpg", "labels": [box("left", 0, 1, 1)]}],
        [{"name": "1/0001.jpg", "labels": [box(1e300, 0, 1, 1)]}],
        7,
        [None],
    ],
)
def test_malformed_boxes_reject_their_clip_and_no_other(tmp_path, frames):
    labels(tmp_path)
    for name in ("1", "2"):
        write_frames(tmp_path / "data" / name)
    write(tmp_path / "train.json", [entry("1"), entry("2")])
    settings = ssv2(tmp_path, boxes=write(tmp_path / "boxes.json", {"1": frames, "2": []}))
    assert cut_one(settings, "train", "1").kind == "boxes"
    assert cut_one(settings, "train", "2")["num_frames"] == FRAMES


def test_boxes_may_lie_in_several_files_but_a_video_in_one(tmp_path):
    write(tmp_path / "boxes" / "a.json", {"1": [], "2": []})
    write(tmp_path / "boxes" / "b.json", {"2": [], "3": []})
    found = read_boxes(str(tmp_path / "boxes"), {"1", "2", "3"})
    assert {name for name, one in found.items() if not one.fault} == {"1", "3"}
    assert "a.json and in b.json" in found["2"].fault
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_boxes(str(tmp_path / "nothing"), {"1"})
    for text in ("[]", '{"1": [', ""):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json"):
            read_boxes(str(tmp_path / "bad.json"), {"1"})


def test_a_clip_whose_files_are_missing_or_not_whole_is_a_reject(tmp_path):
    labels(tmp_path)
    for name in ("gap", "zero"):
        write_frames(tmp_path / "data" / name)
    (tmp_path / "data" / "gap" / "0003.jpg").unlink()
    (tmp_path / "data" / "zero" / "0000.jpg").write_bytes(b"")
    (tmp_path / "data" / "empty").mkdir()
    (tmp_path / "data" / "broken.webm").write_bytes(b"no video")
    (tmp_path / "data" / "away").symlink_to(tmp_path)
    names = ["missing", "empty", "gap", "zero", "broken"]
    write(tmp_path / "train.json", [entry(name) for name in [*names, "away"]])
    settings = ssv2(tmp_path)
    results = [cut_one(settings, "train", name) for name in names]
    assert [one.kind for one in results] == ["unreadable", "unreadable", "damaged", "damaged", "unreadable"]
    assert "0004.jpg where the image of frame 3" in results[2].reason
    assert [one.kind for one in found(settings)[1]] == ["path"]


def test_frames_have_the_rate_of_the_settings_or_12(tmp_path):
    labels(tmp_path)
    write_frames(tmp_path / "data" / "1")
    write(tmp_path / "train.json", [entry("1")])
    assert cut_one(ssv2(tmp_path), "train", "1")["fps"] == 12.0
    assert cut_one(ssv2(tmp_path, frame_rate=30), "train", "1")["fps"] == 30.0


def true_set(root: Path, **source) -> Settings:
    """The seven true clips of Something-Else, in two splits."""
    templates = json.loads((FIXTURES / "something_else/classes.json").read_text())
    entries = [{"id": name, "label": name, "template": template} for name, template in templates.items()]
    write(root / "train.json", entries[:5])
    write(root / "validation.json", entries[5:])
    shutil.copy(FIXTURES / "ssv2/something-something-v2-labels.json", root)
    frames = str(FIXTURES / "something_else/frames")
    return ssv2(root, root=frames, boxes=str(FIXTURES / "something_else/annotations.slice.json"), **source)


@true_samples
def test_the_true_clips_of_something_else_pack_with_their_boxes_and_classes(tmp_path):
    settings = true_set(tmp_path)
    rows = rows_of(settings, max_reject_share=0.0)
    truth = json.loads((FIXTURES / "something_else/annotations.slice.json").read_text())
    templates = json.loads((FIXTURES / "something_else/classes.json").read_text())
    official = json.loads((FIXTURES / "ssv2/something-something-v2-labels.json").read_text())
    assert set(rows) == set(templates) and [row["split"] for row in rows.values()].count("val") == 2
    for name, row in rows.items():
        assert row["labels"]["action"] == int(official[templates[name]])
        width = 400 if name == "151201" else 427
        assert (row["width"], row["height"], row["fps"]) == (width, 240, 12.0)
        images = sorted((FIXTURES / "something_else/frames" / name).glob("*.jpg"))
        assert row["rgb"] == [path.read_bytes() for path in images] and row["num_frames"] == len(images)
        boxes = {int(Path(frame["name"]).stem): frame["labels"] for frame in truth[name]}
        for number, packed in enumerate(row["boxes"], 1):
            given = boxes.get(number, [])
            assert [one["category"] for one in packed] == [1 + (one["standard_category"] == "hand") for one in given]
            for one, other in zip(packed, given, strict=True):
                for corner, side in zip(("x1", "y1", "x2", "y2"), (width, 240) * 2, strict=True):
                    assert one[corner] * side == pytest.approx(min(int(other["box2d"][corner]), side - 1), abs=1e-3)
    assert rows["151201"]["num_frames"] == 33
    assert [number for number, one in enumerate(rows["151201"]["boxes"]) if one] == list(range(23))


@true_samples
def test_the_compositional_split_has_its_own_numbers_for_the_same_names(tmp_path):
    other = str(FIXTURES / "something_else/compositional-labels.json")
    (first, _), (second, _) = found(true_set(tmp_path)), found(true_set(tmp_path, classes=other))
    one, two = (make_source(true_set(tmp_path, classes=name)).heads["action"] for name in ("", other))
    assert sorted(one) == sorted(two) and one != two
    pairs = [(first[key].segments[0].labels["action"], second[key].segments[0].labels["action"]) for key in first]
    assert len(pairs) == 7 and all(one[a] == two[b] for a, b in pairs) and any(a != b for a, b in pairs)


@true_samples
def test_true_tables_name_no_class_that_is_not_there(tmp_path):
    shutil.copy(FIXTURES / "ssv2/something-something-v2-labels.json", tmp_path)
    few = str(FIXTURES / "something_else/fewshot-train.slice.json")
    val = str(FIXTURES / "ssv2/something-something-v2-validation.slice.json")
    recordings, rejects = found(ssv2(tmp_path, train_table=few, val_table=val))
    assert len(recordings) == sum(len(json.loads(Path(path).read_text())) for path in (few, val)) and not rejects


@true_samples
def test_true_webm_clips_pack_whole(tmp_path):
    labels(tmp_path)
    (tmp_path / "data").mkdir(exist_ok=True)
    for name, file in [("1", "closing"), ("2", "moving_away")]:
        shutil.copy(FIXTURES / f"webm/{file}_427x240_vp9.webm", tmp_path / "data" / f"{name}.webm")
    write(tmp_path / "train.json", [entry("1"), entry("2")])
    rows = rows_of(ssv2(tmp_path), max_reject_share=0.0)
    said = [(row["num_frames"], row["fps"], row["width"], row["height"], row["audio"]) for row in rows.values()]
    assert sorted(said, key=lambda one: one[0]) == [(52, 12.0, 427, 240, None), (58, 12.0, 427, 240, None)]
