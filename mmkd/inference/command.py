"""What an RGB model says of videos: `python -m mmkd predict MODEL VIDEO [VIDEO ...]`.

MODEL is a model folder or a run folder: its path, or its name under HOME/models or HOME/runs (HOME: MMKD_HOME, else
~/mmkd).
VIDEO is a video file, local or at s3:// or gs://, a folder (all videos below it), or a pattern with * in quotes.

Without --window a video is one clip, as an evaluation treats it. A video that cannot be answered is named with its
reason, and the others are answered all the same; the exit status is 0 only where every video was answered whole.
"""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkd.config import Settings
from mmkd.inference.answers import Prediction, open_model
from mmkd.inference.sampling import Sampling, sampling_of
from mmkd.inference.videos import predict_windows
from mmkd.inference.windows import check_windows, reason_of
from mmkd.media.files import EXTENSIONS, printable, videos_below
from mmkd.models import ModelSpec, Recogniser, find_model
from mmkd.storage import is_remote

PROGRAM = "python -m mmkd predict"


def main(argv: Sequence[str]) -> None:
    arguments = _parser().parse_args(argv)
    try:
        check_windows(arguments.window, arguments.hop)
        home = Settings().home
        folder = find_model(arguments.model, (Path.cwd(), home / "models", home / "runs"))
        model = open_model(folder, arguments.device)
        sampling = sampling_of(model.spec, arguments.views, folder)
    except (ValueError, OSError, RuntimeError, AssertionError) as error:  # the last two: a device that is not there
        if arguments.json:
            print(json.dumps({"error": str(error)}))
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(_about(folder, model.spec), file=sys.stderr)
    asked: set[str] = set()
    failed: set[str] = set()
    for name in arguments.videos:
        try:
            videos = _videos(name)
        except (ValueError, OSError) as error:
            videos = []
            failed.add(name)
            _show(name, None, str(error), arguments)
        for video in videos:
            if video not in asked and not _answered(model, video, sampling, arguments):
                failed.add(video)
            asked.add(video)
    if failed:
        print(f"failed, wholly or in part: {', '.join(map(printable, sorted(failed)))}", file=sys.stderr)
        raise SystemExit(1)


def _answered(model: Recogniser, video: str, sampling: Sampling, arguments: argparse.Namespace) -> bool:
    """Show what the model says of a video; whether it had an answer to all of it."""
    whole = True
    try:
        for prediction in predict_windows(model, video, sampling, arguments.window, arguments.hop):
            whole = whole and not prediction.error
            _show(video, prediction, prediction.error, arguments)
    except BrokenPipeError:
        raise
    except Exception as error:  # whatever a library makes of a file that nobody foresaw: others must be answered
        _show(video, None, reason_of(error), arguments)
        return False
    return whole


def _videos(name: str) -> list[str]:
    """The videos that an argument means.

    Raises:
        ValueError: it is a folder or a pattern of none.
    """
    if is_remote(name) or Path(name).is_file() or not (Path(name).is_dir() or glob.has_magic(name)):
        return [name]  # one that is not there is said when it is opened
    # Not Path.glob, which takes no absolute pattern.
    found = [name] if Path(name).is_dir() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207
    videos = [video for each in found for video in (_below(each) if Path(each).is_dir() else [each])]
    if not videos:
        raise ValueError(f"{name} has no videos; they are files that end in {', '.join(EXTENSIONS)}.")
    return videos


def _below(folder: str) -> list[str]:
    return [str(Path(folder) / name) for name in sorted(videos_below(folder))]


def _show(video: str, prediction: Prediction | None, error: str, arguments: argparse.Namespace) -> None:
    """One clip: a JSON object a line, or lines for people, errors among them on standard error."""
    video, error = printable(video), printable(error)
    shown: dict[str, Any] = {"clip": video}
    if prediction is not None:
        shown |= {"start": round(prediction.start, 3), "stop": round(prediction.stop, 3)}
    top: dict[str, Any] = {}
    if prediction is not None and not error:
        top = prediction.top(arguments.top)
        shown |= {"temperatures": prediction.spec.temperatures, "top": top}
    if arguments.json:
        print(json.dumps(shown | ({"error": error} if error else {}), allow_nan=False), flush=True)
        return
    where = video if prediction is None else f"{video}  {prediction.start:.2f} to {prediction.stop:.2f} s"
    if error:
        print(f"{where}: {error}", file=sys.stderr, flush=True)
        return
    width = max(map(len, top))
    lines = [f"  {head:<{width}}  {', '.join(map(_said, best))}" for head, best in top.items()]
    print("\n".join([where, *lines]), flush=True)


def _said(one: dict[str, Any]) -> str:
    names = " ".join(str(value) for key, value in one.items() if key != "probability")
    return f"{names} {100 * one['probability']:.1f} %"


def _about(folder: Path, spec: ModelSpec) -> str:
    """The model, and which of its probabilities are calibrated."""
    lines = [f"{folder}: {spec.arch}, sees {spec.input['frames']} frames of {spec.input['size']} px"]
    if spec.temperatures:
        said = ", ".join(f"{head} {value:.2f}" for head, value in spec.temperatures.items())
        lines.append(f"calibrated by temperatures fitted on its validation split: {said}")
    if bare := [head for head in spec.heads if head not in spec.temperatures]:
        lines.append(f"model.json has no temperature for {', '.join(bare)}: probabilities are not calibrated (T = 1)")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    as_it_is: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, allow_abbrev=False, **as_it_is)
    parser.add_argument("model", metavar="MODEL", help="model folder or run folder, by path or name")
    parser.add_argument("videos", metavar="VIDEO", nargs="+", help="video file, folder, or pattern in quotes")
    parser.add_argument("--views", default="1x1", help="test views, in time x in space (1 or 3), as 10x3 (1x1)")
    parser.add_argument("--window", type=float, default=0.0, help="seconds of each clip; 0: all of the video (0)")
    parser.add_argument(
        "--hop", type=float, default=0.0, help="seconds from one window's start to the next's (--window)"
    )
    parser.add_argument("--top", type=_positive, default=5, help="classes to name, the likeliest (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each clip, errors included")
    parser.add_argument("--device", default="cpu", help="of PyTorch, as cuda (cpu)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 up")
    return int(text)
