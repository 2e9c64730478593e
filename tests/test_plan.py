"""The plan is a pure function: the same clips in each step whatever carries it out."""

import numpy as np
import pytest

from mmkd.plan import PADDING, TEST_VIEW, Plan, hold_out


def plan(**changes) -> Plan:
    defaults = {"train": np.arange(37), "val": np.arange(11), "weigh": np.array([3, 5, 30]), "epochs": 3}
    return Plan(**(defaults | {"batch_size": 8, "seed": 1} | changes))


def clips_of_step(the_plan: Plan, index: int, workers: int) -> list[int]:
    units = [the_plan.unit(index, rank, workers)[1] for rank in range(workers)]
    assert {len(unit) for unit in units} == {-(-the_plan.batch_size // workers)}
    return [clip for clip in np.concatenate(units).tolist() if clip != PADDING]


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_every_clip_once_an_epoch_with_any_number_of_workers(workers):
    the_plan = plan()
    seen: dict[tuple[str, int], list[int]] = {}
    for index in range(the_plan.num_steps):
        step = the_plan.step(index)
        seen.setdefault((step.phase, step.epoch), []).extend(clips_of_step(the_plan, index, workers))
    assert sorted(seen.pop(("weigh", 0))) == [3, 5, 30]
    for (phase, _), clips in seen.items():
        assert sorted(clips) == list(range(37 if phase == "train" else 11))
    assert len(seen) == 6


@pytest.mark.parametrize("every", [2, 3, 4])
def test_validation_may_come_every_few_epochs_and_always_comes_last(every):
    often, seldom = plan(), plan(validate_every=every)
    assert seldom.optimizer_steps == often.optimizer_steps
    shown = {}
    for name, each in (("often", often), ("seldom", seldom)):
        steps = [each.step(index) for index in range(each.num_steps)]
        shown[name] = [each.unit(s.index, 0, 1)[1].tolist() for s in steps if s.phase == "train"]
        trained = [sum(s.phase == "train" for s in steps[:index]) for index in range(len(steps))]
        assert trained == [each.optimizer_step(index) for index in range(each.num_steps)]
        assert steps[-1].phase == "val" and steps[-1].epoch == each.epochs - 1
    assert shown["often"] == shown["seldom"]
    validated = {seldom.step(i).epoch for i in range(seldom.num_steps) if seldom.step(i).phase == "val"}
    assert validated == {min(first + every, 3) - 1 for first in range(0, 3, every)}


def test_a_step_has_the_same_clips_in_the_same_order_with_1_2_and_3_workers():
    the_plan = plan()
    for index in range(the_plan.num_steps):
        assert (
            clips_of_step(the_plan, index, 1) == clips_of_step(the_plan, index, 2) == clips_of_step(the_plan, index, 3)
        )


def test_order_changes_with_epoch_and_seed_and_with_nothing_else():
    a, b, other = plan(), plan(), plan(seed=2)
    first, second = a.unit(1, 0, 1)[1], a.unit(1 + a.train_steps + a.val_steps, 0, 1)[1]
    assert first.tolist() == b.unit(1, 0, 1)[1].tolist()
    assert first.tolist() != second.tolist()
    assert first.tolist() != other.unit(1, 0, 1)[1].tolist()


def test_view_numbers_are_the_epoch_or_the_epoch_modulo_the_views_kept():
    for distinct, expected in ((0, [0, 1, 2]), (2, [0, 1, 0])):
        the_plan = plan(distinct_views=distinct)
        per_epoch = the_plan.train_steps + the_plan.val_steps
        starts = [the_plan.weigh_steps + epoch * per_epoch for epoch in range(3)]
        assert [set(the_plan.unit(start, 0, 1)[2].tolist()) for start in starts] == [{e} for e in expected]
        assert set(the_plan.unit(starts[0] + the_plan.train_steps, 0, 1)[2].tolist()) == {TEST_VIEW}


def test_repeats_show_each_clip_in_several_views_side_by_side():
    plain, twice = plan(), plan(repeats=2)
    assert twice.train_steps == -(-2 * len(plain.train) // plain.batch_size)
    seen: dict[int, list[int]] = {}
    for index in range(twice.weigh_steps, twice.weigh_steps + twice.train_steps):
        for workers in (1, 2):
            units = [twice.unit(index, rank, workers)[1:] for rank in range(workers)]
            clips = [c for part, _ in units for c in part.tolist() if c != PADDING]
            if workers == 1:
                alone = clips
                ((_, views),) = units
                assert clips[::2] == clips[1::2] and views[: len(clips)].tolist() == [0, 1] * (len(clips) // 2)
                for clip, view in zip(clips, views.tolist(), strict=False):
                    seen.setdefault(clip, []).append(view)
            assert clips == alone
    assert sorted(seen) == sorted(plain.train.tolist()) and all(views == [0, 1] for views in seen.values())
    later = twice.weigh_steps + twice.train_steps + twice.val_steps
    assert twice.unit(later, 0, 1)[2][:2].tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"views\.repeats 3 does not divide"):
        plan(repeats=3)


def test_optimizer_steps_count_train_steps_only():
    the_plan = plan()
    counted = 0
    for index in range(the_plan.num_steps):
        assert the_plan.optimizer_step(index) == counted
        counted += the_plan.step(index).phase == "train"
    assert counted == the_plan.optimizer_steps == 15


def test_held_out_clips_do_not_move_when_clips_are_added():
    ids = [f"clip-{i}" for i in range(2000)]
    teach, weigh = hold_out(ids, 0.1, 0)
    _, more = hold_out([*ids, *(f"new-{i}" for i in range(500))], 0.1, 0)
    assert sorted([*teach, *weigh]) == list(range(2000))
    assert weigh.tolist() == [i for i in more.tolist() if i < 2000]
    assert 150 < len(weigh) < 250
    assert hold_out(ids, 0.1, 1)[1].tolist() != weigh.tolist()


@pytest.mark.parametrize("start", [0, 1, 4, 9])
def test_steps_travel_in_groups_of_one_phase_in_order(start):
    the_plan = plan()
    groups = the_plan.groups(start, 3)
    assert [step for steps in groups for step in steps] == list(range(start, the_plan.num_steps))
    for steps in groups:
        assert len({(the_plan.step(step).phase, the_plan.step(step).epoch) for step in steps}) == 1
    assert max(map(len, groups)) == 3 and len(the_plan.groups(start, 1)) == the_plan.num_steps - start
