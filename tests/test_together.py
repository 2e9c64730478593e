"""Things that several threads make, and one takes in order."""

import sys
import threading
import time

import pytest

from mmkd.together import made_together


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_each_is_made_once_and_all_come_in_order(helpers):
    made = []

    def make(number):
        time.sleep(0.001 * (number % 3))  # later ones are done sooner
        made.append(number)
        return 10 * number

    assert list(made_together(make, range(5, 45), helpers)) == [10 * number for number in range(5, 45)]
    assert sorted(made) == list(range(5, 45))


def test_helpers_work_while_the_one_who_asks_does_something_else():
    second = threading.Event()

    def make(number):
        if number == 1:
            second.set()
        return number

    results = made_together(make, range(2), helpers=1)
    assert next(results) == 0
    assert second.wait(10)


def test_the_one_who_asks_helps_instead_of_waiting():
    """Its first is held up in the helper until it has made the second itself."""
    both, by = threading.Barrier(2, timeout=10), {}

    def make(number):
        by[number] = threading.get_ident()
        both.wait()
        return number

    assert list(made_together(make, range(2), helpers=1)) == [0, 1]
    assert threading.get_ident() in by.values() and len(set(by.values())) == 2


def test_no_more_are_made_ahead_than_twice_the_threads():
    made = []
    results = made_together(made.append, range(100), helpers=1)
    next(results)
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(made) == 1 + 4
    results.close()


@pytest.mark.parametrize("helpers", [0, 2])
def test_what_goes_wrong_is_raised_when_it_is_its_turn(helpers):
    def make(number):
        if number == 3:
            raise ValueError("three")
        return number

    results = made_together(make, range(9), helpers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_nothing_goes_on_when_it_is_closed():
    before, usual = threading.active_count(), sys.getswitchinterval()
    results = made_together(lambda number: number, range(10**6), helpers=2)
    next(results)
    assert threading.active_count() == before + 2
    results.close()
    assert threading.active_count() == before and sys.getswitchinterval() == usual
