"""Boxes of a user's own detector: both formats say the same, and what is wrong with them is told by line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmkd.sources import box_files
from mmkd.sources.box_files import boxes_of, videos_of
from mmkd.sources.recording import RejectedError

SIZE = (64, 48)
HAND = {"x1": 0.25, "y1": 0.5, "x2": 0.5, "y2": 0.75, "score": 0.9, "category": "hand", "side": "left", "state": 3}
OBJECT = {"x1": 0.125, "y1": 0.25, "x2": 1.0, "y2": 1.0, "category": 1}
FRAMES = [
    {"video": "a/b.mp4", "frame": 2, "boxes": [HAND, OBJECT]},
    {"video": "c.mp4", "frame": 0, "boxes": [OBJECT]},
    {"video": "a/b.mp4", "frame": 0, "boxes": [OBJECT]},
    {"video": "a/b.mp4", "frame": 3, "boxes": []},
]


def write_lines(path, frames=FRAMES) -> str:
    path.write_text("".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in frames))
    return str(path)


def write_table(path, frames=FRAMES) -> str:
    rows = [
        box
        | {key: value for key, value in frame.items() if key not in ("boxes", "size")}
        | (dict(zip(("width", "height"), frame["size"], strict=True)) if "size" in frame else {})
        for frame in frames
        for box in frame["boxes"]
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    for row in rows:  # a column of a table has one type
        row["category"] = {"hand": 2, "object": 1}.get(row["category"], row["category"])
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path, row_group_size=2)
    return str(path)


def read(path, video="a/b.mp4", numbers=range(5), rate=10.0):
    reader = boxes_of(path, video).open(rate)
    assert reader is not None
    return reader.read(list(numbers), SIZE)


def same(one, other) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_both_formats_and_a_folder_of_either_give_the_same_boxes(tmp_path):
    expected = read(write_lines(tmp_path / "boxes.jsonl"))
    assert [len(boxes) for boxes in expected] == [1, 0, 2, 0, 0]
    assert expected[2][0].tolist() == pytest.approx((0.25, 0.5, 0.5, 0.75, 0.9, 2, 0, 3))
    assert expected[2][1].tolist() == pytest.approx((0.125, 0.25, 1, 1, 1, 1, -1, -1))
    assert same(read(write_table(tmp_path / "boxes.parquet")), expected)
    mine = [{key: value for key, value in each.items() if key != "video"} for each in FRAMES if "b" in each["video"]]
    for write, name in ((write_lines, "lines/a/b.jsonl"), (write_table, "tables/a/b.parquet")):
        (tmp_path / name).parent.mkdir(parents=True)
        write(tmp_path / name, mine)
        folder = str(tmp_path / name.split("/")[0])
        assert same(read(folder), expected)
        assert videos_of(folder) == {"a/b"}
        assert boxes_of(folder, "c.mp4").open(10.0) is None


def test_boxes_in_pixels_are_those_in_shares(tmp_path):
    pixels = [
        {"size": [400, 300]}
        | frame
        | {
            "boxes": [
                box | {"x1": box["x1"] * 400, "x2": box["x2"] * 400, "y1": box["y1"] * 300, "y2": box["y2"] * 300}
                for box in frame["boxes"]
            ]
        }
        for frame in FRAMES
    ]
    expected = read(write_lines(tmp_path / "shares.jsonl"))
    assert same(read(write_lines(tmp_path / "pixels.jsonl", pixels)), expected)
    assert same(read(write_table(tmp_path / "pixels.parquet", pixels)), expected)


def test_a_time_is_the_nearest_frame_and_the_nearest_of_several_times_counts(tmp_path):
    times = [
        {key: value for key, value in each.items() if key != "frame"} | {"time": each["frame"] / 10 + 0.04}
        for each in FRAMES
    ]
    expected = read(write_lines(tmp_path / "frames.jsonl"))
    path = write_lines(tmp_path / "times.jsonl", times)
    assert same(read(path), expected)
    assert same(read(write_table(tmp_path / "times.parquet", times)), expected)
    assert [len(boxes) for boxes in read(path, numbers=range(8), rate=20.0)] == [0, 1, 0, 0, 0, 2, 0, 0]
    twice = [
        {"video": "a", "time": 0.06, "boxes": [HAND]},
        {"video": "a", "time": 0.09, "boxes": [OBJECT]},
        {"video": "a", "time": 0.14, "boxes": [HAND]},
    ]
    for path in (write_lines(tmp_path / "twice.jsonl", twice), write_table(tmp_path / "twice.parquet", twice)):
        (boxes,) = read(path, "a", [1])
        assert boxes["category"].tolist() == [1]


def test_a_video_that_the_file_does_not_name_has_no_boxes(tmp_path):
    for path in (write_lines(tmp_path / "boxes.jsonl"), write_table(tmp_path / "boxes.parquet")):
        assert boxes_of(path, "b.mp4").open(10.0) is None
        assert set(videos_of(path)) == {"a/b.mp4", "c.mp4"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"video": "a/b.mp4", "frame": 1, "boxes": [\n', "no JSON"),
        ("garbage\n", "no JSON"),
        ({"video": "a/b.mp4", "boxes": []}, "frame"),
        ({"video": "a/b.mp4", "frame": -1, "boxes": []}, "no frame"),
        ({"video": "a/b.mp4", "frame": 1.5, "boxes": []}, "no frame"),
        ({"video": "a/b.mp4", "frame": 10**400, "boxes": []}, "finite"),
        ({"video": "a/b.mp4", "frame": 1, "boxes": [HAND | {"x1": float("nan")}]}, "x1"),
        ({"video": "a/b.mp4", "frame": 1, "boxes": [HAND | {"score": float("inf")}]}, "score"),
        ({"video": "a/b.mp4", "frame": 1, "boxes": [HAND | {"category": "foot"}]}, "category"),
        ({"video": "a/b.mp4", "frame": 1, "boxes": [HAND | {"state": 5}]}, "state"),
        ({"video": "a/b.mp4", "frame": 1, "boxes": [HAND | {"x2": 0.1}]}, "ends before"),
        ({"video": "a/b.mp4", "frame": 1, "boxes": [HAND | {"x2": 320}]}, "shares"),
        ({"video": "a/b.mp4", "frame": 1, "size": [0, 1], "boxes": [HAND]}, "0 x 1"),
        ({"video": "a/b.mp4", "frame": 1, "size": 3, "boxes": [HAND]}, "size"),
    ],
)
def test_a_malformed_line_rejects_its_video_and_no_other(tmp_path, line, said):
    path = write_lines(tmp_path / "boxes.jsonl", [*FRAMES, line])
    with pytest.raises(RejectedError, match=rf"boxes.jsonl line 5: .*{said}") as caught:
        boxes_of(path, "a/b.mp4").open(10.0)
    assert caught.value.kind == "boxes"
    assert len(read(path, "c.mp4", [0])[0]) == 1


def test_a_malformed_first_line_is_not_lost(tmp_path):
    path = write_lines(tmp_path / "boxes.jsonl", ["garbage\n", *FRAMES])
    with pytest.raises(RejectedError, match="line 1"):
        boxes_of(path, "a/b.mp4").open(10.0)


def test_a_damaged_table_or_one_of_other_columns_is_said_to_be(tmp_path):
    path = write_table(tmp_path / "boxes.parquet", [{"video": "a", "frame": 0, "boxes": [HAND | {"y2": np.nan}]}])
    with pytest.raises(RejectedError, match="row 1 of a: y2"):
        boxes_of(path, "a").open(10.0)
    pq.write_table(pa.table({"video": ["a"], "x1": [0.0]}), tmp_path / "less.parquet")
    with pytest.raises(RejectedError, match="no column y1, x2, y2, category"):
        boxes_of(str(tmp_path / "less.parquet"), "a").open(10.0)
    pq.write_table(pa.table({"clip": ["a"], "x1": [0.0]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet has no column video"):
        videos_of(str(tmp_path / "other.parquet"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read"):
        videos_of(str(tmp_path / "bad.parquet"))
    with pytest.raises(FileNotFoundError, match="none"):
        boxes_of(str(tmp_path / "none.jsonl"), "a")


def test_only_the_lines_of_a_video_are_read_again(tmp_path, monkeypatch):
    frames = [{"video": f"{n // 50}", "frame": n % 50, "boxes": [HAND]} for n in range(500)]
    path = write_lines(tmp_path / "boxes.jsonl", frames)
    assert all(len(spans) == 1 for spans in box_files._spans(path, (tmp_path / "boxes.jsonl").stat().st_size).values())
    parsed = []
    loads = json.loads
    monkeypatch.setattr(box_files.json, "loads", lambda text: parsed.append(text) or loads(text))
    assert sum(map(len, read(path, "7", range(60)))) == 50
    assert len(parsed) == 50
    write_lines(tmp_path / "boxes.jsonl", [*frames, {"video": "7", "frame": 50, "boxes": [HAND]}])
    assert sum(map(len, read(path, "7", range(60)))) == 51
