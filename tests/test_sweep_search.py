"""How many trials run at a time, how long they are, and how they are searched."""

import pytest

from mmkd.config import Settings, SettingsError
from mmkd.report.sweep_page import TrialRow
from mmkd.sweep.report import best_trial
from mmkd.sweep.search import concurrent_trials, in_one_process, max_epochs, number_of_trials, stopper
from mmkd.sweep.space import parse_space

SPACE = parse_space({"loss.kind": {"choice": ["kl", "mse", "dkd"]}, "optim.epochs": {"integer": [2, 7]}}, "test")


def settings_of(**sections):
    return Settings.model_validate(sections)


def test_a_trial_is_one_process_unless_it_has_workers_or_a_gpu():
    assert in_one_process(settings_of())
    assert not in_one_process(settings_of(resources={"workers": 2}))
    assert not in_one_process(settings_of(resources={"use_gpu": True}))
    assert in_one_process(settings_of(resources={"use_gpu": True}, sweep={"trial": "process"}))
    assert not in_one_process(settings_of(sweep={"trial": "train"}))


@pytest.mark.parametrize(
    ("sections", "have", "trials"),
    [
        ({}, {"CPU": 2}, 2),
        ({}, {"CPU": 16, "GPU": 4}, 16),
        ({"sweep": {"concurrent": 3}}, {"CPU": 16}, 3),
        ({"sweep": {"concurrent": 30}}, {"CPU": 16}, 16),
        ({"resources": {"use_gpu": True}}, {"CPU": 16, "GPU": 4}, 4),
        ({"resources": {"use_gpu": True, "workers": 2}}, {"CPU": 16, "GPU": 5}, 2),
        ({"sweep": {"trial": "train"}}, {"CPU": 2}, 1),  # a worker of 1 CPU and a reader of 0.25
        ({"sweep": {"trial": "train"}}, {"CPU": 10}, 8),
    ],
)
def test_as_many_trials_at_a_time_as_fit(sections, have, trials):
    assert concurrent_trials(settings_of(**sections), have) == trials


def test_a_trial_that_does_not_fit_is_refused_with_the_sum():
    with pytest.raises(SettingsError, match=r"needs 2 GPUs .* has 1"):
        concurrent_trials(settings_of(resources={"use_gpu": True, "workers": 2}), {"CPU": 16, "GPU": 1})


def test_the_longest_trial_decides_how_many_views_are_recorded_and_when_trials_are_stopped():
    settings = settings_of(optim={"epochs": 4})
    assert max_epochs(settings, SPACE) == 7
    fixed = parse_space({"loss.kind": {"choice": ["kl", "mse"]}}, "test")
    assert max_epochs(settings, fixed) == 4
    assert number_of_trials(settings_of(sweep={"trials": 5}), fixed) == 5
    assert number_of_trials(settings_of(sweep={"search": "grid"}), fixed) == 2
    asha = stopper(settings_of(sweep={"grace_epochs": 20}), fixed)
    assert asha._max_t == 10 and asha.metric == "accuracy"  # 9 epochs, and one more: the last is not cut off


def row(name, accuracy, ece=None, error=""):
    return TrialRow(name, {}, "finished", 1, accuracy, ece, None, [], 1.0, "/nowhere", error)


def test_the_best_trial_is_the_most_accurate_and_of_equals_the_better_calibrated():
    rows = [row("01", 0.5, 0.1), row("02", 0.6, 0.2), row("03", 0.6, 0.1), row("04", None)]
    assert best_trial(rows).name == "03"
    with pytest.raises(ValueError, match=r"none of 1 trials reported an accuracy .*\(trial 07: out of luck\)"):
        best_trial([row("07", None, error="out of luck")])
