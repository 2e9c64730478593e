"""Evaluation against its limit: the model's forward pass and the decoding by themselves, on the same cores.

    python benchmarks/evaluation.py --model FOLDER [--data FOLDER] [--run.home /abs] [--views 3x3]

In turn, --repeats times: the evaluation's own pass over the split on Ray, from its first answers to its last; and a
plain process on each core, which reads, decodes and answers for its share of the same clips, all starting at once. A
small split is passed over several times in a row, until --clips are asked about, as on Ray some are half done when the
clock starts. The table goes to standard error, the same as one JSON object to the last line of standard output, and to
a file with --out. What starting Ray and its actors takes is told apart.
"""

import argparse
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from statistics import median
from typing import Any

import numpy as np
from common import CORES, figure, finish

from mmkd.asking import Questions, ask
from mmkd.cli import load_settings
from mmkd.cluster import ray_session
from mmkd.config import Settings
from mmkd.evaluation.job import grids_of
from mmkd.evaluation.models import evaluated_models, views_of
from mmkd.pipeline import cached_dataset, cached_manifest, make_ensemble
from mmkd.plan import PADDING, TEST_VIEW
from mmkd.progress import say


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--out", help="also write the JSON there")
    own, rest = parser.parse_known_args()
    settings = load_settings(rest, job="benchmark", about="", program="python benchmarks/evaluation.py")
    models = evaluated_models(settings)
    settings = views_of(settings, models)
    questions = questions_of(settings, [model.folder for model in models], own.clips)
    clips, units = len(questions.clips), len(questions.units())
    if units < 4:
        parser.error(f"{clips} clips are {units} blocks, too few to be measured")
    processes = min(CORES, units // 4)
    questions = replace(questions, actors=processes)
    rates: dict[str, list[float]] = {"evaluation": [], "plain": []}
    starts = []
    for number in range(own.repeats):
        rate, started = on_ray(questions, processes)
        rates["evaluation"].append(rate)
        starts.append(started)
        rates["plain"].append(plain(questions, processes))
        say(
            f"{number + 1}/{own.repeats}: "
            + ", ".join(f"{name} {each[-1]:.0f} clips/s" for name, each in rates.items())
        )
    ratios = [a / b for a, b in zip(rates["evaluation"], rates["plain"], strict=True)]
    facts: dict[str, Any] = {
        "clips": clips,
        "views": questions.slots,
        "models": len(models),
        "cores": CORES,
        **{f"{name}_clips_per_second": round(median(each), 1) for name, each in rates.items()},
        "ratio": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "seconds_to_first_answer": round(median(starts), 1),
    }
    shown = [
        figure("evaluation over plain processes, clips/s", ratios, least=0.9),
        figure("seconds to the first answer, Ray started", starts),
    ]
    finish(facts, shown, own.out)


def questions_of(settings: Settings, folders: list[str], least: int) -> Questions:
    """All clips of the split, as often as makes `least` of them."""
    split = settings.evaluate.split or settings.data.test
    number = len(cached_manifest(settings.data_folder(), split, settings.data.limit))
    clips = np.tile(np.arange(number, dtype=np.int64), -(-least // number))
    seen = {model.description["modality"] for model in evaluated_models(settings)}
    views = np.full(len(clips), TEST_VIEW, np.int64)
    return Questions(settings, tuple(folders), split, clips, views, sorted(seen), grids=grids_of(settings))


def on_ray(questions: Questions, first_blocks: int) -> tuple[float, float]:
    """Clips per second once `first_blocks` were answered, as every actor has its first one then, and seconds to the
    first. Those were worked on before the clock started, so they do not count."""
    with ray_session(questions.settings):
        began = time.monotonic()
        first = start = 0.0
        clips = 0
        for number, block in enumerate(ask(questions)):
            now = time.monotonic()
            first = first or now
            if number < first_blocks:
                start = now
            else:
                clips += int((block["clip"] != PADDING).sum())
        return clips / (time.monotonic() - start), first - began


def plain(questions: Questions, processes: int) -> float:
    """Clips per second of processes that know nothing of each other."""
    context = get_context("spawn")
    barrier, times = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_loop, args=(questions, number, processes, barrier, times), daemon=True)
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    spans = [times.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    return sum(clips for _, _, clips in spans) / (max(end for _, end, _ in spans) - min(start for start, _, _ in spans))


def _loop(questions: Questions, number: int, processes: int, barrier: Any, times: Any) -> None:
    import cv2

    cv2.setNumThreads(1)
    settings = questions.settings
    heads = cached_dataset(settings.data_folder()).heads
    ensemble = make_ensemble(settings.teachers, questions.folders, heads, each_view=questions.slots)
    units = list(questions.units())[number::processes]
    ensemble(questions.read(units[0]))
    barrier.wait()
    start, clips = time.monotonic(), 0
    for unit in units:
        clips += int((ensemble(questions.read(unit))["clip"] != PADDING).sum())
    times.put((start, time.monotonic(), clips))


if __name__ == "__main__":
    sys.exit(main())
