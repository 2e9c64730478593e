"""What packing costs against its parts, how much memory it takes, and which codec to keep clips in.

    python benchmarks/packing.py throughput   # packing against decoding, flow and JPEG by themselves
    python benchmarks/packing.py memory       # a video of 30 minutes with 500 clips
    python benchmarks/packing.py codec        # JPEG frames against H.264 clips: size, reading, training
    python benchmarks/packing.py decoders     # PyAV against torchcodec, where that is installed

Videos are made on the spot (456 x 256, H.264, a smooth texture that moves), so no data is needed. All figures of one
call are measured side by side on the same machine: trust the ratios.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
import simplejpeg
from common import CORES, Facts, figure, finish

from mmkd.config import Settings
from mmkd.cutting import as_bytes, cut, flow_jpeg
from mmkd.extract.flow import make_flow
from mmkd.jobs import distill, pack_data
from mmkd.media.video import VideoReader, open_container
from mmkd.pipeline import cached_dataset, cached_manifest
from mmkd.progress import say
from mmkd.reader import read_unit
from mmkd.shards import write_shard
from mmkd.sources.recording import Reject, Segment
from mmkd.sources.video import VideoRecording

WIDTH, HEIGHT, FPS, RATE = 456, 256, 30, 16000
HEADS = {"action": ["left", "right"]}


def make_video(path: Path, seconds: float, seed: int, fps: int = FPS, preset: str = "veryfast") -> Path:
    """A texture that pans, with a patch that moves on its own, and noise as sound."""
    rng = np.random.default_rng(seed)
    texture = cv2.resize(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8), (3 * WIDTH, 2 * HEIGHT))
    texture = cv2.add(texture, cv2.resize(rng.integers(0, 40, (200, 300, 3), dtype=np.uint8), (3 * WIDTH, 2 * HEIGHT)))
    speed = rng.uniform(-60, 60, 2) / fps
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"preset": preset, "threads": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = out.add_stream("aac", rate=RATE, layout="mono")
        for number in range(round(seconds * fps)):
            x = int(WIDTH + WIDTH / 2 * np.sin(speed[0] * number / 20))
            y = int(HEIGHT / 2 + HEIGHT / 2 * np.sin(speed[1] * number / 25))
            picture = texture[y : y + HEIGHT, x : x + WIDTH].copy()
            at = int((WIDTH - 60) * (0.5 + 0.5 * np.sin(number / fps * 2)))
            picture[100:160, at : at + 60] = 255 - picture[100:160, at : at + 60]
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode(None))
        for start in range(0, int(seconds * RATE), 1024):
            samples = rng.normal(0, 3000, (1, min(1024, int(seconds * RATE) - start))).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.rate, frame.pts = RATE, start
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def cpu(work: Callable[[], Any], repeats: int = 3) -> float:
    """Median CPU seconds of this process."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return median(times)


def frames_of(path: Path, short_side: int) -> Iterator[Any]:
    with open_container(path) as container:
        for _, frame in VideoReader(container, path.name).read(range(10**9), short_side):
            yield frame


def parts_of(path: str, repeats: int) -> dict[str, float]:
    """CPU seconds a clip of each part of packing by itself, and `wall`, seconds of all of them."""
    cv2.setNumThreads(1)
    method = make_flow("dis")
    assert method is not None
    frames = [frame.pixels for frame in frames_of(Path(path), 224)]
    flow = [as_bytes(method.flow(*map(method.prepare, pair)), 20) for pair in pairwise(frames[:40])] * (
        len(frames) // 39
    )
    began = time.monotonic()
    parts = {
        "decode and scale": cpu(lambda: list(frames_of(Path(path), 224)), repeats),
        "JPEG": cpu(lambda: [simplejpeg.encode_jpeg(frame, 90, "RGB", "420") for frame in frames], repeats),
        "flow": cpu(lambda: [method.flow(a, b) for a, b in pairwise([method.prepare(f) for f in frames])], repeats),
        "flow JPEG": cpu(lambda: [flow_jpeg(each, 90) for each in flow], repeats),
    }
    return parts | {"wall": (time.monotonic() - began) / repeats}


def packed(path: str, repeats: int) -> float:
    """Seconds a clip of packing in this process."""
    cv2.setNumThreads(1)
    pack = Settings().pack.model_copy(update={"short_side": 224, "flow_bound": 20.0})
    recording, method = VideoRecording(path, "a.mp4", (Segment("a", {"action": 0}),)), make_flow("dis")
    began = time.monotonic()
    for number in range(repeats):
        rows = cut("train", recording, HEADS, pack, method)
        write_shard(Path(path).with_suffix(f".{number}.parquet"), rows, list(HEADS), 4)  # type: ignore[arg-type]
    return (time.monotonic() - began) / repeats


def throughput(folder: Path) -> dict[str, Any]:
    """Packing against its parts by themselves: CPU time in one process, and clips/s of all cores at once."""
    cv2.setNumThreads(1)
    number, seconds, cores = max(64, CORES), 8, CORES
    root = folder / "videos"
    for name in ("left", "right"):
        (root / name).mkdir(parents=True)
    paths = [make_video(root / ("left", "right")[n % 2] / f"{n:03d}.mp4", seconds, n) for n in range(number)]
    method, path = make_flow("dis"), paths[0]
    pack = Settings().pack.model_copy(update={"short_side": 224, "flow_bound": 20.0})
    recording = VideoRecording(str(path), "a.mp4", (Segment("a", {"action": 0}),))
    alone = parts_of(str(path), 3)
    whole = cpu(lambda: list(cut("train", recording, HEADS, pack, method)))
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        some = [str(each) for each in paths[:cores]]
        walls: dict[str, list[float]] = {"parts": [], "packing": []}
        for _ in range(3):  # in turn, since the machine's speed drifts
            walls["parts"] += [each["wall"] for each in pool.map(parts_of, some, [2] * cores)]
            walls["packing"] += list(pool.map(packed, some, [2] * cores))
    limit, at_once = (cores / median(walls[name]) for name in ("parts", "packing"))
    settings = {
        "run": {"home": str(folder)},
        "source": {"kind": "folder", "root": str(root), "val_share": 0, "test_share": 0},
        "pack": {"short_side": 224},
        "data": {"folder": "bench"},
    }
    result = pack_data(Settings.model_validate(settings))
    rate = result["clips"] / result["seconds"]
    frames = seconds * FPS
    return {
        "milliseconds a frame": {name: round(1000 * alone[name] / frames, 3) for name in alone if name != "wall"},
        "parts over packing, CPU, one process": round(sum(alone[name] for name in alone if name != "wall") / whole, 3),
        f"clips/s of the parts in {cores} processes at once": round(limit, 3),
        "of packing in as many": round(at_once, 3),
        "packing over parts": round(at_once / limit, 3),
        f"of packing {number} clips on Ray, start of its processes included": round(rate, 3),
        "the same over parts": round(rate / limit, 3),
    }


def memory(folder: Path) -> dict[str, Any]:
    """Peak memory of a process that packs 500 clips of a video of 30 minutes."""
    path = make_video(folder / "long.mp4", 1800, 0, 15, "ultrafast")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    segments = tuple(Segment(str(n), {"action": 0}, 3.5 * n, 3.5 * n + 4) for n in range(500))
    pack = Settings().pack.model_copy(update={"flow_bound": 20.0})
    recording, began = VideoRecording(str(path), "long.mp4", segments), time.monotonic()
    rows = sum(not isinstance(row, Reject) for row in cut("train", recording, HEADS, pack, make_flow("dis")))
    return {
        "clips": rows,
        "minutes": 30,
        "peak before, MB": round(before),
        "peak after, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "seconds": round(time.monotonic() - began, 1),
    }


def codec(folder: Path) -> dict[str, Any]:
    """The same clips kept as JPEG frames and as H.264: bytes, CPU time of a view, and clips/s of a training."""
    root, sizes = folder / "videos", {}
    for name in ("left", "right"):
        (root / name).mkdir(parents=True)
    for n in range(40):
        make_video(root / ("left", "right")[n % 2] / f"{n:03d}.mp4", 4, n)
    found: dict[str, Any] = {}
    for name in ("jpeg", "h264"):
        source = {"kind": "folder", "root": str(root), "val_share": 0.2, "test_share": 0.0}
        settings = Settings.model_validate(
            {
                "run": {"home": str(folder), "local": True, "name": name},
                "data": {"folder": name},
                "source": source,
                "pack": {"rgb_codec": name, "flow": "none", "short_side": 224},
                "views": {"size": 112},
                "loss": {"distill_weight": 0, "label_weight": 1},
                "optim": {"epochs": 2, "batch_size": 8},
            }
        )
        sizes[name] = pack_data(settings)["megabytes"]
        data = settings.data_folder()
        manifest, dataset = cached_manifest(data, "train", 0), cached_dataset(data)
        clips = np.arange(len(manifest))
        each = cpu(lambda: read_unit(dataset, manifest, settings.views, clips, 0, ("rgb",))) / len(clips)  # noqa: B023
        found[name] = {
            "MB": sizes[name],
            "ms a view of 8 frames": round(1000 * each, 2),
            "clips/s of training": distill(settings)["clips_per_second"],
        }
    found["h264 over jpeg"] = {key: round(found["h264"][key] / found["jpeg"][key], 2) for key in found["jpeg"]}
    return found


def decoders(folder: Path) -> dict[str, Any]:
    """Frames/s (CPU time) of decoding and scaling a whole video to a short side of 224."""
    path = make_video(folder / "a.mp4", 20, 0)
    number = 20 * FPS
    found = {"PyAV": round(number / cpu(lambda: sum(1 for _ in frames_of(path, 224))))}
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize
    except (ImportError, RuntimeError, OSError) as error:
        return found | {"torchcodec": f"cannot be used here: {str(error).splitlines()[0]}"}

    def decode() -> None:
        decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, transforms=[Resize((224, 400))])
        assert sum(1 for _ in decoder) == number

    return found | {"torchcodec": round(number / cpu(decode))}


def figures(found: dict[str, Any]) -> list[Facts]:
    shown = []
    if "throughput" in found:
        part = found["throughput"]
        shown.append(figure("packing over its parts, in as many processes", part["packing over parts"], least=0.9))
        shown.append(figure("packing as a job on Ray over its parts", part["the same over parts"]))
    if "memory" in found:
        part = found["memory"]
        grown = part["peak after, MB"] / part["peak before, MB"]
        shown.append(figure("peak memory, packing a video of 30 minutes over before", grown))
    if "codec" in found:
        shown += [figure(f"H.264 over JPEG, {name}", value) for name, value in found["codec"]["h264 over jpeg"].items()]
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["throughput", "memory", "codec", "decoders"])
    parser.add_argument("--out", help="JSON file to write")
    own = parser.parse_args()
    found = {}
    for name in own.parts:
        with tempfile.TemporaryDirectory(prefix="mmkd-bench-") as scratch:
            found[name] = globals()[name](Path(scratch))
        say(f"{name} {json.dumps(found[name], indent=1)}")
    finish(found, figures(found), own.out)


if __name__ == "__main__":
    main()
