"""The loss and the ensemble are the paper's, on numbers worked out by hand."""

import math

import pytest
import torch

from mmkd.losses import distillation_loss, row_sums
from mmkd.teachers import combine, present_weights, teacher_weights


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


STUDENT = {
    "verb": torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]),
    "noun": torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]),
}
TEACHER = {"verb": torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]), "noun": torch.tensor([[0.0, 0.0], [0.0, 0.0]])}
LABELS = {"verb": torch.tensor([1, 0]), "noun": torch.tensor([0, 1])}


def test_loss_is_the_papers_at_temperature_one():
    kd = (kl([0.75, 0.25], [0.25, 0.75]) / 2 + kl([0.5, 0.5], [0.75, 0.25]) / 2) / 2
    ce = ((-math.log(0.75) - math.log(0.5)) / 2 + (-math.log(0.5) - math.log(0.25)) / 2) / 2
    for distill, label in ((1, 0), (0, 1), (0.7, 0.3)):
        loss = distillation_loss(STUDENT, TEACHER, LABELS, temperature=1.0, distill_weight=distill, label_weight=label)
        assert loss.item() == pytest.approx(distill * kd + label * ce, rel=1e-6)


def test_temperature_softens_both_and_scales_by_its_square():
    soft = {head: logits / 4 for head, logits in STUDENT.items()}, {head: t / 4 for head, t in TEACHER.items()}
    options = {"distill_weight": 1.0, "label_weight": 0.0}
    hot = distillation_loss(STUDENT, TEACHER, LABELS, temperature=4.0, **options)
    assert hot.item() == pytest.approx(
        16 * distillation_loss(*soft, LABELS, temperature=1.0, **options).item(), rel=1e-6
    )


def test_head_weights_reach_the_label_term_only_and_zero_leaves_a_head_out():
    def loss(weights, distill, label):
        options = {"temperature": 1.0, "distill_weight": distill, "label_weight": label, "head_weights": weights}
        return distillation_loss(STUDENT, TEACHER, LABELS, **options).item()

    assert loss({"verb": 3.0}, 1, 0) == loss(None, 1, 0)
    verb, noun = (-math.log(0.75) - math.log(0.5)) / 2, (-math.log(0.5) - math.log(0.25)) / 2
    assert loss({"verb": 3.0}, 0, 1) == pytest.approx((3 * verb + noun) / 2, rel=1e-6)
    assert loss({"noun": 0.0}, 1, 0) == pytest.approx(kl([0.75, 0.25], [0.25, 0.75]) / 2, rel=1e-6)
    with pytest.raises(ValueError, match="every head"):
        loss({"verb": 0.0, "noun": 0.0}, 1, 1)
    with pytest.raises(ValueError, match="adverb"):
        loss({"adverb": 1.0}, 1, 1)


def test_row_sums_over_all_rows_are_the_loss_and_untaught_or_unlabelled_rows_count_nowhere():
    taught = torch.ones(2, 2, dtype=torch.bool)
    sums = row_sums(STUDENT, TEACHER, taught, LABELS, 2.0)
    kd = sum(sums["kd"][head] / sums["taught"][head] for head in STUDENT) / 2
    options = {"temperature": 2.0, "distill_weight": 1.0, "label_weight": 0.0}
    assert kd.item() == pytest.approx(distillation_loss(STUDENT, TEACHER, LABELS, **options).item(), rel=1e-6)
    taught[0, 0] = False
    some = row_sums(STUDENT, TEACHER, taught, {"verb": torch.tensor([-1, 0]), "noun": LABELS["noun"]}, 2.0)
    assert (some["taught"]["verb"].item(), some["labelled"]["verb"].item()) == (1, 1)
    assert some["kd"]["verb"].item() == 0.0  # the row that is left agrees with its teacher
    assert some["ce"]["verb"].item() == pytest.approx(math.log(2), rel=1e-6)


def test_weights_are_the_softmin_of_the_losses():
    losses = torch.tensor([1.0, 1.0 + math.log(3)])
    assert teacher_weights(losses, 1.0).tolist() == pytest.approx([0.75, 0.25])
    assert teacher_weights(losses, 1e6).tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    assert teacher_weights(losses, 1e-3).tolist() == pytest.approx([1.0, 0.0])
    assert teacher_weights(losses.repeat(3, 1), 1.0).shape == (3, 2)


def test_the_ensemble_is_the_weighted_mean_of_raw_logits():
    logits = torch.tensor([[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [4.0, 8.0]]])
    assert combine(logits, torch.tensor([0.75, 0.25])).tolist() == [[1.5, 3.0], [1.0, 2.0]]
    assert combine(logits, torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist() == [[1.0, 2.0], [2.0, 4.0]]


def test_weights_are_shared_out_again_where_a_teacher_is_missing():
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    weights = present_weights(torch.tensor([0.2, 0.5, 0.3]), present)
    assert torch.allclose(weights, torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.0, 0.6], [0.0, 0.0, 0.0]]))
