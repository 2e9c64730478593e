"""The built-in data set: rendered first-person clips of a hand acting on objects on a table."""

from mmkd.sources.tabletop.source import HEADS, Tabletop, make

__all__ = ["HEADS", "Tabletop", "make"]
