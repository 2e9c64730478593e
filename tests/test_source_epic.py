"""The EPIC-KITCHENS source: tables with their traps, frames, flow, sound and boxes in the layouts of the releases."""

import contextlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import simplejpeg
import soundfile

from mmkd.config import Pack, Source
from mmkd.cutting import cut
from mmkd.dataset import open_dataset
from mmkd.packing import pack
from mmkd.shards import NO_LABEL, read_manifest
from mmkd.sources.clip import BOX_DTYPE
from mmkd.sources.epic import make
from mmkd.sources.hand_objects import detections, messages_in
from mmkd.sources.recording import Reject, RejectedError
from tests.small import small_settings
from tests.videos import RATE, click, number_of, picture, write_video

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures" / "epic100"
true_samples = pytest.mark.skipif(not FIXTURES.exists(), reason="the true samples are not here")
COLUMNS = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
COLUMNS_55 = (
    "uid,participant_id,video_id,narration,start_timestamp,stop_timestamp,start_frame,stop_frame,verb,verb_class,"
    "noun,noun_class,all_nouns,all_noun_classes"
)


def row(narration_id, first, last, verb=1, noun=2, more="\"['a', 'b:c']\",\"[2, 0]\""):
    video = narration_id.rpartition("_")[0]
    return f"{narration_id},{video[:3]},{video},,00:00:00.00,00:00:09.00,{first},{last},do,put,{verb},cup,{noun},{more}"


def annotations(folder, train=(), val=(), test=()):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "EPIC_100_verb_classes.csv").write_text("id,key,instances,category\n0,take,['x'],y\n1,put,\"['p']\",z\n")
    (folder / "EPIC_100_noun_classes.csv").write_text("id,key\n2,spoon:wooden\n0,tap\n1,cup\n")
    short = COLUMNS.split(",narration,")[0]
    for name, columns, rows in (
        ("train", COLUMNS, train),
        ("validation", COLUMNS, val),
        ("test_timestamps", short, test),
    ):
        if rows:
            (folder / f"EPIC_100_{name}.csv").write_text("\n".join([columns, *rows, ""]))


def settings(root, **more):
    return Source(kind="epic", root=str(root), **{"annotations": str(root / "tables"), **more})


def found(source):
    items = list(source.recordings())
    return [each for each in items if not isinstance(each, Reject)], [
        each for each in items if isinstance(each, Reject)
    ]


def rows_of(source, **options):
    """clip_id to its row or its reject."""
    out = {}
    for split, recording in found(source)[0]:
        for each in cut(split, recording, source.heads, Pack(short_side=0, **options)):
            out[each.clip_id if isinstance(each, Reject) else each["clip_id"]] = each
    return out


def jpeg(pixels, gray=False):
    pixels = np.ascontiguousarray(pixels)
    return simplejpeg.encode_jpeg(pixels, 95, "GRAY" if gray else "RGB", "gray" if gray else "444")


def frame_files(count):
    return {f"frame_{n + 1:010d}.jpg": jpeg(picture(n, 64, 48)) for n in range(count)}


def flow_files(count):
    """Frame n of u is gray 20 + 5 n, of v 120 + 5 n, so that JPEG's loss cannot hide another n."""
    plain = {"u": 20, "v": 120}
    return {
        f"{axis}/frame_{n:010d}.jpg": jpeg(np.full((48, 64, 1), level + 5 * n, np.uint8), gray=True)
        for axis, level in plain.items()
        for n in range(1, count + 1)
    }


def write_folder(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def write_tar(path, files, prefix="./"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def shown(row):
    return [number_of(simplejpeg.decode_jpeg(image)) for image in row["rgb"]]


def flow_numbers(row):
    """Which frame u and v of each flow frame are, by their gray."""
    levels = [simplejpeg.decode_jpeg(image)[20, 30, :2].astype(float) for image in row["flow"]]
    return [(level - (20, 120)) / 5 for level in levels]


def click_at(row):
    samples, rate = soundfile.read(io.BytesIO(row["audio"]))
    return np.flatnonzero(np.abs(samples) > 0.2)[0] / rate


@pytest.mark.parametrize("video", ["P01_01", "P01_101"])
@pytest.mark.parametrize("kept", ["folder", "tar", "tar with a folder", "empty folder and tar", "release of 2018"])
def test_extracted_frames_count_from_one_and_the_stop_frame_is_included(tmp_path, video, kept):
    if kept == "release of 2018" and video == "P01_101":
        pytest.skip("the extension came later")
    annotations(tmp_path / "tables", [row(f"{video}_1", 3, 7), row(f"{video}_0", 1, 1)])
    place = tmp_path / "P01" / "rgb_frames" / video
    if kept == "folder":
        write_folder(place, frame_files(12))
    elif kept == "release of 2018":
        write_tar(tmp_path / "frames_rgb_flow" / "rgb" / "train" / "P01" / f"{video}.tar", frame_files(12))
    else:
        write_tar(place.parent / f"{video}.tar", frame_files(12), f"{video}/" if "with" in kept else "./")
        if "empty" in kept:
            place.mkdir()
    rows = rows_of(make(settings(tmp_path)), flow="none")
    assert list(rows) == [f"{video}_0", f"{video}_1"]
    assert shown(rows[f"{video}_0"]) == [0] and shown(rows[f"{video}_1"]) == [2, 3, 4, 5, 6]
    rate = {"P01_01": 60, "P01_101": 50}[video]
    assert rows[f"{video}_1"]["fps"] == rate and rows[f"{video}_1"]["start"] == pytest.approx(2 / rate)
    assert rows[f"{video}_1"]["labels"] == {"verb": 1, "noun": 2}
    meta = dict(rows[f"{video}_1"]["meta"])
    assert meta.pop("media").partition(".")[0].endswith(video)
    assert meta == {"participant": "P01", "video": video, "narration": "do"}
    assert rows[f"{video}_1"]["boxes"] is None and rows[f"{video}_1"]["audio"] is None


@pytest.mark.parametrize(("video", "rate"), [("P01_01", 60), ("P01_101", 50)])
@pytest.mark.parametrize("place", ["P01/videos/{}.MP4", "P01/videos/{}.mp4", "videos/test/P01/{}.MP4"])
def test_a_video_is_read_on_the_grid_of_the_extracted_frames(tmp_path, video, rate, place):
    if place.startswith("videos") and video == "P01_101":
        pytest.skip("the extension came later")
    # A video of half the rate: frame n of the grid, from 1, shows (n - 1) / rate seconds.
    write_video(tmp_path / place.format(video), 40, fps=rate / 2, sound=click(40 / (rate / 2), 0.8))
    annotations(tmp_path / "tables", [row(f"{video}_0", 21, 30), row(f"{video}_1", int(0.7 * rate) + 1, rate)])
    rows = rows_of(make(settings(tmp_path)), flow="none")
    assert set(shown(rows[f"{video}_0"])[::2]) == {10, 11, 12, 13, 14} and len(rows[f"{video}_0"]["rgb"]) == 10
    assert click_at(rows[f"{video}_1"]) == pytest.approx(0.1, abs=0.01)


def test_nothing_there_is_a_reject_that_names_the_places(tmp_path):
    annotations(tmp_path / "tables", [row("P01_01_0", 1, 5)])
    (reject,) = rows_of(make(settings(tmp_path))).values()
    assert reject.kind == "unreadable"
    for place in (
        "P01/rgb_frames/P01_01,",
        "P01/rgb_frames/P01_01.tar",
        "P01/videos/P01_01.MP4",
        "rgb/test/P01/P01_01.tar",
    ):
        assert place in reject.reason


def test_a_missing_frame_and_one_past_the_end_are_rejects(tmp_path):
    annotations(tmp_path / "tables", [row("P01_01_0", 1, 5), row("P01_01_1", 6, 8), row("P01_01_2", 100, 110)])
    files = frame_files(10)
    del files["frame_0000000003.jpg"]
    write_folder(tmp_path / "P01" / "rgb_frames" / "P01_01", files)
    rows = rows_of(make(settings(tmp_path)), flow="none")
    assert rows["P01_01_0"].kind == "damaged" and "frame 3 " in rows["P01_01_0"].reason
    assert shown(rows["P01_01_1"]) == [5, 6, 7] and rows["P01_01_2"].kind == "past_end"


@pytest.mark.parametrize("kept", ["folder", "tar", "tar with a folder", "release of 2018"])
def test_flow_has_every_second_frame_in_the_first_part_and_every_frame_in_the_extension(tmp_path, kept):
    annotations(tmp_path / "tables", [row("P01_01_0", 4, 7)], [row("P01_101_0", 4, 7)])
    home = tmp_path / "shipped"
    for video, count in (("P01_01", 5), ("P01_101", 10)):
        write_folder(tmp_path / "P01" / "rgb_frames" / video, frame_files(10))
        place = home / "P01" / "flow_frames"
        if kept == "release of 2018" and video == "P01_01":
            write_tar(home / "frames_rgb_flow" / "flow" / "train" / "P01" / f"{video}.tar", flow_files(count))
        elif kept == "folder":
            write_folder(place / video, flow_files(count))
        else:
            write_tar(place / f"{video}.tar", flow_files(count), "./" if kept == "tar" else f"{video}/")
    source = make(settings(tmp_path, flow=str(home)))
    rows = rows_of(source)
    assert np.abs(np.subtract(flow_numbers(rows["P01_01_0"]), [(i, i) for i in (2, 3, 3, 4)])).max() < 0.4
    assert np.abs(np.subtract(flow_numbers(rows["P01_101_0"]), [(i, i) for i in (4, 5, 6, 7)])).max() < 0.4
    bounds = {clip_id: dict(each["meta"])["flow_bound"] for clip_id, each in rows.items()}
    assert bounds == {"P01_01_0": "25", "P01_101_0": "8"}


def test_flow_may_lack_two_frames_at_the_end_and_no_more(tmp_path):
    annotations(tmp_path / "tables", [row("P01_101_0", 7, 10), row("P01_101_1", 7, 11), row("P01_102_0", 1, 2)])
    for video in ("P01_101", "P01_102"):
        write_folder(tmp_path / "P01" / "rgb_frames" / video, frame_files(12))
    write_folder(tmp_path / "P01" / "flow_frames" / "P01_101", flow_files(8))
    source = make(settings(tmp_path))
    rows = rows_of(source)
    assert np.abs(np.subtract(flow_numbers(rows["P01_101_0"]), [(i, i) for i in (7, 8, 8, 8)])).max() < 0.4
    assert rows["P01_101_1"].kind == "flow" and "needs 11" in rows["P01_101_1"].reason
    assert rows["P01_102_0"].kind == "flow" and "flow_frames/P01_102.tar" in rows["P01_102_0"].reason
    assert (source.flow["bound"], source.flow["step"], source.flow["size"]) == (8, 1, [456, 256])


def test_without_shipped_flow_it_is_left_to_be_computed(tmp_path):
    annotations(tmp_path / "tables", [row("P01_01_0", 1, 2)])
    source = make(settings(tmp_path))
    assert source.flow == {} and source.flow_bound == 20.0
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no flow of any video"):
        make(settings(tmp_path, flow=str(tmp_path / "none")))


@pytest.mark.parametrize("kept", ["wav", "wav of a person", "hdf5", "video beside"])
@pytest.mark.parametrize(("video", "rate"), [("P01_01", 60), ("P01_101", 50)])
def test_sound_is_aligned_by_the_rate_of_the_extracted_frames(tmp_path, kept, video, rate):
    write_folder(tmp_path / "P01" / "rgb_frames" / video, frame_files(rate))
    annotations(tmp_path / "tables", [row(f"{video}_0", rate // 2 + 1, rate)])
    sound, audio = click(1.0, 0.6), tmp_path / "sound"
    audio.mkdir()
    if kept == "video beside":
        write_video(tmp_path / "P01" / "videos" / f"{video}.MP4", 30, fps=30, sound=sound)
        audio = ""
    elif kept == "hdf5":
        audio = audio / "audio.hdf5"
        time = np.arange(24000) / 24000
        with h5py.File(audio, "w") as file:
            file[video] = (0.5 * ((time >= 0.6) & (time < 0.62)) * np.sin(6283 * time)).astype(np.float32)
    else:
        folder = audio / "P01" if "person" in kept else audio
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / f"{video}.wav", sound, RATE)
    (made,) = rows_of(make(settings(tmp_path, audio=str(audio))), flow="none").values()
    assert click_at(made) == pytest.approx(0.1, abs=0.01)


def test_an_hdf5_link_to_another_file_is_not_followed(tmp_path):
    write_folder(tmp_path / "P01" / "rgb_frames" / "P01_01", frame_files(3))
    annotations(tmp_path / "tables", [row("P01_01_0", 1, 3)])
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["P01_01"] = np.zeros(24000, np.float32)
    with h5py.File(tmp_path / "audio.hdf5", "w") as file:
        file["P01_01"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "P01_01")
    (made,) = rows_of(make(settings(tmp_path, audio=str(tmp_path / "audio.hdf5"))), flow="none").values()
    assert made["audio"] is None


def tag(number, kind):
    return bytes([number << 3 | kind])


def part(number, content):
    assert len(content) < 128
    return tag(number, 2) + bytes([len(content)]) + content


def floats(*values, first=1):
    """proto3 leaves out zeros."""
    return b"".join(tag(first + n, 5) + struct.pack("<f", value) for n, value in enumerate(values) if value)


def hand(corners, score, state, side):
    numbers = (tag(3, 0) + bytes([state]) if state else b"") + part(4, floats(0.1, -0.2))
    return part(
        3, part(1, floats(*corners)) + floats(score, first=2) + numbers + (tag(5, 0) + bytes([side]) if side else b"")
    )


def thing(corners, score):
    return part(4, part(1, floats(*corners)) + floats(score, first=2))


# Frame 13404 of P01_09 in the true file.
TRUE_RECORD = (
    part(1, b"P01_09")
    + tag(2, 0)
    + b"\xdc\x68"
    + hand((0.3947, 0.4258, 0.4934, 0.7617), 0.9980, 3, 0)
    + hand((0.6382, 0.6328, 0.8180, 0.8711), 0.9926, 3, 1)
    + thing((0.4539, 0.2969, 0.7325, 0.7969), 0.9993)
    + thing((0.5614, 0.5859, 0.6754, 0.7070), 0.8858)
)


def test_a_true_record_is_read():
    expected = [
        (0.3947, 0.4258, 0.4934, 0.7617, 0.9980, 2, 0, 3),
        (0.6382, 0.6328, 0.8180, 0.8711, 0.9926, 2, 1, 3),
        (0.4539, 0.2969, 0.7325, 0.7969, 0.9993, 1, -1, -1),
        (0.5614, 0.5859, 0.6754, 0.7070, 0.8858, 1, -1, -1),
    ]
    assert detections(TRUE_RECORD).tolist() == np.array(expected, BOX_DTYPE).tolist()
    # A left hand at the frame's corner that touches nothing is mostly what is left out.
    (box,) = detections(part(3, part(1, floats(0, 0, 0.5, 0.25)) + floats(0.75, first=2)))
    assert box.tolist() == (0, 0, 0.5, 0.25, 0.75, 2, 0, 0)
    assert len(detections(b"")) == 0


def test_a_damaged_message_is_an_error_and_nothing_else():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        data = bytearray(TRUE_RECORD[: rng.integers(1, len(TRUE_RECORD) + 1)])
        data[rng.integers(len(data))] = rng.integers(256)
        with contextlib.suppress(ValueError):
            detections(bytes(data))
    for bad in (
        b"\xff" * 11,
        b"\x1b",
        part(3, part(1, floats(300.0))),
        tag(3, 0) + b"\x01",
        part(3, tag(3, 0) + b"\x07"),
    ):
        with pytest.raises(ValueError):
            detections(bad)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_not_run(tmp_path, protocol):
    data = pickle.dumps([Hostile(tmp_path / "ran")], protocol=protocol)
    with pytest.raises(RejectedError, match="would run code") as error:
        messages_in(data)
    assert error.value.kind == "unsafe" and not (tmp_path / "ran").exists()


def test_only_a_list_of_bytes_is_read():
    same = b"x" * 300
    messages = [b"", b"one", same, same, b"two" * 30000]
    for protocol in (3, 4, 5):
        assert messages_in(pickle.dumps(messages, protocol=protocol)) == messages
    absurd = b"\x80\x04]\x8e" + struct.pack("<Q", 1 << 40) + b"x."
    cut_off = pickle.dumps(messages)[:-400]
    for bad in (
        b"",
        b"no pickle",
        pickle.dumps({}),
        pickle.dumps([1]),
        pickle.dumps([[b""]]),
        absurd,
        cut_off,
        b"\x80\x04.",
    ):
        with pytest.raises(RejectedError) as error:
            messages_in(bad)
        assert error.value.kind == "boxes"


@pytest.mark.parametrize(
    "place", ["P01/hand-objects/P01_01.pkl", "B/P01/hand-objects/P01_01.pkl", "B/P01/P01_01.pkl", "B/P01_01.pkl"]
)
def test_item_i_of_the_boxes_is_frame_i_from_zero(tmp_path, place):
    annotations(tmp_path / "tables", [row("P01_01_0", 2, 4), row("P01_01_1", 5, 7)])
    write_folder(tmp_path / "P01" / "rgb_frames" / "P01_01", frame_files(8))
    messages = [thing((0.1, 0.1, 0.2, 0.1 * n), 0.5) for n in range(2, 8)]
    write_folder(tmp_path, {place: pickle.dumps(messages)})
    boxes = {"boxes": str(tmp_path / "B")} if place[0] == "B" else {}
    rows = rows_of(make(settings(tmp_path, **boxes)), flow="none")
    assert [round(frame[0]["y2"], 3) for frame in rows["P01_01_0"]["boxes"]] == [0.3, 0.4, 0.5]
    assert [len(frame) for frame in rows["P01_01_1"]["boxes"]] == [1, 1, 0]


@pytest.mark.parametrize(("kind", "what"), [("unsafe", "would run code"), ("boxes", "no pickled list of bytes")])
def test_all_clips_of_a_video_with_such_a_pickle_are_rejects(tmp_path, kind, what):
    annotations(tmp_path / "tables", [row(f"{video}_{n}", 1, 2) for video in ("P01_01", "P01_02") for n in range(2)])
    for video in ("P01_01", "P01_02"):
        write_folder(tmp_path / "P01" / "rgb_frames" / video, frame_files(3))
    data = pickle.dumps([Hostile(tmp_path / "ran")]) if kind == "unsafe" else b"garbage"
    write_folder(tmp_path, {"P01/hand-objects/P01_01.pkl": data})
    rows = rows_of(make(settings(tmp_path)), flow="none")
    for n in range(2):
        assert rows[f"P01_01_{n}"].kind == kind and what in rows[f"P01_01_{n}"].reason
        assert rows[f"P01_02_{n}"]["boxes"] is None
    assert not (tmp_path / "ran").exists()


def test_bad_rows_are_rejects_with_their_line_and_the_others_are_kept(tmp_path):
    bad = {
        3: ("P01_01_1,P01,P01_01,5,9", "row", "P01_01_1"),
        4: (row("P01_01_2", "one", 5), "row", "P01_01_2"),
        5: (row("P01_01_3", 9, 5), "interval", "P01_01_3"),
        6: (row("P01_01_4", 0, 5), "interval", "P01_01_4"),
        7: (row("P01_01_5", 1, 5, verb=2), "label", "P01_01_5"),
        8: (row("P01_01_6", 1, 5, noun=-1), "label", "P01_01_6"),
        9: (row("P01_01_7", 1, 5, noun="cup"), "label", "P01_01_7"),
        10: (row("P01_01_8", 1, 5, more="\"['a'],[2]"), "row", "EPIC_100_train.csv line 10"),
        11: (row("../../etc_9", 1, 5), "path", "../../etc_9"),
        12: (row("video_9", 1, 5), "row", "video_9"),
        13: (row("P01_01_11", 1, 5).replace("P01_01_11", "", 1), "row", "EPIC_100_train.csv line 13"),
    }
    rows = [row("P01_01_0", 8, 9), *(text for text, *_ in bad.values()), "", row("P01_01_99", 1, 2)]
    annotations(tmp_path / "tables", rows)
    kept, rejects = found(make(settings(tmp_path)))
    ((split, recording),) = kept
    assert split == "train" and [each.clip_id for each in recording.segments] == ["P01_01_99", "P01_01_0"]
    assert recording.segments[0].frames == (0, 2)
    assert [(each.clip_id, each.kind) for each in rejects] == [(clip, kind) for _, kind, clip in bad.values()]
    for line, reject in zip(bad, rejects, strict=True):
        assert reject.reason.startswith(f"EPIC_100_train.csv line {line}: ")


def test_the_splits_that_are_there_are_read_and_those_of_test_have_no_labels(tmp_path):
    tables = tmp_path / "tables"
    plain = "P01_01_7,P01,P01_01,,00:00:00.00,00:00:01.00,3,4"
    annotations(tables, [row("P01_01_0", 1, 2)], test=[plain])
    source = make(settings(tmp_path))
    kept, _ = found(source)
    assert [split for split, _ in kept] == ["train", "test"] and list(source.heads) == ["verb", "noun"]
    assert source.heads == {"verb": ["take", "put"], "noun": ["tap", "cup", "spoon:wooden"]}
    (segment,) = kept[1][1].segments
    assert segment.labels == {"verb": NO_LABEL, "noun": NO_LABEL} and source.notes == {}
    (tables / "mine.csv").write_text(COLUMNS + "\n" + row("P02_01_5", 1, 2) + "\n")
    kept, _ = found(make(settings(tmp_path, val_table="mine.csv", train_table=str(tables / "mine.csv"))))
    assert [(split, each.name) for split, each in kept] == [("train", "P02_01"), ("val", "P02_01"), ("test", "P01_01")]


def test_what_makes_all_of_it_unreadable_is_said(tmp_path):
    annotations(tmp_path / "tables")
    with pytest.raises(FileNotFoundError, match=r"there is no table in .*: looked for EPIC_100_train\.csv"):
        make(settings(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"source\.val_table is mine\.csv, and there is no file"):
        make(settings(tmp_path, val_table="mine.csv"))
    annotations(tmp_path / "tables", test=["x"])
    with pytest.raises(ValueError, match="has no column verb_class, noun_class"):
        make(settings(tmp_path, train_table="EPIC_100_test_timestamps.csv"))
    (tmp_path / "tables" / "EPIC_100_noun_classes.csv").write_text("id,key\n0,tap\n2,cup\n")
    with pytest.raises(ValueError, match="number the 2 from 0 on"):
        make(settings(tmp_path))
    (tmp_path / "tables" / "EPIC_100_noun_classes.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"EPIC_100_noun_classes\.csv is missing"):
        make(settings(tmp_path))


def test_the_tail_and_the_unseen_participants_are_noted_as_far_as_they_are_there(tmp_path):
    tables = tmp_path / "tables"
    annotations(tables, [row("P01_01_0", 1, 2)])
    (tables / "EPIC_100_tail_verbs.csv").write_text("verb\n1\n0\n")
    (tables / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP18\nP32\n")
    assert make(settings(tmp_path)).notes == {"tail": {"verb": [1, 0]}, "unseen": {"val": ["P18", "P32"]}}
    (tables / "EPIC_100_tail_nouns.csv").write_text("noun\n2\n")
    (tables / "EPIC_100_unseen_participant_ids_test.csv").write_text("participant_id\nP33\n")
    notes = make(settings(tmp_path)).notes
    assert notes == {"tail": {"verb": [1, 0], "noun": [2]}, "unseen": {"val": ["P18", "P32"], "test": ["P33"]}}


def annotations_55(folder):
    folder.mkdir(parents=True)
    (folder / "EPIC_verb_classes.csv").write_text(
        "verb_id,class_key,verbs\n0,take,\"['take', 'get']\"\n1,put,['put']\n"
    )
    (folder / "EPIC_noun_classes.csv").write_text(
        "noun_id,class_key,nouns\n0,Nothing,['Nothing']\n1,pan,[]\n2,pan:dust,[]\n"
    )
    line = "{},P01,P01_01,take pan,00:00:00.14,00:00:03.37,{},{},take,0,pan,{},['pan'],[1]"
    rows = [line.format(0, 5, 6, 1), line.format(7, 1, 2, 2), line.format(8, 1, 2, 0), line.format(9, 1, 2, 3)]
    (folder / "EPIC_train_action_labels.csv").write_text("\n".join([COLUMNS_55, *rows]))
    for test in ("s1", "s2"):
        header = "uid,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame"
        table = f"{header}\n3,P01,P01_11,a,b,1,113\n"
        (folder / f"EPIC_test_{test}_timestamps.csv").write_text(table)


def test_nouns_of_55_are_numbered_without_nothing(tmp_path):
    annotations_55(tmp_path / "tables")
    source = make(settings(tmp_path, version=55))
    assert source.heads == {"verb": ["take", "put"], "noun": ["pan", "pan:dust"]}
    kept, rejects = found(source)
    assert [split for split, _ in kept] == ["train", "test_s1", "test_s2"]
    labels = {each.clip_id: each.labels for each in kept[0][1].segments}
    assert labels == {"P01_01_7": {"verb": 0, "noun": 1}, "P01_01_0": {"verb": 0, "noun": 0}}
    assert [(each.clip_id, each.kind) for each in rejects] == [("P01_01_8", "label"), ("P01_01_9", "label")]
    kept, _ = found(
        make(
            settings(
                tmp_path, version=55, val_table="EPIC_train_action_labels.csv", test_table="EPIC_test_s1_timestamps.csv"
            )
        )
    )
    assert [split for split, _ in kept] == ["train", "val", "test"]


def test_a_set_is_packed_with_all_its_modalities(tmp_path):
    root = tmp_path / "epic"
    annotations(root / "tables", [row("P01_101_0", 2, 6), row("P01_101_1", 4, 9, noun=0)], [row("P02_101_0", 1, 4)])
    (root / "tables" / "EPIC_100_tail_verbs.csv").write_text("verb\n1\n")
    for video in ("P01_101", "P02_101"):
        home = root / video[:3]
        write_tar(home / "rgb_frames" / f"{video}.tar", frame_files(10))
        write_tar(home / "flow_frames" / f"{video}.tar", flow_files(9))
        write_video(home / "videos" / f"{video}.MP4", 10, fps=50, sound=click(0.3, 0.1))
        write_folder(home, {f"hand-objects/{video}.pkl": pickle.dumps([TRUE_RECORD] * 10)})
    source = {"kind": "epic", "root": str(root), "annotations": str(root / "tables")}
    result = pack(small_settings(tmp_path, source=source), lambda text: None, on_ray=False)
    assert (result["clips"], result["rejects"]) == (3, 0)
    dataset = open_dataset(tmp_path / "data" / "small")
    assert dataset.modalities == ["rgb", "flow", "audio", "boxes"] and dataset.notes == {"tail": {"verb": [1]}}
    assert dataset.flow["bound"] == 8 and dataset.fps == 50 and dataset.made_by["flow"] == "the source's"
    assert read_manifest(tmp_path / "data" / "small", "train").labels["noun"].tolist() == [2, 0]


@true_samples
def test_the_true_tables_are_read(tmp_path):
    tables = {
        f"{split}_table": f"EPIC_100_{name}.slice.csv"
        for split, name in (("train", "train"), ("val", "validation"), ("test", "test_timestamps"))
    }
    source = make(Source(kind="epic", root=str(tmp_path), annotations=str(FIXTURES), **tables))
    assert {head: len(classes) for head, classes in source.heads.items()} == {"verb": 97, "noun": 300}
    kept, rejects = found(source)
    assert rejects == []
    clips = {
        split: [each for name, one in kept if name == split for each in one.segments]
        for split in ("train", "val", "test")
    }
    assert {split: len(each) for split, each in clips.items()} == {"train": 400, "val": 280, "test": 60}
    assert all(each.labels == {"verb": -1, "noun": -1} for each in clips["test"])
    by_id = {each.clip_id: each for each in clips["train"] + clips["val"]}
    assert by_id["P26_01_8"].frames == (1367, 1458) and by_id["P26_01_8"].meta["narration"] == "close fridge"
    said = {head: source.heads[head][by_id["P26_01_8"].labels[head]] for head in source.heads}
    assert said == {"verb": "close", "noun": "fridge"}
    assert len(source.notes["tail"]["verb"]) == 86 and len(source.notes["tail"]["noun"]) == 228
    assert source.notes["unseen"] == {"val": ["P18", "P32"]} and source.flow == {}
    split, recording = kept[0]
    rejects = list(cut(split, recording, source.heads, Pack()))
    assert {each.kind for each in rejects} == {"unreadable"} and len(rejects) == len(recording.segments)
