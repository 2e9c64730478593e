"""Train one teacher on labels: `python rayjobs/train_teacher.py --teacher.modality flow`."""

from mmkd.cli import main
from mmkd.jobs import train_teacher

ABOUT = """Train one teacher on labels, by the same loop as the student: --teacher.modality rgb|flow|audio|boxes.

It learns on the clips of `train` that are not held out (data.weigh_share); the model folder is RUN/best."""

if __name__ == "__main__":
    main("train_teacher", ABOUT, train_teacher, loss={"distill_weight": 0.0, "label_weight": 1.0})
