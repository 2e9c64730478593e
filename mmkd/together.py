"""Things that are made one after the other, by several threads, and given out in order."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")
SWITCH_SECONDS = 0.0005
"""How long a thread may keep the others from Python's interpreter, a tenth of what is usual: whoever comes back from a
library waits for that long."""
JOIN_SECONDS = 10.0
"""That a thread has to end what it makes, when nobody wants it any longer; it ends with the process at the latest."""


def made_together(make: Callable[[int], T], numbers: Sequence[int], helpers: int, ahead: int) -> Iterator[T]:
    """`make(number)` for each number, in order; threads make some of the next ones meanwhile.

    So does the one that asks, where its next is not there yet: nobody waits as long as there is something to make, and
    no more threads work than there may be cores for, its own and the helpers.

    Args:
        make: is called by several threads at once, once it was called alone, so that what it opens first is there.
        helpers: threads; 0: none, and each is made when it is asked for.
        ahead: numbers that are begun and not yet taken, at most; no fewer than there are threads.

    Raises:
        Exception: whatever `make` raises, when it is that number's turn.
    """
    if not helpers:
        yield from map(make, numbers)
        return
    line, usual = _Line(make, numbers, max(ahead, helpers + 1)), sys.getswitchinterval()
    threads = [threading.Thread(target=line.help, daemon=True) for _ in range(helpers)]
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        for place in range(len(numbers)):
            made = [line.take(place)]
            if not place:
                for thread in threads:
                    thread.start()
            yield made.pop()  # nothing of it stays here
    finally:
        line.stop()
        for thread in threads:
            if thread.ident is not None:
                thread.join(JOIN_SECONDS)
        sys.setswitchinterval(usual)


def asked_now(make: Callable[[], Iterator[T]]) -> Iterator[T]:
    """The items of an iterator which a thread makes, and asks for its first item, from now on.

    Raises:
        Exception: whatever the iterator raises, when it is its item's turn.
    """
    first: list[T] = []
    asked: Future[Iterator[T]] = Future()

    def ask() -> None:
        try:
            items = make()
            first.extend(islice(items, 1))
            asked.set_result(items)
        except BaseException as error:
            asked.set_exception(error)

    def taken() -> Iterator[T]:
        items = asked.result()
        while first:
            yield first.pop()
        yield from items

    threading.Thread(target=ask, daemon=True).start()
    return taken()


class _Line(Generic[T]):
    """What has been begun, made and taken, of some numbers.

    Args:
        ahead: that are begun and not yet taken, at most.
    """

    def __init__(self, make: Callable[[int], T], numbers: Sequence[int], ahead: int):
        self.make, self.numbers, self.ahead = make, numbers, ahead
        self.made: dict[int, Future[T]] = {}
        self.begun = self.taken = 0
        self.changed = threading.Condition()

    def help(self) -> None:
        """Make what comes next until nothing is left, or it is stopped."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self._may_begin() or self.begun == len(self.numbers))
                if not self._may_begin():
                    return
                place = self._begin()
            self._make(place)

    def take(self, place: int) -> T:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: place in self.made or self._may_begin())
                if place in self.made:
                    self.taken += 1
                    self.changed.notify_all()
                    return self.made.pop(place).result()
                other = self._begin()
            self._make(other)

    def stop(self) -> None:
        with self.changed:
            self.begun = len(self.numbers)
            self.changed.notify_all()

    def _may_begin(self) -> bool:
        return self.begun < len(self.numbers) and self.begun - self.taken < self.ahead

    def _begin(self) -> int:
        self.begun += 1
        return self.begun - 1

    def _make(self, place: int) -> None:
        made: Future[T] = Future()
        try:
            made.set_result(self.make(self.numbers[place]))
        except BaseException as error:
            made.set_exception(error)
            if not isinstance(error, Exception):  # someone wants to end the one who asks, now
                raise
        finally:
            with self.changed:
                self.made[place] = made
                self.changed.notify_all()
