"""Cores that a process may use."""

import os

import pytest

from mmkd.cores import available_cores


@pytest.mark.parametrize(("text", "cores"), [("250000 100000", 2), ("max 100000", 12), ("50000 100000", 1)])
def test_a_containers_quota_counts(monkeypatch, tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr("mmkd.cores.QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    assert available_cores() == cores


def test_a_machine_without_quotas_has_the_cores_that_this_process_may_run_on(monkeypatch, tmp_path):
    monkeypatch.setattr("mmkd.cores.QUOTA", tmp_path / "nothing")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7})
    assert available_cores() == 3
