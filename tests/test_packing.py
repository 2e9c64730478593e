"""Packing: clips are cut in one pass, what is finished stays finished, and nothing is silently lost."""

import json
from collections.abc import Iterator

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from mmkd import cutting, packing, packing_plan, shards
from mmkd.config import Pack
from mmkd.cutting import cut
from mmkd.dataset import open_dataset
from mmkd.extract.flow import make_flow
from mmkd.packing import pack
from mmkd.rejects import read_rejects
from mmkd.shards import hash_rows, read_manifest
from mmkd.sources.clip import BOX_DTYPE
from mmkd.sources.recording import Reject, RejectedError, Segment
from mmkd.sources.video import VideoRecording
from tests.small import small_settings
from tests.videos import click, number_of, write_video

HEADS = {"action": ["open", "close"]}


def quiet(text: str) -> None:
    pass


class Videos:
    """A source of given recordings."""

    name, multi_label, notes, flow, flow_bound = "videos", [], {}, {}, 20.0
    heads = HEADS

    def __init__(self, recordings: list[tuple[str, VideoRecording]]):
        self.listed = recordings

    def recordings(self) -> Iterator[tuple[str, VideoRecording]]:
        yield from self.listed


def segment(clip_id, start=0.0, stop=None, label=0, **more) -> Segment:
    return Segment(clip_id, {"action": label}, start, stop, **more)


def rows_of(path, segments, **settings):
    recording = VideoRecording(str(path), path.name, tuple(segments))
    settings = Pack(**({"flow_bound": 20.0} | settings))
    return list(cut("train", recording, HEADS, settings, make_flow(settings.flow)))


def numbers(row) -> list[int]:
    return [number_of(simplejpeg.decode_jpeg(frame, "RGB")) for frame in row["rgb"]]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "a.mp4", 40, sound=click(4, 1.5))


def test_overlapping_clips_are_cut_in_one_pass_and_their_frames_encoded_once(video, monkeypatch):
    encoded = []
    original = cutting.Frame.jpeg
    monkeypatch.setattr(
        cutting.Frame, "jpeg", lambda self, quality: encoded.append(self._jpeg) or original(self, quality)
    )
    segments = [segment("b", 1.0, 3.0), segment("a", 0.5, 1.5), segment("c", 2.9, 3.5), segment("all")]
    found = {row["clip_id"]: row for row in rows_of(video, segments)}
    assert numbers(found["a"]) == list(range(5, 15)) and numbers(found["b"]) == list(range(10, 30))
    assert numbers(found["c"]) == list(range(29, 35)) and numbers(found["all"]) == list(range(40))
    assert sum(jpeg is None for jpeg in encoded) == 40 < len(encoded)
    assert all(len(row["flow"]) == row["num_frames"] == len(row["rgb"]) for row in found.values())
    assert (found["a"]["start"], found["a"]["stop"]) == (0.5, 1.5)
    assert found["a"]["flow"][:-1] == found["all"]["flow"][5:14]  # the same pairs of frames
    sound = packing._rate_of(found["a"]["audio"])
    assert sound == 16000


def test_fewer_frames_a_second_are_the_nearest_ones_and_the_clip_says_so(video):
    (row,) = rows_of(video, [segment("a", 1.0, 3.0)], fps=4)
    assert numbers(row) == [10, 12, 15, 18, 20, 22, 25, 28] and row["fps"] == 4
    (row,) = rows_of(video, [segment("a", 1.0, 3.0)], fps=100)
    assert row["num_frames"] == 20 and row["fps"] == 10


def test_settings_of_packing_reach_the_rows(video):
    (row,) = rows_of(video, [segment("a", 0, 1)], flow="none", sample_rate=8000, short_side=24)
    assert row["flow"] is None and packing._rate_of(row["audio"]) == 8000
    assert (row["width"], row["height"]) == (32, 24)
    (row,) = rows_of(video, [segment("a", 0, 1)], rgb_codec="h264")
    assert len(row["rgb"]) == 1 and row["rgb"][0][4:8] == b"ftyp" and row["num_frames"] == 10


def test_clips_that_cannot_be_are_rejected_with_their_reason_and_the_others_packed(video, tmp_path):
    found = rows_of(
        video,
        [
            segment("good", 0, 1),
            segment("empty", 2, 2),
            segment("backwards", 3, 1),
            segment("beyond", 9, 10),
            segment("too long", 3, 9),
            segment("rounded", 3, 4.3),
            segment("label", 0, 1, label=5),
            segment("frames", frames=(7, 7)),
        ],
    )
    rejects = {reject.clip_id: reject for reject in found if isinstance(reject, Reject)}
    assert {clip_id: reject.kind for clip_id, reject in rejects.items()} == {
        "empty": "interval",
        "backwards": "interval",
        "beyond": "past_end",
        "too long": "past_end",
        "label": "label",
        "frames": "interval",
    }
    assert "from 9.00 s to 10.00 s; the recording is 4.00 s long" in rejects["beyond"].reason
    rows = {row["clip_id"]: row["num_frames"] for row in found if not isinstance(row, Reject)}
    assert rows == {"good": 10, "rounded": 10}  # annotations may reach a little beyond the end
    whole = (tmp_path / "cut.mkv", write_video(tmp_path / "whole.mkv", 60, size=(160, 120)).read_bytes())
    whole[0].write_bytes(whole[1][: len(whole[1]) // 2])
    kept, lost = rows_of(whole[0], [segment("early", 0, 1), segment("late", 4, 5.9)])
    assert kept["num_frames"] == 10 and (lost.clip_id, lost.kind) == ("late", "damaged")
    (lost,) = rows_of(whole[0], [segment("to its end")])
    assert lost.kind == "damaged" and "is it truncated?" in lost.reason
    (missing,) = rows_of(tmp_path / "none.mp4", [segment("a")])
    assert (missing.kind, missing.recording) == ("unreadable", "none.mp4")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Seven videos of three clips, one of them damaged, and a clip_id twice."""
    listed = []
    for n in range(7):
        path = write_video(tmp_path / "videos" / f"{n}.mp4", 30, sound=click(3, 1.0) if n % 2 else None)
        segments = [segment(f"{n}/{k}", k, k + 1.0, label=k % 2) for k in range(3)]
        listed.append(("train" if n < 5 else "val", VideoRecording(str(path), path.name, tuple(segments))))
    (tmp_path / "videos" / "3.mp4").write_bytes(b"nothing")
    listed.append(("val", VideoRecording(str(tmp_path / "videos" / "6.mp4"), "6.mp4", (segment("0/0"),))))
    monkeypatch.setattr(packing_plan, "make_source", lambda settings: Videos(listed))
    return listed


def content(folder, splits=("train", "val")) -> dict[str, list]:
    return {
        split: [row for name in sorted((folder / split).iterdir()) for row in pq.read_table(name).to_pylist()]
        for split in splits
    }


def test_what_is_lost_is_listed_and_fails_the_job_only_above_the_share(source, tmp_path, capsys):
    said = []
    with pytest.raises(ValueError, match=r"4 of 22 clips .*max_reject_share 0.01 allows: 3 where the recording"):
        pack(small_settings(tmp_path), said.append, on_ray=False)
    folder = tmp_path / "data" / "small"
    assert not (folder / "dataset.json").exists()
    result = pack(small_settings(tmp_path, pack={"max_reject_share": 0.2}), said.append, on_ray=False)
    assert (result["clips"], result["rejects"]) == (18, 4)
    rejects = read_rejects(folder / "rejects.parquet")
    assert sorted((reject.clip_id, reject.kind) for reject in rejects) == [
        ("0/0", "duplicate"),
        *((f"3/{k}", "unreadable") for k in range(3)),
    ]
    ids = [row["clip_id"] for rows in content(folder).values() for row in rows]
    assert len(ids) == len(set(ids)) == 18
    dataset = open_dataset(folder)
    assert {split: entry["clips"] for split, entry in dataset.splits.items()} == {"train": 12, "val": 6}
    assert dataset.modalities == ["rgb", "flow", "audio"] and dataset.flow == {
        "bound": 20.0,
        "step": 1,
        "size": [64, 48],
    }
    assert len(read_manifest(folder, "val")) == 6
    assert "22 clips could not be packed" in "\n".join(said) and not (folder / ".pack").exists()


def test_a_packing_that_was_stopped_goes_on_and_comes_out_the_same(source, tmp_path, monkeypatch):
    settings = {"pack": {"max_reject_share": 0.2}}
    pack(small_settings(tmp_path, data={"folder": "straight"}, **settings), quiet, on_ray=False)
    packed = []
    original = packing.pack_task

    def fails_at_the_third(*arguments):
        if len(packed) == 2:
            raise KeyboardInterrupt
        packed.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(packing, "pack_task", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        pack(small_settings(tmp_path, **settings), quiet, on_ray=False)
    folder = tmp_path / "data" / "small"
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}
    # A shard that was cut short counts as not there.
    torn = sorted(times)[0]
    torn.write_bytes(torn.read_bytes()[:-10])
    monkeypatch.setattr(packing, "pack_task", original)
    with pytest.raises(ValueError, match=r"unfinished packing that differs: pack\.quality was 90 and is 70"):
        pack(small_settings(tmp_path, pack={"max_reject_share": 0.2, "quality": 70}), quiet, on_ray=False)
    said = []
    pack(small_settings(tmp_path, **settings), said.append, on_ray=False)
    assert "1 of them there" in said[0]
    assert sum(path.stat().st_mtime_ns == time for path, time in times.items()) == 1
    straight = tmp_path / "data" / "straight"
    assert open_dataset(folder).splits == open_dataset(straight).splits
    for split, rows in content(folder).items():
        assert hash_rows(rows) == hash_rows(content(straight)[split])


def test_a_source_with_other_clips_is_not_gone_on_with(source, tmp_path):
    with pytest.raises(ValueError, match="max_reject_share"):
        pack(small_settings(tmp_path), quiet, on_ray=False)
    source.pop(0)
    with pytest.raises(ValueError, match="the source has other clips now"):
        pack(small_settings(tmp_path), quiet, on_ray=False)


def test_files_that_were_repaired_are_packed_when_asked_to(source, tmp_path):
    with pytest.raises(ValueError, match=r"pack\.retry"):
        pack(small_settings(tmp_path), quiet, on_ray=False)
    write_video(tmp_path / "videos" / "3.mp4", 30)
    said = []
    pack(small_settings(tmp_path, pack={"max_reject_share": 0.1, "retry": True}), said.append, on_ray=False)
    assert "6 of them there" in said[0]
    (reject,) = read_rejects(tmp_path / "data" / "small" / "rejects.parquet")
    assert reject.kind == "duplicate"


def test_what_nobody_foresaw_and_clips_too_large_are_rejects_too(video, monkeypatch):
    monkeypatch.setattr(cutting, "MAX_BYTES", 5000)
    small, large = rows_of(video, [segment("small", 0, 0.3), segment("large")])
    assert (small["clip_id"], large.clip_id, large.kind) == ("small", "large", "large")
    monkeypatch.undo()
    monkeypatch.setattr(cutting, "flow_jpeg", lambda *_: 1 / 0)
    (reject,) = rows_of(video, [segment("a")])
    assert (reject.kind, reject.reason) == ("other", "ZeroDivisionError: division by zero")


def test_a_clip_is_too_large_by_its_frames_its_flow_its_video_or_its_boxes(video, monkeypatch):
    def packed(settings, **most) -> str:
        with monkeypatch.context() as patch:
            for name, value in most.items():
                patch.setattr(cutting, name, value)
            (result,) = rows_of(video, [segment("a")], **settings)
        return result.reason if isinstance(result, Reject) else f"{result['num_frames']} frames"

    (whole,) = rows_of(video, [segment("a")])
    frames, flow = (sum(map(len, whole[name][:-1])) for name in ("rgb", "flow"))
    assert packed({}, MAX_FRAMES=40) == "40 frames" and "more than 39 frames" in packed({}, MAX_FRAMES=39)
    assert packed({"flow": "none"}, MAX_BYTES=frames + flow) == "40 frames"
    assert "its frames and flow have more than" in packed({}, MAX_BYTES=frames + flow)
    assert "more than 0 MB up to second" in packed({"rgb_codec": "h264", "flow": "none"}, MAX_BYTES=900)
    boxes = np.zeros(3, BOX_DTYPE)
    boxes["score"] = [0.9, 0.9, 0.1]
    monkeypatch.setattr(cutting, "MAX_IN_LISTS", 4)
    assert len(cutting._box_lists([boxes, boxes], 0.5)) == 2
    with pytest.raises(RejectedError, match="6 boxes, more than 4"):
        cutting._box_lists([boxes, boxes], 0.0)


def test_row_groups_of_long_clips_have_fewer_rows(tmp_path, monkeypatch, video):
    rows = [row | {"clip_id": str(n)} for n in range(5) for row in rows_of(video, [segment("a")])]
    size = sum(map(len, [*rows[0]["rgb"], *rows[0]["flow"], rows[0]["audio"]]))
    for most, groups in ((1 << 28, [4, 1]), (2 * size, [3, 2]), (2 * size - 1, [2, 2, 1])):
        monkeypatch.setattr(shards, "MAX_GROUP_BYTES", most)
        digest = shards.write_shard(tmp_path / "a.parquet", rows, ["action"], 4)
        file = pq.ParquetFile(tmp_path / "a.parquet")
        assert [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)] == groups
        assert digest == hash_rows(rows) == hash_rows(file.read().to_pylist())


def test_nothing_to_pack_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(packing_plan, "make_source", lambda settings: Videos([]))
    with pytest.raises(ValueError, match="nothing to pack"):
        pack(small_settings(tmp_path), quiet, on_ray=False)


def test_farneback_and_raft_find_the_motion_that_dis_finds(tmp_path):
    import torch
    from torchvision.models.optical_flow import raft_small

    rng = np.random.default_rng(0)
    first = np.kron(rng.integers(0, 255, (16, 20, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    second = np.roll(first, 2, axis=1)
    for name in ("dis", "dis_fast", "farneback"):
        method = make_flow(name)
        flow = method.flow(method.prepare(first), method.prepare(second))
        u, v = np.median(flow[20:-20, 20:-20], axis=(0, 1))
        assert flow.shape == (128, 160, 2) and u == pytest.approx(2, abs=0.3) and v == pytest.approx(0, abs=0.3)
    torch.manual_seed(0)
    torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
    method = make_flow("raft_small", str(tmp_path / "raft.pth"))
    assert method.flow(method.prepare(first[:100]), method.prepare(second[:100])).shape == (100, 160, 2)
    with pytest.raises(ValueError, match="needs a file of its weights"):
        make_flow("raft_large")
    if not hasattr(cv2, "optflow"):
        with pytest.raises(ValueError, match="opencv-contrib-python-headless"):
            make_flow("tvl1")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="do not fit raft_small"):
        make_flow("raft_small", str(tmp_path / "other.pth"))


def test_a_packing_says_in_dataset_json_how_things_were_made(source, tmp_path):
    settings = small_settings(tmp_path, pack={"max_reject_share": 1.0, "fps": 5, "flow": "farneback"})
    pack(settings, quiet, on_ray=False)
    made_by = json.loads((tmp_path / "data" / "small" / "dataset.json").read_text())["made_by"]
    assert made_by["flow"] == "OpenCV Farneback" and made_by["pack"]["fps"] == 5 and made_by["source"] == "videos"


def test_a_detector_of_torchvisions_gives_hands_and_objects_once_a_frame(video, tmp_path):
    import torch
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    from mmkd.extract.boxes import TorchvisionDetector

    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    torch.manual_seed(0)
    network = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "detector.pth")
    detector = TorchvisionDetector(name, str(tmp_path / "detector.pth"))
    assert detector.classes == 3
    found = detector.boxes(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    assert found.dtype.names[:4] == ("x1", "y1", "x2", "y2") and set(found["category"]) <= {1, 2}
    seen = []

    def answers(frames):
        seen.append(frames[0].shape)
        boxes = torch.tensor([[16.0, 12.0, 32.0, 24.0], [0.0, 0.0, 80.0, 48.0]])
        return [{"boxes": boxes, "labels": torch.tensor([2, 1]), "scores": torch.tensor([0.9, 0.2])}]

    detector.network = answers
    recording = VideoRecording(str(video), "a.mp4", (segment("a", 0, 1), segment("b", 0.5, 1.5)))
    first, second = cut("train", recording, HEADS, Pack(flow_bound=20.0, box_score=0.5), None, detector)
    assert len(seen) == 15 and seen[0] == (3, 48, 64)
    (hand,) = first["boxes"][0]
    assert (hand["x1"], hand["y1"], hand["x2"], hand["y2"]) == (0.25, 0.25, 0.5, 0.5) and hand["category"] == 2
    assert len(second["boxes"]) == 10 and first["flow"] is None
    with pytest.raises(ValueError, match="torchvision has"):
        TorchvisionDetector("nosuch", str(tmp_path / "detector.pth"))
    with pytest.raises(ValueError, match="needs a file of its weights"):
        TorchvisionDetector(name, "")
    torch.save(network.backbone.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="do not fit"):
        TorchvisionDetector(name, str(tmp_path / "other.pth"))
