"""What is said of a video equals what an evaluation says of its packed frames; windows cover it, each frame is decoded
once, and memory does not grow with its length."""

import itertools
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

import mmkd
from mmkd.config import Pack
from mmkd.cutting import cut
from mmkd.dataset import open_dataset
from mmkd.evaluation.split import split_logits
from mmkd.inference.sampling import sampling_of
from mmkd.inference.videos import predict_windows
from mmkd.inference.windows import clips_of, video_windows, windows_of
from mmkd.media.clips import VideoWriter
from mmkd.media.images import ArrayReader, decode_image
from mmkd.media.video import VideoReader, count_frames, open_container
from mmkd.models import create_model
from mmkd.sources.recording import Frame, Segment
from mmkd.sources.video import VideoRecording
from mmkd.views import make_view, uniform_indices
from mmkd.views import test_views as views_of_test
from tests.small import HEADS, small_settings, write_dataset
from tests.videos import number_of, write_video

SEEN = {"frames": 4, "sampling": "uniform", "size": 16}


def small_model(folder=None, **changes):
    """A small RGB network, kept in a folder if one is named."""
    torch.manual_seed(3)
    model = create_model("r2plus1d_tiny", HEADS, channels=(4, 8))
    model.spec.input = dict(SEEN)
    for name, value in changes.items():
        setattr(model.spec, name, value)
    if folder is not None:
        mmkd.save_model(model, folder)
    return model.eval()


def packed(**pack):
    """What model.json tells of training data that were packed like this."""
    return {"data": {"made_by": {"pack": Pack(**pack).model_dump()}}}


def encoded(frames, size=(48, 32), fps=10.0):
    """A short video with something to see in it, as a shard keeps one: the bytes of an MP4 file."""
    random = np.random.default_rng(frames)
    blocks = random.integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    writer = VideoWriter(size, fps, 10, 8)
    for number in range(frames):
        writer.add(np.roll(blocks, 3 * number, 1))
    return writer.close()


def numbers_shown(clip, modulo=40):
    """Which frames of a video of tests.videos a clip's first view shows."""
    return [number_of(image) % modulo for image in clip.rgb[0]]


@pytest.mark.parametrize(
    ("seen", "grid"),
    [
        (SEEN, (1, 1)),
        (SEEN, (3, 3)),
        (SEEN, (13, 3)),  # more views than are answered at once
        ({"frames": 4, "sampling": "strided", "stride": 3, "size": 16}, (2, 1)),
        ({"frames": 4, "sampling": "strided", "stride": 8, "size": 16}, (3, 3)),  # longer than the video
    ],
)
def test_logits_equal_those_of_an_evaluation_on_the_same_frames(tmp_path, seen, grid):
    videos = {}

    def as_videos(split, rows):
        for number, row in enumerate(rows):
            videos[row["clip_id"]] = encoded(17 + number)
            row |= {"rgb": [videos[row["clip_id"]]], "num_frames": 17 + number, "width": 48, "height": 32}
        return rows

    folder = write_dataset(tmp_path / "data" / "small", as_videos)
    replace(open_dataset(folder), rgb_codec="h264").save(folder)
    small_model(tmp_path / "model", input=seen)
    settings = small_settings(tmp_path, views=seen)
    evaluated = split_logits(settings, [str(tmp_path / "model")], "test", grids=[grid])
    for row, clip_id in enumerate(evaluated.clip_ids):
        (tmp_path / "clip.mp4").write_bytes(videos[clip_id])
        (said,) = mmkd.predict(tmp_path / "model", tmp_path / "clip.mp4", views=f"{grid[0]}x{grid[1]}")
        assert (said.start, said.stop, said.error) == (0.0, pytest.approx((17 + row) / 10), "")
        for head in HEADS:
            assert np.abs(said.logits[head] - evaluated.averaged()[head][row, 0]).max() < 1e-5
            assert np.abs(said.logits[head]).max() > 0.05


@pytest.mark.parametrize("pack", [{"fps": 4.0}, {"short_side": 24}, {"fps": 7.5, "short_side": 0}])
def test_frames_are_those_that_packing_as_for_the_training_data_keeps(tmp_path, pack):
    path = write_video(tmp_path / "a.mp4", 37, fps=10)
    recording = VideoRecording(str(path), "a", (Segment("a", {"verb": 0, "noun": 0}),))
    (row,) = cut("", recording, HEADS, Pack(**pack))
    model = small_model(training=packed(**pack))
    sampling = sampling_of(model.spec)
    (clip,) = video_windows(path, sampling)
    kept = [number_of(decode_image(jpeg)) for jpeg in row["rgb"]]
    assert numbers_shown(clip) == [kept[i] for i in uniform_indices(len(kept), 4)]
    with open_container(path) as container:
        wanted = sampling.pack.short_side or 48
        read = dict(VideoReader(container, "a").read([0], sampling.pack.short_side))
    assert read[0].pixels.shape[0] == min(48, wanted) == row["height"]


def test_probabilities_are_of_the_head_s_temperature_and_actions_are_products(tmp_path):
    model = small_model(tmp_path / "model", temperatures={"verb": 0.25})
    video = write_video(tmp_path / "a.mp4", 12)
    (said,) = mmkd.predict(tmp_path / "model", video)
    for head, temperature in (("verb", 0.25), ("noun", 1.0)):
        expected = torch.tensor(said.logits[head]).double().div(temperature).softmax(0)
        assert np.allclose(said.probabilities[head], expected, atol=1e-12)
    joint = {
        (verb, noun): p * q
        for verb, p in zip(HEADS["verb"], said.probabilities["verb"], strict=True)
        for noun, q in zip(HEADS["noun"], said.probabilities["noun"], strict=True)
    }
    best = sorted(joint, key=lambda pair: -joint[pair])
    top = said.top(4)
    assert [(each["verb"], each["noun"]) for each in top["action"]] == best[:4]
    assert [each["probability"] for each in top["action"]] == pytest.approx([joint[pair] for pair in best[:4]])
    assert [each["class"] for each in top["noun"]] == sorted(
        HEADS["noun"], key=lambda name: -said.probabilities["noun"][HEADS["noun"].index(name)]
    )
    assert len(top["verb"]) == 3 and sum(each["probability"] for each in said.top(9)["action"]) == pytest.approx(1)
    # A multi-label head has a probability for each class by itself, and no part in an action.
    model.spec.multi_label = ["noun"]
    (said,) = mmkd.predict(model, video)
    assert np.allclose(said.probabilities["noun"], torch.tensor(said.logits["noun"]).sigmoid(), atol=1e-6)
    assert set(said.top()) == {"verb", "noun"}


@pytest.mark.parametrize(
    ("count", "window", "hop", "expected"),
    [
        (30, 0.0, 0.0, [(0, 30)]),
        (30, 1.0, 0.0, [(0, 10), (10, 20), (20, 30)]),
        (34, 1.0, 0.0, [(0, 10), (10, 20), (20, 30), (24, 34)]),  # the last is moved back
        (20, 1.0, 0.5, [(0, 10), (5, 15), (10, 20)]),
        (22, 1.0, 0.5, [(0, 10), (5, 15), (10, 20), (12, 22)]),
        (35, 1.0, 2.0, [(0, 10), (20, 30)]),  # what lies between windows is nobody's
        (45, 1.0, 2.0, [(0, 10), (20, 30), (35, 45)]),
        (7, 1.0, 0.5, [(0, 7)]),  # shorter than a window
        (10, 1.0, 0.5, [(0, 10)]),
        (31, 1.04, 0.52, [(0, 10), (5, 15), (10, 20), (16, 26), (21, 31)]),  # starts do not drift
    ],
)
def test_windows_are_equally_long_and_reach_the_end(count, window, hop, expected):
    assert list(windows_of(count, 10.0, window, hop)) == expected


def test_windows_that_cannot_be_are_refused(tmp_path):
    video, model = write_video(tmp_path / "a.mp4", 12), small_model()
    for arguments, said in (
        ({"window": -1.0}, "0 or more"),
        ({"window": float("nan")}, "0 or more"),
        ({"hop": 1.0}, "say how long they are"),
        ({"window": 1.0, "hop": 0.01}, "less than one frame"),
        ({"views": "3x2"}, "views are '3x2'"),
        ({"views": "0x1"}, "views are '0x1'"),
    ):
        with pytest.raises(ValueError, match=said):
            mmkd.predict(model, video, **arguments)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_a_window_is_what_a_file_of_its_frames_alone_is(tmp_path, grid):
    frames = np.random.default_rng(0).integers(0, 255, (50, 20, 30, 3), dtype=np.uint8)
    sampling = replace(sampling_of(small_model().spec), grid=grid)
    clips = list(clips_of(ArrayReader(frames, 10.0), 50, sampling, 1.3, 0.4))
    assert [(clip.start, clip.stop) for clip in clips] == [(f / 10, t / 10) for f, t in windows_of(50, 10.0, 1.3, 0.4)]
    for clip in clips:
        own = frames[round(clip.start * 10) : round(clip.stop * 10)]
        (alone,) = clips_of(ArrayReader(own, 10.0), len(own), sampling)
        assert np.array_equal(clip.rgb, alone.rgb)
        views = views_of_test(sampling.views, len(own), [grid])
        assert clip.rgb.shape == (len(views), 4, 16, 16, 3)


def test_a_video_shorter_than_the_view_repeats_frames_as_training_does(tmp_path):
    path, model = write_video(tmp_path / "a.mp4", 3, fps=10), small_model()
    for window in (0.0, 5.0):
        (clip,) = video_windows(path, sampling_of(model.spec), window)
        assert numbers_shown(clip) == make_view(small_settings(tmp_path).views, "a", 3, -1).indices.tolist()
        assert clip.stop == pytest.approx(0.3)
    (said,) = mmkd.predict(model, write_video(tmp_path / "one.mp4", 1))
    assert not said.error


class Endless:
    """A recording of plain frames that are made when they are read; counts how often each was."""

    def __init__(self, rate, count):
        self.rate, self.length, self.count, self.asked = rate, count, count, []

    def read(self, numbers, short_side):
        for number in numbers:
            self.asked.append(number)
            if number >= self.count:
                return
            yield number, Frame((20, 20), np.full((20, 20, 3), number % 251, np.uint8))


def test_each_frame_is_decoded_once_though_windows_overlap_and_frames_that_no_view_shows_not_at_all():
    frames = Endless(30.0, 900)
    clips = list(clips_of(frames, 900, sampling_of(small_model().spec), 2.0, 0.5))
    assert frames.asked == sorted(set(frames.asked))
    shown = {f + int(i) for f, t in windows_of(900, 30.0, 2.0, 0.5) for i in uniform_indices(t - f, 4)}
    assert set(frames.asked) == shown and len(shown) < 300 and len(clips) == 57


def test_memory_does_not_grow_with_the_length_of_a_video():
    def peak(seconds, window, hop):
        frames = Endless(30.0, int(30 * seconds))
        frames.asked = SimpleNamespace(append=lambda number: None)
        clips = clips_of(frames, frames.count, sampling_of(small_model(input=SEEN | {"size": 64}).spec), window, hop)
        tracemalloc.start()
        held = sum(1 for _ in clips)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most, held

    (short, few), (long, many) = peak(120, 4.0, 1.0), peak(7200, 4.0, 1.0)
    assert (few, many) == (117, 7197) and long < 1.2 * short
    # No more frames are held than one window has: 120 of 12 kB here, where almost every frame is shown by some window.
    assert peak(30, 4.0, 1 / 30)[0] < 130 * 64 * 64 * 3 + 500_000


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("b_frames.mp4", {"options": {"bf": "3"}}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}}),
        ("old.avi", {"codec": "mpeg4", "pix_fmt": "yuv420p"}),
        ("stream.ts", {}),
        ("phone.mp4", {"times": [0.0, 0.1, 0.2, 0.7, 0.8, 0.9, *(1.0 + n / 7 for n in range(19))]}),
        ("late.mkv", {"times": [0.5 + n / 12 for n in range(25)]}),
        ("raw.h264", {}),
    ],
)
def test_frames_are_counted_without_being_decoded(tmp_path, name, options):
    path = write_video(tmp_path / name, 25, **({"fps": 12} | options))
    with open_container(path) as container:
        frames = VideoReader(container, name)
        counted, end = count_frames(path, frames)
        assert end == pytest.approx(counted / frames.rate, abs=0.3)
        assert counted == len(list(frames.read(itertools.count(), 0)))


def test_long_videos_are_jumped_through(tmp_path, monkeypatch):
    path, model = write_video(tmp_path / "long.mp4", 1200, fps=10, gop=10), small_model()
    decoded, decode = [], VideoReader._decode
    monkeypatch.setattr(VideoReader, "_decode", lambda self: (decoded.append(each) or each for each in decode(self)))
    (clip,) = video_windows(path, sampling_of(model.spec))
    assert numbers_shown(clip) == [int(i) % 40 for i in uniform_indices(1200, 4)]
    assert len(decoded) < 100


@pytest.mark.parametrize("name", ["long.mp4", "long.ts"])
def test_a_video_without_key_frames_to_jump_to_is_decoded_a_few_times_at_most(tmp_path, monkeypatch, name):
    """One key frame at its start, and windows that show frames far apart."""
    path = write_video(tmp_path / name, 1200, fps=10, gop=2000, options={"bf": "0", "sc_threshold": "0"})
    decoded, decode, model = [], VideoReader._decode, small_model()
    monkeypatch.setattr(VideoReader, "_decode", lambda self: (decoded.append(each) or each for each in decode(self)))
    clips = list(video_windows(path, sampling_of(model.spec), 20.0))
    shown = [[int(i + 200 * k) % 40 for i in uniform_indices(200, 4)] for k in range(6)]
    assert [numbers_shown(clip) for clip in clips] == shown
    assert len(decoded) < 3 * 1200  # 24 frames are shown


def test_a_last_frame_that_is_shown_for_long_is_no_sign_of_a_truncated_video(tmp_path):
    path = write_video(tmp_path / "screen.mkv", 20, times=[n / 10 for n in range(20)])
    with open(path, "rb") as source, av.open(source) as film, av.open(str(tmp_path / "still.mp4"), "w") as out:
        stream = out.add_stream_from_template(film.streams.video[0])
        packets = [packet for packet in film.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            packet.stream = stream
            packet.duration = int((0.1 if number < 19 else 3.0) / packet.time_base)
            out.mux(packet)
    model = small_model()
    (said,) = mmkd.predict(model, tmp_path / "still.mp4")
    assert not said.error and said.stop == pytest.approx(2.0, abs=0.3)


def test_a_model_in_memory_predicts_as_its_folder_does(tmp_path):
    video, model = write_video(tmp_path / "a.mp4", 12), small_model(tmp_path / "model")
    model.train()
    (one,), (other,) = mmkd.predict(model, video), mmkd.predict(str(tmp_path / "model"), str(video))
    assert all(np.array_equal(one.logits[head], other.logits[head]) for head in HEADS)
    with torch.no_grad():
        model.heads["noun"].bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"a\.mp4: the model's logits of noun are not finite"):
        mmkd.predict(model, video)
    assert [each.error for each in predict_windows(model, video, sampling_of(model.spec), 0.5, 0.0)]
