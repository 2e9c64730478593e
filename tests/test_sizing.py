"""Sizes that are chosen from what the stages cost."""

import itertools
from dataclasses import replace

import pytest

from mmkd.cli import load_settings
from mmkd.config import Settings
from mmkd.config.changes import apply
from mmkd.resources import Node, check_fits
from mmkd.sizing import FEW_ROWS, TURNS, Costs, Sizes, choose, chosen_values, explain


def costs(read=0.002, teach=0.01, student=0.012, threads=(1,)):
    teachers = {8: 1.2 * teach, 16: teach, 32: 0.99 * teach} if teach else {}
    return Costs(read, {count: student / count for count in threads}, teachers, clip_mb=0.1)


def test_as_few_processes_as_carry_the_load_of_two_cores():
    sizes = choose(costs(), cpus=2, gpus=0, batch_size=32, may_inline=False)
    assert (sizes.workers, sizes.actors, sizes.readers) == (1, 1, 0)
    assert sizes.rate == pytest.approx(sizes.limit, rel=0.03)


def test_a_student_that_costs_more_than_the_teachers_is_given_more_workers():
    sizes = choose(costs(student=0.04), cpus=4, gpus=0, batch_size=32, may_inline=False)
    assert (sizes.workers, sizes.actors) == (3, 1)
    assert choose(costs(student=0.04), cpus=4, gpus=0, batch_size=8).workers == 1  # a share is not below 8 rows


def test_teachers_that_cost_more_than_the_student_are_given_more_actors():
    sizes = choose(costs(teach=0.034), cpus=4, gpus=0, batch_size=32, may_inline=False)
    assert (sizes.workers, sizes.actors, sizes.inline) == (1, 3, False)


def test_one_worker_reads_and_asks_itself_in_as_many_threads_as_keep_its_student_busy():
    sizes = choose(costs(student=0.008), cpus=2, gpus=0, batch_size=32)
    assert (sizes.workers, sizes.threads, sizes.ahead, sizes.actors, sizes.inline) == (1, 1, 1, 0, True)
    said = explain(costs(), sizes, 2, 0)[1]
    assert "1 student worker(s) which read and ask the teachers themselves, with 1 thread(s) ahead of each" in said
    apart = choose(costs(student=0.008), cpus=2, gpus=0, batch_size=32, may_inline=False)
    assert (apart.actors, apart.inline) == (2, False) and apart.rate < sizes.rate
    four = choose(costs(teach=0.034), cpus=4, gpus=0, batch_size=32)
    assert (four.workers, four.ahead) == (1, 3) and four.rate == pytest.approx(four.limit)
    small_nodes = choose(costs(teach=0.034), cpus=4, gpus=0, batch_size=32, most=2.0)
    assert small_nodes.ahead == 0


def test_a_student_that_costs_more_than_half_is_given_several_inline_workers():
    sizes = choose(costs(student=0.04), cpus=2, gpus=0, batch_size=32)
    assert (sizes.workers, sizes.ahead, sizes.inline) == (2, 0, True)


def test_a_student_that_costs_most_trains_in_all_threads_where_its_batch_is_too_small_for_several_workers():
    large = costs(teach=0.5, student=3.0, threads=(1, 2))
    sizes = choose(large, cpus=2, gpus=0, batch_size=4)
    assert (sizes.workers, sizes.threads, sizes.ahead, sizes.inline) == (1, 2, 0, True)
    assert sizes.rate == pytest.approx(1 / (0.002 + 0.25 + 1.5) / TURNS)
    four = choose(costs(teach=0.5, student=3.0, threads=(1, 2, 4)), cpus=4, gpus=0, batch_size=4)
    assert (four.threads, four.ahead) == (4, 0)
    both = Sizes(1, 2, 0, 0, 0.0, 0.0, rate=1.0, limit=1.0, inline=True, ahead=2)
    values = chosen_values(Settings(), large, both, 4)
    assert (values["resources.threads"], values["resources.ahead"], values["resources.cpus_per_worker"]) == (2, 2, 3.96)
    spread_out = choose(large, cpus=4, gpus=0, batch_size=4, most=2.0)
    assert not spread_out.inline or spread_out.threads == 1


def test_without_batch_norm_several_workers_may_share_a_small_batch():
    large = replace(costs(teach=0.5, student=3.0, threads=(1, 2)), least_rows=FEW_ROWS)
    two = choose(large, cpus=2, gpus=0, batch_size=4)
    assert (two.workers, two.threads, two.ahead, two.inline) == (2, 1, 0, True)
    assert choose(large, cpus=16, gpus=0, batch_size=6).workers == 3


def test_one_worker_of_two_threads_is_chosen_where_threads_are_as_good_as_workers():
    sizes = choose(costs(teach=0, threads=(1, 2)), cpus=2, gpus=0, batch_size=32, may_inline=False)
    assert (sizes.workers, sizes.threads, sizes.actors) == (1, 2, 0)


def test_as_many_reading_tasks_are_chosen_as_the_student_learns_from():
    found = costs(read=0.003, teach=0, student=0.003)
    sizes = choose(found, cpus=16, gpus=0, batch_size=256, may_inline=False)
    assert sizes.readers / found.read >= sizes.rate > 2 / found.read
    settings = apply(Settings(), chosen_values(Settings(), found, sizes, 16))
    assert settings.resources.reading_tasks == sizes.readers
    check_fits(settings, teachers=False, have=[Node({"CPU": 16.0})])


def test_reading_leaves_half_of_the_cpus_to_the_student_whatever_a_recipe_reserves():
    found, own = costs(read=0.02, teach=0, student=0.002), Settings(resources={"cpus_per_reader": 1, "readers": 16})
    settings = apply(own, chosen_values(own, found, choose(found, 2, 0, 32, may_inline=False), 2))
    assert settings.resources.cpus_per_reader * settings.resources.reading_tasks <= 1
    check_fits(settings, teachers=False, have=[Node({"CPU": 2.0})])


def test_a_teachers_batch_is_no_larger_than_helps():
    assert costs().teacher_batch == 16
    assert costs(teach=0).teacher_batch == 0


def test_one_gpu_is_shared_and_more_are_divided():
    one = choose(costs(), cpus=8, gpus=1, batch_size=64)
    assert (one.workers, one.actors, one.gpus_per_worker, one.gpus_per_actor) == (1, 1, 0.5, 0.5)
    eight = choose(costs(teach=0.03, student=0.01), cpus=64, gpus=8, batch_size=256)
    assert (eight.workers, eight.actors) == (2, 6)
    alone = choose(costs(teach=0), cpus=8, gpus=2, batch_size=64)
    assert (alone.workers, alone.actors) == (2, 0)


def test_whatever_is_chosen_fits_the_cluster_and_is_a_setting():
    several = itertools.product((0.0005, 0.01), (0, 0.005, 0.1), (0.004, 0.1), (2, 3, 16), (0, 1, 4), (8, 64))
    for read, teach, student, cpus, gpus, batch in several:
        found = costs(read, teach, student, threads=(1, 2))
        sizes = choose(found, cpus, gpus, batch)
        settings = apply(Settings(), chosen_values(Settings(optim={"batch_size": batch}), found, sizes, cpus))
        check_fits(settings, teachers=bool(teach), have=[Node({"CPU": cpus, "GPU": gpus})])
        assert 0 < sizes.rate <= sizes.limit * 1.001
        assert all(explain(found, sizes, cpus, gpus))


def test_no_process_reserves_more_than_a_node_has():
    found = costs(teach=0.001, student=0.1)
    sizes = choose(found, cpus=64, gpus=0, batch_size=32)
    settings = apply(Settings(), chosen_values(Settings(), found, sizes, 64, most=8.0))
    check_fits(settings, teachers=True, have=[Node({"CPU": 8.0}, None, 8)])


def test_reading_tasks_that_labels_ask_for_keep_their_cpus():
    found, own = costs(), Settings(resources={"reader_labels": {"a": "b"}})
    settings = apply(own, chosen_values(own, found, choose(found, 2, 0, 32, may_inline=False), 2))
    check_fits(settings, teachers=True, have=[Node({"CPU": 2.0}, {"a": "b"})])


def test_large_clips_are_not_fetched_far_ahead():
    found = Costs(0.01, {1: 0.1}, clip_mb=5.0)
    values = chosen_values(Settings(), found, choose(found, 2, 0, 32), 2)
    assert values["resources.prefetch"] == 1
    values = chosen_values(Settings(), found, choose(found, 2, 0, 32), 2, store=1e11)
    assert values["resources.prefetch"] == 4


def test_resources_auto_is_a_flag():
    settings = load_settings(["--resources", "auto"], job="distill", about="")
    assert settings.resources.auto and not Settings().resources.auto
