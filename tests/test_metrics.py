"""Accuracy and calibration on numbers worked out by hand."""

import numpy as np
import pytest

from mmkd.metrics import (
    average_views,
    evaluate_heads,
    expected_calibration_error,
    negative_log_likelihood,
    paired_difference,
    topk_accuracy,
)


def logits_of(confidences: list[float]) -> np.ndarray:
    p = np.array(confidences)
    return np.log(np.stack([p, 1 - p], axis=1))


def test_calibration_error_is_the_weighted_gap_over_bins():
    # 0.9 twice, right once: gap 0.4; 0.6 twice, right twice: gap 0.4.
    assert expected_calibration_error(logits_of([0.9, 0.9, 0.6, 0.6]), [0, 1, 0, 0]) == pytest.approx(0.4)
    # With one bin: mean confidence 0.75, accuracy 0.75.
    assert expected_calibration_error(logits_of([0.9, 0.9, 0.6, 0.6]), [0, 1, 0, 0], num_bins=1) == pytest.approx(0.0)


def test_topk_counts_labels_among_the_best_and_clamps_k_and_says_so():
    logits = [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]
    assert [topk_accuracy(logits, [1, 0], k) for k in (1, 2, 3)] == [0.0, 0.5, 1.0]
    with pytest.warns(UserWarning, match="top-5 accuracy of 3 classes"):
        assert topk_accuracy(logits, [1, 0], 5) == 1.0


def test_views_are_averaged_as_logits():
    assert average_views([[[1.0, 0.0], [0.0, 4.0]]]).tolist() == [[0.5, 2.0]]
    with pytest.raises(ValueError, match="views"):
        average_views([[1.0, 0.0]])


def test_an_action_is_right_when_every_head_is_and_its_confidence_is_their_product():
    logits = {"verb": logits_of([0.8, 0.8]), "noun": logits_of([0.5 + 1e-9, 0.9])}
    result = evaluate_heads(logits, {"verb": [0, 0], "noun": [0, 1]})
    assert result["action"]["accuracy"] == 0.5
    assert result["action"]["ece"] == pytest.approx((abs(0.4 - 1) + abs(0.72 - 0)) / 2)
    assert result["action"]["nll"] == pytest.approx(result["verb"]["nll"] + result["noun"]["nll"])
    assert result["verb"]["nll"] == pytest.approx(-np.log(0.8))


def test_rows_without_a_label_are_left_out():
    logits = {"verb": logits_of([0.8, 0.8, 0.8]), "noun": logits_of([0.8, 0.8, 0.8])}
    result = evaluate_heads(logits, {"verb": [0, -1, 1], "noun": [0, 0, 0]})
    assert (result["verb"]["n"], result["noun"]["n"], result["action"]["n"]) == (2, 3, 2)


def test_likelihood_stands_large_logits_and_empty_input_is_refused():
    assert negative_log_likelihood([[1e4, 0.0]], [0]) == 0.0
    with pytest.raises(ValueError, match="n > 0"):
        topk_accuracy(np.zeros((0, 3)), [], 1)


def test_differences_are_paired_by_clip():
    mean, error = paired_difference([1, 1, 0, 1], [1, 0, 0, 1])
    assert mean == 0.25 and error == pytest.approx(0.25)
