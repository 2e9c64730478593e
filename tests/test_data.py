"""Shards are read as they were written, only as far as needed, and what is broken is marked."""

import hashlib
import io
import json
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
import soundfile

from mmkd import reader
from mmkd.cutting import as_bytes
from mmkd.dataset import open_dataset
from mmkd.extract.flow import make_flow
from mmkd.plan import PADDING, TEST_VIEW
from mmkd.reader import read_unit
from mmkd.shards import hash_rows, read_manifest
from tests.small import FRAMES, HEADS, SPLITS, make_clip, small_settings, write_dataset

ALL = ("rgb", "flow", "audio", "boxes")


def read(folder, clips, modalities=ALL, split="train", view=TEST_VIEW):
    views = small_settings(folder).views
    dataset, manifest = open_dataset(folder), read_manifest(folder, split)
    return read_unit(dataset, manifest, views, np.array(clips), view, modalities)


def test_a_packed_clip_comes_back_with_every_modality(home):
    folder = home / "data" / "small"
    block = read(folder, [5, PADDING, 36])
    clip = make_clip("train", 5)
    assert block["status"].tolist() == [reader.REAL, reader.PADDED, reader.REAL]
    assert block["label/verb"].tolist() == [clip.labels["verb"], -1, 0]
    row = pq.read_table(folder / "train" / "00000.parquet").slice(5, 1).to_pylist()[0]
    assert (row["clip_id"], row["num_frames"], row["width"], row["height"]) == ("train-005", FRAMES, 32, 24)
    assert np.array_equal(soundfile.read(io.BytesIO(row["audio"]), dtype="int16")[0], clip.audio)
    assert row["boxes"][0][1]["category"] == 2 and row["boxes"][0][0]["x2"] == pytest.approx(clip.boxes[0]["x2"][0])
    bright = block["rgb"][0].max(axis=(1, 2))[:, clip.labels["noun"]]
    assert (bright > 180).all()  # the marked square is seen in each frame
    assert block["boxes/category"][0, 0].tolist() == [1, 2, 0]


def test_flow_jpegs_keep_motion_to_a_fraction_of_a_pixel(home):
    method = make_flow("dis")
    frames = [method.prepare(frame) for frame in make_clip("train", 7).rgb]
    flow = np.stack([as_bytes(method.flow(a, b), 8.0) for a, b in pairwise(frames)])
    flow = np.concatenate([flow, flow[-1:]])  # the last frame's flow repeats the one before it
    row = pq.read_table(home / "data" / "small" / "train" / "00000.parquet").slice(7, 1).to_pylist()[0]
    decoded = np.stack([simplejpeg.decode_jpeg(frame, "RGB")[..., :2] for frame in row["flow"]])
    assert flow.shape == decoded.shape == (FRAMES, 24, 32, 2)
    assert (decoded[-1] == decoded[-2]).all()
    assert np.abs(decoded.astype(int) - flow).mean() * 8 / 127 < 0.15


def test_only_the_columns_that_a_modality_needs_are_read(home, monkeypatch):
    asked = []
    original = pq.ParquetFile.read_row_group

    def spy(self, i, columns=None, **options):
        asked.append(set(columns))
        return original(self, i, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    read(home / "data" / "small", [1], ("rgb",))
    assert asked == [{"clip_id", "fps", "width", "height", "rgb"}]


def test_a_view_is_the_same_whoever_reads_it_and_in_whatever_company(home):
    folder = home / "data" / "small"
    together = read(folder, [3, 9, 20], view=2)
    alone = read(folder, [9], view=2)
    for name in ("rgb", "flow", "audio", "boxes/boxes"):
        assert np.array_equal(together[name][1], alone[name][0])
    assert not np.array_equal(read(folder, [9], view=3)["rgb"], alone["rgb"])


def test_a_missing_modality_is_masked(tmp_path):
    def mute(split, rows):
        return [row | {"audio": None} if row["clip_id"] == "train-004" else row for row in rows]

    block = read(write_dataset(tmp_path / "data" / "small", mute), [3, 4])
    assert block["has/audio"].tolist() == [True, False]
    assert block["status"].tolist() == [reader.REAL, reader.REAL]
    assert not block["audio"][1].any() and block["audio"][0].any()


@pytest.mark.parametrize(
    ("column", "spoil", "status"),
    [
        ("rgb", lambda value: [frame[: len(frame) // 2] for frame in value], reader.BAD_IMAGE),
        ("rgb", lambda value: value[:2], reader.BAD_LENGTH),
        ("flow", lambda value: [b"no jpeg"] * len(value), reader.BAD_IMAGE),
        ("audio", lambda value: value[: len(value) // 3], reader.BAD_SOUND),
        ("boxes", lambda value: [[box | {"x1": float("nan")} for box in frame] for frame in value], reader.BAD_BOX),
        ("labels", lambda value: value | {"verb": 99}, reader.BAD_LABEL),
    ],
)
def test_a_broken_clip_is_a_marked_row_and_its_neighbours_are_whole(tmp_path, column, spoil, status):
    def change(split, rows):
        return [row | {column: spoil(row[column])} if row["clip_id"] == "train-004" else row for row in rows]

    block = read(write_dataset(tmp_path / "data" / "small", change), [3, 4, 5])
    assert block["status"].tolist() == [reader.REAL, status, reader.REAL]
    assert not block["rgb"][1].any() and block["rgb"][2].any()


def test_a_shard_that_vanished_is_a_marked_row(tmp_path):
    folder = write_dataset(tmp_path / "data" / "small")
    manifest = read_manifest(folder, "train")
    (folder / "train" / "00000.parquet").rename(tmp_path / "away.parquet")
    from mmkd.shards import _open_shard

    _open_shard.cache_clear()
    block = read_unit(open_dataset(folder), manifest, small_settings(tmp_path).views, np.array([1]), 0, ("rgb",))
    assert block["status"].tolist() == [reader.UNREADABLE]


def test_what_is_no_data_set_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no dataset\.json.*rayjobs/pack\.py"):
        open_dataset(tmp_path)
    folder = write_dataset(tmp_path / "data" / "small")
    with pytest.raises(ValueError, match=r"no split 'dev'; it has test, train, val"):
        read_manifest(folder, "dev")
    content = json.loads((folder / "dataset.json").read_text())
    content["splits"]["train"]["shards"] = {"../../secret.parquet": ""}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="plain file name"):
        read_manifest(folder, "train")
    (folder / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        open_dataset(folder)


def test_a_clip_id_twice_is_refused(tmp_path):
    folder = write_dataset(tmp_path / "data" / "small", lambda split, rows: [*rows[:-1], rows[0]])
    with pytest.raises(ValueError, match="'train-000' more than once"):
        read_manifest(folder, "train")


def test_the_fingerprint_follows_the_content(tmp_path, home):
    same = write_dataset(tmp_path / "a" / "small")
    other = write_dataset(tmp_path / "b" / "small", lambda split, rows: rows[::-1])
    fingerprint = open_dataset(home / "data" / "small").fingerprint
    assert open_dataset(same).fingerprint == fingerprint != open_dataset(other).fingerprint
    rows = pq.read_table(same / "train" / "00000.parquet").to_pylist()
    assert hash_rows(rows) != hash_rows([rows[0] | {"fps": 9.0}, *rows[1:]])


def test_manifests_hold_every_split(home):
    for split, number in SPLITS.items():
        manifest = read_manifest(home / "data" / "small", split)
        assert len(manifest) == number
        assert set(manifest.labels) == set(HEADS) and (manifest.num_frames == FRAMES).all()
    assert len(read_manifest(home / "data" / "small", "train", limit=5)) == 5


def read_with(folder, clips, view=TEST_VIEW, grids=(), partners=None, **views):
    settings = small_settings(folder, views={"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1} | views).views
    dataset, manifest = open_dataset(folder), read_manifest(folder, "train")
    return read_unit(dataset, manifest, settings, np.array(clips), view, ALL, grids=grids, partners=partners)


def test_a_grid_of_test_views_lies_on_an_axis_of_its_own(home):
    folder = home / "data" / "small"
    grid = read_with(folder, [5, PADDING, 6], grids=[(2, 3)])
    assert grid["rgb"].shape == (3, 6, 4, 16, 16, 3) and grid["boxes/boxes"].shape == (3, 6, 4, 3, 4)
    assert grid["audio"].shape == (3, 6, 4, 400) and not grid["rgb"][1].any()
    alone = read_with(folder, [5], grids=[(1, 1)])
    assert alone["rgb"].shape == (1, 4, 16, 16, 3)
    centre = read_with(folder, [5], grids=[(1, 3)])
    assert np.array_equal(centre["rgb"][0, 1], alone["rgb"][0])
    assert not np.array_equal(centre["rgb"][0, 0], centre["rgb"][0, 2])


def test_several_views_of_a_clip_in_a_unit_come_from_one_decoding(home, monkeypatch):
    folder = home / "data" / "small"
    calls = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a: calls.append(1) or decode(*a))
    both = read_with(folder, [5, 5, 6, 6], view=np.array([0, 1, 0, 1]))
    assert len(calls) <= 2 * 2 * FRAMES  # two clips, RGB and flow, each frame once at most
    for row, (clip, view) in enumerate([(5, 0), (5, 1), (6, 0), (6, 1)]):
        one = read_with(folder, [clip], view=view)
        assert all(np.array_equal(both[name][row], one[name][0]) for name in ("rgb", "flow", "audio", "boxes/boxes"))


def test_mixed_rows_show_both_clips_in_every_modality_and_say_so(home):
    folder = home / "data" / "small"
    partners = np.array([7])
    mixed = read_with(folder, [5, 6], view=3, partners=partners, mixup=1.0)
    own, other = read_with(folder, [5, 6], view=3), read_with(folder, [7], view=3)
    share = mixed["mix/share"]
    assert (share < 1).all() and mixed["mix_label/verb"].tolist() == [7 % 3] * 2
    assert mixed["label/verb"].tolist() == own["label/verb"].tolist()
    for row in range(2):
        blend = share[row] * own["rgb"][row].astype(float) + (1 - share[row]) * other["rgb"][0]
        assert np.abs(mixed["rgb"][row] - blend).max() <= 0.51
        blend = share[row] * own["flow"][row].astype(float) + (1 - share[row]) * other["flow"][0]
        assert np.abs(mixed["flow"][row] - blend).max() <= 0.51
    alone = read_with(folder, [6], view=3, partners=partners, mixup=1.0)
    assert np.array_equal(alone["rgb"][0], mixed["rgb"][1])  # whatever the company
    assert "mix/share" not in own
    test = read_with(folder, [5], view=TEST_VIEW, partners=partners, mixup=1.0)
    assert test["mix/share"].tolist() == [1.0] and test["mix_label/verb"].tolist() == [-1]


def test_a_row_stays_unmixed_where_its_partner_is_broken_or_lacks_a_modality(tmp_path):
    def spoil(split, rows):
        spoiled = {"train-007": {"rgb": [b"no"] * FRAMES}, "train-008": {"audio": None}}
        return [row | spoiled.get(row["clip_id"], {}) for row in rows]

    folder = write_dataset(tmp_path / "data" / "small", spoil)
    own = read_with(folder, [5], view=3)
    for partner in (7, 8):
        mixed = read_with(folder, [5], view=3, partners=np.array([partner]), cutmix=1.0)
        assert mixed["mix/share"].tolist() == [1.0] and mixed["status"].tolist() == [reader.REAL]
        assert all(np.array_equal(mixed[name], own[name]) for name in ("rgb", "flow", "audio", "boxes/boxes"))


def test_sound_at_another_rate_is_resampled_to_the_one_asked_for(home):
    folder = home / "data" / "small"
    half, full = read_with(folder, [1], sample_rate=2000)["audio"], read_with(folder, [1])["audio"]
    assert (half.shape, full.shape) == ((1, 4, 200), (1, 4, 400))
    inner = slice(20, -20)
    assert np.abs(half[0, 1][inner].astype(int) - full[0, 1, ::2][inner]).mean() < 1000 < np.abs(full).max()


def test_a_clip_without_frames_is_a_broken_row(tmp_path):
    def empty(split, rows):
        return [row | {"num_frames": 0} if row["clip_id"] == "train-004" else row for row in rows]

    block = read(write_dataset(tmp_path / "data" / "small", empty), [3, 4])
    assert block["status"].tolist() == [reader.REAL, reader.BAD_LENGTH]


def test_multi_label_heads_come_as_rows_of_0_and_1(tmp_path):
    tags = {"train-001": [0, 2], "train-002": [], "train-003": None, "train-004": [3]}

    def tag(split, rows):
        return [row | {"labels": row["labels"] | {"tags": tags.get(row["clip_id"], [1])}} for row in rows]

    heads = HEADS | {"tags": ["a", "b", "c"]}
    folder = write_dataset(tmp_path / "data" / "small", tag, heads=heads, multi_label=["tags"])
    block = read(folder, [1, 2, 3, 4, PADDING, 5])
    assert block["label/tags"].tolist() == [[1, 0, 1], [0, 0, 0], [-1] * 3, [-1] * 3, [-1] * 3, [0, 1, 0]]
    assert block["status"].tolist() == [0, 0, 0, reader.BAD_LABEL, reader.PADDED, 0]


def test_fingerprints_of_data_sets_without_multi_label_heads_stay_what_they_were(home):
    dataset = open_dataset(home / "data" / "small")
    before = dataset.fingerprint
    dataset.multi_label = ["verb"]
    assert dataset.fingerprint != before
    dataset.multi_label = []
    content = json.dumps([dataset.version, dataset.heads, dataset.splits], sort_keys=True)
    assert before == hashlib.sha256(content.encode()).hexdigest()[:16]
