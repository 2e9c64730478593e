"""A soak: one distillation, and every --every seconds one of its processes is killed with SIGKILL, for --minutes.

    python benchmarks/soak.py [--minutes 30] [--every 20] [--run.home /abs]

Killed is a teacher actor, a reading task, a student worker or the job's driver, whichever a seeded die says, as long as
there is one; a job whose driver was killed is started again by the same command. When the time is up it is left alone
and finishes. Then it is compared with runs that nobody disturbed (--seeds of them, in one process each, which gives the
same numbers as Ray does; of other seeds, to know the noise): each clip must have been seen once in each epoch, each
step recorded once, and the accuracy must lie within the seeds' noise. What is there already is not run again.

The table goes to standard error, and the same as one JSON object to the last line of standard output. The data set
HOME/data/tabletop is made where it is missing. Any setting of the job can follow.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mmkd.cli import load_settings  # noqa: E402
from mmkd.progress import say  # noqa: E402
from mmkd.runs import read_epochs, read_lines, read_metrics  # noqa: E402
from tests.processes import descendants, named, position, seen  # noqa: E402

KINDS = {"teacher actor": "Pool_", "reading task": "ReadClips", "student worker": "TrainWorker", "driver": ""}
NAME = "soak"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3, help="runs that nobody disturbs, two at least")
    parser.add_argument("--seed", type=int, default=0, help="of the die")
    own, rest = parser.parse_known_args()
    # Reading tasks of their own, to be killed; one thread everywhere, so that sums are taken in one order.
    flags = ["--run.max_restarts", "1000", "--run.checkpoint_minutes", "0.25", "--run.trace"]
    flags += ["--resources.readers", "2", "--resources.threads", "1", *rest]
    settings = load_settings(flags, job="distill", about="", program="python benchmarks/soak.py")
    run = settings.home / "runs" / NAME
    record = run / "soak.json"
    if not record.is_file():
        soaked = soak(run, flags, own.minutes, own.every, random.Random(own.seed))
        record.write_text(json.dumps(soaked) + "\n")
    undisturbed = [alone(f"{NAME}-seed-{seed}", seed, flags) for seed in range(own.seeds)]
    scores = [best(settings.home / "runs" / f"{NAME}-seed-{seed}") for seed in range(own.seeds)]
    facts: dict[str, Any] = {
        **json.loads(record.read_text()),
        "processes_of_rank_0": len({row["process"] for row in read_lines(run / "trace-0.jsonl")}),
        "same_clips_as_undisturbed": seen(run) == seen(Path(undisturbed[0]["run_folder"])),
        "each_step_once": each_step_once(run),
        "rejects": (run / "rejects.jsonl").exists(),
        "action_accuracy": best(run),
        "action_accuracy_undisturbed": scores,
        "within_noise": abs(best(run) - mean(scores)) <= 2 * stdev(scores) * (1 + 1 / len(scores)) ** 0.5,
    }
    for name, value in facts.items():
        say(f"{name:<28}{value}")
    print(json.dumps(facts))


def soak(run: Path, flags: list[str], minutes: float, every: float, die: random.Random) -> dict[str, Any]:
    """Carry out the job through kills; what was killed, how often it was started, and how long it took."""
    killed: Counter[str] = Counter()
    began, starts = time.monotonic(), 0
    process: subprocess.Popen[bytes] | None = None
    due = began + every
    while not (run / "result.json").exists():
        if process is None:
            process, starts = start(flags), starts + 1
        if process.poll() is not None:
            raise SystemExit(f"the job ended by itself, with status {process.returncode}, at position {position(run)}")
        if time.monotonic() >= due and time.monotonic() - began < 60 * minutes:
            due += every
            if kind := strike(process, die):
                killed[kind] += 1
                say(f"{(time.monotonic() - began) / 60:5.1f} min, position {position(run)}: killed a {kind}")
                if kind == "driver":
                    process = None
        time.sleep(0.1)
    if process is not None and process.wait() != 0:
        raise SystemExit("the job did not end well")
    return {"killed": dict(killed), "starts": starts, "minutes": round((time.monotonic() - began) / 60, 1)}


def start(flags: list[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(ROOT / "rayjobs" / "distill.py"), "--run.name", NAME, "--run.seed", "0", *flags]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def strike(process: "subprocess.Popen[bytes]", die: random.Random) -> str:
    """Kill a process of the job, and say which kind; empty: the kind that the die said has none just now."""
    kind = die.choice(list(KINDS))
    if kind == "driver":
        below = descendants(process.pid)
        process.kill()
        process.wait()
        # What it started would notice in a while; the next start shall find the machine free.
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return kind
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if found := named(KINDS[kind], process.pid):
            os.kill(die.choice(found), signal.SIGKILL)
            return kind
    return ""


def alone(name: str, seed: int, flags: list[str]) -> dict[str, Any]:
    """An undisturbed run of the same job with another seed."""
    command = [
        sys.executable,
        str(ROOT / "rayjobs" / "distill.py"),
        *flags,
        "--run.local",
        "--run.name",
        name,
        "--run.seed",
        str(seed),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def best(run: Path) -> float:
    return max(float(row["val"]["action"]["accuracy"]) for row in read_epochs(run))


def each_step_once(run: Path) -> bool:
    steps = [row["step"] for row in read_metrics(run) if row["kind"] == "train"]
    return steps == sorted(set(steps)) and len(read_epochs(run)) == read_epochs(run)[-1]["epoch"]


if __name__ == "__main__":
    main()
