"""Several iterators that run at once, in threads, and are given out one after the other."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def in_order(makers: Iterable[Callable[[], Iterator[T]]], threads: int, depth: int) -> Iterator[T]:
    """The items of the iterators that the makers make, in order, while those of the next ones come into being.

    Args:
        threads: iterators that run at once; 0: none do, each runs in this thread when it is its turn.
        depth: items of each that wait, at most.

    Raises:
        Exception: whatever an iterator raises, when it is its turn.
    """
    if not threads:
        for make in makers:
            yield from make()
        return
    left, running, stop = iter(makers), deque[Iterator[T]](), threading.Event()
    try:
        while True:
            while len(running) < threads and (following := next(left, None)):
                running.append(_started(following, depth, stop))
            if not running:
                return
            yield from running.popleft()
    finally:
        stop.set()


def _started(make: Callable[[], Iterator[T]], depth: int, stop: threading.Event) -> Iterator[T]:
    """The items of an iterator that a thread goes through from now on, until all are there or `stop` is set."""
    items: queue.Queue[Any] = queue.Queue(depth)
    failed: list[BaseException] = []

    def put(item: Any) -> bool:
        """Whether it was put; not, where nobody takes items any longer."""
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in make():
                if not put(item):
                    return
        except BaseException as error:  # it is raised where the items are taken
            failed.append(error)
        put(_END)

    def taken() -> Iterator[T]:
        while (item := items.get()) is not _END:
            yield item
        if failed:
            raise failed[0]

    threading.Thread(target=run, daemon=True).start()
    return taken()
