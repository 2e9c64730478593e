"""What a logit bank costs: a large one on disk and in memory, and a training that replays one against labels alone.

    python benchmarks/bank.py --part large    # 67217 clips x 10 views x 3 teachers x 397 classes of random numbers
    python benchmarks/bank.py --part epoch    # students on tabletop: labels alone, and a bank replayed, in turn

What is compared is measured in one call, side by side or in turn, on the same machine: trust the ratios. A table goes
to standard error, the same as one JSON object to the last line of standard output, and to a file with --out.

epoch takes any setting of the jobs after its own flags (--run.home, --data.limit, --run.local ...), and gives them to
all jobs that it starts; HOME/data/tabletop has to be there. The bank is recorded first where answers are missing.
"""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import Facts, figure, finish, job, spread

from mmkd.bank.choose import choose_bank
from mmkd.bank.description import Description, make_bank
from mmkd.bank.rows import view_type
from mmkd.bank.store import Bank, BankWriter
from mmkd.cli import load_settings
from mmkd.config import Settings, Views
from mmkd.pipeline import read
from mmkd.plan import Clips
from mmkd.progress import say
from mmkd.resolve import plan_student, teacher_folders
from mmkd.runs import read_metrics
from mmkd.storage import is_file, join

CLIPS, VIEWS, TEACHERS, HEADS = 67217, 10, 3, {"verb": 97, "noun": 300}
"""EPIC-KITCHENS-100: the clips of its train split; 397 classes."""
UNIT = 32


def large(folder: Path, scale: float) -> Facts:
    """A bank that is written a view after the other, and read in the order of trainings' plans."""
    clips = max(UNIT, round(CLIPS * scale))
    began = time.monotonic()
    write_bank(folder, clips)
    written = time.monotonic() - began
    # A process of its own each, so that memory is that of reading alone.
    found = [in_process(stream, folder, clips, planned) for planned in (True, False)]
    plan, disk = found
    rows, bank = clips * VIEWS, Bank(folder)
    raw = rows * bank.layout.logit_bytes() / 1e6
    return {
        "clips": clips,
        "rows": rows,
        "parts": len(bank.parts),
        "MB": round(bank.megabytes(), 1),
        "raw fp16 logits, MB": round(raw, 1),
        "on disk over raw": round(bank.megabytes() / raw, 4),
        "rows/s of writing": round(rows / written),
        **plan,
        "rows/s in the order on disk": disk["rows/s"],
        "plan's order over order on disk": round(plan["rows/s"] / disk["rows/s"], 3),
    }


def write_bank(folder: Path, clips: int) -> None:
    """Random logits of every view of every clip, in another order of clips for each view."""
    views = Views()
    described = Description(
        {str(number): str(number) for number in range(TEACHERS)},
        {"name": "random", "fingerprint": "none", "split": "train", "clips": clips},
        HEADS,
        {},
        view_type(views, 1000).descr,
        VIEWS,
    )
    make_bank(folder, described)
    layout, writer, rng = described.layout(), BankWriter(folder, "bench"), np.random.default_rng(0)
    for view in range(VIEWS):
        for some in np.array_split(rng.permutation(clips), -(-clips // 1024)):
            count = len(some)
            rows = {"clip": some, "view": np.full(count, view), "status": np.zeros(count, np.int8)}
            rows |= {"present": np.ones((count, TEACHERS), bool), "parameters": np.zeros(count, layout.parameters)}
            rows["parameters"]["indices"] = rng.integers(0, 300, (count, views.frames))
            for name in ("scale", "left", "top"):
                rows["parameters"][name] = rng.uniform(size=count)
            rows["parameters"]["jitter"] = rng.uniform(size=(count, 4))
            for head, classes in HEADS.items():
                rows[f"logits/{head}"] = rng.normal(0, 3, (count, TEACHERS, classes)).astype(np.float16)
            writer.add(rows)
    writer.flush()


def stream(folder: Path, clips: int, planned: bool) -> Facts:
    """Open a bank and read all of it in units, in the plan's order or as it lies; the memory that this process took.

    Peak is VmHWM, which counts pages of the mapped files as well; own memory is what the kernel cannot drop (RssAnon).
    """
    found: Facts = {"peak before, MB": memory("VmHWM"), "own memory before, MB": memory("RssAnon")}
    began = time.monotonic()
    bank = Bank(folder)
    found |= {"seconds to open": round(time.monotonic() - began, 2), "peak when open, MB": memory("VmHWM")}
    began, done, own = time.monotonic(), 0, memory("RssAnon")
    for some, views in units(bank, clips, planned):
        assert bank.read(some, views)[1].all()
        done += len(some)
        own = max(own, memory("RssAnon")) if done % (UNIT * 64) < UNIT else own
        if "peak at a tenth, MB" not in found and done >= bank.rows / 10:
            found |= {"peak at a tenth, MB": memory("VmHWM"), "own memory at a tenth, MB": own}
    found |= {"peak at the end, MB": memory("VmHWM"), "own memory at the end, MB": own}
    for kind in ("peak", "own memory"):
        found[f"{kind}, end over a tenth"] = round(found[f"{kind} at the end, MB"] / found[f"{kind} at a tenth, MB"], 3)
    return found | {"rows/s": round(done / (time.monotonic() - began))}


def units(bank: Bank, clips: int, planned: bool) -> Any:
    """Clips and views, UNIT at a time."""
    lying: tuple[Clips, Clips] = bank.keys()
    for view in range(VIEWS):
        order = np.random.default_rng([1, view]).permutation(clips)
        for start in range(0, clips, UNIT):
            here = slice(view * clips + start, view * clips + min(start + UNIT, clips))
            some = order[start : start + UNIT]
            yield (some, np.full(len(some), view)) if planned else (lying[0][here], lying[1][here])


def memory(name: str) -> float:
    """A line of /proc/self/status, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000, 1)


def in_process(work: Any, *arguments: Any) -> Any:
    """A call in a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def epoch(given: list[str], repeats: int) -> Facts:
    """The same student on labels alone and in replay: seconds of its epochs, and what reading the bank adds to them."""
    own = [*given, "--views.distinct", "2", "--optim.epochs", "2"]
    flags = {
        "labels": [*own, "--loss.distill_weight", "0", "--loss.label_weight", "1"],
        "replay": [*own, "--teachers.mode", "replay"],
    }
    settings = load_settings(flags["replay"], job="bank", about="")
    if not is_file(join(settings.data_folder(), "dataset.json")):
        raise SystemExit(f"{settings.data_folder()} is not a data set; python rayjobs/pack.py makes tabletop.")
    recorded, _ = job("rayjobs/record.py", own)
    runs = settings.home / "runs"
    runs.mkdir(exist_ok=True)
    seconds: dict[str, list[list[float]]] = {kind: [] for kind in flags}
    for repeat in range(repeats):
        for kind in sorted(flags, reverse=bool(repeat % 2)):  # in turn, since the machine's speed drifts
            say(f"epoch: {kind}, {repeat + 1} of {repeats}")
            with tempfile.TemporaryDirectory(prefix="bench-bank-", dir=runs) as run:
                job("rayjobs/distill.py", [*flags[kind], "--run.name", Path(run).name])
                rows = [row["seconds"] for row in read_metrics(Path(run)) if row["kind"] == "epoch"]
            seconds[kind].append([rows[1], sum(rows)])
    found: Facts = {"bank": recorded["bank"], "answers": recorded["answers"], "recorded in, s": recorded["seconds"]}
    for number, what in enumerate(("second epoch", "both epochs")):
        times = {kind: [pair[number] for pair in pairs] for kind, pairs in seconds.items()}
        found |= {f"{what}, {kind}, s": spread(times[kind]) for kind in times}
        ratios = [a / b for a, b in zip(times["replay"], times["labels"], strict=True)]
        found[f"{what}, replay over labels"] = spread(ratios)
    read_ms = reading(settings, repeats)
    added = [read_ms[f"reading a unit, {kind}, ms"]["median"] for kind in ("replay", "labels")]
    units = -(-recorded["answers"] // 2 // settings.optim.batch_size)
    second = found["second epoch, labels, s"]["median"]
    found["reading the bank, share of an epoch"] = round((added[0] - added[1]) * units / 1000 / second, 4)
    return found | read_ms


def reading(settings: Settings, repeats: int) -> Facts:
    """Reading an epoch's units in this process, with the bank's answers and without."""
    work, hashes = plan_student(settings, teacher_folders(settings))
    plan = work.plan
    alone = replace(work, teachers=(), teacher_names=(), teacher_modalities=())
    works = {"labels": alone, "replay": choose_bank(work, hashes)}
    train = [i for i in range(plan.num_steps) if plan.step(i).phase == "train" and plan.step(i).epoch == 0]
    times: list[dict[str, float]] = []
    for repeat in range(repeats + 1):
        times.append(dict.fromkeys(works, 0.0))
        for unit in train:
            for kind in sorted(works, reverse=bool((unit + repeat) % 2)):
                began = time.perf_counter()
                read(works[kind], 1, 0, range(unit, unit + 1))
                times[-1][kind] += time.perf_counter() - began
    times = times[1:]  # the first time, files were not in memory
    return {
        "reading a unit, labels, ms": spread([1000 * each["labels"] / len(train) for each in times]),
        "reading a unit, replay, ms": spread([1000 * each["replay"] / len(train) for each in times]),
        "reading a unit, replay over labels": spread([each["replay"] / each["labels"] for each in times]),
    }


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout, allow_abbrev=False)
    parser.add_argument("--part", choices=("large", "epoch"), required=True, help="what to measure")
    parser.add_argument("--scale", type=float, default=1.0, help="large: share of the clips, 0.01 to try it out (1)")
    parser.add_argument("--folder", help="large: where to write the bank, 1.7 GB, deleted afterwards (the temp folder)")
    parser.add_argument("--repeats", type=int, default=3, help="epoch: trainings of each kind (3)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments, given = parser.parse_known_args()
    if arguments.part == "large":
        if given:
            parser.error(f"part large has no setting {given[0]}")
        with tempfile.TemporaryDirectory(prefix="mmkd-bench-", dir=arguments.folder) as folder:
            found = large(Path(folder), arguments.scale)
    else:
        found = epoch(given, arguments.repeats)
    width = max(map(len, found)) + 2
    for name, value in found.items():
        some = isinstance(value, dict)
        say(f"{name:<{width}}" + (f"{value['median']} ({value['least']} to {value['most']})" if some else str(value)))
    finish({"part": arguments.part, **found}, figures(arguments.part, found), arguments.out)


def figures(part: str, found: Facts) -> list[Facts]:
    if part == "large":
        return [
            figure("bank on disk over raw fp16 logits", found["on disk over raw"], most=1.3),
            figure("opening the bank, s", found["seconds to open"], most=2),
            figure("reader's peak memory at the end over that at a tenth", found["peak, end over a tenth"], most=1.1),
        ]
    ratio, share = found["second epoch, replay over labels"], found["reading the bank, share of an epoch"]
    return [
        figure("an epoch in replay over labels alone", list(ratio.values()), most=1.1),
        figure("reading the bank, share of an epoch", share, most=0.05),
    ]


if __name__ == "__main__":
    main()
