"""Joining a cluster: one that is gone is passed over at once, unless it was asked for by name."""

import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmkd.cluster import automatic_threads, running_cluster, show_token
from mmkd.config import Settings, SettingsError


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_address_that_ray_remembers_but_nobody_answers_at_is_passed_over(monkeypatch, tmp_path, closed_port):
    from ray._private.utils import read_ray_address

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    assert running_cluster() is None
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port}")
    assert read_ray_address() == f"127.0.0.1:{closed_port}"  # the same file
    assert running_cluster() is None


def test_a_ray_of_its_own_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert running_cluster() is None


@pytest.mark.parametrize("asks", [True, False])
def test_the_token_is_shown_only_where_it_is_asked_for(monkeypatch, asks):
    grpc = pytest.importorskip("grpc")

    def answer(request, context):
        if asks:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    service = grpc.method_handlers_generic_handler(
        "ray.rpc.NodeInfoGcsService", {"GetClusterId": grpc.unary_unary_rpc_method_handler(answer)}
    )
    server = grpc.server(ThreadPoolExecutor(1), [service])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    try:
        show_token(f"127.0.0.1:{port}")
        assert os.environ.pop("RAY_AUTH_MODE", "") == ("token" if asks else "")
    finally:
        server.stop(0)


def test_a_cluster_that_answers_is_joined(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert running_cluster() == address


def test_a_cluster_asked_for_by_name_must_answer(monkeypatch, closed_port):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    with pytest.raises(SettingsError, match=r"RAY_ADDRESS is .*where no Ray answers"):
        running_cluster()


def test_threads_leave_room_for_teachers_and_a_reader(monkeypatch):
    monkeypatch.setattr("mmkd.cluster.available_cores", lambda: 12)
    settings = Settings.model_validate({"resources": {"workers": 2, "readers": 1}})
    assert (automatic_threads(settings, 4), automatic_threads(settings, 0)) == (3, 4)
    reading = Settings.model_validate({"resources": {"workers": 2}})  # teachers that read for themselves
    assert automatic_threads(reading, 4) == 4
    assert automatic_threads(Settings.model_validate({"resources": {"threads": 7}}), 4) == 7
    ahead = Settings.model_validate({"resources": {"inline": True, "workers": 2, "ahead": 4}})
    assert automatic_threads(ahead, 4) == 2
    monkeypatch.setattr("mmkd.cluster.in_session", lambda: True)
    for nodes, expected in ((1, 4), (3, 6)):
        monkeypatch.setattr("mmkd.cluster.cluster_nodes", lambda: [None] * nodes)  # noqa: B023
        own = Settings.model_validate({"resources": {"workers": 2, "cpus_per_worker": 6.5}})
        assert automatic_threads(own, 4) == expected
