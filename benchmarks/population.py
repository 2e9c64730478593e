"""Whether population-based training is worth its restarts: against random search of as many epochs, in replay.

    python rayjobs/record.py --views.distinct 5
    python benchmarks/population.py --views.distinct 5 --optim.epochs 5

A population of 8 students (temperature, label weight, gamma, learning rate) is trained an epoch at a time, each epoch
in a process of its own as Ray Tune restarts a trial; after each, the worst quarter goes on from the checkpoints of the
best quarter with settings times 0.8 or 1.25 (Jaderberg et al., 2017, arXiv 1711.09846). Then 8 students of random
settings are trained to the end. Two processes at a time. Prints accuracy on val, seconds, and the share of the
processes' time that is no training.
"""

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmkd.cli import load_settings
from mmkd.config import Settings
from mmkd.config.changes import apply
from mmkd.runs import read_metrics

RANGES = {"loss.temperature": (1, 10), "teachers.gamma": (0.05, 5), "optim.lr": (5e-4, 5e-3)}
NAME = "bench-population"


class Reached(Exception):  # noqa: N818
    """The epoch at which a process stops."""


def segment(config: Path, until: int) -> None:
    """Train up to an epoch, in this process."""
    import cv2
    import yaml

    from mmkd.jobs import distill

    cv2.setNumThreads(1)

    def report(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] >= until:
            raise Reached

    with suppress(Reached):
        distill(Settings.model_validate(yaml.safe_load(config.read_text())), report=report)


class Member:
    """A student of the population: its settings, and the run in which it stands."""

    def __init__(self, settings: Settings, values: dict[str, float], name: str):
        self.settings, self.values, self.name, self.accuracy = settings, values, name, 0.0

    @property
    def run(self) -> Path:
        return self.settings.home / "runs" / self.name

    def train(self, until: int) -> tuple[float, float]:
        """Seconds of training, and of the process."""
        run = {"name": self.name, "local": True}
        own = apply(self.settings, self.values)
        own = own.model_copy(update={"run": own.run.model_copy(update=run)})
        config = self.settings.home / "runs" / f"{self.name.replace('/', '-')}.yaml"
        own.save(config)
        began = time.monotonic()
        subprocess.run(
            [sys.executable, __file__, "--segment", str(config), str(until)], check=True, capture_output=True
        )
        config.unlink()
        rows = [row for row in read_metrics(self.run) if row["kind"] == "epoch"]
        self.accuracy = rows[-1]["val"]["action"]["accuracy"]
        return rows[-1]["seconds"], time.monotonic() - began

    def take(self, other: "Member", rng: random.Random, name: str) -> None:
        """Go on from another's checkpoint with its settings, changed a little."""
        self.name = name
        shutil.copytree(other.run, self.run)
        for file in ("config.yaml", "identity.json", "result.json", ".lock"):
            (self.run / file).unlink(missing_ok=True)
        self.values = {key: value * rng.choice([0.8, 1.25]) for key, value in other.values.items()}
        self.values["loss.label_weight"] = min(self.values["loss.label_weight"], 1.0)


def population(members: list[Member], epochs: int, rng: random.Random) -> dict[str, Any]:
    began, spent = time.monotonic(), [0.0, 0.0]
    for epoch in range(1, epochs + 1):
        with ThreadPoolExecutor(2) as pool:
            for seconds in pool.map(Member.train, members, [epoch] * len(members)):
                spent = [a + b for a, b in zip(spent, seconds, strict=True)]
        members.sort(key=lambda member: -member.accuracy)
        quarter = max(1, len(members) // 4)
        if epoch < epochs:
            for number, (best, worst) in enumerate(zip(members[:quarter], members[-quarter:], strict=True)):
                worst.take(best, rng, f"{NAME}/{epoch}-{number}")
    seconds = round(time.monotonic() - began, 1)
    return {"accuracy": members[0].accuracy, "seconds": seconds, "not training": round(1 - spent[0] / spent[1], 3)}


def draw(rng: random.Random) -> dict[str, float]:
    drawn = {name: math.exp(rng.uniform(math.log(low), math.log(high))) for name, (low, high) in RANGES.items()}
    return drawn | {"loss.label_weight": rng.uniform(0, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--segment", nargs=2, help=argparse.SUPPRESS)
    arguments, given = parser.parse_known_args()
    if arguments.segment:
        segment(Path(arguments.segment[0]), int(arguments.segment[1]))
        return
    settings = load_settings([*given, "--teachers.mode", "replay", "--resources.threads", "1"], job="bench", about="")
    shutil.rmtree(settings.home / "runs" / NAME, ignore_errors=True)
    epochs, rng = settings.optim.epochs, random.Random(arguments.seed)
    members = [Member(settings, draw(rng), f"{NAME}/0-{n}") for n in range(arguments.members)]
    found = {"population": population(members, epochs, rng)}
    members = [Member(settings, draw(rng), f"{NAME}/random-{n}") for n in range(arguments.members)]
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda member: member.train(epochs + 1), members))
    best = max(member.accuracy for member in members)
    found["random"] = {"accuracy": best, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
