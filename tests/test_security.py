"""What others made runs no code, leaves no folder and fills no memory; and no secret leaves this machine by a job."""

import http.server
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import threading
import wave
import zipfile
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import cv2
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import soundfile
import torch
from safetensors.torch import save_file

from mmkd import reader, reference, storage
from mmkd.bank import store
from mmkd.bank.description import read_description
from mmkd.bank.rows import Layout
from mmkd.bank.store import Bank, BankWriter
from mmkd.config import SettingsError
from mmkd.media import clips, images, sound, video
from mmkd.media.images import ImageReader, TarImages, decode_image, fetch_from_folder, jpeg_pixels
from mmkd.media.sound import ContainerSound, FileSound, decode_sound
from mmkd.media.video import VideoReader, open_container
from mmkd.models import create_model, describe_model, load_model, save_model, start_from
from mmkd.models import storage as model_storage
from mmkd.models.weights import read_weights
from mmkd.plan import TEST_VIEW
from mmkd.reader import read_unit
from mmkd.shards import open_dataset, read_manifest, read_rows
from mmkd.sources import box_files, clip, epic_media, hand_objects, manifest, tables
from mmkd.sources.box_files import boxes_of, videos_of
from mmkd.sources.epic_media import Places, open_sound
from mmkd.sources.folder import make as make_folder
from mmkd.sources.hand_objects import detections
from mmkd.sources.recording import MAX_REASON, Fault, RejectedError
from mmkd.sources.reference import read_detections
from mmkd.sources.something_else import read_boxes
from tests.small import HEADS, small_settings, write_dataset
from tests.test_bank import small_bank, some_rows
from tests.videos import number_of, picture, write_video

ROOT = Path(__file__).parents[1]
DEEP = "[" * 100_000 + "]" * 100_000


# Videos, images and sound


def frames_of(path, numbers=range(100), short_side=0):
    with open_container(path) as container:
        return list(VideoReader(container, path.name).read(numbers, short_side))


@pytest.fixture
def server():
    """The address of a server on this machine, and the paths that it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
ADDRESS = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)


def test_a_video_that_names_other_files_or_servers_opens_none_of_them(tmp_path, monkeypatch, server):
    address, asked = server
    secret = write_video(tmp_path / "elsewhere" / "secret.ts", 12)
    shutil.copy(secret, tmp_path / "beside.ts")
    made = {
        "files.m3u8": PLAYLIST.format(f"file://{secret}"),
        "server.m3u8": PLAYLIST.format(f"{address}/secret.ts"),
        "concat.mp4": "ffconcat version 1.0\nfile beside.ts\n",
        "address.mp4": ADDRESS,
    }
    for name, text in made.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(RejectedError, match=f"{name} cannot be opened: its format is none that is opened"):
            frames_of(tmp_path / name)
    monkeypatch.chdir(tmp_path)  # a clip of a shard has no folder of its own
    for text in made.values():
        with pytest.raises(ValueError, match="cannot be decoded"):
            clips.decode_frames(text.encode(), [0])
    assert asked == []


def test_frames_that_become_huge_in_the_middle_of_a_video_are_not_decoded(tmp_path, monkeypatch):
    small = write_video(tmp_path / "small.ts", 12)
    large = write_video(tmp_path / "large.ts", 12, size=(320, 240), times=[1.2 + n / 10 for n in range(12)])
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    assert max(frame.pixels.shape for _, frame in frames_of(both)) == (240, 320, 3)
    monkeypatch.setattr(video, "MAX_PIXELS", 100 * 100)
    found = dict(frames_of(both))
    assert number_of(found[5].pixels) == 5
    assert all(isinstance(each, Fault) or each.pixels.shape == (48, 64, 3) for each in found.values())
    with open_container(both) as container:
        decoded = VideoReader(container, "both.ts")._decode()
        assert {(frame.width, frame.height) for _, frame in decoded} == {(64, 48)}
    with pytest.raises(RejectedError, match="claims frames of 320 x 240"):
        frames_of(large)


def test_pixels_of_absurd_shape_and_time_stamps_that_leap_are_refused(tmp_path, monkeypatch):
    with pytest.raises(RejectedError, match="pixels 9 times as wide as high"):
        frames_of(write_video(tmp_path / "wide.mp4", 3, aspect=Fraction(9)))
    leap = write_video(tmp_path / "leap.mkv", 4, times=[0.0, 0.1, 0.2, 90_000.0], options={"bf": "0"})
    with pytest.raises(RejectedError, match=r"shows one frame for 90000 s from 0\.20 s on"):
        frames_of(leap, range(10_000))
    whole = write_video(tmp_path / "whole.mp4", 9)
    assert frames_of(whole, [3, 10**17])[0][0] == 3  # a place that no container can count to is past the end
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48)
    stretched = write_video(tmp_path / "stretched.mp4", 3, size=(48, 48), aspect=Fraction(4))
    assert isinstance(frames_of(stretched)[0][1], Fault)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(RejectedError, match="is no regular file"):
        frames_of(tmp_path / "a.mp4")
    with pytest.raises(OSError, match="no regular file"):
        storage.read_bytes("/dev/zero")


def huge(jpeg: bytes) -> bytes:
    """The JPEG with a header that claims 65,000 x 65,000 pixels."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + (65000).to_bytes(2, "big") * 2 + jpeg[at + 4 :]


JPEG = cv2.imencode(".jpg", picture(3, 64, 48))[1].tobytes()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        *(
            (cv2.imencode(ending, picture(0, 8, 8))[1].tobytes(), "neither JPEG nor PNG")
            for ending in (".webp", ".tiff")
        ),
        *((cv2.imencode(ending, picture(0, 8, 8))[1].tobytes(), "neither JPEG nor PNG") for ending in (".bmp", ".ppm")),
        (b"", "neither JPEG nor PNG"),
        (huge(JPEG), "claims 65000 x 65000"),
        (huge(JPEG) + b"\0", "claims 65000 x 65000"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 60, "header is missing"),
    ],
)
def test_images_of_other_formats_or_absurd_size_are_refused_before_they_are_decoded(data, said):
    with pytest.raises(ValueError, match=said):
        decode_image(data)
    assert decode_image(JPEG + b"\0").shape == (48, 64, 3)  # what some cameras append does no harm


def test_a_jpeg_of_endless_scans_is_refused(monkeypatch):
    jpeg = cv2.imencode(".jpg", picture(3, 64, 48), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = jpeg.rindex(b"\xff\xda")
    assert jpeg_pixels(jpeg) == 64 * 48
    endless = jpeg[:-2] + jpeg[last:-2] * 199 + jpeg[-2:]
    with pytest.raises(ValueError, match="Inconsistent progression"):
        decode_image(endless)
    with pytest.raises(ValueError, match=r"it has 20[0-9] scans"):
        decode_image(endless + b"\0")
    monkeypatch.setattr(images, "FEW_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match=r"it has 20[0-9] scans"):
        jpeg_pixels(endless)


def test_images_that_are_links_out_of_their_folder_or_claim_absurd_bytes_are_faults(tmp_path, monkeypatch):
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "1.jpg").write_bytes(JPEG)
    (frames / "2.jpg").symlink_to(tmp_path / "secret.jpg")
    (frames / "3.jpg").symlink_to(frames / "1.jpg")
    found = dict(ImageReader(fetch_from_folder(str(frames), ["1.jpg", "2.jpg", "3.jpg"]), 10.0, 3).read(range(3), 0))
    assert "leads out of" in found[1].reason and found[0].size == found[2].size == (64, 48)
    (frames / "frame_0000000001.jpg").symlink_to(tmp_path / "secret.jpg")
    with ExitStack() as stack, pytest.raises(ValueError, match="leads out of"):
        epic_media._open_images(str(frames), ("",), stack).fetch("", 1)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(frames / "1.jpg", "1.jpg")
    packed = TarImages(tmp_path / "a.tar")
    assert packed.fetch("1.jpg") == JPEG
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(ValueError, match=f"claims {len(JPEG)} bytes"):
        packed.fetch("1.jpg")
    reads = ImageReader(fetch_from_folder(str(frames), ["1.jpg"]), 10.0, 1).read([0], 0)
    assert f"has {len(JPEG)} bytes, more than 100" in dict(reads)[0].reason


def flac(samples: int = 4000, rate: int = 4000, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((samples, channels), np.int16), rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def endless(data: bytes) -> bytes:
    """The FLAC file with a header that claims 2^36 - 1 samples."""
    return data[:21] + bytes([data[21] | 15]) + b"\xff" * 4 + data[26:]


def wav(path: Path, rate: int = 16000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * channels * 1600))
    return path


def test_sound_that_claims_an_absurd_length_rate_or_number_of_channels_is_refused(tmp_path):
    samples, rate = decode_sound(flac())
    assert (len(samples), rate) == (4000, 4000)
    for data, said in ((endless(flac()), "claims .* s at 4000"), (flac(channels=2), "2 channels"), (b"", "rror")):
        with pytest.raises(ValueError, match=said):
            decode_sound(data)
    fast, wide = wav(tmp_path / "fast.wav", 2_000_000_000), wav(tmp_path / "wide.wav", channels=500)
    for path, said in ((fast, "2000000000 samples a second in 1 channels"), (wide, "in 500 channels")):
        for seconds in (0.01, 60.0):
            with open(path, "rb") as file, pytest.raises(RejectedError, match=f"{path.name} cannot be used: .*{said}"):
                FileSound(file, path.name).read(0.0, seconds)
    with open_container(fast) as container, pytest.raises(RejectedError, match="2000000000 samples a second") as caught:
        ContainerSound(container, "fast.wav", 0.0).read(0.0, 60.0)
    assert caught.value.kind == "sound"
    with open_container(wav(tmp_path / "a.wav")) as container, pytest.raises(RejectedError, match="claims 100000 s"):
        ContainerSound(container, "a.wav", 0.0).read(0.0, 100_000.0)


def test_sound_in_an_hdf5_file_that_would_unpack_to_gigabytes_is_refused(tmp_path):
    with h5py.File(tmp_path / "sound.hdf5", "w") as file:
        file.create_dataset("P01_01", (1 << 30,), "f4", chunks=(1 << 29,), compression="gzip")
    places = Places(str(tmp_path), "", str(tmp_path), False, str(tmp_path / "sound.hdf5"))
    with pytest.raises(RejectedError, match="in chunks of 2147483648"), ExitStack() as stack:
        open_sound(places, "P01_01", stack)


# Data sets


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
        (lambda row: {"audio": flac(channels=2)}, reader.BAD_SOUND),
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
    monkeypatch.setattr(reader, "MAX_VIEW_PIXELS", 4 * 32 * 24)  # what the others have in their views
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


# Tables, annotations and boxes


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
    monkeypatch.setattr(tables, "MAX_VALUES", 4999)
    with pytest.raises(ValueError, match="5000 values in a column"):
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


# Networks


def model_folder(folder: Path, **changes) -> Path:
    """The folder of a small network whose model.json says something else in part."""
    torch.manual_seed(0)
    save_model(create_model("r2plus1d_tiny", HEADS, channels=(4, 8)), folder)
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module with somebody's network that leaves a mark when it is imported; yields a model folder that names it."""
    (tmp_path / "code").mkdir()
    text = f"""
from pathlib import Path
from tests.test_models import own_network
Path({str(tmp_path / "ran")!r}).touch()
"""
    (tmp_path / "code" / "somebodys.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delenv(model_storage.TRUST, raising=False)
    model = create_model("tests.test_models:own_network", HEADS)
    model.spec.arch = "somebodys:own_network"
    save_model(model, tmp_path / "own")
    model_storage._kept.discard("somebodys:own_network")
    yield tmp_path
    __import__("sys").modules.pop("somebodys", None)


def test_code_that_a_model_folder_names_is_not_imported_unless_it_is_trusted(own, monkeypatch):
    start = create_model("r2plus1d_tiny", HEADS, channels=(4, 8))
    for refused in (load_model, describe_model, lambda folder: start_from(start, folder)):
        with pytest.raises(ValueError, match=r"names 'somebodys:own_network'.*MMKD_TRUST_ARCH=somebodys"):
            refused(own / "own")
    monkeypatch.setenv("MMKD_TRUST_ARCH", "another, some")
    with pytest.raises(ValueError, match="MMKD_TRUST_ARCH"):
        load_model(own / "own")
    assert not (own / "ran").exists()
    assert load_model(own / "own", trust=["somebodys:own_network"]).spec.arch == "somebodys:own_network"
    assert (own / "ran").exists()
    monkeypatch.setenv("MMKD_TRUST_ARCH", "another,somebodys")
    assert load_model(own / "own").spec.heads == HEADS


def test_a_network_that_this_process_kept_itself_is_loaded_again(tmp_path, monkeypatch):
    monkeypatch.delenv(model_storage.TRUST, raising=False)
    save_model(create_model("tests.test_models:own_network", HEADS), tmp_path)
    assert load_model(tmp_path).spec.arch == "tests.test_models:own_network"


def test_functions_that_are_imported_already_are_not_trusted_for_it(tmp_path):
    for arch, options in (
        ("os:system", {"command": f"touch {tmp_path / 'ran'}"}),
        ("subprocess:run", {"args": ["touch", str(tmp_path / "ran")]}),
        ("mmkd.storage:delete_folder", {"folder": str(tmp_path)}),
    ):
        with pytest.raises(ValueError, match="code that would be imported and run"):
            load_model(model_folder(tmp_path / "m", arch=arch, options=options))
    assert not (tmp_path / "ran").exists() and tmp_path.is_dir()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {"pretrained": True}}, "pretrained is no option of a network"),  # would be downloaded
        ({"options": {"channels": [4, 1 << 40]}}, "channels is 1099511627776"),
        ({"options": {"channels": [1 << 20, 1 << 20]}}, "does not fit r2plus1d_tiny"),  # 100 TB, if it were made
        ({"arch": "stlt", "modality": "boxes", "options": {"depth": 10**6}}, "depth is 1000000, more than 1000"),
        ({"arch": "hf//etc", "options": {}}, "config is missing"),  # would be read from there
        ({"heads": {"verb": 10**12}}, "no list of names"),
        ({"heads": None}, "heads is missing"),
        ({"input": {"frames": 1 << 20, "size": 1 << 20}}, "its input has frames, size"),
        ({"input": {"frames": "x", "size": 1 << 20}}, "its input has frames, size"),
        ({"options": {"channels": "wide"}}, "cannot be built as r2plus1d_tiny"),
    ],
)
def test_a_model_json_that_would_fill_the_memory_or_read_elsewhere_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        load_model(model_folder(tmp_path, **changes))


@pytest.mark.parametrize("content", [DEEP, "[]", "{", "\xff"])
def test_a_model_json_that_is_damaged_is_named(tmp_path, content):
    (model_folder(tmp_path) / "model.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"model\.json cannot be used"):
        describe_model(tmp_path)


def test_code_that_a_transformers_config_names_is_left_out(tmp_path):
    config = {"model_type": "videomae", "attn_implementation": "evil/kernel", "auto_map": {"AutoModel": "evil--x.Y"}}
    folder = model_folder(tmp_path, arch="hf/videomae", options={"config": config | {"text": dict(config)}})
    kept = describe_model(folder)["options"]["config"]
    assert kept == {"model_type": "videomae", "text": {"model_type": "videomae"}}


def test_files_of_weights_that_claim_too_much_are_refused_by_name(tmp_path):
    folder = model_folder(tmp_path / "m")
    path = folder / "model.safetensors"
    claims = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    for content in (b"\xff" * 8 + b"{}", len(claims).to_bytes(8, "little") + claims):
        path.write_bytes(content)
        described = json.loads((folder / "model.json").read_text())
        described["weights_hash"] = model_storage.weights_hash(path)
        (folder / "model.json").write_text(json.dumps(described))
        with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file, or a damaged one"):
            load_model(folder)
        with pytest.raises(ValueError, match=r"model\.safetensors cannot be read as plain tensors"):
            read_weights(path)
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    assert read_weights(tmp_path / "plain.pt")["a"].shape == (1 << 20,)
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    with pytest.raises(ValueError, match="content is compressed"):
        read_weights(tmp_path / "bomb.pt")


def test_a_start_without_the_weights_of_its_classes_is_refused(tmp_path):
    folder = model_folder(tmp_path)
    weights = model_storage.load_file(folder / "model.safetensors")
    weights["heads.verb.weight"] = weights["heads.verb.weight"][:1]
    save_file(weights, folder / "model.safetensors")
    described = json.loads((folder / "model.json").read_text())
    described["weights_hash"] = model_storage.weights_hash(folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="no weights for the classes that it names in verb"):
        start_from(create_model("r2plus1d_tiny", HEADS, channels=(4, 8)), folder)


NESTED = "&l0 [x, x]\n" + "".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}, *l{n - 1}, *l{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("l0: " + NESTED + "DATASET_TYPE: *l39\nMODEL_NAME: *l39\nTOTAL_ACTIONS: {VERB: 3}\n", "is not a model"),
        ("l0: " + NESTED + "TOTAL_ACTIONS: *l39\n", "no table of head"),
        ("TOTAL_ACTIONS: {VERB: 1000000000000}\nMODEL_NAME: swin\nDATASET_TYPE: video\n", "more than 100000"),
        ("TOTAL_ACTIONS: {A: 3}\nMODEL_NAME: stlt\nNUM_FRAMES: 1000000000000\n", "NUM_FRAMES .* more than 100000"),
        ("TOTAL_ACTIONS: {A: 3}\nNUM_FRAMES: !!python/object/apply:os.getcwd []\n", "is no YAML"),
        ("[" * 5000, "is no YAML"),
        ("text", "no table"),
    ],
)
def test_an_experiment_of_others_is_refused_where_its_settings_are_endless(tmp_path, text, said):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        reference.read_experiment(tmp_path)


# Banks


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


# Secrets


@pytest.mark.parametrize(
    "path",
    [
        "s3://AKIA123:hush@bucket/data",
        "s3://bucket/data?access_key=AKIA123&secret_key=hush",
        "s3://bucket/data?region=eu&session_token=hush",
        "s3://bucket/data?endpoint_override=http://me:hush@host:9000",
        "s3://bucket/data?endpoint_override=http%3A%2F%2Fme%3Ahush%40host",
        "gs://hush@bucket/data",
        "https://host/a.mp4?X-Amz-Signature=hush",
        "nosuch://me:hush@host/a",
    ],
)
def test_a_path_with_credentials_is_refused_without_showing_them(path, tmp_path):
    for use in (storage.is_file, storage.open_input, storage.list_files, lambda path: open_dataset(path)):
        with pytest.raises(ValueError, match="credentials by the environment") as caught:
            use(path)
        said = "".join(str(error) for error in (caught.value, caught.value.__cause__, caught.value.__context__))
        assert "hush" not in said and "AKIA" not in said
    for fine in ("gs://anonymous@bucket/a", "s3://bucket/a@b/keys/secret=1", "abfs://container@account.example/a"):
        storage.refuse_secrets(fine)


def test_a_name_in_data_cannot_send_a_store_s_requests_elsewhere():
    name = "a.mp4?endpoint_override=attacker.example&scheme=http"
    for use in (storage.inside, storage.join):
        with pytest.raises(ValueError, match=r"has a '\?'"):
            use("s3://bucket/videos", name)
    assert storage.inside("s3://bucket/videos?region=eu", "a/b.mp4") == "s3://bucket/videos/a/b.mp4?region=eu"


def test_a_file_that_is_read_whole_has_a_limit(tmp_path, monkeypatch):
    with open(tmp_path / "sparse.json", "wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing takes no disk
    with pytest.raises(OSError, match=r"sparse\.json has 1099511627776 bytes"):
        storage.read_text(tmp_path / "sparse.json")


DECOYS = [
    *(".venv/lib/site.py", "venv/x", "env/x", ".git/config", ".git/objects/ab", "__pycache__/a.pyc", ".mypy_cache/x"),
    *("mmkd/__pycache__/a.pyc", ".pytest_cache/x", ".ruff_cache/x", "mmkd.egg-info/PKG-INFO", "build/x", "dist/a.whl"),
    *(
        "data/mine/train/00000.parquet",
        "runs/mine/config.yaml",
        "models/mine/model.safetensors",
        "banks/mine/bank.json",
    ),
    *("wandb/run/config.yaml", "mlruns/0/meta.yaml", "mlartifacts/0/a", "rayjobs/wandb/a", ".cache/huggingface/token"),
    *(".env", ".env.local", "configs/.env", ".netrc", ".pypirc", "auth_token", ".ray/auth_token", ".aws/credentials"),
    *("deploy/key.pem", "tls.key", "a.p12", ".ssh/id_rsa", "id_ed25519", "id_rsa.pub", ".kube/config", "kubeconfig"),
    *(".config/gcloud/credentials.db", "credentials.json", "my-service-account.json", "client_secret_1.json", "a.gpg"),
    *("secrets.yaml", "secrets/a", "terraform.tfstate", ".huggingface/token", ".docker/config.json", "hub.token"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project's files with things in it that are not to be uploaded, and the names of its own files."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the project's files are listed by git")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    names = [name for name in names if name and (ROOT / name).is_file()]
    folder = tmp_path_factory.mktemp("project")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in DECOYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("hush")
    return folder, names


def uploaded(folder: Path, gitignore: bool, monkeypatch, tmp_path) -> set[str]:
    """What `ray job submit --working-dir FOLDER` would upload, by Ray's own functions."""
    from ray._private.runtime_env.packaging import create_package
    from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

    target = tmp_path / f"{gitignore}.zip"

    def keep(directory, excludes, is_file=False):
        create_package(directory, target, include_gitignore=gitignore, excludes=excludes)

    # What Ray leaves out by itself can be switched off.
    monkeypatch.setenv("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    upload_working_dir_if_needed({"working_dir": str(folder)}, include_gitignore=gitignore, upload_fn=keep)
    with zipfile.ZipFile(target) as package:
        return set(package.namelist())


@pytest.mark.parametrize("gitignore", [True, False])
def test_a_submitted_job_takes_its_code_along_and_no_secret_data_environment_or_run(
    project, monkeypatch, tmp_path, gitignore
):
    folder, names = project
    found = uploaded(folder, gitignore, monkeypatch, tmp_path)
    assert found & set(DECOYS) == set()
    assert found - set(names) == set()  # nor an empty folder
    needed = {name for name in names if name.startswith(("mmkd/", "rayjobs/", "tuning/", "configs/"))}
    assert needed | {"pyproject.toml"} <= found
    assert {"mmkd/zoo/tabletop/rgb/model.safetensors", "rayjobs/distill.py", "mmkd/models/storage.py"} <= found
    assert sum((folder / name).stat().st_size for name in found) < 20 << 20


def test_folders_that_stay_here_are_not_even_walked_through(project, monkeypatch, tmp_path):
    from ray._private.runtime_env import packaging

    folder, _ = project
    seen = []
    packaging._dir_travel(folder, [], seen.append, include_gitignore=False)
    outside = {path.relative_to(folder).parts[0] for path in seen if path != folder}
    assert outside.isdisjoint({".venv", ".git", "data", "runs", "models", "banks", "wandb", "mlruns", ".aws", ".ssh"})


# The page


PAGE = ROOT / "docs" / "security.md"


def test_the_page_names_flags_ports_and_commands_that_there_are():
    from ray.autoscaler._private.constants import AUTOSCALER_METRIC_PORT
    from ray.dashboard.consts import DASHBOARD_METRIC_PORT
    from ray.dashboard.modules.job.cli import submit
    from ray.scripts.scripts import start

    text = re.sub(r" *\\\n *", " ", PAGE.read_text())
    flags = {option for parameter in start.params for option in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]*(?:port|host)[a-z-]*)`", text))
    assert named <= flags and len(named) == 11
    assert f"`{model_storage.TRUST}" in text and f"{AUTOSCALER_METRIC_PORT} and {DASHBOARD_METRIC_PORT}" in text
    defaults = {parameter.name: parameter.default for parameter in start.params}
    assert (defaults["dashboard_host"], defaults["dashboard_port"]) == ("127.0.0.1", 8265)
    assert (defaults["min_worker_port"], defaults["max_worker_port"]) == (10002, 19999)
    for command, of in ((start, r"ray start( .*)"), (submit, r"ray job submit( .*)")):
        for line in re.findall(rf"^ +(?:RAY_AUTH_MODE=token )?{of}$", text, re.MULTILINE):
            command.make_context("ray", shlex.split(line, comments=True))  # is understood; nothing is started


def test_the_page_names_the_limits_that_the_code_has():
    text = PAGE.read_text()
    said = {
        f"{video.MAX_PIXELS / 1e6:.0f} million pixels": "a frame",
        f"{video.LONGEST_STILL:.0f} s": "a still",
        f"{sound.MAX_SAMPLES / 1e6:.0f} million samples": "sound",
        f"{clip.MAX_BOXES:,} boxes": "boxes of a frame",
        f"{images.MAX_SCANS} scans": "a JPEG",
        f"{storage.MAX_BYTES >> 30} GB": "a file that is read whole",
    }
    assert [limit for limit in said if limit not in text] == []
    assert all(name in text for name in video.FORMATS.split(","))
    assert max(map(len, text.splitlines())) <= 120
