"""mmkd: distil multimodal video teachers into an RGB-only student, on Ray."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["StreamingRecognizer", "load_model", "predict", "save_model"]

_PLACES = {
    "StreamingRecognizer": "mmkd.inference.streaming",
    "load_model": "mmkd.models.storage",
    "predict": "mmkd.inference.videos",
    "save_model": "mmkd.models.storage",
}


def __getattr__(name: str) -> Any:
    # Kept lazy: importing mmkd must not import torch in processes that only read data.
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'mmkd' has no attribute {name!r}")
