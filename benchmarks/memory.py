"""Memory of a distillation at 1, 4 and 16 times the data, and the bytes that each clip puts into the object store.

    python benchmarks/memory.py [--clips 125] [--times 1,4,16] [--out FILE] [--run.home /abs]

The same job on Ray with --clips x each number of clips of HOME/data/tabletop, one after the other, two epochs each.
Peak memory is that of all its processes together (PSS, so that shared memory counts once), looked at twice a second;
the object store says itself how much it holds, how much was ever put into it, and how much was spilled to disk. What a
clip needs is its uint8 RGB frames and the teachers' logits, which the student learns from.

The table goes to standard error, and the same as one JSON object to the last line of standard output, and to a file
with --out. Any setting of the job can follow.
"""

import argparse
import json
import shutil
import sys
import threading
from collections.abc import Sequence
from typing import Any

from common import Facts, ensure_data, figure, finish, memory_mb, watched

from mmkd import jobs
from mmkd.cli import load_settings
from mmkd.cluster import ray_session
from mmkd.pipeline import cached_dataset
from mmkd.progress import say
from mmkd.resolve import plan_student, teacher_folders


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=125)
    parser.add_argument("--times", default="1,4,16")
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    own, rest = parser.parse_known_args(argv)
    flags = ["--optim.epochs", "2", "--run.name", "memory-bench", "--teachers.no-drop-near-chance", *rest]
    settings = load_settings(flags, job="distill", about="", program="python benchmarks/memory.py")
    if own.side:
        one_side(settings)
        return
    ensure_data(settings)
    there = cached_dataset(settings.data_folder()).splits[settings.data.train]["clips"]
    if there < (most := own.clips * max(map(int, own.times.split(",")))):
        parser.error(f"{settings.data_folder()} has {there} clips to learn on, not {most}; lower --clips or --times")
    found = []
    for times in map(int, own.times.split(",")):
        shutil.rmtree(settings.home / "runs" / settings.run.name, ignore_errors=True)
        peak: list[float] = []
        clips = str(times * own.clips)
        command = [sys.executable, __file__, "--side", *rest, "--data.limit", clips]
        facts = watched(command, lambda pid: peak.append(memory_mb(pid)), every=0.5)  # noqa: B023
        found.append({"times": times, "peak_mb": max(peak), **facts})
        say("  ".join(f"{name} {value:.5g}" for name, value in found[-1].items()))
    last, first = found[-1], found[0]
    figures = [
        figure(f"peak memory at {last['times']} x the data over {first['times']} x", ratio(found, "peak_mb"), most=1.1),
        figure("bytes put into the object store a clip over what it needs", last["bytes_over_needed"], most=1.3),
        figure("bytes spilled to disk", last["spilled_mb"], most=0),
        figure("peak memory, MB", last["peak_mb"]),
        figure("peak of the object store, MB", last["store_peak_mb"]),
    ]
    finish({"sizes": found}, figures, own.out)


def ratio(found: list[Facts], name: str) -> float:
    return found[-1][name] / found[0][name]


def one_side(settings: Any) -> None:
    """Carry out the job; prints what its object store says."""
    import ray
    from ray._private.internal_api import node_stats

    peak, done = [0.0], threading.Event()

    def store() -> Any:
        (node,) = ray.nodes()
        return node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats

    def poll() -> None:
        while not done.wait(0.2):
            peak.append(store().object_store_bytes_used)

    with ray_session(settings):
        poller = threading.Thread(target=poll)
        poller.start()
        try:
            result = jobs.distill(settings)
        finally:
            done.set()
            poller.join()
        stats = store()
    plan = plan_student(settings, teacher_folders(settings))[0].plan
    clips = len(plan.weigh) + plan.epochs * (len(plan.train) + len(plan.val))
    views, heads = settings.views, cached_dataset(settings.data_folder()).heads
    rgb = views.frames * views.size**2 * 3
    logits = 4 * len(result["teachers"]) * sum(map(len, heads.values()))
    print(
        json.dumps(
            {
                "clips_read": clips,
                "store_peak_mb": max(peak) / 1e6,
                "bytes_per_clip": stats.cumulative_created_bytes / clips,
                "needed_bytes_per_clip": rgb + logits,
                "bytes_over_needed": stats.cumulative_created_bytes / clips / (rgb + logits),
                "spilled_mb": stats.spilled_bytes_total / 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()
