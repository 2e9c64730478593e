"""Sources: what turns a data set, or a renderer, into recordings and the clips to cut out of them."""

from importlib import import_module
from typing import Any

from mmkd.config import Settings

SOURCES = {
    "tabletop": "mmkd.sources.tabletop",
    "folder": "mmkd.sources.folder",
    "epic": "mmkd.sources.epic",
    "ssv2": "mmkd.sources.ssv2",
    "reference": "mmkd.sources.reference",
}
"""source.kind to the module whose `make` gives the source."""


def make_source(settings: Settings) -> Any:
    """The source that the settings name, see :class:`mmkd.sources.recording.Source`.

    Raises:
        ValueError: it needs a setting, a file or a library that is not there.
    """
    return import_module(SOURCES[settings.source.kind]).make(settings.source)
