"""Networks: create_model makes them, storage keeps them in folders without pickle."""

from mmkd.models.create import ModelSpec, Recogniser, create_model, known_archs
from mmkd.models.storage import describe_model, find_model, load_model, save_model, start_from

__all__ = [
    "ModelSpec",
    "Recogniser",
    "create_model",
    "describe_model",
    "find_model",
    "known_archs",
    "load_model",
    "save_model",
    "start_from",
]
