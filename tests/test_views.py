"""A view is the same part of the clip in every modality, and the same again tomorrow."""

import numpy as np
import pytest

from mmkd.config import Views
from mmkd.plan import TEST_VIEW
from mmkd.views import (
    View,
    crop_square,
    make_view,
    repair_box,
    strided_indices,
    uniform_indices,
    view_audio,
    view_boxes,
    view_flow,
    view_rgb,
)


def test_uniform_indices_take_the_middle_of_segments_rounded_half_to_even():
    assert uniform_indices(16, 8).tolist() == [1, 3, 5, 7, 8, 10, 12, 14]
    assert uniform_indices(1, 4).tolist() == [0, 0, 0, 0]
    assert uniform_indices(11, 4).tolist() == [1, 3, 6, 9]  # ends 0, 2.5 -> 2, 5, 7.5 -> 8, 10


def test_strided_indices_repeat_the_last_sampled_frame_past_the_end():
    assert strided_indices(20, 4, 8).tolist() == [0, 8, 16, 16]
    assert strided_indices(100, 4, 8, num_clips=2).tolist() == [17, 25, 33, 41, 51, 59, 67, 75]


@pytest.mark.parametrize("length", [1, 7, 33, 200])
def test_training_indices_stay_in_the_video_and_follow_the_generator(length):
    for draw in (lambda rng: uniform_indices(length, 8, 2, rng), lambda rng: strided_indices(length, 8, 4, 2, rng)):
        first, again = draw(np.random.default_rng(0)), draw(np.random.default_rng(0))
        assert first.tolist() == again.tolist()
        assert len(first) == 16 and first.min() >= 0 and first.max() < length


def test_boxes_are_repaired_like_the_reference():
    assert repair_box([5.9, 7.2, 3.1, 2.8], 10, 10) == [3, 2, 5, 7]
    assert repair_box([-3, 0, 0, 0], 10, 10) == [0, 0, 1, 1]
    assert repair_box([12, 4, 15, 4], 10, 10) == [8, 3, 9, 4]


def test_views_depend_on_seed_clip_and_number_only():
    settings = Views()
    same = make_view(settings, "a", 16, 3), make_view(settings, "a", 16, 3)
    others = make_view(settings, "b", 16, 3), make_view(settings, "a", 16, 4), make_view(Views(seed=1), "a", 16, 3)
    key = [(view.scale, view.left, view.top, view.jitter, view.indices.tolist()) for view in (*same, *others)]
    assert key[0] == key[1]
    assert len({str(each) for each in key}) == 4


def test_the_test_view_is_centred_and_plain():
    view = make_view(Views(), "a", 16, TEST_VIEW)
    assert crop_square(view, 72, 96) == (12, 0, 72)
    assert (view.flip, view.jitter) == (False, (1.0, 1.0, 1.0, 0.0))


def marked_frame(x: int, y: int) -> np.ndarray:
    frame = np.zeros((72, 96, 3), np.uint8)
    frame[y : y + 8, x : x + 8] = 255
    return frame


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_move_with_the_crop_and_the_flip_as_the_pixels_do(flip):
    view = View(np.array([0]), scale=1.2, left=0.3, top=0.8, flip=flip)
    pixels = view_rgb([marked_frame(40, 30)], view, 64)[0, ..., 0] > 127
    ys, xs = np.nonzero(pixels)
    box = {"x1": 40 / 96, "y1": 30 / 72, "x2": 48 / 96, "y2": 38 / 72, "score": 1, "category": 2, "side": 0, "state": 3}
    out = view_boxes([[box]], view, (72, 96), 4)
    seen = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 64
    assert np.abs(out["boxes"][0, 0] - seen).max() < 1.5 / 64
    assert (out["side"][0, 0], out["state"][0, 0]) == (2 if flip else 1, 4)  # sides are swapped, shifted by one


def test_a_mirrored_view_negates_horizontal_flow_only():
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[..., 0], frame[..., 1] = 200, 90
    out = view_flow([frame], View(np.array([0]), flip=True), 64)
    assert out.shape == (1, 64, 64, 2)
    assert (np.unique(out[..., 0]).tolist(), np.unique(out[..., 1]).tolist()) == ([55], [90])


def test_boxes_outside_the_crop_are_left_out_and_the_best_are_kept():
    view = View(np.array([0]), scale=2.0, left=0.0, top=0.0)  # the top left 36 of 96 x 72
    shared = {"category": 1, "side": -1, "state": -1}
    outside = {"x1": 0.8, "y1": 0.8, "x2": 0.9, "y2": 0.9, "score": 1.0, **shared}
    inside = [{"x1": 0, "y1": 0, "x2": 0.1, "y2": 0.1, "score": s, **shared} for s in (0.3, 0.9, 0.5)]
    out = view_boxes([[outside, *inside]], view, (72, 96), 2)
    assert np.allclose(out["score"][0], [0.9, 0.5])
    with pytest.raises(ValueError, match="not finite"):
        view_boxes([[outside | {"x1": float("nan")}]], view, (72, 96), 2)


def test_jitter_changes_colours_once_for_the_whole_clip_and_not_at_all_when_it_is_off():
    frames = [marked_frame(20, 20), marked_frame(20, 20)]
    plain = view_rgb(frames, View(np.arange(2)), 64)
    dark = view_rgb(frames, View(np.arange(2), jitter=(0.5, 1.0, 1.0, 0.0)), 64)
    assert plain.max() == 255 and abs(int(dark.max()) - 128) <= 1
    assert (dark[0] == dark[1]).all()


def test_sound_windows_are_centred_on_their_frames():
    samples = np.zeros(16000, np.int16)
    samples[8000] = 1000  # half a second in: frame 4 at 8 frames a second
    out = view_audio(samples, View(np.array([0, 4, 7])), 16000, 8.0, 0.1)
    assert out.shape == (3, 1600)
    assert np.argmax(out[1]) == 800 and out[0].max() == out[2].max() == 0
