"""Calibration errors, their floors, the Brier score and temperature scaling on numbers worked out by hand."""

import time

import numpy as np
import pytest

from mmkd.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    brier_per_clip,
    brier_score,
    calibration_floor,
    class_wise_calibration_error,
    class_wise_calibration_floor,
    equal_mass_calibration_error,
    fit_temperature,
    fit_temperatures,
    joint_brier_per_clip,
)
from mmkd.metrics import binned_calibration_error, negative_log_likelihood, softmax


def sampled(p: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A label of each row of probabilities."""
    return (p.cumsum(axis=1) < random.random((len(p), 1))).sum(axis=1)


def test_bins_of_equal_mass_hold_as_many_clips_each():
    # Two bins: {0.1, 0.2} both wrong, gap 0.15; {0.3, 0.9} both right, gap 0.4. Equal widths would part 0.3 from 0.9.
    confidence, correct = [0.9, 0.1, 0.3, 0.2], [1, 0, 1, 0]
    assert equal_mass_calibration_error(confidence, correct, 2) == pytest.approx((0.15 + 0.4) / 2)
    assert binned_calibration_error(confidence, correct, 2) != pytest.approx((0.15 + 0.4) / 2)
    # As many bins as clips, and more.
    for bins in (4, 15):
        assert equal_mass_calibration_error(confidence, correct, bins) == pytest.approx((0.1 + 0.1 + 0.7 + 0.2) / 4)


def test_equal_confidences_are_judged_together_in_whatever_order():
    correct = np.array([1, 1, 0, 0])
    assert equal_mass_calibration_error([0.5] * 4, correct, 4) == 0
    # Two bins: both 0.4, which are right, stay with 0.2; 0.9 is by itself.
    assert equal_mass_calibration_error([0.4, 0.9, 0.2, 0.4], [1, 0, 0, 1], 2) == pytest.approx((1.0 + 0.9) / 4)
    random = np.random.default_rng(0)
    confidence, correct = random.integers(0, 5, 300) / 4, random.integers(0, 2, 300)
    order = random.permutation(300)
    assert equal_mass_calibration_error(confidence, correct) == pytest.approx(
        equal_mass_calibration_error(confidence[order], correct[order]), abs=1e-12
    )


@pytest.mark.parametrize("clips, points", [(300, 6.9), (1000, 3.8), (2000, 2.7)])
def test_the_floor_is_what_a_calibrated_model_scores(clips, points):
    random = np.random.default_rng(1)
    confidence = random.random(clips)
    assert 100 * calibration_floor(confidence) == pytest.approx(points, abs=0.35)
    for kind, error in (("width", binned_calibration_error), ("mass", equal_mass_calibration_error)):
        scored = [error(confidence, random.random(clips) < confidence) for _ in range(1000)]
        assert calibration_floor(confidence, draws=1000, kind=kind) == pytest.approx(np.mean(scored), rel=0.03)


def test_the_floor_is_zero_where_nothing_is_left_to_chance_and_does_not_know_the_order_of_clips():
    assert calibration_floor([0.0, 1.0, 1.0]) == 0
    confidence = np.random.default_rng(0).random(100)
    for kind in ("width", "mass"):
        assert calibration_floor(confidence, kind=kind) == calibration_floor(confidence[::-1], kind=kind)


def test_the_floor_of_ten_thousand_clips_is_quick():
    begin = time.process_time()
    calibration_floor(np.random.default_rng(0).random(10_000))
    assert time.process_time() - begin < 1


def test_class_wise_error_is_the_mean_over_classes_with_a_clip():
    # Class 0, one bin: probabilities 0.7 and 0.5, label of one of two: gap |1.2 - 1| / 2 = 0.1.
    # Class 1: 0.2 and 0.4, label of one: 0.2. Class 2 (0.1 and 0.1, gap 0.1) has no clip.
    p = [[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]]
    assert class_wise_calibration_error(p, [0, 1], 1) == pytest.approx((0.1 + 0.2) / 2)
    # Two bins part 0.7 from 0.5: gaps 0.3 and 0.5 of class 0; 0.2 and 0.4 of class 1 share a bin.
    assert class_wise_calibration_error(p, [0, 1], 2) == pytest.approx(((0.3 + 0.5) / 2 + 0.2) / 2)


def test_class_wise_error_is_the_binned_error_of_each_class():
    random = np.random.default_rng(0)
    p = softmax(2 * random.normal(size=(200, 4)))
    truth = sampled(p, random)
    each = [binned_calibration_error(p[:, c], truth == c) for c in range(4)]
    assert class_wise_calibration_error(p, truth) == pytest.approx(np.mean(each))


def test_the_class_wise_floor_is_what_a_calibrated_model_scores():
    random = np.random.default_rng(0)
    p = softmax(2 * random.normal(size=(150, 12)))
    scored = np.mean([class_wise_calibration_error(p, sampled(p, random)) for _ in range(100)])
    assert class_wise_calibration_floor(p) == pytest.approx(scored, rel=0.03)
    assert class_wise_calibration_floor(p) == pytest.approx(class_wise_calibration_floor(p[::-1]), abs=1e-12)
    assert class_wise_calibration_floor(np.eye(3)) == 0


def test_brier_is_the_squared_distance_summed_over_classes():
    p = [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.3, 0.2]]
    expected = [0, 2, 0.25 + 0.49 + 0.04]
    assert brier_per_clip(p, [0, 1, 1]) == pytest.approx(expected)
    assert brier_score(p, [0, 1, 1]) == pytest.approx(np.mean(expected))


def test_brier_of_several_heads_is_that_of_the_outer_product():
    random = np.random.default_rng(0)
    verb, noun, hand = (softmax(random.normal(size=(20, classes))) for classes in (4, 5, 2))
    labels = [random.integers(0, p.shape[1], 20) for p in (verb, noun, hand)]
    outer = np.einsum("na,nb,nc->nabc", verb, noun, hand).reshape(20, -1)
    flat = np.ravel_multi_index(labels, (4, 5, 2))
    assert joint_brier_per_clip([verb, noun, hand], labels) == pytest.approx(brier_per_clip(outer, flat))


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0, 12.0])
def test_temperature_is_recovered(temperature):
    random = np.random.default_rng(0)
    z = 2 * random.normal(size=(20_000, 10))
    truth = sampled(softmax(z), random)
    assert fit_temperature(temperature * z, truth) == pytest.approx(temperature, rel=0.03)


def test_temperature_is_where_the_loss_is_least():
    random = np.random.default_rng(0)
    for scale in (0.2, 1.0, 8.0):
        z, truth = scale * random.normal(size=(300, 6)), random.integers(0, 6, 300)
        z[np.arange(300), truth] += scale
        fitted = fit_temperature(z, truth)
        best = negative_log_likelihood(z / fitted, truth)
        assert LOWEST_TEMPERATURE < fitted < HIGHEST_TEMPERATURE
        for other in (fitted * 0.999, fitted * 1.001, 1.0, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE):
            assert best <= negative_log_likelihood(z / other, truth) + 1e-12


def test_temperature_goes_with_the_scale_and_not_with_shift_order_or_unknown_clips():
    random = np.random.default_rng(0)
    z, truth = random.normal(size=(200, 5)), random.integers(0, 5, 200)
    z[np.arange(200), truth] += 1
    fitted, order = fit_temperature(z, truth), random.permutation(200)
    assert fit_temperature(5 * z, truth) == pytest.approx(5 * fitted, rel=1e-6)
    assert fit_temperature(z[order] + 1000, truth[order]) == pytest.approx(fitted, rel=1e-6)
    more = np.concatenate([z, random.normal(size=(50, 5))]), np.concatenate([truth, np.full(50, -1)])
    assert fit_temperature(*more) == pytest.approx(fitted, rel=1e-9)


def test_temperature_stops_at_its_bounds():
    assert fit_temperature([[2.0, 1.0], [0.0, 3.0]], [0, 1]) == LOWEST_TEMPERATURE
    assert fit_temperature([[1e6, 0.0], [0.0, 1e6]], [0, 1]) == LOWEST_TEMPERATURE
    assert fit_temperature([[2.0, 1.0], [0.0, 3.0]], [1, 0]) == HIGHEST_TEMPERATURE


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="none of 2 clips has a label"):
        fit_temperature(np.zeros((2, 3)), [-1, -1])
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature([[np.nan, 0.0]], [0])
    with pytest.raises(ValueError, match="softmax"):
        brier_score([[3.0, -1.0]], [0])
    with pytest.raises(ValueError, match=r"labels are 0..2; they must be 0..1"):
        brier_score([[0.5, 0.5], [0.5, 0.5]], [0, 2])
    with pytest.raises(ValueError, match="n > 0"):
        class_wise_calibration_error(np.zeros((0, 3)), [])
    with pytest.raises(ValueError, match="n > 0"):
        calibration_floor([])
    with pytest.raises(ValueError, match="width or mass"):
        calibration_floor([0.5], kind="depth")


def test_each_head_with_labels_of_one_class_has_a_temperature_of_its_own():
    random = np.random.default_rng(0)
    logits = {head: random.normal(size=(50, 4)).astype(np.float32) for head in ("verb", "noun", "tags", "unknown")}
    labels = {"verb": random.integers(0, 4, 50), "noun": random.integers(-1, 4, 50), "unknown": np.full(50, -1)}
    labels["tags"] = random.integers(0, 2, (50, 4))
    expected = {head: fit_temperature(logits[head], labels[head]) for head in ("verb", "noun")}
    assert fit_temperatures(logits, labels) == expected
