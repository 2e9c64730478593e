"""What a sweep costs against the same trainings one after the other: one teacher pass for all, or teachers in each.

    python benchmarks/sweep.py

A sweep of 16 trials that are all trained to the end (no early stopping), on tabletop; then, in turn, some of its trials
by themselves as `rayjobs/distill.py`, replaying the bank and with live teachers. The cost that the sweep is held
against is (seconds of the teacher pass + 16 x a training by itself); trials by themselves use all cores, those of the
sweep run side by side. A table goes to standard error, the same as JSON to the last line of standard output.

Any setting of the jobs can follow (--optim.epochs 2, --data.limit ...); HOME/data/tabletop is made where missing.
"""

import argparse
import shutil
from statistics import median

import yaml
from common import figure, finish, job

from mmkd.bank.store import Bank
from mmkd.cli import load_settings
from mmkd.progress import say
from mmkd.runs import read_metrics

NAME = "bench-sweep"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16, help="trials of the sweep (16)")
    parser.add_argument("--alone", type=int, default=3, help="how many of them are trained by themselves, each way (3)")
    parser.add_argument("--out", help="JSON file to write")
    arguments, given = parser.parse_known_args()
    own = ["--optim.epochs", "2", *given, "--teachers.bank", NAME]
    home = load_settings(given, job="bench", about="").home
    for folder in (home / "banks" / NAME, home / "runs" / NAME, home / "runs" / f"{NAME}-alone"):
        shutil.rmtree(folder, ignore_errors=True)
    flags = ["--sweep.trials", str(arguments.trials), "--sweep.scheduler", "none", "--run.name", NAME]
    swept, wall = job("tuning/sweep.py", [*own, *flags])
    runs = sorted((home / "runs" / NAME / "trials").iterdir())[: arguments.alone]
    alone: dict[str, list[float]] = {"replay": [], "live": []}
    training: dict[str, list[float]] = {"replay": [], "live": []}
    for number, run in enumerate(runs):
        for mode in sorted(alone, reverse=bool(number % 2)):
            say(f"trial {run.name} by itself, {mode}")
            config, name = home / "runs" / f"{NAME}.yaml", f"{NAME}-alone"
            settings = yaml.safe_load((run / "config.yaml").read_text())
            settings["run"] |= {"name": name, "local": False}
            settings["resources"]["threads"] = 0
            settings["teachers"]["mode"] = mode
            config.write_text(yaml.safe_dump(settings))
            _, seconds = job("rayjobs/distill.py", ["--config", str(config)])
            rows = [row["seconds"] for row in read_metrics(home / "runs" / name) if row["kind"] == "epoch"]
            alone[mode].append(seconds)
            training[mode].append(sum(rows))
            shutil.rmtree(home / "runs" / name)
            config.unlink()
    rows = Bank(home / "banks" / NAME).rows
    answers, teachers = swept["teacher_answers"], len(Bank(home / "banks" / NAME).description.teachers)
    n, teacher = arguments.trials, swept["teacher_seconds"]
    found = {
        "trials": n,
        "answers computed over (clip, view, teacher)": round(answers["computed"] / (rows * teachers), 4),
        "answers of independent live runs over that": round(answers["replayed"] / (rows * teachers), 2),
        "teacher pass, s": teacher,
        "sweep, s": swept["seconds"],
        "the sweep's command, s": round(wall, 1),
        "a training by itself, replay, s": round(median(alone["replay"]), 1),
        "a training by itself, live, s": round(median(alone["live"]), 1),
        "its epochs alone, replay, s": round(median(training["replay"]), 1),
        "its epochs alone, live, s": round(median(training["live"]), 1),
        "sweep over (pass + trainings)": round(wall / (teacher + n * median(alone["replay"])), 3),
        "sweep over (pass + epochs of trainings)": round(wall / (teacher + n * median(training["replay"])), 3),
        "sweep over independent live runs": round(wall / (n * median(alone["live"])), 3),
    }
    width = max(map(len, found)) + 2
    say("\n".join(f"{name:<{width}}{value}" for name, value in found.items()))
    figures = [
        figure("sweep over (teacher pass + as many trainings)", found["sweep over (pass + trainings)"], most=1.15),
        figure("sweep over independent live runs", found["sweep over independent live runs"]),
    ]
    finish(found, figures, arguments.out)


if __name__ == "__main__":
    main()
