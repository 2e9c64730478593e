"""All benchmarks, one after the other: a table of figures with their limits, JSON, and a picture.

    python benchmarks/run.py [--parts live,start,memory,scale,...] [--out FOLDER]

make bench is the same. The machine should do nothing else meanwhile; on two cores all parts take about two hours. Each
part is a script of its own in this folder and says more in its --help. HOME/data/tabletop is made where it is missing
(MMKD_HOME, or --run.home, says where HOME is); any setting of the jobs that should count for all parts can follow, as
those of a machine with GPUs:

    python benchmarks/run.py --resources.use_gpu --teachers.num_gpus 0.5 --resources.gpus_per_worker 0.5

FOLDER (HOME/bench by default) is given PART.json of each part, bench.json of all, and bench.png.
"""

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common import CORES, ROOT, Facts, ensure_data, limit, measured

from mmkd.cli import load_settings
from mmkd.cluster import running_cluster
from mmkd.progress import say

HERE = Path(__file__).parent
MODEL = ["--model", str(ROOT / "mmkd" / "zoo" / "tabletop" / "rgb")]
FAST = ["--parts", "teachers", "--teachers.batch_size", "32", "--resources.steps_per_block", "64"]
PARTS = {
    "live": ["live.py"],
    "live-large": ["live.py", "--size", "large", "--rounds", "2", "--sides", "auto,plain-1"],
    "start": ["start.py"],
    "memory": ["memory.py"],
    "scale": ["scale.py"],
    "scale-fast": ["scale.py", *FAST],
    "scale-8": ["scale.py", "--actors", "8", "--students", "2", "--parts", "teachers,students"],
    "replay": ["bank.py", "--part", "epoch"],
    "sweep": ["sweep.py"],
    "evaluation": ["evaluation.py", *MODEL, "--data", "tabletop"],
    "packing": ["packing.py", "throughput"],
    "inference": ["inference.py", *MODEL],
}
OWN_DATA = ("packing", "inference")
"""Parts that take no settings of jobs."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path)
    own, rest = parser.parse_known_args(argv)
    if unknown := sorted(set(own.parts.split(",")) - set(PARTS)):
        parser.error(f"--parts {', '.join(unknown)}: there are {', '.join(PARTS)}")
    if address := running_cluster():
        parser.error(f"a Ray cluster runs here ({address}), whose work would be measured, too; RAY_ADDRESS=local")
    settings, failed = load_settings(rest, job="bench", about=""), list[str]()
    if set(own.parts.split(",")) - set(OWN_DATA):
        ensure_data(settings)
    folder = own.out or settings.home / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    for part in own.parts.split(","):
        say(f"== {part}: benchmarks/{PARTS[part][0]}")
        script, *flags = PARTS[part]
        more = [] if part in OWN_DATA else rest
        command = [sys.executable, HERE / script, *flags, "--out", folder / f"{part}.json", *more]
        if part_of(command):
            failed.append(part)
            say(f"{part} failed: {' '.join(map(str, command))}")
    done = [part for part in own.parts.split(",") if part not in failed]
    found = {part: json.loads((folder / f"{part}.json").read_text()) for part in done}
    facts = {"machine": machine(), "parts": found}
    (folder / "bench.json").write_text(json.dumps(facts, indent=1) + "\n")
    say("\n" + "\n".join(table(found)))
    say(f"\n{', '.join(f'{name} {value}' for name, value in facts['machine'].items())}")
    from picture import draw

    draw(found, folder / "bench.png")
    missed = [each["what"] for part in found.values() for each in part["figures"] if each["holds"] is False]
    print(json.dumps({"folder": str(folder), "missed": missed, "failed": failed}))
    sys.exit(bool(failed))


def part_of(command: Sequence[str | Path]) -> int:
    """Run a part; its exit status. It is waited for when this process is told to end, as it has processes of its
    own."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def table(found: dict[str, Facts]) -> list[str]:
    """Lines of part, figure, what was measured, and what was asked."""
    rows = [(part, each) for part, facts in found.items() for each in facts["figures"]]
    width = max((len(each["what"]) for _, each in rows), default=0) + 2
    return [f"{part:<12}{each['what']:<{width}}{measured(each):<28}{limit(each)}" for part, each in rows]


def machine() -> dict[str, str]:
    import ray
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    model = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    return {
        "cores": str(CORES),
        "CPU": model or platform.machine(),
        "GPUs": ", ".join(gpus) or "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    main()
