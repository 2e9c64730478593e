"""What each row is taught, and what the global loss is made of."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mmkd.config import Settings, SettingsError
from mmkd.jobs import distill, train_teacher
from mmkd.losses import distillation_loss
from mmkd.metrics import mean_average_precision, selection_score
from mmkd.models.features import FeatureStudent
from mmkd.objective import Objective
from mmkd.optimizing import scheduled
from mmkd.runs import read_metrics
from tests.small import HEADS, small_settings

CPU = torch.device("cpu")
WEIGHTS = {"verb": torch.tensor([0.75, 0.25]), "noun": torch.tensor([0.5, 0.5])}
COOLING = {"temperature": 8.0, "temperature_schedule": "cosine", "temperature_end": 1.0}
HANDING_OVER = {"weight_schedule": "linear", "distill_weight": 1.0, "label_weight": 0.0}
"""From the teachers alone in the first step to the labels alone in the last one."""


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
    taught = {"kd/verb": 4, "kd/noun": 4, "agreement/verb": 4, "agreement/noun": 4}
    assert counts == taught | {"ce/verb": 4, "ce/noun": 5}
    rows = objective.rows(output, targets)
    assert rows["ce/verb"][0] == 0 and rows["kd/verb"][1] == 0 and rows["kd/verb"][0] != 0
    assert all(values[5] == 0 for values in rows.values())
    some = objective.rows({h: x[2:4] for h, x in output.items()}, targets.take(torch.tensor([2, 3])))
    assert all(torch.equal(some[term], rows[term][2:4]) for term in rows)


def test_agreement_is_the_share_of_taught_rows_with_the_ensembles_class(tmp_path):
    block, output = a_block(), answer()
    block["teacher_present"][5] = False
    record, _ = loss_of(objective_of(tmp_path), block, output)
    shares = []
    for head, weights in WEIGHTS.items():
        ensemble = torch.einsum("rtc,t->rc", torch.from_numpy(block[f"teacher_logits/{head}"]), weights)
        shares.append((ensemble.argmax(dim=1) == output[head].argmax(dim=1))[:5].float().mean().item())
    assert 0 < sum(shares) < 2 and record["agreement"].item() == pytest.approx(sum(shares) / 2)
    assert "agreement" not in loss_of(objective_of(tmp_path), block, output, weights={})[0]


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


def test_schedules_by_hand():
    for progress, linear, cosine in ((0, 8, 8), (0.25, 6.25, 4.5 + 3.5 * math.sqrt(0.5)), (0.5, 4.5, 4.5), (1, 1, 1)):
        assert scheduled("linear", 8.0, 1.0, progress) == pytest.approx(linear, rel=1e-12)
        assert scheduled("cosine", 8.0, 1.0, progress) == pytest.approx(cosine, rel=1e-12)
        assert scheduled("constant", 8.0, 1.0, progress) == 8.0
    for schedule in ("linear", "cosine"):
        assert (scheduled(schedule, 0.1, 0.7, 0), scheduled(schedule, 0.1, 0.7, 1)) == (0.1, 0.7)


def test_the_temperature_and_weights_of_the_present_reach_every_part_of_the_loss(tmp_path):
    block, output = a_block(), answer()
    teachers = {"ensemble": "probabilities"}
    moving = objective_of(tmp_path, teachers=teachers, loss=COOLING | HANDING_OVER | {"head_weights": {"verb": 2.0}})
    for progress, temperature, weight in ((0.0, 8.0, 1.0), (0.5, 4.5, 0.5), (1.0, 1.0, 0.0), (0.0, 8.0, 1.0)):
        moving.set_progress(progress)
        there = {"temperature": temperature, "distill_weight": weight, "label_weight": 1 - weight}
        still = objective_of(tmp_path, teachers=teachers, loss=there | {"head_weights": {"verb": 2.0}})
        (got, _), (expected, _) = loss_of(moving, block, output), loss_of(still, block, output)
        assert {name: float(value) for name, value in got.items()} == pytest.approx(
            {name: float(value) for name, value in expected.items()}, rel=1e-6
        )


def train(home, name, **sections):
    return Path(distill(small_settings(home, run={"name": name}, **sections))["run_folder"])


def train_rows(folder):
    return [row for row in read_metrics(folder) if row["kind"] == "train"]


def losses(folder):
    return [(row["step"], row["loss"], row["kd"], row["ce"]) for row in train_rows(folder)]


@pytest.fixture(scope="module")
def moved(home):
    """Two epochs of five steps with both schedules."""
    return train(home, "moved", loss=COOLING | HANDING_OVER)


def test_a_training_follows_its_schedules_from_the_first_step_to_the_last(moved, home):
    rows = train_rows(moved)
    assert [row["step"] for row in rows] == list(range(1, 11))
    for row in rows:
        progress = (row["step"] - 1) / 9
        assert row["temperature"] == pytest.approx(4.5 + 3.5 * math.cos(math.pi * progress), rel=1e-9)
        assert row["distill_weight"] == pytest.approx(1 - progress, abs=1e-12)
        assert row["label_weight"] == pytest.approx(progress, abs=1e-12)
        expected = row["distill_weight"] * row["kd"] + row["label_weight"] * row["ce"]
        assert row["kd"] > 0 and row["loss"] == pytest.approx(expected, rel=1e-5)
    assert (rows[0]["loss"], rows[-1]["loss"]) == (rows[0]["kd"], pytest.approx(rows[-1]["ce"], rel=1e-6))
    hot = train(home, "hot", loss={"temperature": 8.0}, optim={"epochs": 1, "batch_size": 8})
    assert train_rows(hot)[0]["kd"] == rows[0]["kd"]
    one = train(home, "one-step", loss=COOLING | HANDING_OVER, optim={"epochs": 1, "batch_size": 40})
    (row,) = train_rows(one)
    assert (row["temperature"], row["distill_weight"], row["label_weight"]) == (8.0, 1.0, 0.0)


def test_ends_do_nothing_while_the_schedule_is_constant(home):
    plain = train(home, "plain", loss={"label_weight": 0.5})
    ends = {"temperature_end": 9.0, "distill_weight_end": 3.0, "label_weight_end": 0.0}
    same = train(home, "constant", loss={"label_weight": 0.5} | ends)
    assert losses(same) == losses(plain)
    assert not {"temperature", "distill_weight", "label_weight"} & set(train_rows(same)[0])


def test_a_run_cut_off_in_the_middle_of_its_schedules_goes_on_as_if_it_had_not_been(moved, home, tmp_path):
    for folder in ("data", "models"):
        (tmp_path / folder).symlink_to(home / folder)
    cut = tmp_path / "runs" / "moved"
    shutil.copytree(moved, cut)
    shutil.rmtree(max((cut / "checkpoints").glob("checkpoint_*")))
    (cut / "result.json").unlink()
    before = train_rows(moved)
    assert train(tmp_path, "moved", loss=COOLING | HANDING_OVER) == cut
    assert losses(cut) == losses(moved)
    for name in ("temperature", "distill_weight", "label_weight"):
        assert [row[name] for row in train_rows(cut)] == [row[name] for row in before]


def test_teachers_are_there_if_they_are_needed_at_any_time(home, capsys):
    later = {"distill_weight": 0.0, "label_weight": 1.0, "weight_schedule": "linear", "distill_weight_end": 1.0}
    later |= {"label_weight_end": 0.0, "feature_weight": 0.5, "temperature_schedule": "cosine"}
    rows = train_rows(train(home, "later", loss=later, optim={"epochs": 1, "batch_size": 8}))
    assert all(row["kd"] > 0 for row in rows)
    assert rows[0]["loss"] == pytest.approx(rows[0]["ce"] + 0.5 * rows[0]["feature"], rel=1e-5)
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["kd"] + 0.5 * rows[-1]["feature"], rel=1e-5)
    capsys.readouterr()
    distill(small_settings(home, loss=later, run={"dry_run": True}))
    said = "0 to 1 (linear) x kl at temperature 2 to 1 (cosine) + 1 to 0 (linear) x cross-entropy with labels + 0.5 x"
    assert said in capsys.readouterr().err
    with pytest.raises(SettingsError, match=r"loss\.distill_weight_end must be 0 for a teacher"):
        train_teacher(small_settings(home, loss=later))
    alone = small_settings(home, loss=later).loss.labels_only()
    assert not alone.distils and Settings.model_validate({"loss": alone.model_dump()}).loss == alone


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"distill_weight": 0.0, "distill_weight_end": 1.0, "weight_schedule": "linear"}, "label_weight are both 0"),
        ({"label_weight_end": 0.0, "weight_schedule": "cosine"}, "label_weight_end are both 0: the last step"),
        ({"distill_weight": 0.0, "distill_weight_end": 1.0, "label_weight": 1.0, "feature_weight": 1.0}, "needs teach"),
        ({"temperature_schedule": "step"}, "temperature_schedule"),
    ],
)
def test_a_loss_with_nothing_to_learn_from_at_some_time_is_refused(loss, expected):
    with pytest.raises(ValueError, match=expected):
        Settings.model_validate({"loss": loss})
