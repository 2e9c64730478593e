"""What a person sees while a training runs: one line that is always current."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmkd.runs import Tail


def say(text: str) -> None:
    """A line for people; goes to standard error, so that standard output ends with the result."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def follow(run: Path, label: str, epochs: int, steps: int, every: float) -> Iterator[None]:
    """Show the progress that metrics.jsonl tells of, while the block runs.

    On a terminal the line is written over; elsewhere it is printed every `every` seconds. The end of each epoch keeps
    a line of its own.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(run, label, epochs, steps, every, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(run: Path, label: str, epochs: int, steps: int, every: float, stop: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    judged = run / "competence.json"
    told = judged.is_file()
    metrics, notices = Tail(run / "metrics.jsonl"), Tail(run / "notices.jsonl")
    began, printed = time.monotonic(), 0.0
    waiting = True
    while True:
        last = stop.wait(0.5 if terminal else min(every, 1.0))
        fresh = metrics.fresh()
        if not told and judged.is_file():
            told = True
            from mmkd.competence import Competence  # needs torch, which those who only speak do not

            lines = Competence(**json.loads(judged.read_text())).lines()
            _write("\n".join([f"{label}: teachers on held-out clips", *lines]), over=False, terminal=terminal)
        for notice in notices.fresh():
            _write(f"{label}: {notice['text']}", over=False, terminal=terminal)
        for row in fresh:
            waiting = False
            if row["kind"] == "epoch":
                _write(epoch_line(row, label, epochs), over=False, terminal=terminal)
        current = fresh[-1] if fresh and fresh[-1]["kind"] == "train" else None
        now = time.monotonic()
        due = terminal or now - printed >= every
        if current and due:
            _write(train_line(current, label, epochs, steps), over=True, terminal=terminal)
            printed = now
        elif waiting and due and not last and now - began > 1:
            text = f"{label}: starting workers, readers and teachers ({now - began:.0f} s)"
            _write(text, over=True, terminal=terminal)
            printed = now
        if last:
            if terminal:
                _write("", over=True, terminal=True)
            return


def train_line(row: dict[str, Any], label: str, epochs: int, steps: int) -> str:
    """Epoch, step, loss, rates, wait share and time left of a row of metrics.jsonl."""
    taught = f", teachers {row['teacher_clips_per_second']:.0f} clips/s" if row["teacher_clips_per_second"] else ""
    return (
        f"{label}: epoch {row['epoch']}/{epochs}, step {row['step']}/{steps}, loss {row['loss']:.3f}, "
        f"{row['clips_per_second']:.0f} clips/s{taught}, waited for data {100 * row['wait_share']:.0f} %, "
        f"{duration(row['seconds_left'])} left"
    )


def epoch_line(row: dict[str, Any], label: str, epochs: int) -> str:
    """Validation accuracies of an epoch; of multi-label heads, the mean average precision."""
    said = [
        f"{head} {100 * metrics['accuracy']:.1f} %"
        if "accuracy" in metrics
        else f"{head} mAP {100 * metrics['mean_average_precision']:.1f} %"
        for head, metrics in row["val"].items()
    ]
    return f"{label}: epoch {row['epoch']}/{epochs} done in {duration(row['seconds'])}, val {', '.join(said)}"


def _write(text: str, over: bool, terminal: bool) -> None:
    if not terminal:
        print(text, file=sys.stderr, flush=True)
        return
    sys.stderr.write("\r\033[K" + text + ("" if over else "\n"))
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """A time for people to read."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
