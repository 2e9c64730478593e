"""The loss and the ensemble are the paper's, on numbers worked out by hand."""

import math

import pytest
import torch

from mmkd.losses import (
    DISTILLATION,
    MULTI_LABEL_DISTILLATION,
    ce_per_row,
    distillation_loss,
    feature_per_row,
    kd_per_row,
)
from mmkd.teachers import (
    class_columns,
    combine,
    combine_probabilities,
    per_sample_weights,
    present_weights,
    teacher_weights,
)


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


def row(kind, student, teacher, label=0, temperature=1.0, **more):
    s, t = torch.tensor([student]), torch.tensor([teacher])
    return kd_per_row(s, t, torch.tensor([label]), kind=kind, temperature=temperature, **more).item()


S, T3 = [0.5, -1.0, 2.0], [1.0, 0.0, -0.5]


def test_soft_cross_entropy_is_kl_plus_the_teachers_entropy():
    p = torch.tensor(T3).div(2).softmax(0)
    entropy = -(p * p.log()).sum().item()
    assert row("soft_ce", S, T3, temperature=2.0) == pytest.approx(
        row("kl", S, T3, temperature=2.0) + 4 * entropy, rel=1e-5
    )


def test_mse_hard_and_standardised_terms_on_numbers_worked_out_by_hand():
    assert row("mse", S, T3) == pytest.approx((0.25 + 1 + 6.25) / 3, rel=1e-6)
    assert row("hard", S, T3) == pytest.approx(-math.log(math.exp(0.5) / sum(math.exp(x) for x in S)), rel=1e-6)
    # Any rise and stretch of the logits leaves the standardised term as it is.
    assert row("standardized_kl", [2 + 3 * x for x in S], T3) == pytest.approx(row("standardized_kl", S, T3), rel=1e-4)
    assert row("standardized_kl", [5 * x for x in T3], T3) == pytest.approx(0.0, abs=1e-6)
    z = [(x - 0.5) / math.sqrt((0 + 1.5**2 + 1.5**2) / 3) for x in S]
    assert row("standardized_kl", S, [-1.0, 0.0, 1.0]) == pytest.approx(
        row("kl", z, [-math.sqrt(1.5), 0.0, math.sqrt(1.5)]), rel=1e-5
    )


def test_decoupled_term_with_both_weights_equal_to_the_teachers_shares_is_kl():
    """KL = binary KL + (1 - p_teacher(label)) * KL over the other classes (equation 7 of arXiv 2203.08679)."""
    share = 1 - torch.tensor(T3).softmax(0)[1].item()
    assert row("dkd", S, T3, label=1, alpha=1.0, beta=share) == pytest.approx(row("kl", S, T3), rel=1e-5)
    assert row("dkd", S, T3, label=-1) == pytest.approx(row("dkd", S, T3, label=0), rel=1e-6)  # the teacher's class
    assert row("dkd", S, T3, label=1, temperature=4.0) != pytest.approx(row("dkd", S, T3, label=1), rel=1e-2)


@pytest.mark.parametrize("kind", DISTILLATION)
def test_every_kind_pulls_the_student_towards_the_teacher_with_finite_gradients(kind):
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 5, requires_grad=True), 2 * torch.randn(8, 5)
    labels = torch.arange(8) % 5
    optimizer = torch.optim.Adam([student], lr=0.05)
    before = float(student.argmax(1).eq(teacher.argmax(1)).sum())
    for _ in range(300):
        loss = kd_per_row(student, teacher, labels, kind=kind, temperature=2.0).mean()
        optimizer.zero_grad()
        loss.backward()
        assert torch.isfinite(student.grad).all() and student.grad.abs().max() > 0
        optimizer.step()
    after = float(student.argmax(1).eq(teacher.argmax(1)).sum())
    assert before < after == 8


@pytest.mark.parametrize("kind", MULTI_LABEL_DISTILLATION)
def test_multi_label_terms_are_smallest_at_the_teacher(kind):
    student = torch.tensor([[0.3, -2.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(1, 2, dtype=torch.int8)
    if kind != "hard":
        kd_per_row(student, student.detach(), labels, kind=kind, temperature=3.0).sum().backward()
        assert student.grad.abs().max() < 1e-12
    near = kd_per_row(student, 2 * student.detach(), labels, kind=kind, temperature=1.0)
    far = kd_per_row(student, -2 * student.detach(), labels, kind=kind, temperature=1.0)
    assert near < far
    with pytest.raises(ValueError, match=r"dkd.* not for multi-label"):
        kd_per_row(student, student, labels, kind="dkd", temperature=1.0)


def test_the_multi_label_kl_is_that_of_bernoulli_distributions():
    student, teacher = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(3), math.log(3)]])
    each = kd_per_row(student, teacher, torch.zeros(1, 2), kind="kl", temperature=1.0)
    assert each.item() == pytest.approx(kl([0.75, 0.25], [0.5, 0.5]) / 2, rel=1e-6)


def test_label_terms_leave_out_unknown_rows_and_smooth():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    assert ce_per_row(logits, torch.tensor([1, -1])).tolist() == pytest.approx([-math.log(0.75), 0.0])
    smooth = -(0.95 * math.log(0.75) + 0.05 * math.log(0.25))
    assert ce_per_row(logits, torch.tensor([1, -1]), 0.1).tolist() == pytest.approx([smooth, 0.0])
    many = torch.tensor([[1, 0], [-1, -1]], dtype=torch.int8)
    binary = (math.log(2) - math.log(0.25)) / 2
    assert ce_per_row(logits, many).tolist() == pytest.approx([binary, 0.0])


def test_feature_terms():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert feature_per_row(a, b, "mse").item() == pytest.approx(2.5)
    assert feature_per_row(a, b, "cosine").item() == pytest.approx(1.0)
    assert feature_per_row(a, 3 * a, "cosine").item() == pytest.approx(0.0)


def test_an_ensemble_of_probabilities_is_their_mean_at_the_temperature():
    torch.manual_seed(0)
    logits, weights = torch.randn(4, 3, 5), torch.tensor([0.2, 0.8, 0.0])
    mean = (torch.softmax(logits / 2, -1) * weights[:, None]).sum(1)
    assert torch.allclose(torch.softmax(combine_probabilities(logits, weights, 2.0) / 2, -1), mean, atol=1e-6)
    mean = (torch.sigmoid(logits / 2) * weights[:, None]).sum(1)
    assert torch.allclose(torch.sigmoid(combine_probabilities(logits, weights, 2.0, True) / 2), mean, atol=1e-6)
    nobody = combine_probabilities(logits, torch.zeros(4, 3), 2.0)
    assert not nobody.any()


def test_per_sample_weights_come_from_each_clips_label_and_fall_back_to_the_held_out_ones():
    losses = torch.tensor([[0.0, math.log(2), 5.0], [1.0, 1.0, 1.0]])
    weights = per_sample_weights(losses, torch.tensor([True, False]), torch.tensor([0.3, 0.7, 0.0]), gamma=1.0)
    assert torch.allclose(weights, torch.tensor([[2 / 3, 1 / 3, 0.0], [0.3, 0.7, 0.0]]))


def test_classes_are_matched_by_name():
    assert class_columns(["a", "b"], ["a", "b"]) is None
    assert class_columns(["b", "c", "a"], ["a", "b"]) == [2, 0]
    with pytest.raises(ValueError, match="does not know c"):
        class_columns(["a", "b"], ["b", "c"])
    with pytest.raises(ValueError, match="occurs twice"):
        class_columns(["a", "a"], ["a", "b"])


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
