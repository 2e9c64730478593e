"""A local web page for a model: `python -m mmkd demo MODEL`, then open the address it prints and drop a video.

MODEL is a model folder or a run folder: its path, or its name under HOME/models or HOME/runs (HOME: MMKD_HOME, else
~/mmkd). The page listens on this machine only; a video goes no farther, and is deleted when it was answered. To use it
on a machine elsewhere: ssh -L 8500:127.0.0.1:8500 THAT-MACHINE.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkd.config import Settings
from mmkd.inference.answers import open_model
from mmkd.inference.sampling import sampling_of
from mmkd.models import find_model
from mmkd.web.server import make_server

PROGRAM, PORT = "python -m mmkd demo", 8500


def main(argv: Sequence[str]) -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, allow_abbrev=False, formatter_class=form)
    parser.add_argument("model", metavar="MODEL", help="model folder or run folder, by path or name")
    parser.add_argument("--port", type=int, default=PORT, help=f"to listen on, at 127.0.0.1; 0: a free one ({PORT})")
    parser.add_argument("--device", default="cpu", help="of PyTorch, as cuda (cpu)")
    arguments = parser.parse_args(argv)
    try:
        home = Settings().home
        folder = find_model(arguments.model, (Path.cwd(), home / "models", home / "runs"))
        model = open_model(folder, arguments.device)
        sampling_of(model.spec, name=folder)
        name = folder.parent.name if folder.name == "best" else folder.name
        server = make_server(model, name, arguments.port)
    except (ValueError, OSError, OverflowError, RuntimeError, AssertionError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl+C does: uploads are deleted
    with server:
        print(f"{name} is at {server.address} (Ctrl+C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)
