"""What is said of one model: figures worked out by hand, by brute force, and by the older metrics."""

import json
import time

import numpy as np
import pytest

from mmkd.calibration import (
    brier_per_clip,
    calibration_floor,
    class_wise_calibration_error,
    equal_mass_calibration_error,
    fit_temperature,
)
from mmkd.metrics import evaluate_heads, expected_calibration_error, softmax, topk_accuracy
from mmkd.scoring import score


def case(clips: int = 120, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Logits and labels of verbs and nouns, half of them right, some unknown."""
    random = np.random.default_rng(seed)
    logits = {"verb": 2 * random.normal(size=(clips, 7)), "noun": 2 * random.normal(size=(clips, 9))}
    labels = {}
    for head, z in logits.items():
        labels[head] = np.where(random.random(clips) < 0.5, z.argmax(axis=1), random.integers(0, z.shape[1], clips))
        labels[head][random.random(clips) < 0.1] = -1
    return logits, labels


def joint(logits, labels):
    """Logits over all actions, and labels, of the clips whose labels are all known."""
    known = (labels["verb"] >= 0) & (labels["noun"] >= 0)
    verb, noun = logits["verb"][known], logits["noun"][known]
    z = (verb[:, :, None] + noun[:, None, :]).reshape(known.sum(), -1)
    return z, labels["verb"][known] * noun.shape[1] + labels["noun"][known]


def assert_alike(a, b, **tolerance):
    """Equal in keys, and in numbers up to rounding."""
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_alike(a[key], b[key], **tolerance)
    else:
        assert a == pytest.approx(b, **tolerance)


def test_figures_of_one_head_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4]])
    result = score({"verb": np.log(p)}, {"verb": [0, 0, 1, 1]}, tail={"verb": [1]}, unseen=[1, 0, 0, 0])
    assert list(result) == ["verb"]
    verb = result["verb"]
    assert (verb["n"], verb["top1"], verb["top5"], verb["top5_se"]) == (4, 0.75, 1, 0)
    assert verb["top1_se"] == pytest.approx(np.sqrt(0.75 * 0.25 / 4))
    # Class 0: 2 of 2; class 1: 1 of 2; class 2 has no clip.
    assert (verb["mean_class"], verb["classes"], verb["classes_without_clips"]) == (0.75, 2, 1)
    assert verb["mean_class_se"] == pytest.approx(np.sqrt(0.5 * 0.5 / 2) / 2)
    assert verb["tail"] == {"n": 2, "top1": 0.5, "top1_se": pytest.approx(np.sqrt(0.125))}
    assert verb["unseen"] == {"n": 1, "top1": 1, "top1_se": 0}
    nll, brier = -np.log([0.7, 0.6, 0.7, 0.1]), np.array([0.14, 0.26, 0.14, 1.22])
    assert (verb["nll"], verb["nll_se"]) == pytest.approx((nll.mean(), nll.std() / 2))
    assert (verb["brier"], verb["brier_se"]) == pytest.approx((brier.mean(), brier.std() / 2))
    # Bins of a fifteenth: 0.7 twice, right twice; 0.6, right; 0.5, wrong.
    assert verb["ece"] == pytest.approx((0.6 + 0.4 + 0.5) / 4)
    assert verb["ece_floor"] == pytest.approx(calibration_floor([0.7, 0.6, 0.7, 0.5]))
    assert verb["ece_class"] == pytest.approx(class_wise_calibration_error(p, [0, 0, 1, 1]))
    assert "scaled" not in verb


def test_it_agrees_with_evaluate_heads():
    logits, labels = case()
    logits["tags"], labels["tags"] = (
        np.random.default_rng(1).normal(size=(120, 3)),
        np.eye(3, dtype=int)[[0, 1, 2] * 40],
    )
    labels["tags"][5] = -1
    ours, theirs = score(logits, labels), evaluate_heads(logits, labels)
    assert set(ours) == set(theirs) == {"verb", "noun", "action", "tags"}
    for head in ("verb", "noun", "action"):
        pairs = {"top1": "accuracy", "top1_se": "standard_error", "ece": "ece", "nll": "nll", "n": "n"}
        for name, older in pairs.items():
            assert ours[head][name] == pytest.approx(theirs[head][older]), (head, name)
    assert ours["tags"] == pytest.approx(theirs["tags"])
    known = labels["verb"] >= 0
    assert ours["verb"]["top5"] == topk_accuracy(logits["verb"][known], labels["verb"][known], 5)


def test_the_action_is_judged_by_the_outer_product():
    logits, labels = case()
    z, truth = joint(logits, labels)
    action, brier = score(logits, labels)["action"], brier_per_clip(softmax(z), truth)
    assert 0 < action["top1"] < action["top5"] < 1
    assert action["top1"] == topk_accuracy(z, truth, 1)
    assert action["top5"] == topk_accuracy(z, truth, 5)
    assert action["ece"] == pytest.approx(expected_calibration_error(z, truth))
    confidence, correct = softmax(z).max(axis=1), z.argmax(axis=1) == truth
    assert action["ece_floor"] == pytest.approx(calibration_floor(confidence))
    assert action["ece_mass"] == pytest.approx(equal_mass_calibration_error(confidence, correct))
    assert action["ece_mass_floor"] == pytest.approx(calibration_floor(confidence, kind="mass"))
    assert (action["brier"], action["brier_se"]) == pytest.approx((brier.mean(), brier.std() / np.sqrt(len(brier))))
    each = [(z.argmax(axis=1) == truth)[truth == one].mean() for one in np.unique(truth)]
    assert (action["mean_class"], action["classes"]) == (pytest.approx(np.mean(each)), len(each))
    assert "ece_class" not in action and "classes_without_clips" not in action


def test_top5_of_three_heads_is_that_of_their_product():
    random = np.random.default_rng(0)
    logits = {head: random.normal(size=(400, classes)) for head, classes in (("a", 2), ("b", 3), ("c", 8))}
    labels = {head: z.argmax(axis=1) for head, z in logits.items()}
    labels["b"], labels["c"] = random.integers(0, 3, 400), random.integers(0, 8, 400)
    z = logits["a"][:, :, None, None] + logits["b"][:, None, :, None] + logits["c"][:, None, None, :]
    truth = np.ravel_multi_index(list(labels.values()), (2, 3, 8))
    assert score(logits, labels)["action"]["top5"] == topk_accuracy(z.reshape(400, -1), truth, 5)


def test_of_equal_classes_the_first_is_chosen_in_heads_and_action():
    same = {"verb": np.zeros((4, 6)), "noun": np.zeros((4, 6))}
    result = score(same, {"verb": [0, 0, 0, 5], "noun": [0, 4, 5, 0]})
    assert (result["verb"]["top1"], result["verb"]["top5"], result["noun"]["top5"]) == (0.75, 0.75, 0.75)
    assert (result["action"]["top1"], result["action"]["top5"]) == (0.25, 0.5)
    # The second of two verbs is better by less than probabilities can hold.
    close = {"verb": np.array([[0.0, 1e-20]]), "noun": np.array([[1e4, 0.0]])}
    assert score(close, {"verb": [1], "noun": [0]})["action"]["top1"] == 1


def test_an_action_is_of_the_tail_where_a_class_of_its_is():
    p = np.log([[0.9, 0.1]] * 4)
    labels = {"verb": [0, 0, 1, 1], "noun": [0, 1, 0, 1]}
    result = score({"verb": p, "noun": p}, labels, tail={"verb": [1], "noun": [1]}, unseen=[True, True, False, False])
    assert result["action"]["tail"] == {"n": 3, "top1": 0, "top1_se": 0}
    assert result["action"]["unseen"] == {"n": 2, "top1": 0.5, "top1_se": pytest.approx(np.sqrt(0.125))}
    result = score({"verb": p, "noun": p}, labels, tail={"noun": [1]})
    assert result["action"]["tail"]["n"] == 2 and "tail" not in result["verb"] and "unseen" not in result["action"]
    assert score({"verb": p[:1]}, {"verb": [0]}, tail={"verb": [1]})["verb"]["tail"] == {"n": 0}


def test_scaled_figures_are_those_of_the_divided_logits():
    logits, labels = case()
    temperatures = {head: fit_temperature(logits[head], labels[head]) for head in logits}
    result = score(logits, labels, temperatures=temperatures)
    divided = score({head: z / temperatures[head] for head, z in logits.items()}, labels)
    for head in ("verb", "noun", "action"):
        scaled = result[head]["scaled"]
        assert scaled.pop("temperature") == (temperatures if head == "action" else temperatures[head])
        assert {"ece", "ece_floor", "ece_mass", "nll", "brier"} <= set(scaled)
        assert_alike(scaled, {name: divided[head][name] for name in scaled})
        # Fitted on these very clips; of the action, on nearly these.
        assert scaled["nll"] < result[head]["nll"]
    only = score(logits, labels, temperatures={"verb": 1.0})
    assert "scaled" in only["verb"] and "scaled" not in only["noun"] and "scaled" not in only["action"]


def test_order_of_clips_shift_of_logits_and_names_of_classes_do_not_matter():
    logits, labels = case()
    random = np.random.default_rng(1)
    unseen, tail, temperatures = random.random(120) < 0.3, {"verb": [0, 1], "noun": [3]}, {"verb": 2.0, "noun": 1.5}
    result = score(logits, labels, tail=tail, unseen=unseen, temperatures=temperatures)
    order = random.permutation(120)
    moved = {head: z[order] + random.normal(size=(120, 1)) for head, z in logits.items()}
    shuffled = {head: truth[order] for head, truth in labels.items()}
    again = score(moved, shuffled, tail=tail, unseen=unseen[order], temperatures=temperatures)
    assert_alike(result, again, rel=1e-9, abs=1e-12)
    renamed = random.permutation(7)
    logits["verb"] = logits["verb"][:, np.argsort(renamed)]
    labels["verb"] = np.where(labels["verb"] >= 0, renamed[labels["verb"]], -1)
    again = score(logits, labels, tail=tail | {"verb": renamed[:2].tolist()}, unseen=unseen, temperatures=temperatures)
    # The labels that its floor is drawn from are others, as classes are drawn in turn.
    for each in (result["verb"], again["verb"], result["verb"]["scaled"], again["verb"]["scaled"]):
        del each["ece_class_floor"]
    assert_alike(result, again, rel=1e-9, abs=1e-12)


def test_heads_without_labelled_clips_have_only_their_number():
    logits = {"verb": np.zeros((2, 3)), "noun": np.zeros((2, 3)), "tags": np.zeros((2, 3))}
    labels = {"verb": np.array([0, -1]), "noun": np.array([-1, 0]), "tags": np.full((2, 3), -1)}
    result = score(logits, labels, tail={"verb": [0]}, unseen=[0, 1], temperatures={"verb": 1.0, "noun": 1.0})
    assert result["action"] == result["tags"] == {"n": 0} and result["verb"]["n"] == 1
    labels["tags"] = np.zeros((2, 3), int)
    assert score(logits, labels)["tags"] == {"n": 2, "mean_average_precision": None}


def test_it_is_written_as_json_and_quick_at_the_size_of_epic_kitchens():
    random = np.random.default_rng(0)
    logits = {head: 3 * random.normal(size=(10_000, c)).astype(np.float32) for head, c in (("verb", 97), ("noun", 300))}
    labels = {head: z.argmax(axis=1) * random.integers(0, 2, 10_000) for head, z in logits.items()}
    begin = time.process_time()
    result = score(logits, labels, unseen=random.random(10_000) < 0.1, temperatures={"verb": 1.5, "noun": 2.0})
    assert time.process_time() - begin < 10
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_what_does_not_fit_is_refused_and_named():
    z, truth = np.zeros((2, 3)), np.array([0, 1])
    with pytest.raises(ValueError, match=r"head 'verb': labels are 0\.\.3, with 3 classes"):
        score({"verb": z}, {"verb": [0, 3]})
    with pytest.raises(ValueError, match=r"head 'verb': classes of the tail are 0\.\.7, with 3 classes"):
        score({"verb": z}, {"verb": truth}, tail={"verb": [0, 7]})
    with pytest.raises(ValueError, match=r"head 'verb': some logits are not finite"):
        score({"verb": z * np.nan}, {"verb": truth})
    with pytest.raises(ValueError, match=r"unlike numbers of clips.*'unseen': 3"):
        score({"verb": z}, {"verb": truth}, unseen=[0, 1, 0])
