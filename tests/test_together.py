"""Things that several threads make, and one takes in order."""

import sys
import threading
import time

import pytest

from mmkd.together import asked_now, made_together


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_each_is_made_once_and_all_come_in_order(helpers):
    made = []

    def make(number):
        time.sleep(0.001 * (number % 3))  # later ones are done sooner
        made.append(number)
        return 10 * number

    assert list(made_together(make, range(5, 45), helpers, ahead=4)) == [10 * number for number in range(5, 45)]
    assert sorted(made) == list(range(5, 45))


def test_helpers_work_while_the_one_who_asks_does_something_else():
    second = threading.Event()

    def make(number):
        if number == 1:
            second.set()
        return number

    results = made_together(make, range(2), helpers=1, ahead=4)
    assert next(results) == 0
    assert second.wait(10)


def test_the_one_who_asks_helps_instead_of_waiting():
    """Its second is held up in the helper until it has made the third itself."""
    both, by = threading.Barrier(2, timeout=10), {}

    def make(number):
        by[number] = threading.get_ident()
        if number:
            both.wait()
        return number

    assert list(made_together(make, range(3), helpers=1, ahead=2)) == [0, 1, 2]
    assert by[0] == threading.get_ident() and len({by[1], by[2]}) == 2


def test_no_more_are_made_ahead_than_is_said():
    made = []
    results = made_together(made.append, range(100), helpers=1, ahead=4)
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

    results = made_together(make, range(9), helpers, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_nothing_goes_on_when_it_is_closed():
    before, usual = set(threading.enumerate()), sys.getswitchinterval()
    results = made_together(lambda number: number, range(10**6), helpers=2, ahead=4)
    next(results)
    helpers = set(threading.enumerate()) - before
    assert len(helpers) == 2
    results.close()
    assert not any(helper.is_alive() for helper in helpers) and sys.getswitchinterval() == usual


def test_who_interrupts_the_one_who_asks_is_heard_at_once():
    """Though what it makes is not what it waits for."""
    asking, free = threading.get_ident(), threading.Event()

    def make(number):
        if number and threading.get_ident() == asking:
            raise KeyboardInterrupt
        if number:
            free.wait(10)
        return number

    results = made_together(make, range(9), helpers=1, ahead=4)
    assert next(results) == 0
    with pytest.raises(KeyboardInterrupt):
        while True:
            threading.Timer(0.2, free.set).start()
            next(results)


def test_the_first_of_an_iterator_is_asked_for_before_anyone_takes_it():
    asked = threading.Event()

    def items():
        asked.set()
        yield from (1, 2, 3)

    results = asked_now(items)
    assert asked.wait(10) and list(results) == [1, 2, 3]
    assert list(asked_now(lambda: iter(()))) == []


def test_what_an_iterator_raises_comes_when_it_is_taken():
    def items():
        yield 1
        raise ValueError("two")

    results = asked_now(items)
    assert next(results) == 1
    with pytest.raises(ValueError, match="two"):
        next(results)

    def none():
        raise ValueError("none")

    with pytest.raises(ValueError, match="none"):
        next(asked_now(none))
