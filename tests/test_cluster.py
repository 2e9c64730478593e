"""Joining a cluster: one that is gone is passed over at once, unless it was asked for by name."""

import socket

import pytest

from mmkd.cluster import automatic_threads, running_cluster
from mmkd.config import Settings, SettingsError


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_address_that_ray_remembers_but_nobody_answers_at_is_passed_over(monkeypatch, closed_port):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda: f"127.0.0.1:{closed_port}")
    assert running_cluster() is None


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
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    settings = Settings.model_validate({"resources": {"workers": 2}})
    assert (automatic_threads(settings, 4), automatic_threads(settings, 0)) == (3, 4)
    assert automatic_threads(Settings.model_validate({"resources": {"threads": 7}}), 4) == 7
