"""Work that hangs ends its process, whatever else hangs."""

import os
import threading

import pytest

from mmkd.watchdog import ATTEMPTS, Watchdog


@pytest.fixture
def ended(monkeypatch):
    """Set where the process would end."""
    ended = threading.Event()
    monkeypatch.setattr("mmkd.watchdog.os._exit", lambda status: ended.set())
    return ended


def test_what_hangs_is_noted_and_named_after_some_attempts(tmp_path, ended):
    watchdog = Watchdog(0.05, tmp_path / "hangs.jsonl")
    for _ in range(ATTEMPTS):
        with watchdog.over("the reading of step 3"):
            assert ended.wait(10)
        ended.clear()
    with (
        pytest.raises(TimeoutError, match="the reading of step 3 did not come"),
        watchdog.over("the reading of step 3"),
    ):
        pass
    with watchdog.over("the reading of step 4"):
        pass


def test_the_process_ends_where_the_file_system_of_the_record_hangs_too(tmp_path, ended, monkeypatch):
    monkeypatch.setattr("mmkd.watchdog.NOTE_SECONDS", 0.05)
    os.mkfifo(tmp_path / "hangs.jsonl")  # to write into it waits for a reader
    with Watchdog(0.05, tmp_path / "hangs.jsonl").over("the reading of step 3"):
        assert ended.wait(10)
    assert "step 3" in (tmp_path / "hangs.jsonl").read_text()  # lets the thread end
