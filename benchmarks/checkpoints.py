"""What checkpoints cost: seconds to write one, and the share of the time that one every --minutes takes.

    python benchmarks/checkpoints.py [--minutes 2] [--repeats 5] [--steps 2] [--run.home /abs]

First a checkpoint of each student by itself (network, AdamW, moving average), on the disk of HOME. Then, so that
nothing is left out, whole runs on HOME/data/tabletop in this process, by turns with a checkpoint every --steps
steps and with none inside an epoch: the difference, over the checkpoints more that were kept, is what one costs a run.

The table goes to standard error, and the same as one JSON object to the last line of standard output. Any setting of
the job can follow.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from mmkd.checkpoint import write_checkpoint  # noqa: E402
from mmkd.cli import load_settings  # noqa: E402
from mmkd.config import Settings  # noqa: E402
from mmkd.jobs import distill  # noqa: E402
from mmkd.models import create_model  # noqa: E402
from mmkd.optimizing import Updater  # noqa: E402
from mmkd.progress import say  # noqa: E402
from mmkd.resolve import plan_student, teacher_folders  # noqa: E402
from mmkd.runs import read_metrics  # noqa: E402

STUDENTS = ["r2plus1d_tiny", "torchvision/swin3d_t"]
HEADS = {"verb": [f"verb {number}" for number in range(97)], "noun": [f"noun {number}" for number in range(300)]}
"""As many classes as EPIC-KITCHENS has."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    own, rest = parser.parse_known_args()
    # So few clips do not tell a weak teacher from chance.
    flags = ["--run.local", "--run.name", "checkpoints-bench", "--teachers.no-drop-near-chance"]
    flags += ["--data.limit", "256", "--optim.epochs", "4"]
    settings = load_settings([*flags, *rest], job="distill", about="", program="python benchmarks/checkpoints.py")
    facts: dict[str, Any] = {"minutes": own.minutes, "torch": torch.__version__}
    facts["alone"] = [one_alone(settings, arch, own.repeats, own.minutes) for arch in STUDENTS]
    facts["in_a_run"] = in_a_run(settings, own.repeats, own.steps, own.minutes)
    print(json.dumps(facts))


def one_alone(settings: Settings, arch: str, repeats: int, minutes: float) -> dict[str, Any]:
    """Seconds to write one checkpoint of a student."""
    model = create_model(arch, HEADS, "rgb")
    work, _ = plan_student(settings, teacher_folders(settings))
    updater = Updater(model, model, settings, work.plan, torch.device("cpu"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    updater.optimizer.step()
    seconds, size = [], 0
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=settings.home) as folder:
            began = time.monotonic()
            write_checkpoint(Path(folder), updater, {"position": 0})
            seconds.append(time.monotonic() - began)
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
    share = median(seconds) / (60 * minutes)
    say(
        f"{arch:<24}{size / 1e6:7.1f} MB  {median(seconds):6.3f} s ({min(seconds):.3f} to {max(seconds):.3f}), "
        f"{share:.2%} of {minutes:g} min"
    )
    return {"arch": arch, "bytes": size, "seconds": seconds, "share": share}


def in_a_run(settings: Settings, repeats: int, steps: int, minutes: float) -> dict[str, Any]:
    """Seconds that a checkpoint costs a run, from whole runs with many of them and with none inside an epoch."""
    seconds: dict[int, list[float]] = {0: [], steps: []}
    more = 0
    for _ in range(repeats):
        for every in seconds:
            run = settings.run.model_copy(update={"checkpoint_steps": every, "checkpoint_minutes": 0.0})
            shutil.rmtree(settings.home / "runs" / run.name, ignore_errors=True)
            result = distill(settings.model_copy(update={"run": run}))
            seconds[every].append(result["seconds"])
            done = [row["step"] for row in read_metrics(Path(result["run_folder"])) if row["kind"] == "train"]
            more = done[-1] // steps
    cost = (median(seconds[steps]) - median(seconds[0])) / more
    say(
        f"in a run: {median(seconds[0]):.1f} s without, {median(seconds[steps]):.1f} s with {more} more, so "
        f"{cost:.3f} s each, {cost / (60 * minutes):.2%} of {minutes:g} min"
    )
    return {"seconds": seconds, "more": more, "cost": cost, "share": cost / (60 * minutes)}


if __name__ == "__main__":
    main()
