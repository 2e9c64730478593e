"""The main job on the built-in data, from data to report: what `make demo` runs."""

from mmkd.cli import main
from mmkd.demo import demo

ABOUT = """Make the tabletop data, distil a student from the shipped teachers, train the same network on labels, and
compare both with every teacher and the ensemble on the test split: a table, and report.html in HOME/runs/demo."""

if __name__ == "__main__":
    main("demo", ABOUT, demo)
