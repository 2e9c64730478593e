"""mmkd: distil multimodal video teachers into an RGB-only student, on Ray."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_model", "save_model"]


def __getattr__(name: str) -> Any:
    # Kept lazy: importing mmkd must not import torch in processes that only read data.
    if name in ("load_model", "save_model"):
        from mmkd.models import storage

        return getattr(storage, name)
    raise AttributeError(f"module 'mmkd' has no attribute {name!r}")
