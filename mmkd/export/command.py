"""A trained model as one file that needs no mmkd, and what it is worth: `python -m mmkd export MODEL --to TARGET`.

MODEL is a model folder, a run folder (its best model is taken), or the name of either under HOME/models or HOME/runs
(HOME is MMKD_HOME, else ~/mmkd). It must see frames: rgb or flow.

The file takes uint8 [batch, frames, height, width, channels], any number of clips at a time, normalises inside, and
gives raw logits [batch, classes], named by head. Class names, input geometry and the temperatures that calibrate the
logits are in the file's metadata.

The file is then run beside the model, on clips of --check, else of the data that the model learnt on where that is
here, else on random ones, and the differences and latencies are shown. The last line of standard output is one JSON
object; the exit status is 0 only where the file is written and, in fp32, no logit differs by more than 1e-4."""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mmkd.progress import say

EXAMPLES = """examples:
  python -m mmkd export demo-student --to onnx --check tabletop
  python -m mmkd export demo-student --to onnx --precision int8 --calibrate tabletop --check tabletop
  python -m mmkd export ~/mmkd/runs/demo-student/best --to torch-export --out student.pt2 --check film.mp4"""

TO = """onnx, for ONNX Runtime and others; torchscript, for torch's C++ library; or torch-export, for torch.export's
readers such as AOTInductor"""
PRECISION = """fp32; fp16, in which the backbone computes, for GPUs: CPUs are slower in it; or int8, of onnx alone
(fp32)"""
QUANTISE = """of int8: static, where the ranges of activations are chosen on the clips of --calibrate, or dynamic, where
each batch has its own (static where --calibrate is given, else dynamic)"""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    try:
        result = _export(arguments)
    except (ValueError, OSError) as error:
        say(f"mmkd export: {error}")
        raise SystemExit(1) from None
    print(json.dumps(result), flush=True)
    if not result["passed"]:
        raise SystemExit(1)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command; what does not go together is refused, as command lines do."""
    from mmkd.export.convert import PRECISIONS, SUFFIXES

    parser = argparse.ArgumentParser(
        prog="python -m mmkd export",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="model or run folder, or its name under HOME")
    add("--to", required=True, choices=list(SUFFIXES), help=TO)
    add("--out", metavar="FILE", help="file to write (in the model folder: model.onnx, model.int8.onnx, model.pt2 ...)")
    add("--force", action="store_true", help="write over a file that is there")
    add("--precision", choices=PRECISIONS, default="fp32", help=PRECISION)
    add("--quantise", choices=("dynamic", "static"), help=QUANTISE)
    add("--calibrate", metavar="DATA", help="data set to calibrate int8 on: its folder, or its name under HOME/data")
    add("--split", default="val", help="split of --calibrate (val)")
    add("--clips", type=int, default=64, help="clips of --calibrate, spread over the split; 0: all (64)")
    add("--check", metavar="DATA|VIDEO", help="data set or video to compare on (the model's own data)")
    add("--check-split", default="test", metavar="SPLIT", help="split of --check (test)")
    add("--check-clips", type=int, default=64, metavar="N", help="clips of --check, spread over it; 0: all (64)")
    add("--batch", type=int, default=8, help="clips at a time, beside 1, in the comparison and the calibration (8)")
    add("--threads", type=int, default=1, help="of both in the comparison (1)")
    arguments = parser.parse_args(argv)
    if min(arguments.batch, arguments.threads) < 1 or min(arguments.clips, arguments.check_clips) < 0:
        parser.error("--batch and --threads are at least 1, --clips and --check-clips at least 0")
    if arguments.precision != "int8" and (arguments.quantise or arguments.calibrate):
        parser.error("--quantise and --calibrate are for --precision int8")
    if arguments.quantise == "static" and not arguments.calibrate:
        parser.error("--quantise static needs --calibrate DATA, whose clips set the ranges of activations")
    if arguments.quantise == "dynamic" and arguments.calibrate:
        parser.error("--quantise dynamic takes its ranges from each batch; leave out --calibrate")
    return arguments


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the file, compare it, and say so.

    Raises:
        ValueError, OSError: something is not as it must be.
    """
    from mmkd.config import Settings
    from mmkd.export.clips import clips_of, own_data, random_clips
    from mmkd.export.comparison import TOLERANCE, compare
    from mmkd.export.convert import export_model
    from mmkd.export.opened import open_export
    from mmkd.models import find_model, load_model

    home = Settings().home
    folder = find_model(arguments.model, [Path.cwd(), home / "models", home / "runs"])
    model = load_model(folder)
    clips: Iterator[Any]
    check = arguments.check
    try:
        check = check or own_data(model.spec, arguments.check_split)
        if check:
            clips = clips_of(check, model.spec, arguments.check_split, arguments.check_clips, arguments.batch)
            clips = chain([next(clips)], clips)  # what is wrong with them is said before anything is written
            say(f"compared on clips of {check}")
    except (ValueError, OSError) as error:
        if arguments.check:
            raise
        say(f"the data that the model learnt on cannot be used: {error}")
        check = ""
    if not check:
        say("no --check: compared on random patches, which tell less than clips do")
        clips = random_clips(model.spec, arguments.check_clips or 64, arguments.batch)
    calibration = None
    if arguments.calibrate:
        calibration = clips_of(arguments.calibrate, model.spec, arguments.split, arguments.clips, arguments.batch)
    path = export_model(
        folder,
        arguments.to,
        arguments.out,
        precision=arguments.precision,
        calibration=calibration,
        force=arguments.force,
    )
    exported = open_export(path, arguments.to, arguments.threads)
    say(f"{folder} as {path}: {exported.about['precision']}, {path.stat().st_size / 1e6:.2f} MB")
    found = compare(model, exported, clips, batches=(1, arguments.batch), threads=arguments.threads)
    say("\n".join(found.lines()))
    largest = max(found.difference.values())
    passed = math.isfinite(largest) and (arguments.precision != "fp32" or largest <= TOLERANCE)
    if not passed:
        say(f"mmkd export: a logit differs by {largest:.1e}, more than {TOLERANCE:.0e}; do not use {path}")
    return {
        "file": str(path),
        "model": str(folder),
        "to": arguments.to,
        "precision": exported.about["precision"],
        "bytes": path.stat().st_size,
        "compared_on": check or "random patches",
        "clips": found.clips,
        "largest_difference": {head: x if math.isfinite(x) else None for head, x in found.difference.items()},
        "top1_agreement": found.agreement,
        "latency_ms": {batch: {"model": a, "export": b} for batch, (a, b) in found.latency_ms.items()},
        "threads": found.threads,
        "passed": passed,
    }
