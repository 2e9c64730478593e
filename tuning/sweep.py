"""Search the settings of a distillation on Ray Tune: `python tuning/sweep.py --help`."""

from mmkd.cli import main
from mmkd.sweep.job import sweep

ABOUT = """Search temperature, loss weights and other settings for the student that is most accurate on split val.

The teachers are asked once: their answers go into a bank, which all trials replay. Without arguments: a small sweep on
the built-in tabletop data over tuning/space.yaml. --space FILE names another search space (docs/sweeps.md), and
--sweep.trials, --sweep.search and --sweep.scheduler how it is searched.

Each trial is a run folder of its own. At the end there are best.yaml, which rayjobs/distill.py takes as it is, and
sweep.html. The same command again resumes the sweep, or says that it is finished."""

if __name__ == "__main__":
    main("sweep", ABOUT, sweep, program="python tuning/sweep.py", optim={"epochs": 5}, sweep={"trials": 12})
