"""Evaluate models on a split: `python rayjobs/evaluate.py --model FOLDER`."""

from mmkd.cli import main
from mmkd.evaluation.job import evaluate

ABOUT = """Accuracy, calibration and cost of trained models on a split, each clip once: a table, report.html, and
the logits of every clip as Parquet, from which --logits FOLDER reports again without a model.

--model FOLDER [FOLDER ...] names them; without it, the teachers are evaluated, each and together. --views 10x3 tests in
10 views in time by 3 in space, and in all smaller grids, in one pass."""

if __name__ == "__main__":
    main("evaluate", ABOUT, evaluate)
