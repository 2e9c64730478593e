"""What each row is taught, and what the global loss is made of."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmkd.losses import distillation_loss
from mmkd.metrics import mean_average_precision, selection_score
from mmkd.models.features import FeatureStudent
from mmkd.objective import Objective
from tests.small import HEADS, small_settings

CPU = torch.device("cpu")
WEIGHTS = {"verb": torch.tensor([0.75, 0.25]), "noun": torch.tensor([0.5, 0.5])}


def objective_of(tmp_path, heads=HEADS, **sections):
    return Objective(small_settings(tmp_path, **sections), heads, CPU)


def a_block(rows=6):
    rng = np.random.default_rng(0)
    block = {f"label/{head}": rng.integers(0, len(names), rows) for head, names in HEADS.items()}
    block |= {
        f"teacher_logits/{head}": rng.standard_normal((rows, 2, len(names))).astype(np.float32)
        for head, names in HEADS.items()
    }
    return block | {"teacher_present": np.ones((rows, 2), bool)}


def answer(rows=6):
    torch.manual_seed(3)
    return {head: torch.randn(rows, len(names)) for head, names in HEADS.items()}


def loss_of(objective, block, output, weights=WEIGHTS):
    rows = np.arange(len(next(iter(output.values()))))
    targets = objective.targets(block, rows, np.ones(len(rows), bool), weights)
    counts = objective.counts(targets)
    sums = objective.rows(output, targets)
    zero = torch.zeros(())
    return objective.record({term: sums[term].sum() / counts[term].clamp_min(1) if term in sums else zero
                             for term in counts}), counts  # fmt: skip


def test_over_whole_batches_it_is_the_papers_loss(tmp_path):
    loss = {"distill_weight": 0.7, "label_weight": 0.3, "temperature": 3.0, "head_weights": {"verb": 2.0}}
    block, output = a_block(), answer()
    record, _ = loss_of(objective_of(tmp_path, loss=loss), block, output)
    teacher = {h: torch.einsum("rtc,t->rc", torch.from_numpy(block[f"teacher_logits/{h}"]), WEIGHTS[h]) for h in HEADS}
    labels = {head: torch.from_numpy(block[f"label/{head}"]) for head in HEADS}
    expected = distillation_loss(output, teacher, labels, **loss)
    assert record["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert record["loss"].item() == pytest.approx(0.7 * record["kd"].item() + 0.3 * record["ce"].item(), rel=1e-5)


def test_rows_without_label_or_teacher_or_that_are_padding_count_nowhere(tmp_path):
    block, output = a_block(), answer()
    objective = objective_of(tmp_path, loss={"label_weight": 1.0})
    block["label/verb"][0] = -1
    block["teacher_present"][1] = False
    real = np.array([True, True, True, True, True, False])
    targets = objective.targets(block, np.arange(6), real, WEIGHTS)
    counts = {term: int(count) for term, count in objective.counts(targets).items()}
    assert counts == {"kd/verb": 4, "kd/noun": 4, "ce/verb": 4, "ce/noun": 5}
    rows = objective.rows(output, targets)
    assert rows["ce/verb"][0] == 0 and rows["kd/verb"][1] == 0 and rows["kd/verb"][0] != 0
    assert all(values[5] == 0 for values in rows.values())
    some = objective.rows({h: x[2:4] for h, x in output.items()}, targets.take(torch.tensor([2, 3])))
    assert all(torch.equal(some[term], rows[term][2:4]) for term in rows)


def test_distillation_head_weights_reach_the_distillation_term_only(tmp_path):
    block, output = a_block(), answer()
    loss = {"label_weight": 1.0}
    plain, _ = loss_of(objective_of(tmp_path, loss=loss), block, output)
    weighted, _ = loss_of(objective_of(tmp_path, loss=loss | {"distill_head_weights": {"verb": 0.0}}), block, output)
    assert weighted["ce"] == plain["ce"] and weighted["kd"] < plain["kd"]
    with pytest.raises(ValueError, match="distill_head_weights names"):
        objective_of(tmp_path, loss={"distill_head_weights": {"adverb": 1.0}})


def test_a_mixed_row_has_both_labels_by_their_shares(tmp_path):
    block, output = a_block(), answer()
    objective = objective_of(tmp_path, loss={"label_weight": 1.0})
    block["mix/share"] = np.array([0.6, 1, 1, 1, 1, 0.5], np.float32)
    for head in HEADS:
        block[f"mix_label/{head}"] = np.full(6, -1)
        block[f"mix_label/{head}"][0] = 1
    targets = objective.targets(block, np.arange(6), np.ones(6, bool), WEIGHTS)
    rows = objective.rows(output, targets)["ce/verb"]
    own = F.cross_entropy(output["verb"], torch.from_numpy(block["label/verb"]), reduction="none")
    other = F.cross_entropy(output["verb"][:1], torch.tensor([1]))
    assert rows[0].item() == pytest.approx((0.6 * own[0] + 0.4 * other).item(), rel=1e-5)
    assert torch.allclose(rows[1:5], own[1:5]) and rows[5] == 0  # half of row 5 has no known label
    assert int(objective.counts(targets)["ce/verb"]) == 5


def test_per_sample_weights_follow_each_clips_label(tmp_path):
    block = a_block()
    block["teacher_logits/verb"][0] = [[9, 0, 0], [0, 9, 0]]
    block["label/verb"][:2] = [1, -1]
    teachers = {"weighting": "per_sample", "gamma": 0.5}
    targets = objective_of(tmp_path, teachers=teachers).targets(block, np.arange(6), np.ones(6, bool), WEIGHTS)
    assert targets.teacher["verb"][0].tolist() == pytest.approx([0, 9, 0], abs=1e-4)  # the one that is right
    held_out = 0.75 * block["teacher_logits/verb"][1, 0] + 0.25 * block["teacher_logits/verb"][1, 1]
    assert targets.teacher["verb"][1].tolist() == pytest.approx(held_out.tolist(), rel=1e-5)


def test_an_ensemble_of_probabilities_is_another_target(tmp_path):
    block, loss = a_block(), {"temperature": 2.0}
    objective = objective_of(tmp_path, teachers={"ensemble": "probabilities"}, loss=loss)
    targets = objective.targets(block, np.arange(6), np.ones(6, bool), WEIGHTS)
    soft = torch.softmax(torch.from_numpy(block["teacher_logits/noun"]) / 2, -1).mean(1)
    assert torch.allclose(torch.softmax(targets.teacher["noun"] / 2, -1), soft, atol=1e-6)


def test_features_are_compared_where_the_teacher_saw_the_clip(tmp_path):
    block, output = a_block(), answer()
    block["teacher_features"] = np.ones((6, 4), np.float32)
    block["feature_present"] = np.array([True, True, False, False, False, False])
    objective = objective_of(tmp_path, loss={"feature_weight": 0.5})
    record, counts = loss_of(objective, block, output | {FeatureStudent.FEATURES: torch.full((6, 4), 3.0)})
    assert counts["feature"] == 2 and record["feature"].item() == pytest.approx(4.0)
    assert record["loss"].item() == pytest.approx(record["kd"].item() + 2.0, rel=1e-5)


def test_mean_average_precision_by_hand_and_what_the_best_model_is_chosen_by():
    logits = np.array([[0.9, 0.1], [0.8, 0.9], [0.7, 0.2]])
    labels = np.array([[1, 0], [0, 0], [1, 0]])
    assert mean_average_precision(logits, labels) == pytest.approx((1 + 2 / 3) / 2)  # the second class has no clip
    assert math.isnan(mean_average_precision(logits, np.zeros((3, 2))))
    metrics = {"tags": {"mean_average_precision": 0.4}, "verb": {"accuracy": 0.5}}
    verb = np.array([[1.0, 0.0], [1.0, 0.0]])
    score = selection_score(metrics, {"tags": logits, "verb": verb}, {"tags": labels, "verb": np.array([0, 1])})
    assert score == pytest.approx((0.4 + (0.5 + 1.0) / 2) / 2)
