"""Small data and small teachers that the tests share; making them needs no Panda3D, no Ray and no training."""

from pathlib import Path

import numpy as np
import torch

from mmkd.config import Settings
from mmkd.cutting import cut
from mmkd.dataset import Dataset
from mmkd.extract.flow import make_flow
from mmkd.models import create_model, save_model
from mmkd.shards import write_shard
from mmkd.sources.clip import BOX_DTYPE, Clip, Made
from mmkd.sources.recording import Reject

HEADS = {"verb": ["push", "lift", "drop"], "noun": ["cup", "ball"]}
SPLITS = {"train": 37, "val": 11, "test": 7}
FRAMES, HEIGHT, WIDTH, RATE, FPS = 6, 24, 32, 4000, 8.0


def make_clip(split: str, number: int) -> Clip:
    """A clip whose labels show in every modality, so that a network can learn them."""
    rng = np.random.default_rng([sorted(SPLITS).index(split), number])
    verb, noun = number % 3, (number // 3) % 2
    rgb = rng.integers(0, 60, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for t in range(FRAMES):
        x = 4 + (verb * 3 + 1) * t % 20
        rgb[t, 8:16, x : x + 8, noun] = 255
    boxes = np.zeros((FRAMES, 2), BOX_DTYPE)
    boxes["x1"], boxes["y1"], boxes["x2"], boxes["y2"] = 0.25, 0.25, 0.5 + 0.1 * verb, 0.75
    boxes["score"], boxes["category"], boxes["side"], boxes["state"] = [0.9, 0.8], [1, 2], [-1, 1], [-1, 3]
    time = np.arange(int(RATE * FRAMES / FPS)) / RATE
    audio = (8000 * np.sin(2 * np.pi * (300 + 400 * verb) * time)).astype(np.int16)
    return Clip(f"{split}-{number:03d}", rgb, {"verb": verb, "noun": noun}, FPS, audio, RATE, list(boxes))


def encode_clip(clip: Clip, settings: Settings, heads=HEADS) -> dict:
    """The row of a clip as packing makes it; what makes it a reject is raised."""
    pack = settings.pack.model_copy(update={"flow_bound": 8.0})
    (row,) = cut("", Made(clip.clip_id, clip.labels, lambda: clip), heads, pack, make_flow("dis"))
    if isinstance(row, Reject):
        raise ValueError(row.reason)
    return row


def write_dataset(folder: Path, change=lambda split, rows: rows, heads=HEADS, multi_label=()) -> Path:
    """A data set in `folder`; `change` may spoil the rows of a split before they are written."""
    settings = small_settings(folder.parent.parent)
    splits = {}
    for split, number in SPLITS.items():
        rows = [encode_clip(make_clip(split, i), settings, HEADS) for i in range(number)]
        digest = write_shard(folder / split / "00000.parquet", change(split, rows), list(heads), 4, multi_label)
        splits[split] = {"clips": number, "shards": {"00000.parquet": digest}}
    flow = {"bound": 8.0, "step": 1, "size": [WIDTH, HEIGHT]}
    modalities = ["rgb", "flow", "audio", "boxes"]
    dataset = Dataset(heads, modalities, splits, FPS, flow, RATE, {"source": "tests"}, multi_label=list(multi_label))
    dataset.save(folder)
    return folder


def small_settings(home: Path, **sections: dict) -> Settings:
    """Settings for the small data: views of 4 frames of 16 px, batches of 8, in this process."""
    base: dict[str, dict] = {
        "run": {"home": str(home), "local": True, "log_every": 1, "trace": True},
        "data": {"folder": "small", "weigh_share": 0.3},
        "views": {"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1},
        "student": {"options": {"channels": [4, 8], "dropout": 0.1}, "arch": "r2plus1d_tiny"},
        "teachers": {"folders": ["rgb", "flow", "boxes"], "drop_near_chance": False},
        "optim": {"epochs": 2, "batch_size": 8, "warmup_epochs": 0.5},
        "resources": {"threads": 1},  # tests share the cores
    }
    return Settings.model_validate({key: base.get(key, {}) | sections.get(key, {}) for key in base | sections})


def write_teachers(home: Path) -> None:
    """Untrained teachers for rgb, flow and boxes under HOME/models."""
    options = {
        "rgb": ("r2plus1d_tiny", {"channels": (4, 8)}),
        "flow": ("r2plus1d_tiny", {"channels": (4, 8)}),
        "boxes": ("stlt", {"num_frames": 4, "width": 16, "depth": 1, "num_heads": 2}),
    }
    for seed, (modality, (arch, more)) in enumerate(options.items()):
        torch.manual_seed(seed)
        model = create_model(arch, HEADS, modality, **more)
        model.spec.input = {"frames": 4, "sampling": "uniform"}
        save_model(model, home / "models" / modality)
