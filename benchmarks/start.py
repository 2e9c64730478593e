"""Time from the command to the first step: of a distillation by part, and of Ray's own smallest training.

    python benchmarks/start.py [--repeats 3] [--out FILE] [--run.home /abs]

By turns: `python rayjobs/distill.py` on HOME/data/tabletop until the first block of the plan has reached the student,
and until its first optimiser step is recorded; and a script that starts Ray and a TorchTrainer with one worker, which
reads one batch of a Ray dataset. Each is ended then.

The table goes to standard error, and the same as one JSON object to the last line of standard output, and to a file
with --out. Any setting of the job can follow.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, ensure_data, figure, finish, spread

from mmkd.cli import load_settings
from mmkd.progress import say
from mmkd.runs import read_lines
from tests.processes import wait_for

MINIMAL = """
import sys, time
from pathlib import Path

def work(config):
    import ray.train
    for batch in ray.train.get_dataset_shard("train").iter_torch_batches(batch_size=32):
        Path(config["done"]).touch()
        time.sleep(60)

if __name__ == "__main__":
    import ray.data
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer
    ray.init(address="local", include_dashboard=True, log_to_driver=False)
    data, loop = {"train": ray.data.range(1000)}, {"done": sys.argv[1]}
    TorchTrainer(work, train_loop_config=loop, scaling_config=ScalingConfig(num_workers=1), datasets=data).fit()
"""
PARTS = {
    "imports, settings and Ray": "Ray dashboard",
    "plan and checks": "run ",
}
"""Part of the start to what the job says at its end."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="JSON file to write")
    own, rest = parser.parse_known_args(argv)
    flags = ["--data.limit", "1000", "--run.name", "start-bench", "--run.trace", "--run.log_every", "1", *rest]
    settings = load_settings(flags, job="distill", about="", program="python benchmarks/start.py")
    ensure_data(settings)
    run = settings.home / "runs" / settings.run.name
    ours, minimal = [], []
    for _ in range(own.repeats):
        ours.append(started(run, flags))
        minimal.append(smallest())
        say(
            f"Ray's own {minimal[-1]:.1f} s; ours "
            + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in ours[-1].items())
        )
    more = [each["first block at the student"] - other for each, other in zip(ours, minimal, strict=True)]
    figures = [
        figure("first block at the student, seconds later than Ray's own smallest training", more, most=10),
        figure("Ray's own smallest training, s", minimal),
        *(figure(f"{name}, s", [each[name] for each in ours]) for name in ours[0]),
    ]
    finish({"parts": {name: spread([each[name] for each in ours]) for name in ours[0]}}, figures, own.out)


def started(run: Path, flags: Sequence[str]) -> dict[str, float]:
    """Seconds from the command to the end of each part of the start; the job is ended after its first step."""
    shutil.rmtree(run, ignore_errors=True)
    began = time.monotonic()
    command = [sys.executable, ROOT / "rayjobs" / "distill.py", *flags]
    found: dict[str, float] = {}

    def listen(lines: Any) -> None:
        for line in lines:
            for part, said in PARTS.items():
                if line.startswith(said):
                    found.setdefault(part, time.monotonic() - began)

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        listener = threading.Thread(target=listen, args=(process.stderr,))
        listener.start()
        try:
            wait_for(lambda: read_lines(run / "trace-0.jsonl"), 180)
            found["first block at the student"] = time.monotonic() - began
            wait_for(lambda: any(row["kind"] == "train" for row in read_lines(run / "metrics.jsonl")), 180)
            found["first optimiser step"] = time.monotonic() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
            listener.join()
    return found


def smallest() -> float:
    """Seconds until the first batch of Ray's own smallest training."""
    with tempfile.TemporaryDirectory() as folder:
        script, done = Path(folder, "minimal.py"), Path(folder, "done")
        script.write_text(MINIMAL)
        began = time.monotonic()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([sys.executable, script, done], **quiet) as process:
            try:
                wait_for(done.exists, 180)
                return time.monotonic() - began
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait()


if __name__ == "__main__":
    main()
