"""Tables, annotations and boxes that others made fill no memory."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmkd.evaluation.answers import Answers
from mmkd.report.predictions import Predictions
from mmkd.sources import box_files, clip, hand_objects, manifest, tables
from mmkd.sources.box_files import boxes_of, videos_of
from mmkd.sources.folder import make as make_folder
from mmkd.sources.hand_objects import detections
from mmkd.sources.recording import MAX_REASON, RejectedError
from mmkd.sources.reference import read_detections
from mmkd.sources.something_else import read_boxes
from tests.hostile import DEEP
from tests.small import small_settings


def settings_of(root, **values):
    return small_settings(root, source={"kind": "folder", "root": str(root), **values}).source


def test_a_table_of_a_few_bytes_that_stands_for_gigabytes_is_refused(tmp_path, monkeypatch):
    path = str(tmp_path / "list.parquet")
    (tmp_path / "a.mp4").write_bytes(b"")
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"path": ["a.mp4"] * 1000, "verb": column}), path, compression="zstd")
    assert Path(path).stat().st_size < 20_000  # and 1 GB as texts
    with pytest.raises(ValueError, match="a text of 1000000 bytes, more than"):
        make_folder(settings_of(tmp_path, annotations=path))
    pq.write_table(pa.table({"path": ["a.mp4"] * 1000, "verb": ["take"] * 1000}), path)
    assert len(manifest.read_manifest(path)[1]) == 1000
    monkeypatch.setattr(manifest, "MAX_ROWS", 999)
    with pytest.raises(ValueError, match="it has 1000 rows, more than 999"):
        manifest.read_manifest(path)
    monkeypatch.undo()
    lists = pa.ListArray.from_arrays(pa.array([0, 5000], pa.int32()), pa.nulls(5000, pa.string()))
    pq.write_table(pa.table({"path": ["a.mp4"], "tags": lists}), path)
    monkeypatch.setattr(tables, "MAX_VALUES", 5000)
    with pytest.raises(ValueError, match="1 rows with 5001 values"):
        manifest.read_manifest(path)


def test_rows_that_no_number_can_hold_are_rejects_and_not_the_end(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(f"path,start,stop,verb\na.mp4,{'9' * 400}:00:00,,take\nb.mp4,0,1,take\n")
    _, rows = manifest.read_manifest(str(path))
    assert rows[0].fault is not None and rows[0].fault[0] == "row" and rows[1].fault is None
    (tmp_path / "classes.json").write_text(DEEP)
    with pytest.raises(ValueError, match="no JSON"):
        manifest.read_classes(str(tmp_path / "classes.json"))


def test_folders_nested_without_end_are_refused(tmp_path):
    at = tmp_path
    for _ in range(70):
        at = at / "a"
    at.mkdir(parents=True)
    with pytest.raises(ValueError, match="nested deeper than 64"):
        make_folder(settings_of(tmp_path))


BOX = {"x1": 0.1, "y1": 0.1, "x2": 0.2, "y2": 0.2, "category": 1}


def test_boxes_by_the_million_are_refused_in_every_format(tmp_path, monkeypatch):
    def fewer(most):
        for module in (clip, hand_objects):
            monkeypatch.setattr(module, "MAX_BOXES", most)

    lines, table = tmp_path / "a.jsonl", str(tmp_path / "a.parquet")
    lines.write_text(json.dumps({"video": "a", "frame": 6, "boxes": [BOX] * 9}) + "\n")
    pq.write_table(pa.table({name: [value] * 9 for name, value in (BOX | {"video": "a", "frame": 6}).items()}), table)
    labels = [{"box2d": dict.fromkeys(("x1", "y1", "x2", "y2"), 1), "category": "hand"}] * 9
    (tmp_path / "else.json").write_text(json.dumps({"a": [{"name": "a/0007.jpg", "labels": labels}]}))
    authors = dict.fromkeys(("x1", "y1", "x2", "y2"), 1) | {"category": "hand", "score": 1.0}
    (tmp_path / "authors.json").write_text(
        json.dumps([{"id": "a", "size": [9, 9], "frames": [[]] * 6 + [[authors] * 9]}])
    )
    hands = bytes([0x22, 0]) * 9  # nine objects of a protobuf message, with nothing said of them

    def read_all():
        yield lambda: boxes_of(str(lines), "a").open(1.0)
        yield lambda: boxes_of(table, "a").open(1.0)
        yield lambda: read_boxes(str(tmp_path / "else.json"), ["a"])["a"].open(1.0)
        yield lambda: read_detections(str(tmp_path / "authors.json"), ["a"])["a"].open()
        yield lambda: detections(hands)

    fewer(9)
    assert all(read() is not None for read in read_all())
    fewer(8)
    for read in read_all():
        with pytest.raises(ValueError, match=r"boxes, more than 8|more than 8 boxes"):
            read()
    fewer(9)
    monkeypatch.setattr(box_files, "MAX_OF_VIDEO", 5)
    with pytest.raises(RejectedError, match="the video has more than 5 boxes"):
        boxes_of(table, "a").open(1.0)


def test_names_of_videos_in_a_table_of_boxes_are_in_memory_once(tmp_path):
    path = str(tmp_path / "a.parquet")
    video = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"video": video, "frame": [1] * 1000}), path, compression="zstd")
    with pytest.raises(ValueError, match="a text of 1000000 bytes"):
        videos_of(path)


def test_answers_of_others_are_refused_by_name_where_they_are_damaged_or_of_endless_views(tmp_path):
    path = tmp_path / "a.parquet"
    answers = Answers("a", ["x"], {"verb": np.zeros(1, np.int64)}, {"verb": np.zeros((1, 1, 3), np.float32)})
    answers.save(path)
    assert Answers.load(path).grids == [(1, 1)]
    for grids in ([(10**9, 3)], [(1000, 3)] * 100, [(0, 1)], [(1, -1)], []):
        replace(answers, grids=grids).save(path)
        with pytest.raises(ValueError, match=r"a\.parquet holds no logits.*its grids of views are"):
            Answers.load(path)
    for content in (b"", b"PAR1" + b"x" * 50 + b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.parquet holds no predictions: it cannot be read"):
            Predictions.load(path)
    with pytest.raises(ValueError, match="holds no predictions"):
        Predictions.load(tmp_path)


def test_what_a_file_says_is_quoted_in_part(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"video": "a", "frame": 0, "size": "x" * 1_000_000, "boxes": []}) + "\n")
    with pytest.raises(RejectedError) as caught:
        boxes_of(str(path), "a").open(1.0)
    assert len(str(caught.value)) == MAX_REASON and str(caught.value).endswith(" ...")


def read_shallow(path, size):
    with open(path, "rb") as file:
        stream = tables.ShallowJson(file, path.name)
        content = b"".join(iter(lambda: stream.read(size), b""))
    assert stream.depth == 0
    return content


def test_json_that_is_nested_without_end_is_refused_before_it_fills_the_memory(tmp_path):
    path, name = tmp_path / "a.json", '"[[[[\\\\\\"[" '  # brackets in texts do not count
    for text, fine in (
        (f"[[{name}]]" * 60_000, True),
        ("[" * 60 + "]" * 60, True),
        ("[1, " * 70, False),
        (DEEP, False),
    ):
        path.write_text(text)
        for size in (7, 1 << 16):
            if fine:
                assert read_shallow(path, size) == text.encode()
            else:
                with pytest.raises(ValueError, match=r"a\.json has brackets nested deeper than 64"):
                    read_shallow(path, size)
    path.write_text('[{"id": ' + DEEP[:2000] + DEEP[-2000:] + "}]")
    with pytest.raises(ValueError, match="nested deeper"):
        read_detections(str(path), ["a"])
    path.write_text('{"a": ' + DEEP[:2000] + DEEP[-2000:] + "}")
    with pytest.raises(ValueError, match="nested deeper"):
        read_boxes(str(path), ["a"])
