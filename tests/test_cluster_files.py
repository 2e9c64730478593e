"""The files that start clusters: Ray takes them, they bring the Ray that is here, each role has nodes, and nothing but
SSH is open. None of it needs a cloud; Ray's own code reads the files as it would there."""

import os
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray._private.label_utils import parse_node_labels_string
from ray.autoscaler._private.aws.config import _create_default_inbound_rules
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.providers import _get_default_config
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.common_pb2 import LabelSelectorOperator  # type: ignore[attr-defined]
from ray.util.accelerators import accelerators

from mmkd.cli import load_settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "cluster.md"
AWS, GCP, ON_PREMISE, KUBERNETES = "cluster.yaml", "deploy/gcp.yaml", "deploy/on-premise.yaml", "deploy/rayjob.yaml"
LAUNCHED = (AWS, GCP, ON_PREMISE)
WITH_NODE_TYPES = (AWS, GCP, KUBERNETES)
FILES = (*LAUNCHED, KUBERNETES)
TOKEN = "~/.ray/auth_token"
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@cache
def documents(name: str) -> dict[str, Any]:
    """The documents of a file by their kind; a file for Ray's launcher is the one document without."""
    return {each.get("kind", ""): each for each in yaml.safe_load_all((ROOT / name).read_text())}


def job() -> dict[str, Any]:
    return documents(KUBERNETES)["RayJob"]["spec"]


def groups() -> list[dict[str, Any]]:
    """The head's group of the RayJob, and those of the workers."""
    cluster = job()["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def as_ray_sees_it(name: str) -> AutoscalingConfig:
    """The file as Ray's autoscaler has it, after Ray validated it against its schema."""
    if name == KUBERNETES:
        metadata = {"name": "cluster", "namespace": "default"}
        config = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": job()["rayClusterSpec"]})
    else:
        config = prepare_config(documents(name)[""])
        validate_config(config)
    return AutoscalingConfig(config, skip_content_hash=True)


def worker_types(name: str) -> dict[str, Any]:
    """What Ray knows of each type of node (resources, labels, how many), without the head's."""
    config = as_ray_sees_it(name)
    return {key: each for key, each in config.get_node_type_configs().items() if key != config.get_head_node_type()}


def node_configs(name: str) -> dict[str, Any]:
    """What a file for Ray's launcher asks a cloud for, by type of node."""
    return {key: each["node_config"] for key, each in documents(name)[""]["available_node_types"].items()}


def is_spot(name: str, node_type: str) -> bool:
    if name == KUBERNETES:
        (group,) = (each for each in groups() if each.get("groupName") == node_type)
        return group["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] == "spot"
    node = node_configs(name)[node_type]
    if name == AWS:
        return node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return node.get("scheduling", {}).get("provisioningModel") == "SPOT"


def ray_start(commands: list[str]) -> tuple[int, str]:
    """Which of the commands starts Ray, and the command."""
    ((index, command),) = ((index, each) for index, each in enumerate(commands) if "ray start" in each)
    return index, command


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name):
    assert as_ray_sees_it(name).get_config("available_node_types")


@pytest.mark.parametrize("name", LAUNCHED)
def test_no_command_is_left_to_rays_defaults(name):
    # They install a nightly Ray, with a pip that the environment does not have, and open the dashboard to everyone.
    commands = {key for key in _get_default_config(documents(name)[""]["provider"]) if key.endswith("_commands")}
    assert commands - documents(name)[""].keys() <= {"initialization_commands"}


def test_every_file_brings_the_ray_that_is_here():
    # pip's pin, an image of Ray or mmkd's own, and the version that KubeRay is told
    pin = r"(?:\[default,data,train,tune\]==|\bray:?|rayVersion: )(\d+\.\d+\.\w+)"
    pinned = {path: re.findall(pin, path.read_text()) for path in (*(ROOT / name for name in FILES), DOCS)}
    wrong = {str(path): found for path, found in pinned.items() if set(found) != {ray.__version__}}
    assert not wrong, (
        f"Jobs are submitted from Ray {ray.__version__}, and a cluster must have the same. Change these pins to it and "
        f"build the image again, or install here the version that they pin: {wrong}"
    )
    assert all(len(pinned[ROOT / name]) == 1 for name in LAUNCHED)


def test_an_aws_group_that_ray_makes_lets_in_ssh_and_its_own_traffic_only():
    extra = documents(AWS)[""]["provider"]["security_group"].get("IpPermissions", [])
    rules = _create_default_inbound_rules({"sg-own"}, extra)
    inside = [each for each in rules if set(each) & {"IpRanges", "Ipv6Ranges", "PrefixListIds"} == set()]
    outside = [each for each in rules if each not in inside]
    assert [each["UserIdGroupPairs"] for each in inside] == [[{"GroupId": "sg-own"}]]
    assert {(each["FromPort"], each["ToPort"], each["IpProtocol"]) for each in outside} == {(22, 22, "tcp")}
    assert not any({"SecurityGroupIds", "NetworkInterfaces"} & node.keys() for node in node_configs(AWS).values())


def test_on_google_cloud_every_node_is_in_the_network_of_the_docs():
    # Ray makes no firewall there; the one of the docs holds in this network only.
    (network,) = {str(node["networkInterfaces"]) for node in node_configs(GCP).values()}
    assert "/subnetworks/mmkd'" in network
    assert "--network=mmkd" in DOCS.read_text()


def test_on_kubernetes_only_the_namespace_and_the_operator_reach_a_pod():
    assert set(documents(KUBERNETES)) == {"PersistentVolumeClaim", "NetworkPolicy", "RayJob"}
    head, *workers = groups()
    assert head.get("serviceType", "ClusterIP") == "ClusterIP" and not {"headService", "enableIngress"} & head.keys()
    policy = documents(KUBERNETES)["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert {key for rule in policy["ingress"] for each in rule["from"] for key in each} == {
        "podSelector",
        "namespaceSelector",
    }
    for group in (head, *workers):
        assert policy["podSelector"]["matchLabels"].items() <= group["template"]["metadata"]["labels"].items()
        assert not {"hostNetwork", "hostPort"} & set(re.findall(r"\w+", str(group["template"])))


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_token_is_on_a_node_before_ray_starts_there(name):
    config = documents(name)[""]
    assert config["file_mounts"][TOKEN] == TOKEN
    for key in START_COMMANDS:
        index, command = ray_start(config[key])
        # Fails, and Ray does not start, where there is no token.
        assert f"chmod 600 {TOKEN}" in config[key][:index], key
        assert "RAY_AUTH_MODE=token" in command[: command.index("ray start")], key


def test_on_kubernetes_the_token_is_kuberays():
    assert job()["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_dashboard_listens_on_loopback(name):
    _, command = ray_start(documents(name)[""]["head_start_ray_commands"])
    assert re.findall(r"--dashboard-host[= ](\S+)", command) == ["127.0.0.1"]


@pytest.mark.parametrize("name", FILES)
def test_the_head_takes_no_work(name):
    if name == ON_PREMISE:
        _, command = ray_start(documents(name)[""]["head_start_ray_commands"])
        assert "--num-cpus=0" in command and "--num-gpus=0" in command
    else:
        config = as_ray_sees_it(name)
        head = config.get_node_type_configs()[config.get_head_node_type()]
        assert head.resources["CPU"] == 0 and not head.resources.get("GPU")


@pytest.mark.parametrize("name", WITH_NODE_TYPES)
def test_the_roles_are_those_of_the_docs(name):
    told = set(re.findall(r"mmkd/role[:=] *(\w+)", DOCS.read_text()))
    assert told == {"decode", "teacher", "student"}
    assert {each.labels["mmkd/role"] for each in worker_types(name).values()} == told


def test_a_machine_of_ones_own_has_the_role_that_a_file_there_names(tmp_path):
    _, command = ray_start(documents(ON_PREMISE)[""]["worker_start_ray_commands"])
    say = ["bash", "-c", "printf %s " + command.split("--labels=")[1]]
    for role in ("decode", "teacher", "student"):
        if role != "decode":
            (tmp_path / "mmkd-role").write_text(role + "\n")
        said = subprocess.run(say, env={"HOME": str(tmp_path), "PATH": os.defpath}, capture_output=True, text=True)
        assert parse_node_labels_string(said.stdout) == {"mmkd/role": role}


@pytest.mark.parametrize("name", WITH_NODE_TYPES)
@pytest.mark.parametrize("role", ["decode", "teacher", "student"])
def test_what_asks_for_a_role_starts_nodes_of_that_role(name, role):
    needs = {"CPU": 1.0} if role == "decode" else {"CPU": 1.0, "GPU": 1.0}
    types = worker_types(name)
    having = {key for key, each in types.items() if each.labels["mmkd/role"] == role}
    assert having and started(types, needs, {"mmkd/role": role}) <= having
    for each in having:
        accelerator = types[each].labels.get("ray.io/accelerator-type")
        if accelerator:  # by label, and as the option accelerator_type asks for it
            assert started(types, needs, {"mmkd/role": role, "ray.io/accelerator-type": accelerator}) == {each}
            assert started(types, needs | {f"accelerator_type:{accelerator}": 0.001}, {"mmkd/role": role}) == {each}


def started(types: dict[str, Any], needs: dict[str, float], labels: dict[str, str]) -> set[str]:
    """The types of nodes that Ray's autoscaler would start for two tasks, where no node is running.

    Raises:
        ValueError: there is none that could run them.
    """
    selector = [(key, LabelSelectorOperator.LABEL_OPERATOR_IN, [value]) for key, value in labels.items()]
    tasks = [ResourceRequestUtil.make(needs, label_selectors=[selector])] * 2
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        max_num_nodes=100,
        resource_requests=ResourceRequestUtil.group_by_count(tasks),
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    if reply.infeasible_resource_requests:
        raise ValueError(f"no node for {needs} with {labels}")
    return {each.instance_type for each in reply.to_launch}


@pytest.mark.parametrize("name", WITH_NODE_TYPES)
def test_students_are_on_demand_and_all_others_are_spot(name):
    for key, each in worker_types(name).items():
        assert is_spot(name, key) == (each.labels["mmkd/role"] != "student"), key


@pytest.mark.parametrize("name", WITH_NODE_TYPES)
def test_ranges_are_ranges_and_the_whole_allows_their_sum(name):
    types = worker_types(name)
    assert all(0 <= each.min_worker_nodes <= each.max_worker_nodes for each in types.values())
    assert as_ray_sees_it(name).get_max_num_worker_nodes() == sum(each.max_worker_nodes for each in types.values())
    assert as_ray_sees_it(name).get_idle_timeout_s() == 600


@pytest.mark.parametrize("name", WITH_NODE_TYPES)
def test_accelerators_have_rays_names_as_label_and_as_resource(name):
    known = {value for key, value in vars(accelerators).items() if key.isupper()}
    for each in worker_types(name).values():
        named = {key.removeprefix("accelerator_type:") for key in each.resources if key.startswith("accelerator_type:")}
        assert named == {each.labels["ray.io/accelerator-type"]} if each.resources.get("GPU") else not named
        assert named <= known


@pytest.mark.parametrize("name", LAUNCHED)
def test_what_is_copied_to_a_node_is_there_and_installed(name):
    config = documents(name)[""]
    sources = {remote: local for remote, local in config["file_mounts"].items() if remote != TOKEN}
    assert {Path(remote).name for remote in sources} == {"pyproject.toml", "README.md", "LICENSE", "mmkd"}
    assert all((ROOT / local).exists() and local == Path(remote).name for remote, local in sources.items())
    (folder,) = {str(Path(remote).parent) for remote in sources}
    assert any("pip install" in each and each.endswith(f" {folder}'[train]'") for each in config["setup_commands"])


def test_the_groups_of_the_rayjob_agree():
    claim = documents(KUBERNETES)["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    containers = [each["template"]["spec"]["containers"][0] for each in groups()]
    assert len({each["image"] for each in containers}) == 1
    for group, container in zip(groups(), containers, strict=True):
        (volume,) = group["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (mount,) = container["volumeMounts"]
        assert container["env"][0]["value"].startswith(mount["mountPath"]) and mount["name"] == volume["name"]
        # Ray sizes its object store by the limit; a pod that requests less can be evicted for using it.
        limits = container["resources"]["limits"]
        assert limits == container["resources"]["requests"]
        if group.get("groupName"):
            assert group["resources"]["CPU"] == limits["cpu"]
            assert group["resources"].get("GPU") == limits.get("nvidia.com/gpu")


def test_the_rayjob_runs_a_command_of_the_project_and_cleans_up():
    python, script, *arguments = shlex.split(job()["entrypoint"])
    assert python == "python" and (ROOT / script).is_file()
    settings = load_settings(arguments, job=Path(script).stem, about="")
    assert settings.teachers.accelerator_type in {
        each.labels.get("ray.io/accelerator-type") for each in worker_types(KUBERNETES).values()
    }
    assert job()["shutdownAfterJobFinishes"] is True
