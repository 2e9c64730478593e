"""Test the paper's claims by an experiment of many runs: `python rayjobs/study.py --help`."""

from mmkd.cli import main
from mmkd.study.job import BUILT_IN, study

ABOUT = """Train the same RGB network on labels and from an ensemble of multimodal teachers, several seeds each, and the
controls that tell why one is better; test all on split test; and report which of the paper's claims hold here, with
intervals over seeds and clips: study.html, its figures as PNG and its numbers as CSV.

Without arguments: on tabletop with 3,000 test clips, which is made if it is missing. --quick is a small study.
--data FOLDER takes another data set, and --teachers.folders teachers that are there already. The same command again
goes on where it was stopped, or says that everything is there."""

if __name__ == "__main__":
    main(
        "study",
        ABOUT,
        study,
        data={"folder": BUILT_IN},
        source={"train": 500, "val": 400, "test": 3000, "unseen": 1000},
        views={"size": 48, "distinct": 10},
        teachers={"gamma": 1.0, "drop_near_chance": False},
        loss={"temperature": 1.0},
        study={"teacher_lr": {"audio": 2e-3, "boxes": 2e-3}},
        optim={"lr": 4e-3, "validate_every": 4},
    )
