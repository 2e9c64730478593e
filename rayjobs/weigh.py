"""Judge and weigh the teachers before distilling: `python rayjobs/weigh.py --teachers.folders A/best B/best`."""

from mmkd.cli import main
from mmkd.weigh import weigh

ABOUT = """Run the teachers over the clips that are held out from them (data.weigh_share of the train split), and
print each one's accuracy, calibration error, cross-entropy and weight per head. distill.py does this first, too."""

if __name__ == "__main__":
    main("weigh", ABOUT, weigh)
