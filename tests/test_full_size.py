"""The paper's networks at the paper's size: a few real optimiser steps on a small machine."""

import json
import resource

import numpy as np
import pytest

from mmkd.config import Settings
from mmkd.dataset import Dataset
from mmkd.jobs import distill
from mmkd.models import create_model, save_model
from mmkd.runs import read_metrics
from mmkd.shards import write_shard
from mmkd.sources.clip import BOX_DTYPE, Clip
from tests.small import encode_clip

pytestmark = pytest.mark.slow
HEADS = {"noun": [f"noun {i}" for i in range(20)], "verb": [f"verb {i}" for i in range(12)]}
CLIPS, RATE = {"train": 8, "val": 2}, 16000


def make_clip(split: str, number: int) -> Clip:
    rng = np.random.default_rng([len(split), number])
    coarse = rng.integers(0, 255, (8, 16, 20, 3), dtype=np.uint8)
    boxes = np.zeros((8, 3), BOX_DTYPE)
    boxes["x2"] = boxes["y2"] = 0.5
    boxes["score"], boxes["category"], boxes["side"], boxes["state"] = 0.9, [1, 2, 2], [-1, 0, 1], [-1, 3, 0]
    sound = rng.integers(-3000, 3000, RATE * 2).astype(np.int16)
    labels = {head: int(rng.integers(len(names))) for head, names in HEADS.items()}
    return Clip(f"{split}-{number}", coarse.repeat(16, 1).repeat(17, 2), labels, 4.0, sound, RATE, list(boxes))


def test_a_swin_student_of_swin_and_stlt_teachers_takes_real_steps_at_224_px(tmp_path, capsys):
    settings = Settings.model_validate(
        {
            "run": {"home": str(tmp_path), "name": "full", "local": True, "log_every": 1},
            "data": {"folder": "large", "weigh_share": 0.5},
            "views": {"size": 224, "frames": 8, "scale": (1.15, 1.43), "hue": 0.1, "boxes": 14, "audio_seconds": 1.116},
            "student": {"arch": "torchvision/swin3d_t"},
            "teachers": {"folders": ["flow", "audio", "boxes"], "drop_near_chance": False, "batch_size": 2},
            "loss": {"temperature": 2.0, "label_weight": 0.5},
            "optim": {"epochs": 1, "batch_size": 4, "lr": 1e-4, "warmup_epochs": 0, "accumulate": 2},
        }
    )
    folder, splits = tmp_path / "data" / "large", {}
    for split, number in CLIPS.items():
        rows = [encode_clip(make_clip(split, i), settings, HEADS) for i in range(number)]
        shard = {"00000.parquet": write_shard(folder / split / "00000.parquet", rows, list(HEADS), 2)}
        splits[split] = {"clips": number, "shards": shard}
    flow = {"bound": 8.0, "step": 1, "size": [340, 256]}
    Dataset(HEADS, ["rgb", "flow", "audio", "boxes"], splits, 4.0, flow, RATE, {"source": "tests"}).save(folder)
    for modality in ("flow", "audio"):
        save_model(create_model("torchvision/swin3d_t", HEADS, modality), tmp_path / "models" / modality)
    save_model(create_model("stlt", HEADS, "boxes", num_frames=8), tmp_path / "models" / "boxes")

    result = distill(settings)

    rows = [row for row in read_metrics(tmp_path / "runs" / "full") if row["kind"] == "train"]
    assert len(rows) == 2 and all(np.isfinite(row["loss"]) and row["kd"] > 0 for row in rows)
    assert (
        json.loads((tmp_path / "runs" / "full" / "best" / "model.json").read_text())["arch"] == "torchvision/swin3d_t"
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    with capsys.disabled():
        print(f"\n2 steps of 4 clips at 224 px in {result['seconds']} s; peak of this process {peak:.1f} GiB")
