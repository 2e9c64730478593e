"""Distil an RGB student from an ensemble of multimodal teachers: `python rayjobs/distill.py --help`."""

from mmkd.cli import main
from mmkd.jobs import distill

ABOUT = """Train a student that sees RGB frames only, taught by an ensemble of teachers that see more.

Without arguments: makes the built-in tabletop data if it is missing, and takes the teachers shipped with mmkd.
The same network on labels alone: --loss.distill_weight 0 --loss.label_weight 1.
The same command again resumes the run, or says that it is finished."""

if __name__ == "__main__":
    main("distill", ABOUT, distill)
