"""Looking into logit banks: `python -m mmkd.bank inspect FOLDER` and `python -m mmkd.bank verify FOLDER`.

FOLDER is a bank's name under HOME/banks (MMKD_HOME, else ~/mmkd), or its path. The last line of standard output is one
JSON object; the exit status is 0 only where all is well.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkd.bank.inspect import inspect_bank, inspection_lines
from mmkd.bank.verify import verification_lines, verify_bank
from mmkd.cli import load_settings
from mmkd.config import Settings
from mmkd.cores import available_cores
from mmkd.progress import say
from mmkd.trust import trust

INSPECT = """Say what a bank is made of, what it holds, and what of it is damaged. All of it is read; neither the data
set nor the teachers are needed. Exit status 1 where anything is damaged."""

VERIFY = """Ask the bank's teachers again about a sample of its answers, in this process, on cuda where there is one,
and compare. Exit status 1 where an answer is not the teachers', or is of another view than is drawn now.

The data set is the one that the bank names, under HOME/data, and the teachers are those shipped with mmkd, unless
--data.folder and --teachers.folders say otherwise. Views are the bank's, whatever the settings say."""

SETTINGS = """After FOLDER, any setting of the jobs can be given, as --data.folder NAME or --run.home PATH;
python rayjobs/record.py --help lists them."""

TOLERANCE = """largest difference of a logit beyond 2 steps of fp16, in which answers are kept (default: 0.01). Teachers
run in fp32 here unless --teachers.precision says otherwise. The default is for a bank recorded in fp32, as on any CPU:
the shipped teachers' answers are then within the 2 steps. One recorded in bf16 on a GPU needs --teachers.precision bf16
on a GPU, or a tolerance for what bf16 costs: 0.2 suffices for the shipped teachers"""


def main(argv: Sequence[str] | None = None) -> None:
    as_it_is: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m mmkd.bank", description=__doc__, **as_it_is)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("inspect", INSPECT), ("verify", VERIFY)):
        said: Any = {"description": about, "epilog": SETTINGS, "help": about.split(".")[0], **as_it_is}
        command = commands.add_parser(name, allow_abbrev=False, **said)
        command.add_argument("folder", metavar="FOLDER", help="name under HOME/banks, or path")
    command.add_argument("--clips", type=int, default=64, help="answers in the sample, spread over views (64)")
    command.add_argument("--seed", type=int, default=0, help="which ones (0)")
    command.add_argument("--tolerance", type=float, default=0.01, help=TOLERANCE)
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "verify" and arguments.clips < 1:
        parser.error(f"--clips is {arguments.clips}; a sample has at least one answer")
    own = {"precision": "fp32", "threads": available_cores()}
    settings = load_settings(rest, job="mmkd.bank", about=__doc__ or "", program="python -m mmkd.bank", teachers=own)
    trust([settings.student.arch, settings.teacher.arch])
    try:
        folder = find_bank(settings, arguments.folder)
        if arguments.command == "inspect":
            facts = inspect_bank(folder)
            lines, well = inspection_lines(facts), facts["sound"]
        else:
            facts = verify_bank(folder, settings, arguments.clips, arguments.seed, arguments.tolerance)
            lines, well = verification_lines(facts), facts["passed"]
    except (ValueError, OSError) as error:
        say(f"mmkd.bank: {error}")
        raise SystemExit(1) from None
    width = max(len(name) for name, _ in lines) + 2
    say("\n".join(f"{name:<{width}}{text}" for name, text in lines))
    print(json.dumps(facts), flush=True)
    if not well:
        raise SystemExit(1)


def find_bank(settings: Settings, name: str) -> Path:
    """The folder of a bank: a path of its own, or one under HOME/banks."""
    path, known = Path(name).expanduser(), settings.below_banks(name)
    return known if known.exists() or not path.exists() else path.absolute()


if __name__ == "__main__":
    main()
