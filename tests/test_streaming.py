"""A stream's answers are those of predict on the same frames, and neither memory nor work grows with its length."""

import tracemalloc

import numpy as np
import pytest

import mmkd
from mmkd.inference.answers import answer
from mmkd.inference.sampling import sampling_of
from mmkd.inference.windows import clips_of
from mmkd.media.images import ArrayReader
from mmkd.media.video import VideoReader, open_container
from mmkd.views import view_rgb
from tests.small import HEADS
from tests.test_inference import SEEN, packed, small_model
from tests.videos import write_video

STRIDED = {"frames": 4, "sampling": "strided", "stride": 3, "size": 16}


def stream(count, size=(24, 32)):
    return np.random.default_rng(1).integers(0, 255, (count, *size, 3), dtype=np.uint8)


def assert_equal(said, expected):
    assert not said.error and not expected.error
    for head in HEADS:
        assert np.abs(said.logits[head] - expected.logits[head]).max() < 1e-5


@pytest.mark.parametrize("views", ["1x1", "3x3"])
@pytest.mark.parametrize("seen", [SEEN, STRIDED], ids=["uniform", "strided"])
@pytest.mark.parametrize(("every", "window"), [(1, 9), (3, 10), (4, 12), (7, 20), (25, 8), (5, 1)])
def test_an_answer_is_that_of_predict_on_the_same_frames(seen, views, every, window):
    model, frames = small_model(input=seen), stream(60)
    recognizer = mmkd.StreamingRecognizer(model, every, window=window, views=views)
    said = [recognizer.push(frame) for frame in frames]
    due = [n for n in range(1, 61) if n % every == 0 and n >= window]
    assert [n for n, each in enumerate(said, start=1) if each is not None] == due and due
    for n in due:
        (clip,) = clips_of(ArrayReader(frames[n - window : n], 10.0), window, sampling_of(model.spec, views))
        assert_equal(said[n - 1], answer(model, clip.rgb, 0.0, 1.0))
        assert (said[n - 1].start, said[n - 1].stop) == (n - window, n)


def test_a_camera_is_answered_as_the_file_of_what_it_saw_is(tmp_path):
    small_model(tmp_path / "model", training=packed(fps=5.0, short_side=32))
    path = write_video(tmp_path / "a.mp4", 40, fps=10)
    with open_container(path) as container:
        frames = [frame.pixels for _, frame in VideoReader(container, "a").read(range(40), 32)]
    recognizer = mmkd.StreamingRecognizer(tmp_path / "model", every=5, window=15, rate=10.0)
    said = [each for each in map(recognizer.push, frames) if each is not None]
    expected = mmkd.predict(tmp_path / "model", path, window=1.5, hop=0.5)
    assert [(each.start, each.stop) for each in said] == [(each.start, each.stop) for each in expected]
    assert len(said) == 6
    for one, other in zip(said, expected, strict=True):
        assert_equal(one, other)


def test_large_frames_are_scaled_as_packing_scales_frames_in_memory():
    model, frames = small_model(training=packed(short_side=40)), stream(8, (90, 120))
    recognizer = mmkd.StreamingRecognizer(model, 8, window=8)
    said = [recognizer.push(frame) for frame in frames][-1]
    (clip,) = clips_of(ArrayReader(frames, 10.0), 8, sampling_of(model.spec))
    assert_equal(said, answer(model, clip.rgb, 0.0, 1.0))


def test_the_window_is_what_sampling_spans_unless_it_is_said():
    assert mmkd.StreamingRecognizer(small_model(), 4).window == 8
    assert mmkd.StreamingRecognizer(small_model(input=STRIDED), 4).window == 12
    fewer = small_model(input=STRIDED, training=packed(fps=10.0))
    assert mmkd.StreamingRecognizer(fewer, 4, rate=30.0).window == 36
    assert mmkd.StreamingRecognizer(fewer, 4, rate=5.0).window == 12


@pytest.mark.parametrize(("every", "window", "most"), [(16, 16, 4), (8, 32, 16), (1, 32, 32), (100, 32, 4)])
def test_only_frames_that_an_answer_shows_are_kept_and_only_as_long(monkeypatch, every, window, most):
    resized = []
    monkeypatch.setattr(
        "mmkd.inference.sampling.view_rgb", lambda *arguments: resized.append(1) or view_rgb(*arguments)
    )
    recognizer = mmkd.StreamingRecognizer(small_model(), every, window=window)
    held, frame = [], stream(1)[0]
    for _ in range(800):
        recognizer.push(frame)
        held.append(len(recognizer._crops))
    assert max(held) <= most and len(resized) <= 800 * most / max(every, window) + window
    if every >= window:
        assert set(held[every - 1 :: every]) == {0}


def test_memory_does_not_grow_with_the_stream():
    recognizer, frame = mmkd.StreamingRecognizer(small_model(), 10, window=30), stream(1)[0]
    for n in range(200):
        recognizer.push(frame, n / 30)
    tracemalloc.start()
    for n in range(200, 700):
        recognizer.push(frame, n / 30)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 16 * 16 * 3 * 30 + 50_000  # frames that are replaced by others, and no more


def test_times_that_are_pushed_are_those_of_the_answer_and_a_new_stream_begins_after_a_reset():
    recognizer, frames = mmkd.StreamingRecognizer(small_model(), 4, window=6, rate=10.0), stream(12)
    times = [100 + 0.11 * n for n in range(12)]
    said = [recognizer.push(frame, time) for frame, time in zip(frames, times, strict=True)]
    assert [(each.start, each.stop) for each in said if each] == [(times[2], times[7]), (times[6], times[11])]
    recognizer.reset()
    again = [recognizer.push(frame) for frame in frames]
    assert [n for n, each in enumerate(again) if each] == [7, 11] and again[7].stop == pytest.approx(0.8)
    assert_equal(again[11], said[11])


def test_a_frame_may_be_a_view_of_another_array_and_may_be_changed_after_it_was_pushed():
    frames = stream(8)
    one, other = (mmkd.StreamingRecognizer(small_model(), 8, window=8) for _ in range(2))
    expected = [one.push(frame) for frame in frames][-1]
    for frame in frames:
        bgr = frame[:, :, ::-1].copy()
        said = other.push(bgr[:, :, ::-1])  # as OpenCV's frames are turned to RGB
        bgr[:] = 0
    assert_equal(said, expected)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (np.zeros((24, 32, 3), np.float32), "a frame is float32"),
        (np.zeros((24, 32), np.uint8), r"a frame is uint8 \(24, 32\)"),
        (np.zeros((24, 32, 4), np.uint8), r"a frame is uint8 \(24, 32, 4\)"),
        (np.zeros((3, 24, 32), np.uint8), r"a frame is uint8 \(3, 24, 32\)"),
        (np.zeros((0, 32, 3), np.uint8), "32 x 0 pixels"),
        (np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (9000, 9000, 3)), "9000 x 9000 pixels"),
        (np.zeros((32, 24, 3), np.uint8), r"those before are \(24, 32, 3\); reset\(\)"),
        (None, "a frame is NoneType"),  # as a camera gives that was unplugged
    ],
)
def test_a_frame_that_is_none_is_refused_and_the_stream_goes_on(frame, said):
    recognizer, frames = mmkd.StreamingRecognizer(small_model(), 8, window=8), stream(8)
    for each in frames[:-1]:
        recognizer.push(each)
    with pytest.raises(ValueError, match=said):
        recognizer.push(frame)
    assert recognizer.push(frames[-1]) is not None


def test_what_cannot_be_streamed_is_refused(home):
    for arguments, said in (
        ({"every": 0}, "every is 0; it must be 1 or more"),
        ({"every": 1, "window": -1}, "window is -1"),
        ({"every": 1, "rate": float("nan")}, "rate is nan"),
        ({"every": 1, "views": "2"}, "views are '2'"),
    ):
        with pytest.raises(ValueError, match=said):
            mmkd.StreamingRecognizer(small_model(), **arguments)
    with pytest.raises(ValueError, match="flow sees flow"):
        mmkd.StreamingRecognizer(home / "models" / "flow", 1)
