"""Videos, images and sound that others made open nothing else and fill no memory."""

import http.server
import os
import re
import shutil
import tarfile
import threading
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction

import cv2
import h5py
import numpy as np
import pytest

from mmkd import cutting, storage
from mmkd.clip_checks import look_at
from mmkd.cost.clips import StoredClip
from mmkd.dataset import open_dataset
from mmkd.media import clips, images, video
from mmkd.media.images import ImageReader, TarImages, decode_image, fetch_from_folder, jpeg_pixels
from mmkd.media.sound import ContainerSound, FileSound, check_sound, decode_sound
from mmkd.media.video import VideoReader, open_container
from mmkd.report.pictures import spectrogram
from mmkd.sources import box_files, epic_media
from mmkd.sources.epic_media import Places, open_sound
from mmkd.sources.recording import Fault, RejectedError
from tests.hostile import JPEG, endless, flac, huge, wav
from tests.small import encode_clip, make_clip, small_settings
from tests.videos import number_of, picture, write_video


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
CONCAT = "ffconcat version 1.0\nfile beside.ts\n"
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
        "concat.mp4": CONCAT,
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


@pytest.mark.parametrize(
    ("data", "said"),
    [
        *(
            (cv2.imencode(ending, picture(0, 8, 8))[1].tobytes(), "neither JPEG nor PNG")
            for ending in (".webp", ".tiff", ".bmp", ".ppm")
        ),
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


def many_scans() -> bytes:
    jpeg = cv2.imencode(".jpg", picture(3, 64, 48), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = jpeg.rindex(b"\xff\xda")
    assert jpeg_pixels(jpeg) == 64 * 48
    return jpeg[:-2] + jpeg[last:-2] * 199 + jpeg[-2:]


def test_a_jpeg_of_endless_scans_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="Inconsistent progression"):
        decode_image(many_scans())
    with pytest.raises(ValueError, match=r"it has 20[0-9] scans"):
        decode_image(many_scans() + b"\0")
    monkeypatch.setattr(images, "FEW_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match=r"it has 20[0-9] scans"):
        jpeg_pixels(many_scans())


def test_a_look_at_a_data_set_and_a_measurement_decode_no_more_than_training_would(home, tmp_path, monkeypatch):
    clip = encode_clip(make_clip("train", 5), small_settings(home))
    dataset = open_dataset(home / "data" / "small")

    def found(codec="jpeg", **change) -> str:
        return "; ".join(map(str, look_at(clip | change, replace(dataset, rgb_codec=codec)).findings))

    write_video(tmp_path / "beside.ts", 6, size=(32, 24))
    monkeypatch.chdir(tmp_path)
    assert "cannot be decoded" in found("h264", rgb=[CONCAT.encode()])
    assert found() == "" and "its sound claims" in found(audio=endless(flac(np.zeros(4000))))
    for sound in (endless(flac(np.zeros(4000))), flac(np.zeros((400, 2)))):
        with pytest.raises(ValueError, match=r"its sound claims|2 channels"):
            StoredClip({"audio": sound}, 1, None, "jpeg").samples()
    with pytest.raises(ValueError, match="claims 65000 x 65000"):
        StoredClip({"rgb": [huge(JPEG)]}, 1, None, "jpeg").decode([0])
    assert len(StoredClip({"rgb": [JPEG] * 3}, 3, None, "jpeg").decode(range(3))) == 3
    monkeypatch.setattr(clips, "MAX_VIEW_PIXELS", 2 * 64 * 48)
    with pytest.raises(ValueError, match="3 frames claim 9216 pixels"):
        StoredClip({"rgb": [JPEG] * 3}, 3, None, "jpeg").decode(range(3))
    monkeypatch.setattr(images, "FEW_PIXELS", 64 * 48 - 1)
    assert re.search("frame 1: it has 20[0-9] scans", found(rgb=[many_scans()]))
    wide = wav(tmp_path / "fast.wav", rate=2_000_000)
    with pytest.raises(ValueError, match="claims 2000000 samples a second"):
        spectrogram({"audio": wide.read_bytes()}, 64, 0.001)


def test_what_cameras_record_is_within_the_limits():
    check_sound(3 * 3600 * 48_000, 48_000)  # heard as one channel, however many there are
    check_sound(60 * 60 * 44_100, 44_100, 2)
    assert video.MAX_PIXELS > 7680 * 4320 and clips.MAX_VIEW_PIXELS > 64 * 3840 * 2160
    two_hours = 2 * 3600 * 60
    assert two_hours < cutting.MAX_FRAMES <= storage.MAX_IN_LISTS and two_hours * 15 < box_files.MAX_OF_VIDEO
    assert 4 * storage.MAX_IN_LISTS < storage.MAX_VALUES  # row groups have 4 rows unless they are asked to have more


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


def test_sound_that_claims_an_absurd_length_rate_or_number_of_channels_is_refused(tmp_path):
    samples, rate = decode_sound(flac(np.zeros(4000)))
    assert (len(samples), rate) == (4000, 4000)
    for data, said in (
        (endless(flac(np.zeros(4000))), "claims .* s at 4000"),
        (flac(np.zeros((4000, 2))), "2 channels"),
        (b"", "rror"),
    ):
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
