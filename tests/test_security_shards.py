"""Data sets and banks that others made fill no memory, and what is wrong with them is told."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from mmkd import reader, storage
from mmkd.bank import store
from mmkd.bank.description import read_description
from mmkd.bank.rows import Layout
from mmkd.bank.store import Bank, BankWriter
from mmkd.check import check_dataset
from mmkd.config import SettingsError
from mmkd.dataset import open_dataset
from mmkd.media import clips
from mmkd.plan import TEST_VIEW
from mmkd.reader import read_unit
from mmkd.shards import read_manifest, read_rows
from tests.hostile import DEEP, endless, flac, huge
from tests.small import small_settings, write_dataset
from tests.test_bank import small_bank, some_rows
from tests.videos import picture


def read_spoiled(tmp_path, change, modalities=("rgb", "flow", "audio", "boxes")):
    """The status of a clip whose row was changed, next to clips that are sound."""

    def spoil(split, rows):
        return [row | change(row) if row["clip_id"] == "train-004" else row for row in rows]

    folder = write_dataset(tmp_path / "data" / "small", spoil)
    views = small_settings(folder).views
    data, listed = open_dataset(folder), read_manifest(folder, "train")
    block = read_unit(data, listed, views, np.array([3, 4, 5]), TEST_VIEW, modalities)
    assert block["status"][[0, 2]].tolist() == [reader.REAL] * 2
    return int(block["status"][1])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda row: {"rgb": [huge(each) for each in row["rgb"]]}, reader.BAD_IMAGE),
        (lambda row: {"flow": [None, *row["flow"][1:]]}, reader.BAD_IMAGE),
        (lambda row: {"audio": endless(row["audio"])}, reader.BAD_SOUND),
        (lambda row: {"audio": flac(np.zeros((4000, 2)))}, reader.BAD_SOUND),
        (lambda row: {"fps": None}, reader.BAD_ROW),
        (lambda row: {"fps": float("nan")}, reader.BAD_ROW),
        (lambda row: {"width": None}, reader.BAD_ROW),
        (lambda row: {"height": 0}, reader.BAD_ROW),
        (lambda row: {"boxes": [None] * len(row["boxes"])}, reader.BAD_BOX),
        (lambda row: {"boxes": [[each[0] | {"x1": None}] for each in row["boxes"]]}, reader.BAD_BOX),
    ],
)
def test_a_row_that_would_fill_the_memory_or_lacks_a_part_is_a_marked_row(tmp_path, change, status):
    assert read_spoiled(tmp_path, change) == status


def test_a_clip_of_absurdly_many_pixels_frames_or_boxes_is_a_marked_row(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "MAX_VIEW_PIXELS", 4 * 32 * 24)  # what the others have in their views
    large = simplejpeg.encode_jpeg(np.zeros((25, 32, 3), np.uint8))
    spoiled = read_spoiled(tmp_path / "a", lambda row: {"rgb": [large] * len(row["rgb"])}, ("rgb",))
    assert spoiled == reader.BAD_IMAGE
    monkeypatch.undo()
    monkeypatch.setattr(storage, "MAX_IN_LISTS", 20)
    assert read_spoiled(tmp_path / "b", lambda row: {"boxes": [each * 9 for each in row["boxes"]]}) == reader.UNREADABLE
    assert read_spoiled(tmp_path / "c", lambda row: {"rgb": row["rgb"] * 9}) == reader.UNREADABLE


def test_a_clip_kept_as_a_video_is_held_to_what_it_claims(monkeypatch):
    writer = clips.VideoWriter((64, 48), 10.0, 10, 4)
    for number in range(8):
        writer.add(picture(number, 64, 48))
    data = writer.close()
    assert len(clips.decode_frames(data, range(8))) == 8
    monkeypatch.setattr(clips, "MAX_VIEW_PIXELS", 7 * 64 * 48)
    with pytest.raises(ValueError, match="claims 8 frames of 64 x 48"):
        clips.decode_frames(data, range(8))


@pytest.mark.parametrize(
    "how", [{"compression": "zstd"}, {"compression": "none", "use_dictionary": ["rgb.list.element"]}]
)
def test_a_shard_that_is_compressed_or_encoded_is_not_read(tmp_path, how):
    folder = write_dataset(tmp_path / "data" / "small")
    path = folder / "train" / "00000.parquet"
    table = pq.read_table(path)
    listed = read_manifest(folder, "train")
    pq.write_table(table, path, row_group_size=4, **{"use_dictionary": False, **how})
    (row,) = read_rows(listed, [1], ["rgb"])
    assert isinstance(row, OSError) and re.search("column .* is compressed or encoded as no shard is", str(row))
    if how["compression"] == "zstd":
        with pytest.raises(ValueError, match="column clip_id is compressed"):
            read_manifest(folder, "train")


def test_a_look_at_a_data_set_reads_no_such_shard_either(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path / "data" / "small")
    path = folder / "train" / "00000.parquet"
    pq.write_table(pq.read_table(path), path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(storage, "MAX_IN_LISTS", 11)  # two boxes in each of six frames
    with pytest.raises(ValueError, match="faults"):
        check_dataset(str(folder), lambda said: None)
    found = [each["detail"] for each in json.loads((folder / "check.json").read_text())["findings"]]
    assert any("00000.parquet cannot be read: column clip_id is compressed" in detail for detail in found)
    assert any("00000.parquet cannot be read: it has 12 boxes, more than 11" in detail for detail in found)


def test_a_shard_that_is_cut_short_while_it_is_open_is_a_marked_row_and_not_the_end(tmp_path):
    folder = write_dataset(tmp_path / "data" / "small")
    listed = read_manifest(folder, "train")
    (row,) = read_rows(listed, [30], ["rgb"])
    assert isinstance(row, dict)
    with open(folder / "train" / "00000.parquet", "r+b") as file:
        file.truncate(5000)
    (row,) = read_rows(listed, [30], ["rgb"])  # a page beyond the end of a mapped file is a bus error
    assert isinstance(row, OSError)


def test_a_shard_of_absurdly_many_values_or_other_columns_is_refused(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path / "data" / "small")
    path = folder / "test" / "00000.parquet"
    table = pq.read_table(path)
    monkeypatch.setattr(storage, "MAX_VALUES", 3)
    with pytest.raises(ValueError, match="column clip_id of a row group has 4 values"):
        read_manifest(folder, "test")
    monkeypatch.undo()
    plain = {"compression": "none", "use_dictionary": False}
    changed = table.set_column(table.column_names.index("rgb"), "rgb", pa.array([1] * len(table), pa.int64()))
    for other, said in (
        (changed, "no column rgb of list"),
        (table.drop_columns(["fps"]), "no column fps of float"),
        (table.set_column(8, "labels", pa.array([{"verb": 1}] * len(table))), "no labels of noun"),
    ):
        pq.write_table(other, path, **plain)
        with pytest.raises(ValueError, match=said):
            read_manifest(folder, "test")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample_rate": 10**12}, "sample_rate is 1000000000000"),
        ({"heads": ["verb"]}, "of another kind"),
        ({"splits": {"..": {"clips": 1, "shards": {}}}}, "not a plain file name"),
        ({"rgb_codec": "zip"}, "rgb_codec is 'zip'"),
        (DEEP, "damaged: Recursion"),
        (b"\xff", "damaged: Unicode"),
    ],
)
def test_a_dataset_json_that_cannot_be_true_is_refused_before_training(tmp_path, home, change, said):
    content = (home / "data" / "small" / "dataset.json").read_text()
    content = change if isinstance(change, str | bytes) else json.dumps(json.loads(content) | change)
    (tmp_path / "dataset.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"dataset\.json .*{said}"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"name": "x", "fingerprint": "f", "split": "train", "clips": 10**12}},
        {"heads": {"verb": 10**12}},
        {"heads": {"verb": 100_000_000}},
        {"kept_views": 10**9},
        {"teachers": {str(n): "x" for n in range(100)}},
        {"parameters": [["a", "O"]]},
        {"parameters": [["a", "<f4", [1 << 30]]]},
        {"heads": []},
    ],
)
def test_a_bank_json_that_claims_absurd_sizes_is_refused(tmp_path, change):
    small_bank(tmp_path)
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SettingsError, match=r"bank\.json is damaged"):
        read_description(tmp_path)
    path.write_text(DEEP)
    with pytest.raises(SettingsError, match=r"bank\.json is damaged"):
        Bank(tmp_path)


def test_parts_of_a_bank_that_are_not_as_they_are_written_are_passed_over_and_named(tmp_path):
    layout: Layout = small_bank(tmp_path)
    writer = BankWriter(tmp_path, "good")
    writer.add(some_rows(layout, range(40), 0))
    writer.flush()
    (good,) = (tmp_path / "parts").glob("*.parquet")
    table = pq.read_table(good)

    def change(name, column):
        return table.set_column(table.column_names.index(name), table.schema.field(name), column)

    far = change("view", pa.array(np.full(40, 2**31 - 2, np.int32)))
    bad = {
        "1-far": (far, {}, "it has view 2147483646"),
        "2-null": (change("clip", pa.array([None] * 40, pa.int32())), {}, "rows without clip or view"),
        "3-text": (table.rename_columns({"crc": "text"}), {}, "its column"),
        "4-uneven": (table, {"row_group_size": 30}, ""),
        "5-many": (table.slice(0, 0), {}, ""),
    }
    for name, (content, how, _) in bad.items():
        pq.write_table(content, tmp_path / "parts" / f"{name}.parquet", **how)
    with pq.ParquetWriter(tmp_path / "parts" / "6-groups.parquet", table.schema) as uneven:
        for count in (3, 5, 2):
            uneven.write_table(table.slice(0, count))
    bank = Bank(tmp_path)
    assert bank.rows == 40 and set(bank.damaged) == {f"{n}.parquet" for n in ("1-far", "2-null", "3-text", "6-groups")}
    for name, (_, _, said) in bad.items():
        assert said in bank.damaged.get(f"{name}.parquet", "")
    assert "row groups are not of one size" in bank.damaged["6-groups.parquet"]


def test_a_part_of_absurdly_many_rows_is_passed_over(tmp_path, monkeypatch):
    layout = small_bank(tmp_path)
    writer = BankWriter(tmp_path, "good")
    writer.add(some_rows(layout, range(40), 0))
    writer.flush()
    assert Bank(tmp_path).rows == 40
    monkeypatch.setattr("mmkd.bank.rows.MAX_PART_BYTES", 39 * layout.row_bytes())
    (said,) = Bank(tmp_path).damaged.values()
    assert "it has 40 rows of" in said
    monkeypatch.undo()
    monkeypatch.setattr(store, "MAX_PLACES", 99)
    (said,) = Bank(tmp_path).damaged.values()
    assert "it has view 0 of 50 clips" in said
