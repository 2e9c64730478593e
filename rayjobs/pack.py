"""Make a data set of shards: `python rayjobs/pack.py --source.kind tabletop --source.train 2000`."""

from mmkd.cli import main
from mmkd.jobs import pack_data

ABOUT = """Make a data set: clips of a source (--source.kind) become shards, as a Ray Data job.

It goes to HOME/data/NAME, where NAME is data.folder or the source's kind. --check NAME looks through one that is there
instead (docs/data.md)."""

if __name__ == "__main__":
    main("pack", ABOUT, pack_data)
