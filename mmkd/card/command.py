"""Write a model's card, README.md in its folder, anew: `python -m mmkd card MODEL`.

A run writes one when it ends. Call this after an evaluation (rayjobs/evaluate.py) to have its figures in the card too.
Evaluations of the same weights, which their hash tells, are looked for beside the model's run, else in HOME/runs.
Nothing in a card is invented: what is not on record is left out, or said to be unknown.

MODEL is a model folder, a run folder (its best model is taken), or the name of either under HOME/models or HOME/runs
(HOME is MMKD_HOME, else ~/mmkd). The last line of standard output is one JSON object."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mmkd.progress import say


def main(argv: Sequence[str] | None = None) -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m mmkd card", description=__doc__, formatter_class=form)
    parser.add_argument("model", metavar="MODEL", help="model or run folder, or its name under HOME")
    parser.add_argument("--force", action="store_true", help="also over a README.md that mmkd did not write")
    arguments = parser.parse_args(argv)
    from mmkd.card import write_card
    from mmkd.config import Settings
    from mmkd.models import find_model

    try:
        home = Settings().home
        folder = find_model(arguments.model, [Path.cwd(), home / "models", home / "runs"])
        path = write_card(folder, force=arguments.force)
    except (ValueError, OSError) as error:
        say(f"mmkd card: {error}")
        raise SystemExit(1) from None
    print(json.dumps({"card": str(path), "model": str(folder)}), flush=True)
