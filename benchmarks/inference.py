"""What a prediction costs: seconds to import and to a first answer, latency, windows per second, memory.

    python benchmarks/inference.py --model demo-student [--minutes 120] [--size 640x360] [--device cpu] [--out FILE]

A clip of 3 s is predicted, by turns with PyAV and the network by themselves: its frames decoded, those that the model
sees scaled and cut, and one forward pass. A video of that many minutes is made, which takes a while (30 frames/s,
H.264, a key frame a second), and asked about by windows of 2 s, one each second; memory is the most that the process
had in the first tenth of the video, and in the rest of it. Then frames are pushed into a stream, with an answer every
8. The table goes to standard error, and the same as one JSON object to the last line of standard output, and to a file
with --out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from common import ROOT, figure, finish

from mmkd import StreamingRecognizer, load_model, predict
from mmkd.config import Settings
from mmkd.inference.sampling import Sampling, sampling_of
from mmkd.inference.videos import predict_windows
from mmkd.media.clips import VideoWriter
from mmkd.media.video import scaled_size
from mmkd.models import Recogniser, find_model

RATE, WINDOW, HOP, EVERY = 30, 2.0, 1.0, 8
START = """
import json, sys, time
began = time.perf_counter()
import mmkd
mmkd.predict
imported = time.perf_counter()
mmkd.predict(sys.argv[1], sys.argv[2])
print(json.dumps({"import_s": imported - began, "first_answer_s": time.perf_counter() - imported,
                  "modules": len(sys.modules)}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model or run folder, by path or name")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=40, help="of the short clip")
    parser.add_argument("--out", help="JSON file to write")
    own = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    home = Settings().home
    folder = find_model(own.model, (Path.cwd(), home / "models", home / "runs"))
    width, height = (int(side) for side in own.size.split("x"))
    with tempfile.TemporaryDirectory() as made:
        short, long = Path(made) / "short.mp4", Path(made) / "long.mp4"
        short.write_bytes(_video(3 * RATE, width, height))
        long.write_bytes(_video(int(60 * own.minutes * RATE), width, height))
        facts: dict[str, Any] = {"model": str(folder), "minutes": own.minutes, "size": own.size, "rate": RATE}
        facts |= _start(folder, short)
        times = _latency(load_model(folder, own.device), short, own.repeats)
        facts |= _windows(folder, long, own.minutes, own.device)
        facts |= _stream(folder, width, height, own.device)
    more = facts["mb_in_the_rest"] / facts["mb_in_first_tenth"]
    figures = [
        figure("one clip, over its decoding and forward pass", [ours / bare for ours, bare in times], most=1.1),
        figure("one clip, ms", [1e3 * ours for ours, _ in times]),
        figure(f"memory in the rest of {own.minutes:g} minutes over that in the first tenth", more, most=1.1),
        *(figure(name, value) for name, value in facts.items() if isinstance(value, float) and name != "minutes"),
    ]
    finish(facts, figures, own.out)


def _video(frames: int, width: int, height: int) -> bytes:
    """A pattern that moves, so that there is something to decode."""
    random = np.random.default_rng(0)
    pattern = random.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    writer = VideoWriter((width, height), RATE, 28, RATE)
    for number in range(frames):
        writer.add(np.roll(pattern, 2 * number, 1)[:height, :width])
    return writer.close()


def _start(folder: Path, video: Path) -> dict[str, Any]:
    """Of a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", START, str(folder), str(video)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def _latency(model: Recogniser, video: Path, repeats: int) -> list[tuple[float, float]]:
    """Seconds of a prediction, and of the same by itself, by turns."""
    sampling, found = sampling_of(model.spec), list[tuple[float, float]]()
    for number in range(repeats + 3):
        began = time.perf_counter()
        (said,) = predict(model, video)
        middle = time.perf_counter()
        bare = _bare(model, video, sampling)
        ended = time.perf_counter()
        for head, p in said.probabilities.items():
            scaled = bare[head] / model.spec.temperatures.get(head, 1.0)
            assert np.allclose(p, torch.softmax(scaled.double(), 0), atol=1e-4), "the two see other frames"
        if number >= 3:
            found.append((middle - began, ended - middle))
    return found


@torch.inference_mode()
def _bare(model: Recogniser, video: Path, sampling: Sampling) -> dict[str, torch.Tensor]:
    """Logits of a clip of constant frame rate and horizontal frames, with no care taken of any other."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        ((_, numbers),) = sampling.shown(sampling.span(0, stream.frames, RATE))
        wanted, shown, size = set(numbers), dict[int, np.ndarray](), sampling.views.size
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                to = scaled_size((frame.width, frame.height), sampling.pack.short_side)
                pixels = frame.reformat(*to, format="rgb24", interpolation="AREA").to_ndarray()
                side = min(pixels.shape[:2])
                top, left = (round(0.5 * (length - side)) for length in pixels.shape[:2])
                square = pixels[top : top + side, left : left + side]
                shown[number] = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
            if number >= numbers[-1]:
                break
    clip = torch.from_numpy(np.stack([shown[number] for number in numbers]))[None]
    return {head: logits[0].float().cpu() for head, logits in model(clip.to(model.mean.device)).items()}


def _windows(folder: Path, video: Path, minutes: float, device: str) -> dict[str, Any]:
    model = load_model(folder, device)
    sampling = sampling_of(model.spec)
    answered, most, began = 0, {True: 0.0, False: 0.0}, time.perf_counter()
    for said in predict_windows(model, video, sampling, WINDOW, HOP):
        answered += not said.error
        early = said.stop <= 6 * minutes
        most[early] = max(most[early], _resident_mb())
    seconds = time.perf_counter() - began
    return {
        "windows_per_s": answered / seconds,
        "video_s_per_s": 60 * minutes / seconds,
        "mb_in_first_tenth": most[True],
        "mb_in_the_rest": most[False],
    }


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _stream(folder: Path, width: int, height: int, device: str) -> dict[str, Any]:
    """Milliseconds of a push that is answered, and of one that is not: median and 99 in 100."""
    recognizer = StreamingRecognizer(folder, EVERY, window=int(WINDOW * RATE), rate=RATE, device=device)
    frames = np.random.default_rng(0).integers(0, 255, (16, height, width, 3), dtype=np.uint8)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for number in range(200 * EVERY):
        began = time.perf_counter()
        said = recognizer.push(frames[number % len(frames)])
        taken[said is not None].append(1e3 * (time.perf_counter() - began))
    return {
        f"push_ms_{name}_{share}": float(np.percentile(taken[answered][10:], share))
        for name, answered in (("answered", True), ("between", False))
        for share in (50, 99)
    }


if __name__ == "__main__":
    main()
