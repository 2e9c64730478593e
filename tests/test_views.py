"""A view is the same part of the clip in every modality, and the same again tomorrow."""

import numpy as np
import pytest

from mmkd.config import Views
from mmkd.extract.sound import resample
from mmkd.plan import TEST_VIEW
from mmkd.views import (
    Mix,
    View,
    crop_square,
    make_view,
    mix_boxes,
    mix_frames,
    mix_sound,
    repair_box,
    strided_indices,
    uniform_indices,
    view_audio,
    view_boxes,
    view_flow,
    view_rgb,
)
from mmkd.views import test_views as all_test_views
from mmkd.views.view import PHOTOMETRIC


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


def test_the_views_of_a_seed_stay_what_they_were():
    """Stored before mixing and RandAugment came: what is off must draw nothing."""
    view = make_view(Views(), "clip-7", 40, 5)
    assert view.indices.tolist() == [5, 10, 12, 18, 23, 29, 33, 34]
    assert np.allclose([view.scale, view.left, view.top], [1.26742, 0.616814, 0.136017], atol=1e-6)
    assert np.allclose(view.jitter, [1.232131, 1.052036, 1.113294, -0.019442], atol=1e-6)
    other = Views(seed=3, flip=True, sampling="strided", stride=2, randaugment=2, mixup=0.4, cutmix=1.0)
    again = make_view(other, "clip-7", 40, 5)
    assert again.indices.tolist() == [22, 24, 26, 28, 30, 32, 34, 36] and not again.flip
    assert np.allclose([again.scale, *again.jitter], [1.167971, 1.081439, 1.176084, 0.854063, 0.002221], atol=1e-6)
    assert len(again.operations) == 2 and again.mix is not None


def test_test_views_are_clips_in_time_by_crops_along_the_long_side():
    views = all_test_views(Views(frames=4), 17, [(2, 3)])
    assert len(views) == 6
    assert [view.indices.tolist() for view in views[::3]] == [[1, 5, 9, 13], [3, 7, 11, 15]]
    assert [crop_square(view, 72, 96) for view in views[:3]] == [(0, 0, 72), (12, 0, 72), (24, 0, 72)]
    assert [crop_square(view, 96, 72)[1] for view in views[:3]] == [0, 12, 24]
    (one,) = all_test_views(Views(), 16, [(1, 1)])
    plain = make_view(Views(), "a", 16, TEST_VIEW)
    assert one.indices.tolist() == plain.indices.tolist() and crop_square(one, 72, 96) == crop_square(plain, 72, 96)


def test_the_papers_augmentation_resizes_the_short_side_and_cuts_out_a_square_of_the_size():
    settings = Views(size=224, scale=(1.15, 1.43), hue=0.1)
    views = [make_view(settings, "a", 16, number) for number in range(400)]
    scales, hues = np.array([v.scale for v in views]), np.array([v.jitter[3] for v in views])
    assert 1.15 <= scales.min() < 1.17 and 1.41 < scales.max() <= 1.43
    assert -0.1 <= hues.min() < -0.09 and 0.09 < hues.max() <= 0.1
    assert {crop_square(v, 256, 340)[2] for v in views} == {round(256 / s) for s in scales}


def test_whole_frame_boxes_stay_where_they_are_and_weak_ones_go():
    view = View(np.array([0]), scale=2.0, left=0.0, top=0.0, flip=True)
    shared = {"category": 1, "side": -1, "state": -1}
    boxes = [{"x1": 0.5, "y1": 0.6, "x2": 0.7, "y2": 0.9, "score": 0.4, **shared}]
    weak = {"x1": 0.0, "y1": 0.0, "x2": 0.1, "y2": 0.1, "score": 0.1, **shared}
    out = view_boxes([[weak, *boxes]], view, (72, 96), 3, min_score=0.2, whole_frame=True)
    assert np.allclose(out["boxes"][0, 0], [0.3, 0.6, 0.5, 0.9]) and out["category"][0].tolist() == [1, 0, 0]
    assert view_boxes([boxes], view, (72, 96), 3)["category"][0].tolist() == [0, 0, 0]  # outside the crop


def test_randaugment_changes_colours_alike_in_all_frames_and_moves_nothing():
    frame = marked_frame(20, 20)
    frame[..., 1] //= 2
    for name in PHOTOMETRIC:
        view = View(np.arange(2), operations=((name, -0.8),))
        out = view_rgb([frame, frame], view, 72)
        assert out.shape == (2, 72, 72, 3) and (out[0] == out[1]).all(), name
        plain = view_rgb([frame], View(np.arange(1)), 72)[0]
        if name not in ("sharpness", "autocontrast", "equalize"):  # which keep or need more than two colours
            assert (out[0] != plain).any(), name
        if name != "sharpness":
            assert len(np.unique(out[0].reshape(-1, 3), axis=0)) <= len(np.unique(plain.reshape(-1, 3), axis=0)), name


def test_flow_is_jittered_only_where_asked_for():
    frame = np.full((64, 64, 3), 100, np.uint8)
    view = View(np.array([0]), jitter=(1.2, 1.0, 1.0, 0.0))
    assert (view_flow([frame], view, 64) == 100).all() and (view_flow([frame], view, 64, jitter=True) == 120).all()


def test_mixes_follow_their_settings():
    number = 2000
    never = [make_view(Views(mixup=1.0, mix_probability=0.25), str(i), 8, 0).mix for i in range(number)]
    assert abs(sum(mix is None for mix in never) / number - 0.75) < 0.05
    both = [make_view(Views(mixup=0.5, cutmix=0.5), str(i), 8, 0).mix for i in range(number)]
    assert abs(sum(mix.box is None for mix in both) / number - 0.5) < 0.05
    for mix in both:
        if mix.box is not None:
            left, top, right, bottom = mix.box
            assert 0 <= left <= right <= 1 and mix.share == pytest.approx(1 - (right - left) * (bottom - top))
    assert abs(np.mean([mix.partner for mix in both]) - 0.5) < 0.05


def boxes_of(x: float, score: float) -> dict[str, np.ndarray]:
    box = {"x1": x, "y1": 0.4, "x2": x + 0.1, "y2": 0.5, "score": score, "category": 1, "side": -1, "state": -1}
    columns = view_boxes([[box]], View(np.array([0])), (64, 64), 2)
    return {f"boxes/{name}": value for name, value in columns.items()}


def test_mixing_blends_or_pastes_in_every_modality():
    own, other = np.full((1, 4, 4, 3), 200, np.uint8), np.full((1, 4, 4, 3), 100, np.uint8)
    assert (mix_frames(own, other, Mix(0.0, 0.25)) == 125).all()
    pasted = mix_frames(own, other, Mix(0.0, 0.75, (0.5, 0.0, 1.0, 0.5)))
    assert (pasted[0, :2, 2:] == 100).all() and (pasted[0] == 100).all(axis=-1).sum() == 4
    assert mix_sound(np.array([[100]], np.int16), np.array([[-100]], np.int16), Mix(0.0, 0.75)).tolist() == [[50]]
    blended = mix_boxes(boxes_of(0.1, 0.5), boxes_of(0.6, 1.0), Mix(0.0, 0.4))
    assert np.allclose(blended["boxes/score"], [[0.6, 0.2]]) and np.allclose(blended["boxes/boxes"][0, 0, 0], 0.6)
    right = Mix(0.0, 0.5, (0.5, 0.0, 1.0, 1.0))
    cut = mix_boxes(boxes_of(0.1, 0.5), boxes_of(0.6, 1.0), right)
    assert cut["boxes/category"].tolist() == [[1, 1]]
    cut = mix_boxes(boxes_of(0.6, 0.5), boxes_of(0.1, 1.0), right)
    assert not cut["boxes/category"].any() and not cut["boxes/score"].any() and not cut["boxes/boxes"].any()


def test_sound_can_be_resampled():
    time = np.arange(24000) / 24000
    tone = (8000 * np.sin(2 * np.pi * 500 * time)).astype(np.int16)
    out = resample(tone, 24000, 16000)
    assert out.dtype == np.int16 and len(out) == 16000
    expected = 8000 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)
    assert np.abs(out[500:-500] - expected[500:-500]).max() < 100
    assert resample(tone, 24000, 24000) is tone
