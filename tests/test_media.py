"""Videos as people have them: their frames come upright, at the right place in time, and damage is noticed."""

from contextlib import ExitStack
from fractions import Fraction

import cv2
import numpy as np
import pytest
import soundfile

from mmkd.media.clips import VideoWriter, decode_frames
from mmkd.media.images import ImageReader, TarImages, decode_image
from mmkd.media.sound import ArraySound, ContainerSound, FileSound
from mmkd.media.video import VideoReader, open_container, scaled_size
from mmkd.sources.recording import Fault, RejectedError
from tests.videos import RATE, click, number_of, picture, rotate_mp4, write_video


def read(path, numbers, short_side=0, rate=0.0):
    with open_container(path) as container:
        return list(VideoReader(container, path.name, rate).read(numbers, short_side))


def shown(path, numbers, **options):
    """Which frames are shown at these numbers."""
    return [number_of(frame.pixels) for _, frame in read(path, numbers, **options)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}}),
        ("ten_bit.mp4", {"pix_fmt": "yuv420p10le"}),
        ("odd.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p", "size": (67, 49)}),
        ("old.avi", {"codec": "mpeg4", "options": {"qmin": "1", "qmax": "1"}}),
    ],
)
def test_each_frame_of_a_video_comes_once_whatever_its_codec_says_of_their_number(tmp_path, name, options):
    path = write_video(tmp_path / name, 25, fps=12, **options)
    found = read(path, range(1000))
    assert [number for number, _ in found] == list(range(25))
    assert [number_of(frame.pixels) for _, frame in found] == list(range(25))
    assert found[0][1].size == options.get("size", (64, 48))


def test_wanted_frames_are_the_same_after_a_jump(tmp_path):
    path = write_video(tmp_path / "long.mp4", 400, fps=10)
    assert shown(path, [3, 120, 121, 399]) == [3, 0, 1, 39]
    assert read(path, [500]) == []
    assert [number for number, _ in read(path, [398, 399, 400, 401])] == [398, 399]


def test_a_video_of_variable_rate_repeats_a_frame_as_long_as_it_is_shown(tmp_path):
    times = [0.0, 0.1, 0.2, 0.7, 0.8, 0.9]  # the third frame stays for half a second
    path = write_video(tmp_path / "phone.mp4", 6, times=times, options={"bf": "0"})
    assert shown(path, range(100), rate=10.0) == [0, 1, 2, 2, 2, 3, 3, 3, 4, 5]
    assert shown(path, range(0, 100, 2), rate=20.0) == [0, 1, 2, 2, 2, 3, 3, 3, 4, 5]


def test_a_grid_of_another_rate_takes_the_nearest_frames(tmp_path):
    path = write_video(tmp_path / "fast.mp4", 40, fps=59.94)
    assert shown(path, range(40), rate=60.0) == list(range(40))
    assert shown(path, range(10), rate=15.0) == [round(n * 59.94 / 15) for n in range(10)]


@pytest.mark.parametrize(("degrees", "white"), [(90, "top"), (180, "right"), (270, "bottom")])
def test_portrait_videos_are_turned_upright(tmp_path, degrees, white):
    path = write_video(tmp_path / "turned.mp4", 3)
    rotate_mp4(path, degrees)
    (_, frame), *_ = read(path, range(3))
    edges = {
        "top": frame.pixels[:4],
        "bottom": frame.pixels[-4:],
        "left": frame.pixels[:, :4],
        "right": frame.pixels[:, -4:],
    }
    assert max(edges, key=lambda edge: edges[edge].mean()) == white
    assert frame.size == ((48, 64) if degrees != 180 else (64, 48))
    assert frame.pixels.shape[:2] == frame.size[::-1]


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = write_video(tmp_path / "dv.mp4", 2, aspect=Fraction(4, 3), size=(48, 48))
    assert read(path, [0])[0][1].size == (64, 48)


def test_frames_are_scaled_down_to_a_short_side_and_never_up(tmp_path):
    assert scaled_size((1920, 1080), 256) == (456, 256) and scaled_size((1080, 1920), 256) == (256, 456)
    assert scaled_size((427, 240), 256) == (427, 240) and scaled_size((427, 240), 0) == (427, 240)
    path = write_video(tmp_path / "a.mp4", 2)
    assert read(path, [0], 24)[0][1].pixels.shape == (24, 32, 3)


def test_frames_lost_to_damage_in_the_middle_are_named_and_others_are_read(tmp_path):
    path = write_video(tmp_path / "hurt.mp4", 60, size=(96, 64), gop=10, options={"bf": "0", "sc_threshold": "0"})
    data = bytearray(path.read_bytes())
    # Every packet of frames 20 to 29 is overwritten.
    with open_container(path) as container:
        spans = [(p.pts * p.time_base, p.pos, p.size) for p in container.demux(video=0) if p.size]
    for seconds, position, size in spans:
        if 2.0 <= seconds < 3.0:
            data[position : position + size] = bytes(size)
    path.write_bytes(bytes(data))
    found = dict(read(path, range(60)))
    assert all(isinstance(found[number], Fault) for number in range(21, 29))
    assert "hurt.mp4 cannot be decoded at 2.4" in found[24].reason
    assert [number_of(found[number].pixels) for number in (0, 19, 30, 59)] == [0, 19, 30, 19]


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "text.mp4").write_text("this is no video")
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, click(1, 0.5), RATE)
    for path, reason in (
        (tmp_path / "text.mp4", "text.mp4 cannot be opened: Invalid data"),
        (tmp_path / "none.mp4", "none.mp4 cannot be opened: No such file"),
        (sound, "sound.wav has no video stream"),
    ):
        with pytest.raises(RejectedError, match=reason) as caught:
            read(path, [0])
        assert caught.value.kind == "unreadable"


def peak(samples):
    return np.abs(samples.astype(float)).argmax() / RATE


@pytest.mark.parametrize("start", [0.0, 0.6, 6.0])
def test_sound_is_heard_when_it_is_seen(tmp_path, start):
    path = write_video(tmp_path / "clap.mkv", 100, sound=click(10, 6.7), sound_codec="flac")
    with open_container(path) as container:
        sound = ContainerSound(container, path.name, 0.0)
        samples = sound.read(start, start + 4)
    assert samples is not None and len(samples) == 4 * RATE
    if start < 6.7 < start + 4:
        assert abs(peak(samples) - (6.7 - start)) < 0.03
    else:
        assert np.abs(samples).max() < 50


def test_sound_files_and_arrays_are_cut_alike_and_end_in_silence(tmp_path):
    samples = click(2, 1.5)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([samples, samples], 1), RATE)
    with ExitStack() as stack:
        file = FileSound(stack.enter_context(open(path, "rb")), "a.wav")
        for sound in (file, ArraySound(samples, RATE), ArraySound(samples / np.float32(32768), RATE)):
            got = sound.read(1.0, 3.0)
            assert len(got) == 2 * RATE and np.array_equal(got[:RATE], samples[RATE:]) and not got[RATE:].any()
            assert sound.read(2.5, 3.0) is None


def test_a_video_whose_picture_starts_late_keeps_its_sound_in_step(tmp_path):
    path = write_video(
        tmp_path / "late.mkv", 20, times=[0.5 + n / 10 for n in range(20)], sound=click(3, 1.5), sound_codec="flac"
    )
    with open_container(path) as container:
        zero = VideoReader(container, "late", 10.0).zero
    assert zero == pytest.approx(0.5, abs=0.01)
    with open_container(path) as container:
        assert abs(peak(ContainerSound(container, "late", zero).read(0.0, 2.0)) - 1.0) < 0.03


def test_images_are_kept_as_they_are_where_they_need_no_scaling_and_missing_ones_are_named(tmp_path):
    jpeg = [cv2.imencode(".jpg", picture(n, 64, 48))[1].tobytes() for n in range(4)]
    reader = ImageReader({0: jpeg[0], 1: jpeg[1], 3: jpeg[3][:300]}.__getitem__, 10.0, 4)
    found = dict(reader.read(range(9), 0))
    assert found[1].jpeg(90) == jpeg[1] and found[1].size == (64, 48)
    assert isinstance(found[2], Fault) and isinstance(found[3], Fault) and "frame 4" in found[3].reason
    assert len(found) == 4
    assert dict(reader.read([0], 24))[0].pixels.shape == (24, 32, 3)


def test_images_of_absurd_size_are_refused():
    png = bytearray(cv2.imencode(".png", picture(0, 8, 8))[1].tobytes())
    png[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(ValueError, match="absurd"):
        decode_image(bytes(png))


def test_what_is_no_tar_file_is_said(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(RejectedError, match=r"a\.tar cannot be read"):
        TarImages(tmp_path / "a.tar")


def test_a_clip_kept_as_a_video_gives_the_same_bytes_and_its_frames_back():
    def encoded():
        writer = VideoWriter((65, 48), 12.5, 10, 4)
        for number in range(11):
            writer.add(picture(number, 65, 48))
        return writer.close()

    video = encoded()
    assert encoded() == video
    for wanted in ([0, 5, 10], [7], range(11), [3, 4]):
        frames = decode_frames(video, wanted)
        assert sorted(frames) == list(wanted)
        assert all(number_of(frames[n]) == n and frames[n].shape == (48, 64, 3) for n in wanted)
    with pytest.raises(ValueError, match="no frame 11"):
        decode_frames(video, [11])
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode_frames(video[:400], [0])
