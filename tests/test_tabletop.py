"""The built-in data: the same clips from the same seed, with every modality, and never a wrong label."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from mmkd.packing import pack
from mmkd.progress import say
from mmkd.rejects import read_rejects
from mmkd.sources.tabletop import HEADS, Tabletop
from tests.small import small_settings

COUNTS = {"train": 40, "unseen": 5}


def clip(index: int, split: str = "train", seed: int = 5):
    return Tabletop(seed, COUNTS).clip(split, index)


def digest(made) -> str:
    import hashlib

    parts = [made.rgb.tobytes(), made.audio.tobytes(), *(frame.tobytes() for frame in made.boxes)]
    return hashlib.sha256(b"".join(parts)).hexdigest() + made.clip_id + str(made.labels)


def test_a_clip_is_the_same_in_another_process_and_after_other_clips():
    clip(3)
    here = digest(clip(7))
    code = "from tests.test_tabletop import clip, digest; print(digest(clip(7)))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there
    assert len({here, digest(clip(7, seed=6)), digest(clip(8)), digest(clip(3, "unseen"))}) == 4


def test_a_clip_has_every_modality_over_the_same_two_seconds():
    made = clip(0)
    assert made.rgb.shape == (16, 72, 96, 3) and made.rgb.dtype == np.uint8
    assert made.audio.dtype == np.int16 and len(made.audio) == 2 * made.sample_rate
    assert made.audio.std() > 0 and len(made.boxes) == 16
    boxes = np.concatenate(made.boxes)
    assert (boxes["x1"] < boxes["x2"]).all() and boxes["x1"].min() >= 0 and boxes["y2"].max() <= 1
    assert set(boxes["category"]) == {1, 2}
    assert np.abs(np.diff(made.rgb.astype(int), axis=0)).mean() > 1  # it moves


def test_labels_are_drawn_over_all_classes():
    made = [clip(i).labels for i in range(40)]
    for head, classes in HEADS.items():
        labels = [labels[head] for labels in made]
        assert set(labels) <= set(range(len(classes))) and len(set(labels)) >= len(classes) - 2


def test_a_source_is_cheap_to_send_and_refuses_what_it_has_not():
    source = Tabletop(1, COUNTS)
    assert len(pickle.dumps(source)) < 2000
    splits = [split for split, _ in source.recordings()]
    assert (splits.count("train"), splits.count("unseen"), splits.count("val")) == (40, 5, 0)
    with pytest.raises(IndexError):
        source.clip("train", 40)
    with pytest.raises(ValueError, match="no split 'dev'"):
        Tabletop(1, {"dev": 3})


def test_units_that_fail_are_listed_and_too_many_fail_the_job(tmp_path, monkeypatch):
    original = Tabletop.clip

    def clip(self, split, index):
        if split == "train" and index == 2:
            raise RuntimeError("will not tip")
        return original(self, split, index)

    monkeypatch.setattr(Tabletop, "clip", clip)
    source = {"train": 4, "val": 1, "test": 1}
    settings = small_settings(tmp_path, source=source, pack={"max_reject_share": 0.5})
    summary = pack(settings, say, on_ray=False)
    assert (summary["clips"], summary["rejects"]) == (5, 1)
    (reject,) = read_rejects(tmp_path / "data" / "small" / "rejects.parquet")
    assert (reject.split, reject.clip_id, reject.kind) == ("train", "train-000002", "other")
    assert "will not tip" in reject.reason
    strict = small_settings(tmp_path, source=source, data={"folder": "strict"})
    with pytest.raises(ValueError, match=r"1 of 6 clips could not be packed.*will not tip"):
        pack(strict, say, on_ray=False)
    with pytest.raises(ValueError, match="holds a data set already"):
        pack(settings, say, on_ray=False)
