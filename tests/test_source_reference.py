"""The authors' packs move over: frames, flow, sound, boxes and classes are theirs, and hostile ones are rejected."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
import soundfile
from PIL import Image

from mmkd.config import Settings
from mmkd.dataset import open_dataset
from mmkd.packing import pack
from mmkd.rejects import read_rejects
from mmkd.sources import make_source
from mmkd.sources.recording import RejectedError
from mmkd.sources.reference_media import (
    MAX_TEXT,
    PackedBoxes,
    PackedFlow,
    find,
    find_array,
    image_bytes,
    parse_boxes,
)

WIDTH, HEIGHT, FRAMES = 64, 48, 12
VERBS, NOUNS = ["take", "put", "wash"], ["tap", "spoon", "plate"]
TEMPLATES = {
    "Approaching something with your camera": "0",
    "Folding something": "1",
    "Stacking number of something": "2",
}
COLUMNS = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame"
)
LABELS = ",narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"


def jpeg(level: int, size=(WIDTH, HEIGHT)) -> bytes:
    return simplejpeg.encode_jpeg(np.full((size[1], size[0], 3), level, np.uint8), 95)


def gray(level: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (WIDTH, HEIGHT), level).save(out, "JPEG", quality=95)
    return out.getvalue()


def merged(u: int, v: int) -> bytes:
    """Flow as the authors' code makes it: u, v and nothing as the channels of an RGB image."""
    out = io.BytesIO()
    Image.merge("RGB", [Image.new("L", (WIDTH, HEIGHT), level) for level in (u, v, 0)]).save(out, "JPEG", quality=95)
    return out.getvalue()


def put(group, key: str, images: list[bytes], kind: str = "vlen") -> None:
    """Images as a data set of one of the types that such packs have."""
    longest = max(map(len, images))
    if kind == "vlen":
        made = group.create_dataset(key, (len(images),), dtype=h5py.vlen_dtype(np.uint8))
        for number, image in enumerate(images):
            made[number] = np.frombuffer(image, np.uint8)
    elif kind == "opaque":
        group[key] = np.array([np.void(image.ljust(longest, b"\0")) for image in images])
    elif kind == "padded":
        group[key] = np.stack([np.frombuffer(image.ljust(longest, b"\0"), np.uint8) for image in images])
    elif kind == "object":  # h5py keeps no zero bytes in such strings
        group.create_dataset(key, data=list(images), dtype=h5py.string_dtype("ascii"))
    else:
        group[key] = np.array(images, dtype=f"S{longest}")


def levels(row) -> list[int]:
    return [round(float(simplejpeg.decode_jpeg(frame, "RGB").mean())) for frame in row["rgb"]]


def run(tmp_path: Path, **source) -> tuple[dict, dict[str, dict], list[dict]]:
    """What dataset.json says, the clips by id, and the rejects, of one packing."""
    settings = Settings.model_validate(
        {
            "run": {"home": str(tmp_path / "home")},
            "data": {"folder": "packed"},
            "source": {"kind": "reference"}
            | {key: value if key == "version" else str(value) for key, value in source.items()},
            "pack": {"max_reject_share": 0.99, "flow": "none"},
        }
    )
    pack(settings, lambda text: None, on_ray=False)
    folder = Path(settings.data_folder())
    dataset = open_dataset(folder)
    rows = [row for shard in sorted(folder.glob("*/*.parquet")) for row in pq.read_table(shard).to_pylist()]
    return dataset, {row["clip_id"]: row for row in rows}, read_rejects(folder / "rejects.parquet")


def kinds(rejects) -> dict[str, str]:
    return {reject.clip_id: reject.kind for reject in rejects}


@pytest.fixture
def epic(tmp_path):
    """Settings of small packs of EPIC-KITCHENS: three clips of two videos, and one of the test split."""
    tables = tmp_path / "annotations"
    tables.mkdir()
    for head, names in (("verb", VERBS), ("noun", NOUNS)):
        lines = [f"{number},{name},\"['{name}']\",x" for number, name in enumerate(names)]
        (tables / f"EPIC_100_{head}_classes.csv").write_text("\n".join(["id,key,instances,category", *lines]) + "\n")
    row = "{0},P01,{1},,{2},{3},{4},{5}"
    first = row.format("P01_01_0", "P01_01", "00:00:01.00", "00:00:01.20", 60, 71)
    second = row.format("P01_101_3", "P01_101", "00:00:00.50", "00:00:00.74", 25, 36)
    third = row.format("P01_01_1", "P01_01", "", "00:00:02.20", 121, 132)
    labels = ",{0} it,{0},{1},{2},{3},['{2}'],[{3}]"
    train = [first + labels.format("put", 1, "plate", 2), second + labels.format("wash", 2, "tap", 0)]
    (tables / "EPIC_100_train.csv").write_text("\n".join([COLUMNS + LABELS, *train]) + "\n")
    val = third + labels.format("take", 0, "spoon", 1)
    (tables / "EPIC_100_validation.csv").write_text("\n".join([COLUMNS + LABELS, val]) + "\n")
    with h5py.File(tmp_path / "video.hdf5", "w") as frames, h5py.File(tmp_path / "flow.hdf5", "w") as flow:
        for clip_id, base, lacking in (("P01_01_0", 20, 0), ("P01_101_3", 60, 1), ("P01_01_1", 100, 0)):
            video = clip_id.rpartition("_")[0]
            put(frames.require_group(video), clip_id, [jpeg(base + 2 * n) for n in range(FRAMES)])
            pairs = [gray(level + 2 * n) for n in range(FRAMES - lacking) for level in (base, 200)]
            put(flow.require_group(video), clip_id, pairs)
    with h5py.File(tmp_path / "audio.hdf5", "w") as audio:
        for video in ("P01_01", "P01_101"):
            audio[video] = np.arange(24000 * 3, dtype=np.float32) / 32768 / 3
    with h5py.File(tmp_path / "boxes.hdf5", "w") as boxes:
        for video, frame in (("P01_01", 60), ("P01_01", 61), ("P01_101", 25), ("P01_01", 121)):
            hand = (
                f"{{'box': [0.25, 0.5, 0.75, {frame / 1000}], 'category': 'hand', 'score': 0.9, 'state': 3, 'side': 1}}"
            )
            text = f"[{hand}, {{'box': (0.1, 0.2, 0.3, 0.4), 'category': 'object', 'score': 1e-05}}]"
            boxes.require_group(video)[str(frame)] = np.bytes_(text) if frame == 60 else text
    packs = {"root": "video.hdf5", "flow": "flow.hdf5", "audio": "audio.hdf5", "boxes": "boxes.hdf5"}
    return {name: tmp_path / file for name, file in packs.items()} | {"annotations": tables}


@pytest.fixture
def ssv2(tmp_path):
    """Settings of small packs of Something-Something: two clips to train and one to validate."""
    tables = tmp_path / "annotations"
    tables.mkdir()
    (tables / "something-something-v2-labels.json").write_text(json.dumps(dict(reversed(TEMPLATES.items()))))
    entries = {"7": "Folding [something]", "21": "Stacking [number of] [something]", "5": "Folding [something]"}
    table = [{"id": name, "label": "words", "template": template} for name, template in entries.items()]
    (tables / "something-something-v2-train.json").write_text(json.dumps(table[:2]))
    (tables / "something-something-v2-validation.json").write_text(json.dumps(table[2:]))
    with h5py.File(tmp_path / "dataset.hdf5", "w") as frames, h5py.File(tmp_path / "flow.hdf5", "w") as flow:
        for base, name in enumerate(entries):
            put(frames, name, [jpeg(20 + 40 * base + 2 * n) for n in range(FRAMES)], "S")
            put(flow, name, [merged(100 + 2 * n, 180) for n in range(FRAMES - base)])
    hand = {"x1": 20, "y1": 10, "x2": 60, "y2": 40, "category": "hand", "score": 0.75}
    thing = {"x1": 100.6, "y1": 50, "x2": 110, "y2": 96, "category": "object", "score": 0.5}
    clips = [
        {"id": name, "template": template, "size": [128, 96], "frames": [[hand, thing], []] + [[thing]] * 10}
        for name, template in entries.items()
    ]
    (tmp_path / "detections.json").write_text(json.dumps(clips))
    packs = {"root": "dataset.hdf5", "flow": "flow.hdf5", "boxes": "detections.json"}
    return {name: tmp_path / file for name, file in packs.items()} | {"annotations": tables}


def test_epic_packs_keep_frames_labels_and_what_the_tables_say(tmp_path, epic):
    dataset, rows, rejects = run(tmp_path, **epic)
    assert not rejects and set(dataset.splits) == {"train", "val"}
    assert dataset.heads == {"verb": VERBS, "noun": NOUNS}
    assert dataset.modalities == ["rgb", "flow", "audio", "boxes"]
    assert dataset.flow == {"bound": 20, "step": 1, "size": [WIDTH, HEIGHT]}
    row = rows["P01_101_3"]
    assert row["labels"] == {"verb": 2, "noun": 0} and row["fps"] == 50 and rows["P01_01_0"]["fps"] == 60
    assert row["num_frames"] == FRAMES and np.allclose(levels(row), 60 + 2 * np.arange(FRAMES), atol=1)
    assert dict(row["meta"])["start_frame"] == "25" and dict(row["meta"])["video"] == "P01_101"


def test_epic_flow_takes_u_and_v_in_turn_and_repeats_a_last_frame_that_lacks(tmp_path, epic):
    _, rows, _ = run(tmp_path, **epic)
    for clip_id, base, last in (("P01_01_0", 20, FRAMES - 1), ("P01_101_3", 60, FRAMES - 2)):
        flow = np.stack([simplejpeg.decode_jpeg(frame, "RGB") for frame in rows[clip_id]["flow"]]).astype(int)
        assert np.allclose(flow[..., 0].mean((1, 2)), base + 2 * np.minimum(np.arange(FRAMES), last), atol=2)
        assert np.allclose(flow[..., 1].mean((1, 2)), 200 + 2 * np.minimum(np.arange(FRAMES), last), atol=2)


def test_epic_sound_begins_at_the_start_timestamp_or_else_at_the_first_frame(tmp_path, epic):
    _, rows, _ = run(tmp_path, **epic)
    for clip_id, start, frames_a_second in (("P01_01_0", 1.0, 60), ("P01_101_3", 0.5, 50), ("P01_01_1", 120 / 60, 60)):
        samples, rate = soundfile.read(io.BytesIO(rows[clip_id]["audio"]), dtype="int16")
        assert rate == 24000 and len(samples) == FRAMES * 24000 // frames_a_second
        assert abs(int(samples[0]) - start * 24000 / 3) <= 1


def test_epic_boxes_are_found_by_the_frame_number_in_the_video(tmp_path, epic):
    (epic["annotations"] / "notes.json").write_text("{}")  # another file there changes nothing
    _, rows, _ = run(tmp_path, **epic)
    found = rows["P01_01_0"]["boxes"]
    assert [len(boxes) for boxes in found] == [2, 2] + [0] * 10
    hand, thing = found[1]
    assert np.allclose([hand[name] for name in ("x1", "y1", "x2", "y2", "score")], [0.25, 0.061, 0.75, 0.5, 0.9])
    assert (hand["category"], hand["side"], hand["state"]) == (2, 1, 3)
    assert (thing["category"], thing["side"], thing["state"]) == (1, -1, -1) and thing["score"] == np.float32(1e-5)
    assert len(rows["P01_101_3"]["boxes"][0]) == 2 and len(rows["P01_01_1"]["boxes"][0]) == 2


def test_epic_55_comes_from_its_csv_with_nouns_from_0_as_in_the_authors_code(tmp_path, epic):
    tables = epic["annotations"]
    for head, names in (("verb", VERBS), ("noun", ["Nothing", *NOUNS])):
        lines = [f"{number},{name},[]" for number, name in enumerate(names)]
        (tables / f"EPIC_{head}_classes.csv").write_text("\n".join([f"{head}_id,class_key,{head}s", *lines]) + "\n")
    header = (
        "uid,participant_id,video_id,narration,start_timestamp,stop_timestamp,start_frame,stop_frame,verb,verb_class"
    )
    row = "6374,P01,P01_01,wash it,00:00:02.00,00:00:02.20,120,131,wash,2,plate,3,[],[]"
    columns = f"{header},noun,noun_class,all_nouns,all_noun_classes"
    (tables / "EPIC_train_action_labels.csv").write_text(f"{columns}\n{row}\n")
    with h5py.File(epic["root"], "a") as frames, h5py.File(epic["flow"], "a") as flow:
        put(frames["P01_01"], "6374", [jpeg(n) for n in range(FRAMES)])
        put(flow["P01_01"], "6374", [gray(n) for n in range(2 * FRAMES)])
    dataset, rows, rejects = run(tmp_path, version=55, **epic)
    assert not rejects and dataset.heads == {"verb": VERBS, "noun": NOUNS}
    assert set(rows) == {"P01_01_6374"} and rows["P01_01_6374"]["labels"] == {"verb": 2, "noun": 2}


def test_a_video_without_sound_has_none_and_a_pack_of_other_videos_is_refused(tmp_path, epic):
    with h5py.File(epic["audio"], "a") as audio:
        del audio["P01_101"]
    _, rows, rejects = run(tmp_path, **epic)
    assert rows["P01_101_3"]["audio"] is None and rows["P01_01_0"]["audio"] and not rejects
    with h5py.File(tmp_path / "other.hdf5", "w") as audio:
        audio["P99_01"] = np.zeros(10)
    with pytest.raises(ValueError, match="has no video of the tables"):
        run(tmp_path / "again", **(epic | {"audio": tmp_path / "other.hdf5"}))


def test_a_missing_narration_and_a_frame_count_that_does_not_fit_are_rejects(tmp_path, epic):
    with h5py.File(epic["root"], "a") as frames:
        del frames["P01_01/P01_01_0"]
        del frames["P01_101/P01_101_3"]
        put(frames["P01_101"], "P01_101_3", [jpeg(n) for n in range(60)])
    _, rows, rejects = run(tmp_path, **epic)
    assert set(rows) == {"P01_01_1"} and kinds(rejects) == {"P01_01_0": "unreadable", "P01_101_3": "interval"}
    reasons = {reject.clip_id: reject.reason for reject in rejects}
    assert "video.hdf5 has no P01_01/P01_01_0" in reasons["P01_01_0"]
    assert "12 frames" in reasons["P01_101_3"] and "60" in reasons["P01_101_3"]


def test_flow_of_another_number_of_frames_and_damaged_images_are_rejects(tmp_path, epic):
    with h5py.File(epic["flow"], "a") as flow, h5py.File(epic["root"], "a") as frames:
        del flow["P01_01/P01_01_0"], flow["P01_101/P01_101_3"]
        put(flow["P01_01"], "P01_01_0", [gray(n) for n in range(FRAMES)])  # u only
        put(flow["P01_101"], "P01_101_3", [b"no image"] * (2 * FRAMES))
        frames["P01_01/P01_01_1"][3] = np.frombuffer(b"\xff\xd8\xff", np.uint8)
        put(frames.require_group("P01_01"), "more", [jpeg(0)])
    table = epic["annotations"] / "EPIC_100_train.csv"
    table.write_text(table.read_text() + "more,P01,P01_01,,,,1,1,put it,put,1,tap,0,[],[]\n")
    with h5py.File(epic["flow"], "a") as flow:
        put(flow["P01_01"], "more", [gray(1), gray(2)])
    _, rows, rejects = run(tmp_path, **epic)
    assert set(rows) == {"more"}
    assert kinds(rejects) == {"P01_01_0": "flow", "P01_101_3": "flow", "P01_01_1": "damaged"}


def test_hostile_boxes_are_rejects_and_run_nothing(tmp_path, epic):
    touched = tmp_path / "touched"
    with h5py.File(epic["boxes"], "a") as boxes:
        for key, text in (
            ("P01_01/60", f"__import__('pathlib').Path({str(touched)!r}).touch()"),
            ("P01_101/25", "[" * 50_000 + "]" * 50_000),
            ("P01_01/121", "[" + "1, " * MAX_TEXT + "1]"),
        ):
            del boxes[key]
            boxes[key] = text
    with pytest.raises(ValueError, match="3 of 3 clips could not be packed"):
        run(tmp_path, **epic)
    assert not touched.exists()
    rejects = read_rejects(tmp_path / "home" / "data" / "packed" / "rejects.parquet")
    assert set(kinds(rejects).values()) == {"boxes"}
    reasons = {reject.clip_id: reject.reason for reject in rejects}
    assert "'__import__('" in reasons["P01_01_0"].replace('"', "'") and "nested deeper" in reasons["P01_101_3"]
    assert "longer than" in reasons["P01_01_1"]


@pytest.mark.parametrize(
    "text",
    [
        "{'box': [0, 0, 1, 1]}",
        "[{'box': [0, 0, 1], 'category': 'hand', 'score': 1}]",
        "[{'box': [0, 0, 64, 48], 'category': 'hand', 'score': 1}]",
        "[{'box': [0, 0, 1, 1e999], 'category': 'hand', 'score': 1}]",
        "[{'box': [0, 0, 1, 1], 'category': 'cat', 'score': 1}]",
        "[{'box': [0, 0, 1, 1], 'category': ['hand'], 'score': 1}]",
        "[{'box': [0, 0, 1, 1], 'category': 'hand', 'score': 1, 'side': 7}]",
        "[{'box': [0, 0, 1, 1], 'category': 'hand', 'score': 1, 'side': 1e300}]",
        "[{'box': [0, 0, 1, 1], 'category': 'hand'}]",
        "[{'box': [0, 0, 1, 1], 'category': 'hand', 'score': 1, 'side': 1e999}]",
        "[1 - 1]",
        "-" * 1000 + "1",
        "[1 1]",
        "[f'{1}']",
        "",
    ],
)
def test_boxes_of_another_form_are_refused(text):
    with pytest.raises((ValueError, KeyError, TypeError, OverflowError)):
        parse_boxes(text)


def test_ssv2_packs_keep_frames_flow_boxes_and_the_official_order_of_classes(tmp_path, ssv2):
    dataset, rows, rejects = run(tmp_path, **ssv2)
    assert dataset.heads == {"action": list(TEMPLATES)} and dataset.fps == 12
    assert kinds(rejects) == {"5": "flow"}  # two frames of its flow lack
    assert rows["7"]["labels"] == {"action": 1} and rows["21"]["labels"] == {"action": 2}
    assert np.allclose(levels(rows["21"]), 60 + 2 * np.arange(FRAMES), atol=1)
    flow = np.stack([simplejpeg.decode_jpeg(frame, "RGB") for frame in rows["21"]["flow"]]).astype(int)
    assert np.allclose(flow[..., 0].mean((1, 2)), 100 + 2 * np.minimum(np.arange(FRAMES), 10), atol=3)
    assert np.allclose(flow[..., 1].mean((1, 2)), 180, atol=3)
    first, second, third = rows["7"]["boxes"][:3]
    assert [box["category"] for box in first] == [2, 1] and second == [] and len(third) == 1
    corners = [[box[name] for name in ("x1", "y1", "x2", "y2")] for box in first]
    # In pixels of the size that the detections name, which is not that of the frames; repaired as in the authors' code.
    assert np.allclose(corners, [[20 / 128, 10 / 96, 60 / 128, 40 / 96], [100 / 128, 50 / 96, 110 / 128, 95 / 96]])
    assert [box["score"] for box in first] == [0.75, 0.5]


def test_the_authors_detections_serve_as_tables_too(tmp_path, ssv2):
    for name in ("train", "validation"):
        (ssv2["annotations"] / f"something-something-v2-{name}.json").unlink()
    clips = json.loads(ssv2.pop("boxes").read_text())
    clips[1]["frames"][0][0]["x1"] = "left"
    (ssv2["annotations"] / "train_dataset.json").write_text(json.dumps(clips[:2]))
    (ssv2["annotations"] / "val_dataset.json").write_text(json.dumps(clips[2:]))
    del ssv2["flow"]
    dataset, rows, rejects = run(tmp_path, **ssv2)
    assert {split: entry["clips"] for split, entry in dataset.splits.items()} == {"train": 1, "val": 1}
    assert rows["7"]["labels"] == {"action": 1} and len(rows["7"]["boxes"][0]) == 2
    assert kinds(rejects) == {"21": "boxes"}


@pytest.mark.parametrize("kind", ["vlen", "S", "opaque", "padded", "object"])
def test_every_type_that_keeps_jpegs_gives_the_very_file(tmp_path, kind):
    images = [jpeg(10), jpeg(200), jpeg(90, (32, 32))]
    if kind == "object":
        images = [image.replace(b"\0", b"\1") for image in images]
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        put(file, "7", images, kind)
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert [image_bytes(file["7"], number) for number in range(3)] == images


def test_nothing_outside_a_pack_is_read_by_it(tmp_path):
    (tmp_path / "secret").write_bytes(jpeg(1))
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["7"] = [1, 2]
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink("other.hdf5", "/7")
        file["soft"] = h5py.SoftLink("/link")
        file.create_dataset("raw", (10,), "S8", external=[(str(tmp_path / "secret"), 0, 80)])
        layout = h5py.VirtualLayout((2,), "i8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "7", (2,))
        file.create_virtual_dataset("virtual", layout)
        file["group/in"] = [1]
    for key in ("link", "soft", "raw", "virtual"):
        with pytest.raises(RejectedError) as caught:
            find_array(str(path), key)
        assert caught.value.kind == "path"
    for keys in (("group/in",), (".",), ("..",), ("",), ("a\0b",), ("group", "in", "deeper")):
        with pytest.raises(RejectedError) as caught:
            find(str(path), *keys)
        assert caught.value.kind == "unreadable"


def test_what_makes_the_whole_source_unreadable_says_what_is_missing(tmp_path, ssv2):
    def fails(match: str, **changes) -> None:
        changed = {name: str(value) for name, value in (ssv2 | changes).items()}
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            make_source(Settings.model_validate({"source": {"kind": "reference"} | changed}))

    fails("source.annotations is empty", annotations="")
    fails("there is no file", root=tmp_path / "none.hdf5")
    (tmp_path / "text.hdf5").write_text("no HDF5")
    fails("text.hdf5 cannot be opened as HDF5", root=tmp_path / "text.hdf5")
    fails("has no image of flow", flow=_empty(tmp_path / "empty.hdf5"))
    (tmp_path / "bare").mkdir()
    fails("neither of EPIC-KITCHENS", annotations=tmp_path / "bare")
    (ssv2["annotations"] / "EPIC_100_train.csv").write_text("")
    fails("both of EPIC-KITCHENS")


def _empty(path: Path) -> Path:
    h5py.File(path, "w").close()
    return path


def test_detections_that_are_no_list_or_damaged_are_refused(tmp_path, ssv2):
    for text, match in (('{"7": []}', "no JSON list of entries"), ('[{"id": "7", "si', "is no JSON file")):
        ssv2["boxes"].write_text(text)
        with pytest.raises(ValueError, match=match):
            run(tmp_path, **ssv2)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the true samples are not here")
def test_true_frames_and_tables_pack_as_the_authors_would_have_packed_them(tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    labels = json.loads((FIXTURES / "ssv2" / "something-something-v2-labels.json").read_text())
    (tables / "something-something-v2-labels.json").write_text(json.dumps(labels))
    classes = json.loads((FIXTURES / "something_else" / "classes.json").read_text())
    annotations = json.loads((FIXTURES / "something_else" / "annotations.slice.json").read_text())
    clips, files = [], {}
    with h5py.File(tmp_path / "dataset.hdf5", "w") as packed:
        for folder in sorted((FIXTURES / "something_else" / "frames").iterdir()):
            files[folder.name] = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
            put(packed, folder.name, files[folder.name])
            height, width = simplejpeg.decode_jpeg_header(files[folder.name][0])[:2]
            frames: list[list[dict]] = [[] for _ in files[folder.name]]
            for frame in annotations.get(folder.name, []):
                frames[int(frame["name"].split("/")[1][:4]) - 1] = [
                    label["box2d"] | {"category": label["standard_category"], "score": 1.0} for label in frame["labels"]
                ]
            clips.append({"id": folder.name, "template": str(classes[folder.name]), "size": [width, height]})
            clips[-1]["frames"] = frames
    (tables / "train_dataset.json").write_text(json.dumps(clips))
    dataset, rows, rejects = run(tmp_path, root=tmp_path / "dataset.hdf5", annotations=tables)
    assert not rejects and len(dataset.heads["action"]) == 174 and set(rows) == set(files)
    for clip in clips:
        row = rows[clip["id"]]
        assert row["num_frames"] == len(files[clip["id"]])
        assert row["labels"]["action"] == int(labels[clip["template"].replace("[", "").replace("]", "")])
        assert [len(boxes) for boxes in row["boxes"]] == [len(boxes) for boxes in clip["frames"]]


def test_boxes_of_a_video_that_the_pack_lacks_are_null_and_gray_flow_is_refused(tmp_path):
    with h5py.File(tmp_path / "boxes.hdf5", "w") as file:
        file.create_group("P09_09")
    assert PackedBoxes(str(tmp_path / "boxes.hdf5"), "P01_01", 1).read([0], (64, 48)) is None
    with h5py.File(tmp_path / "gray.hdf5", "w") as file:
        put(file, "1", [gray(100)] * 3)
    with pytest.raises(RejectedError, match="gray image"):
        PackedFlow(find_array(str(tmp_path / "gray.hdf5"), "1"), 3, pairs=False).read(0, (WIDTH, HEIGHT))
