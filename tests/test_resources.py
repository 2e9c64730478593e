"""What a job reserves is compared with what there is and what there can be, and refused with the sum."""

import pytest

from mmkd import resources
from mmkd.cli import load_settings
from mmkd.config import Settings, SettingsError
from mmkd.resources import Demand, Node, at_most, check_fits, demands, shortage

T4 = {"accelerator_type:T4": 1.0, "CPU": 4.0, "GPU": 1.0}


def settings_of(**sections):
    return Settings.model_validate(sections)


def test_the_sum_of_all_parts_is_compared_with_the_cluster():
    settings = settings_of(
        resources={"workers": 3, "cpus_per_worker": 2, "readers": 1}, teachers={"actors": 2, "num_cpus": 1.5}
    )
    asked = demands(settings, teachers=4)
    assert shortage(asked, [Node({"CPU": 8}), Node({"CPU": 2})]) == ""
    said = shortage(asked, [Node({"CPU": 8}), Node({"CPU": 1})])
    assert said == (
        "the job needs 9.25 CPUs (resources.workers 3 x 2 + teachers.actors 2 x 1.5 + one reader 1 x 0.25) and the "
        "cluster has 9"
    )
    assert shortage(demands(settings, teachers=0), [Node({"CPU": 6.25})]) == ""


def test_enough_in_sum_but_on_no_single_node_is_refused():
    said = shortage([Demand("resources.workers", 1, 4.0)], [Node({"CPU": 3}), Node({"CPU": 3})])
    assert said == "one process of resources.workers needs 4 CPUs and no node of the cluster has that"


def test_accelerators_and_labels_are_counted_where_they_are():
    student = {"workers": 2, "use_gpu": True, "accelerator_type": "A100", "labels": {"mmkd/role": "student"}}
    teachers = {"actors": 2, "num_gpus": 0.5, "accelerator_type": "T4"}
    asked = demands(settings_of(resources=student, teachers=teachers), 3)
    a100 = {"accelerator_type:A100": 1.0, "CPU": 8.0, "GPU": 4.0}
    right, wrong = ({"mmkd/role": role} for role in ("student", "teacher"))
    assert shortage(asked, [Node(T4, {}), Node(a100, right)]) == ""
    assert "needs 2 CPUs on nodes with A100 mmkd/role=student" in shortage(asked, [Node(T4, {}), Node(a100, wrong)])
    assert "needs 1 CPUs on nodes with T4" in shortage(asked, [Node(a100, right)])
    # What an autoscaler may add has labels that nobody knows yet.
    assert shortage(asked, [Node(T4, None, 2), Node(a100, None, 1)]) == ""


def test_elastic_training_needs_its_fewest_workers():
    asked = demands(settings_of(resources={"workers": 8, "min_workers": 2}), 0)
    assert shortage(asked, [Node({"CPU": 2.25})]) == ""
    assert "resources.min_workers 2 x 1" in shortage(asked, [Node({"CPU": 2})])
    with pytest.raises(ValueError, match=r"resources\.min_workers 3 is more than resources\.workers 2"):
        settings_of(resources={"workers": 2, "min_workers": 3})
    with pytest.raises(ValueError, match=r"min_workers does not go with resources\.labels"):
        settings_of(resources={"workers": 2, "min_workers": 1, "labels": {"mmkd/role": "student"}})


def test_custom_resources_are_counted_where_they_are():
    asked = demands(settings_of(resources={"workers": 2, "custom": {"student": 1}}), 0)
    student = Node({"CPU": 4, "student": 1})
    assert shortage(asked, [Node({"CPU": 1}), student, student]) == ""
    assert shortage(asked, [Node({"CPU": 9}), student]) == (
        "the job needs 2 of resource student (resources.workers 2 x 1) and the cluster has 1"
    )
    said = shortage(asked, [Node({"CPU": 9}), Node({"CPU": 0.5, "student": 2})])
    assert (
        said
        == "one process of resources.workers needs 1 CPUs and 1 of resource student and no node of the cluster has that"
    )


def test_a_cluster_that_can_grow_is_taken_at_its_most():
    head, workers = Node({"CPU": 2}, {}), Node({"CPU": 4, "GPU": 1}, None, 3)
    now = [head, Node({"CPU": 4, "GPU": 1}, {})]
    most = at_most(now, [workers])
    assert sum(node.count * node.resources["CPU"] for node in most) == 14
    three, four = (demands(settings_of(resources={"workers": n, "use_gpu": True}), 0) for n in (3, 4))
    assert shortage(three, now) and not shortage(three, most)
    assert "needs 4 GPUs (resources.workers 4 x 1 + one reader 1 x 0) and the cluster has 3" in shortage(four, most)
    assert at_most(now, []) == now


def test_what_is_refused_says_what_to_do():
    with pytest.raises(SettingsError, match=r"has 1; lower these settings, or give it more \(--wait-for-resources"):
        check_fits(settings_of(resources={"workers": 2}), 0, [Node({"CPU": 1.0})])


def test_pools_reserve_what_they_say_and_else_what_the_section_says():
    pools = {
        "large": {"teachers": ["rgb"], "num_gpus": 1, "accelerator_type": "A10G"},
        "small": {"teachers": ["audio"]},
    }
    settings = settings_of(teachers={"actors": 2, "pools": pools})
    asked = {each.what: each for each in demands(settings, 2)}
    large, small = asked["teachers.pools.large"], asked["teachers.pools.small"]
    assert (large.count, large.GPU, large.accelerator_type) == (2, 1, "A10G")
    assert (small.count, small.GPU, small.accelerator_type) == (2, 0, "")
    assert settings.teachers.members(["audio", "rgb"]) == {"large": [1], "small": [0]}


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"teachers": []}, r"teachers\.pools\.one names no teachers"),
        (
            {"teachers": ["rgb"], "gpus": 1},
            r"teachers\.pools\.one has gpus; a pool may have teachers, actors, num_cpus",
        ),
        ({"teachers": ["rgb"], "actors": 0}, r"greater than 0"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(pool, said):
    with pytest.raises(ValueError, match=said):
        settings_of(teachers={"pools": {"one": pool}})


def test_pools_come_from_a_file_beside_flags(tmp_path):
    (tmp_path / "pools.yaml").write_text("teachers: {pools: {one: {teachers: [rgb], actors: 3}}}")
    arguments = ["--config", str(tmp_path / "pools.yaml"), "--teachers.num_cpus", "2"]
    (pool,) = load_settings(arguments, job="distill", about="").teachers.each_pool().values()
    assert (pool.actors, pool.num_cpus) == (3, 2)


def test_every_teacher_must_be_in_one_pool():
    for placed in (["rgb"], ["rgb", "flow", "flow"], ["rgb", "boxes"]):
        settings = settings_of(teachers={"pools": {"one": {"teachers": placed}}})
        with pytest.raises(SettingsError, match="each teacher must be in one pool, and they are rgb, flow"):
            settings.teachers.members(["rgb", "flow"])


def test_a_cluster_that_can_grow_is_asked_to_while_a_job_waits_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(resources, "_wait_until_free", lambda *_: asked.append("waited"))
    settings = settings_of(resources={"workers": 2, "use_gpu": True, "accelerator_type": "L4", "custom": {"a": 1}})
    for groups in ([Node({"CPU": 4, "GPU": 1}, None, 3)], []):
        monkeypatch.setattr(resources, "autoscaler_groups", lambda: groups)  # noqa: B023
        resources._wait(demands(settings, 0), 1.0)
    worker = {"CPU": 1.0, "GPU": 1.0, "a": 1.0, "accelerator_type:L4": 0.001}
    assert asked == [[worker, worker, {"CPU": 0.25}], "waited", [], "waited"]


def test_the_room_of_a_cluster_is_counted_node_by_node_and_at_its_most(monkeypatch):
    nodes = [
        Node({"CPU": 3}),
        Node({"CPU": 8, "GPU": 2}, None, 2),
        Node({"CPU": 8, "GPU": 1}, None, resources.NO_LIMIT),
    ]
    monkeypatch.setattr(resources, "grown_nodes", lambda: nodes[:2])
    assert resources.room_for(Demand("x", 1, 2.0)) == 1 + 4 + 4
    assert resources.room_for(Demand("x", 1, 2.0, 0.5)) == 4 + 4
    assert resources.total(nodes) == {"CPU": 3 + 16 + 8, "GPU": 4 + 1}


def test_a_machine_s_gpus_are_taken_for_those_that_are_asked_for():
    kinds = {"accelerator_type": "L40S"}
    settings = settings_of(resources={"use_gpu": True, "num_gpus": 2, "num_cpus": 4} | kinds, teachers=kinds)
    check_fits(settings, 0, [resources.this_machine(settings)])
    with pytest.raises(SettingsError, match="needs 1 GPUs"):
        none = settings_of(resources={"use_gpu": True, "num_cpus": 4} | kinds)
        check_fits(none, 0, [resources.this_machine(none)])
