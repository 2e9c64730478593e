"""What is said of a study: paired differences, intervals that cover, verdicts, and tables."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from mmkd.metrics import evaluate_heads, paired_difference, softmax
from mmkd.report.predictions import Predictions
from mmkd.study.claims import FAILS, HOLDS, UNKNOWN, claims, primary, teachers_said, verdict
from mmkd.study.results import Interval, StudyResults
from mmkd.study.statistics import compare, contrast, drop_contrast, holm
from mmkd.study.summaries import measures_of, summarise, summary_of
from mmkd.study.tables import write_tables
from tests.study_cases import made_results

REPLICATES = 300


@pytest.fixture
def made() -> StudyResults:
    return made_results(seeds=5, clips=200)


def in_order(predictions: Predictions, rows) -> Predictions:
    return replace(
        predictions,
        clip_ids=[predictions.clip_ids[row] for row in rows],
        labels={head: truth[rows] for head, truth in predictions.labels.items()},
        logits={head: logits[rows] for head, logits in predictions.logits.items()},
    )


def changed(results: StudyResults, change) -> StudyResults:
    """With change(model, its predictions) in place of all predictions."""
    tested = [
        replace(
            model,
            grids={grid: change(model, each) for grid, each in model.grids.items()},
            val=change(model, model.val),
            unseen=change(model, model.unseen) if model.unseen else None,
        )
        for model in results.tested
    ]
    return replace(results, tested=tested)


def of_arms(results: StudyResults, names) -> StudyResults:
    return replace(
        results,
        arms=[arm for arm in results.arms if arm.name in names],
        tested=[model for model in results.tested if model.arm in names],
    )


def of_nll(nll: np.ndarray) -> Predictions:
    """Answers with these negative log-likelihoods."""
    logits = np.stack([-np.log(np.expm1(nll)), np.zeros(len(nll))], axis=1)
    return Predictions("made", [str(i) for i in range(len(nll))], {"verb": np.zeros(len(nll))}, {"verb": logits})


def test_the_order_of_clips_changes_nothing(made):
    random = np.random.default_rng(0)

    def shuffle(model, predictions):
        first = model.arm == "distilled" and model.seed == 0
        return predictions if first else in_order(predictions, random.permutation(len(predictions.clip_ids)))

    shuffled = changed(made, shuffle)
    for compared in (contrast, drop_contrast):
        plain = compared(made, "distilled", "labels", replicates=REPLICATES)
        again = compared(shuffled, "distilled", "labels", replicates=REPLICATES)
        for head, measures in plain.outcomes.items():
            for measure, interval in measures.items():
                other = again.outcomes[head][measure]
                assert (other.difference, other.low) == pytest.approx((interval.difference, interval.low))


def test_other_clips_or_labels_are_refused(made):
    fewer = changed(made, lambda model, each: in_order(each, np.arange(len(each.clip_ids) - (model.seed == 1))))
    with pytest.raises(ValueError, match="in one only"):
        contrast(fewer, "distilled", "labels")

    def relabelled(model, each):
        moved = {"verb": (each.labels["verb"] + 1) % 4, "noun": each.labels["noun"]}
        return replace(each, labels=moved) if model.arm == "labels" else each

    with pytest.raises(ValueError, match="other labels"):
        contrast(changed(made, relabelled), "distilled", "labels")


def test_only_seeds_that_both_arms_have_are_compared(made):
    found = contrast(made, "smoothing", "labels", replicates=REPLICATES)
    assert found.seeds == [0, 1] and len(found.each_seed["action"]["nll"]) == 2
    with pytest.raises(ValueError, match="no seed in common"):
        contrast(made, "distilled", "nothing")


def test_differences_are_first_minus_second_in_every_measure(made):
    found = contrast(made, "distilled", "labels", replicates=REPLICATES)
    assert (found.first, found.second, found.seeds, found.clips) == ("distilled", "labels", [0, 1, 2, 3, 4], 200)
    for place, seed in enumerate(found.seeds):
        ours, theirs = (made.of(arm)[seed].grids["3x3"] for arm in ("distilled", "labels"))
        a, b = (evaluate_heads(each.logits, each.labels) for each in (ours, theirs))
        for head in ("verb", "noun", "action"):
            for measure in ("accuracy", "nll", "ece"):
                expected = a[head][measure] - b[head][measure]
                assert found.each_seed[head][measure][place] == pytest.approx(expected, abs=1e-9)
    for head, measures in found.outcomes.items():
        for measure, interval in measures.items():
            assert interval.difference == pytest.approx(np.mean(found.each_seed[head][measure]))
            assert interval.low < interval.difference < interval.high
    assert found.outcomes["action"]["accuracy"].low > 0 > found.outcomes["action"]["nll"].high


def test_brier_of_an_action_is_over_all_pairs_of_classes(made):
    each = made.of("labels")[0].grids["3x3"]
    joint = np.einsum("nv,nm->nvm", softmax(each.logits["verb"]), softmax(each.logits["noun"]))
    joint[np.arange(200), each.labels["verb"], each.labels["noun"]] -= 1
    assert measures_of(each)["action"]["brier"] == pytest.approx((joint**2).sum(axis=(1, 2)).mean())


@pytest.mark.parametrize(("of_seed", "of_clip", "of_both"), [(0.3, 0.2, 0.1), (0.02, 0.3, 0.3), (0.0, 0.0, 0.3)])
def test_intervals_of_five_seeds_cover_the_true_difference_and_are_not_far_too_wide(of_seed, of_clip, of_both):
    seeds, clips, studies, true = 5, 60, 200, 0.5
    random, covered, widths = np.random.default_rng(0), 0, []
    for number in range(studies):
        nll = 5 + true + of_seed * random.standard_normal(seeds)[:, None] + of_clip * random.standard_normal(clips)
        nll = nll + of_both * random.standard_normal((seeds, clips))
        pairs = {seed: (of_nll(nll[seed]), of_nll(np.full(clips, 5.0))) for seed in range(seeds)}
        interval = compare("a", "b", "test", pairs, REPLICATES, number).outcomes["verb"]["nll"]
        covered += interval.low < true < interval.high
        widths.append(interval.high - interval.low)
    known = 2 * 1.96 * np.sqrt(of_seed**2 / seeds + of_clip**2 / clips + of_both**2 / seeds / clips)
    assert 0.92 <= covered / studies <= 0.99
    assert np.mean(widths) < 1.5 * known  # t of four degrees of freedom is 1.42 z


def test_of_one_seed_the_interval_is_over_clips(made):
    one = replace(made, tested=[model for model in made.tested if model.seed == 0])
    ours, theirs = (
        (each.logits["verb"].argmax(axis=1) == each.labels["verb"])
        for each in (one.of(arm)[0].grids["3x3"] for arm in ("distilled", "labels"))
    )
    mean, error = paired_difference(ours, theirs)
    interval = contrast(one, "distilled", "labels").outcomes["verb"]["accuracy"]
    assert interval.difference == pytest.approx(mean)
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(error, rel=0.1)
    assert any("one seed" in sentence for sentence in claims(one)[0].said)


def test_an_arm_does_not_differ_from_itself(made):
    same = contrast(made, "labels", "labels", replicates=REPLICATES).outcomes["action"]
    assert all(each == Interval(0.0, 0.0, 0.0, 1.0) for each in same.values())


def test_clips_without_a_label_are_left_out(made):
    def hide(model, each):
        hidden = {head: np.where(np.arange(len(truth)) < 50, -1, truth) for head, truth in each.labels.items()}
        return replace(each, labels=hidden)

    hidden = contrast(changed(made, hide), "distilled", "labels", replicates=REPLICATES)
    cut = changed(made, lambda model, each: in_order(each, np.arange(50, len(each.clip_ids))))
    assert hidden.clips == 150
    assert hidden.outcomes == contrast(cut, "distilled", "labels", replicates=REPLICATES).outcomes
    none = changed(made, lambda model, each: replace(each, labels={h: 0 * t - 1 for h, t in each.labels.items()}))
    assert {each.verdict for each in claims(none) if each.interval} == {UNKNOWN}
    assert np.isnan(summary_of(none, "labels").heads["verb"]["scaled_nll"])


def test_the_drop_is_the_accuracy_lost_from_the_largest_grid_to_one_view(made):
    found = drop_contrast(made, "distilled", "labels", replicates=REPLICATES)
    lost = []
    for arm in ("distilled", "labels"):
        grids = [
            {grid: measures_of(each)["action"]["accuracy"] for grid, each in m.grids.items()} for m in made.of(arm)
        ]
        lost.append(np.mean([each["3x3"] - each["1x1"] for each in grids]))
    assert found.outcomes["action"]["accuracy"].difference == pytest.approx(lost[0] - lost[1])
    assert list(found.outcomes["action"]) == ["accuracy"]
    for model in made.tested:
        model.grids = {"1x1": model.grids["1x1"]}
    with pytest.raises(ValueError, match="another grid"):
        drop_contrast(made, "distilled", "labels")


def test_holm_by_hand():
    # Ordered 0.01, 0.03, 0.04 times 3, 2, 1; the last is not let below the one before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(
    ("interval", "adjusted", "way", "expected"),
    [
        (Interval(0.03, 0.01, 0.05, 0.001), 0.004, 1, HOLDS),
        (Interval(-0.03, -0.05, -0.01, 0.001), 0.004, -1, HOLDS),
        (Interval(-0.03, -0.05, -0.01, 0.001), 0.004, 1, FAILS),
        (Interval(0.03, 0.01, 0.05, 0.03), 0.09, 1, UNKNOWN),
        (Interval(0.001, -0.004, 0.004, 0.6), 0.6, 1, FAILS),
        (Interval(0.001, -0.004, 0.006, 0.6), 0.6, 1, UNKNOWN),
    ],
)
def test_a_verdict_needs_significance_or_a_difference_too_small_to_matter(interval, adjusted, way, expected):
    assert verdict(interval, adjusted, way) == expected


def test_the_claims_of_the_made_up_study():
    made = made_results(seeds=5, clips=600)
    found = claims(made)
    assert [each.verdict for each in found[:4]] == [HOLDS] * 4
    tested = [each for each in found if each.interval]
    assert [each.adjusted_p for each in tested] == holm([each.interval.p for each in tested]) and len(tested) == 4
    assert found[2].interval is None and np.isnan(found[2].adjusted_p)
    assert found[1].interval.difference < 0 and any("scaled by temperature" in sentence for sentence in found[1].said)
    assert "95 % interval" in found[0].said[0] and "5 seeds × 600 clips" in found[0].said[0]
    assert f"Holm {found[0].adjusted_p:.2g}." in found[0].said[0]
    assert any("split unseen" in sentence for sentence in found[0].said)
    assert any("Exploratory: 2 seeds" in sentence for sentence in found[4].said)
    assert not any("Exploratory" in sentence for sentence in found[0].said)
    assert primary(made).outcomes["action"]["accuracy"] == found[0].interval


def test_claims_point_the_other_way_when_the_arms_change_places():
    made = of_arms(made_results(seeds=5, clips=600), ("labels", "distilled"))
    names = {"labels": "distilled", "distilled": "labels"}
    swapped = replace(made, tested=[replace(each, arm=names.get(each.arm, each.arm)) for each in made.tested])
    found = claims(swapped)
    assert [found[number].verdict for number in (0, 1, 3)] == [FAILS] * 3


def test_a_student_that_is_slower_than_the_ensemble_is_not_cheaper(made):
    made.costs = [replace(cost, latency_ms=90.0) if cost.name == "student" else cost for cost in made.costs]
    assert claims(of_arms(made, ()))[2].verdict == FAILS


def test_the_report_says_whose_teachers_the_intervals_are_conditional_on(made):
    assert "2 sets of teachers" in teachers_said(made)
    one = replace(made, tested=[replace(each, teacher_set=min(each.teacher_set, 0)) for each in made.tested])
    assert "conditional on" in teachers_said(one)


@pytest.mark.parametrize(
    "names", [(), ("labels",), ("distilled", "labels"), ("bad-uniform",), ("labels", "bad-uniform", "bad-held-out")]
)
def test_any_arm_may_be_absent(made, names, tmp_path):
    some = replace(of_arms(made, names), costs=[], search=[], competence=[])
    for model in some.tested:
        model.unseen, model.grids = None, {"1x1": model.grids["1x1"]}
    found = claims(some)
    assert len(found) == 5 and all(each.said for each in found)
    missing = {"distilled", "labels"} - set(names)
    assert (found[0].verdict == UNKNOWN) == bool(missing) and (primary(some) is None) == bool(missing)
    summaries = summarise(some)
    assert [each.arm.name for each in summaries] == [arm.name for arm in some.arms]
    assert all(each.unseen == {} and list(each.views) == ["1x1"] for each in summaries)
    write_tables(tmp_path, some, summaries, [], found)


def test_with_one_head_that_head_decides(made):
    def verb_only(model, each):
        return replace(each, labels={"verb": each.labels["verb"]}, logits={"verb": each.logits["verb"]})

    one = changed(made, verb_only)
    found = contrast(one, "distilled", "labels", replicates=REPLICATES)
    assert list(found.outcomes) == ["verb"]
    assert claims(one)[0].deciding.startswith("verb accuracy")
    assert summary_of(one, "labels").views["1x1"] == pytest.approx(
        np.mean([measures_of(model.grids["1x1"])["verb"]["accuracy"] for model in one.of("labels")])
    )


def test_a_summary_is_the_mean_over_seeds(made):
    found = summary_of(made, "labels")
    each = [evaluate_heads(m.grids["3x3"].logits, m.grids["3x3"].labels)["action"] for m in made.of("labels")]
    action, accuracy = found.heads["action"], [one["accuracy"] for one in each]
    assert action["accuracy"] == pytest.approx(np.mean(accuracy))
    assert action["accuracy_sd"] == pytest.approx(np.std(accuracy, ddof=1))
    assert action["ece"] == pytest.approx(np.mean([one["ece"] for one in each]))
    assert action["n"] == 200 and np.isnan(action["temperature"])
    assert found.heads["verb"]["temperature"] > 1 and action["scaled_nll"] < action["nll"]
    assert found.unseen["action"]["n"] == 100 and list(found.views) == list(made.of("labels")[0].grids)
    made.tested = made.of("labels")[:1]
    assert np.isnan(summary_of(made, "labels").heads["action"]["accuracy_sd"])


def test_tables_hold_every_arm_model_and_difference(made, tmp_path):
    made = of_arms(made, ("labels", "distilled", "from-rgb", "teacher-rgb"))
    differences = [contrast(made, "distilled", "labels", replicates=REPLICATES)]
    write_tables(tmp_path, made, summarise(made), differences, claims(made))
    names = ("students", "models", "contrasts", "claims", "costs", "views", "search")
    rows = {name: list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines())) for name in names}
    assert len(rows["students"]) == 3 * len(made.arms) and len(rows["models"]) == len(made.tested)
    assert len(rows["contrasts"]) == 3 * 4 and len(rows["claims"]) == 5
    assert len(rows["costs"]) == len(made.costs) and len(rows["views"]) == 4 * len(made.arms)
    assert len(rows["search"]) == len(made.search)
    first = rows["contrasts"][0]
    assert float(first["low"]) == pytest.approx(differences[0].outcomes["verb"]["accuracy"].low)
    assert first["seeds"] == "0 1 2 3 4" and len(first["each_seed"].split()) == 5
    assert rows["models"][0]["run"] == "runs/labels-0" and rows["costs"][1]["optical_flow_ms"] == ""


def test_two_seeds_that_agree_by_chance_leave_open_what_the_clips_leave_open():
    found = contrast(made_results(), "bad-per-sample", "bad-uniform").outcomes["action"]["accuracy"]
    assert found.high - found.low > 0.02
