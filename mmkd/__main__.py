"""Commands around a model folder: `python -m mmkd COMMAND`. The jobs that make one are in rayjobs/ and tuning/."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "predict": ("mmkd.inference.command:main", "what an RGB model says of videos"),
    "demo": ("mmkd.web.command:main", "a local web page: drop a video, see what the model says over time"),
    "export": ("mmkd.export.command:main", "a model as one file: ONNX, TorchScript or torch.export"),
    "card": ("mmkd.card.command:main", "a model folder's README.md, anew from its records"),
}
"""Name to the function that takes the arguments after it, imported when it is called, and what it is for."""


def main(argv: Sequence[str] | None = None) -> None:
    """Carry out the command that the arguments name; without arguments list them."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS)) + 2
        listed = "\n".join(f"  {each:<{width}}{about}" for each, (_, about) in COMMANDS.items())
        print(f"usage: python -m mmkd COMMAND ...\n\n{listed}\n\npython -m mmkd COMMAND --help says more.")
    elif name in COMMANDS:
        module, _, function = COMMANDS[name][0].partition(":")
        try:
            getattr(import_module(module), function)(rest)
        except BrokenPipeError:  # who read the output has enough of it, as head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
    else:
        print(f"python -m mmkd has no command {name!r}; it has {', '.join(COMMANDS)}.", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
