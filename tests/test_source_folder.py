"""The folder source: anybody's videos, by class folders or by a manifest, and what is wrong with them is told."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from mmkd.config import Source
from mmkd.dataset import open_dataset
from mmkd.packing import pack
from mmkd.plan import hold_out
from mmkd.rejects import read_rejects
from mmkd.sources.folder import make
from mmkd.sources.manifest import seconds
from mmkd.sources.recording import Reject
from tests.small import small_settings
from tests.videos import click, number_of, write_video

PORTRAIT = Path(__file__).parents[2] / "shared" / "fixtures" / "webm" / "portrait_1080p_vp9_opus.webm"


def source(root, **more):
    return make(Source(kind="folder", root=str(root), **{key: str(value) for key, value in more.items()}))


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def manifest(tmp_path, text, **more):
    (tmp_path / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return source(tmp_path, annotations=tmp_path / "list.csv", **more)


def clips(found) -> dict[str, tuple]:
    """Clip id to split, labels and interval."""
    return {
        clip.clip_id: (each[0], clip.labels, clip.start, clip.stop)
        for each in found.recordings()
        if not isinstance(each, Reject)
        for clip in each[1].segments
    }


def rejects(found) -> dict[str, Reject]:
    return {each.clip_id: each for each in found.recordings() if isinstance(each, Reject)}


def pack_all(tmp_path, **more):
    settings = small_settings(
        tmp_path / "home",
        data={"folder": "made"},
        source={"kind": "folder", **more},
        pack={"flow": "none", "max_reject_share": 0.9},
    )
    pack(settings, lambda text: None, on_ray=False)
    folder = tmp_path / "home" / "data" / "made"
    rows = [row for path in sorted(folder.glob("*/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return open_dataset(folder), {row["clip_id"]: row for row in rows}, read_rejects(folder / "rejects.parquet")


def numbers(row) -> list[int]:
    return [number_of(simplejpeg.decode_jpeg(frame, "RGB")) for frame in row["rgb"]]


def test_class_folders_give_classes_and_only_videos_count(tmp_path):
    touch(tmp_path, "open/a.MP4", "open/deep/b.webm", "close/a.mov", "close/notes.txt", ".trash/x.mp4", "open/.y.mp4")
    found = source(tmp_path)
    assert found.heads == {"action": ["close", "open"]}
    labels = {clip_id: clip[1]["action"] for clip_id, clip in clips(found).items()}
    assert labels == {"close/a": 0, "open/a": 1, "open/deep/b": 1}
    assert not rejects(found)


def test_links_between_folders_do_not_go_round_for_ever(tmp_path):
    touch(tmp_path, "open/a.mp4", "close/b.mp4")
    for name, to in {"open/self": ".", "open/again": ".", "open/root": "..", "close/to": "../open"}.items():
        (tmp_path / name).symlink_to(to)
    assert {"open/a", "close/b", "close/to/a"} <= set(clips(source(tmp_path)))
    assert len(clips(source(tmp_path))) < 10


def test_a_link_to_a_video_that_is_gone_is_a_reject(tmp_path):
    root = tmp_path / "root"
    write_video(root / "open" / "a.mp4", 4)
    (root / "open" / "gone.mp4").symlink_to("never.mp4")
    _, rows, left = pack_all(tmp_path, root=str(root), val_share=0, test_share=0)
    assert set(rows) == {"open/a"} and {each.clip_id: each.kind for each in left} == {"open/gone": "unreadable"}


def test_split_folders_are_taken_as_splits_only_where_there_is_nothing_else(tmp_path):
    touch(tmp_path, "train/open/a.mp4", "validation/open/a.mp4", "test/close/b.mp4")
    assert {clip_id: clip[0] for clip_id, clip in clips(source(tmp_path)).items()} == {
        "train/open/a": "train",
        "validation/open/a": "val",
        "test/close/b": "test",
    }
    touch(tmp_path, "jump/a.mp4")
    assert source(tmp_path).heads == {"action": ["jump", "test", "train", "validation"]}


def test_a_classes_file_fixes_the_order_and_other_folders_are_rejects(tmp_path):
    touch(tmp_path / "videos", "open/a.mp4", "close/a.mp4", "odd/a.mp4", "loose.mp4")
    (tmp_path / "classes.json").write_text('{"action": ["open", "close", "never"]}')
    found = source(tmp_path / "videos", classes=tmp_path / "classes.json")
    assert found.heads == {"action": ["open", "close", "never"]}
    assert {clip_id: clip[1]["action"] for clip_id, clip in clips(found).items()} == {"open/a": 0, "close/a": 1}
    assert {clip_id: each.kind for clip_id, each in rejects(found).items()} == {"odd/a": "label", "loose": "label"}


def test_shares_are_kept_when_videos_are_added_and_leave_some_to_weigh(tmp_path):
    touch(tmp_path, *(f"c{n % 3}/{n}.mp4" for n in range(300)))
    before = {clip_id: clip[0] for clip_id, clip in clips(source(tmp_path)).items()}
    assert 15 < sum(split == "val" for split in before.values()) < 45
    assert 15 < sum(split == "test" for split in before.values()) < 45
    touch(tmp_path, *(f"b{n % 3}/{n}.mp4" for n in range(300)))
    after = {clip_id: clip[0] for clip_id, clip in clips(source(tmp_path)).items()}
    assert {clip_id: after[clip_id] for clip_id in before} == before
    assert {clip_id: clip[0] for clip_id, clip in clips(source(tmp_path, seed=1)).items()} != after
    train = [clip_id for clip_id, split in after.items() if split == "train"]
    assert 0.05 < len(hold_out(train, 0.1, 0)[1]) / len(train) < 0.15


def test_two_videos_that_differ_in_their_extension_are_two_clips(tmp_path):
    touch(tmp_path, "open/a.mp4", "open/a.webm", "open/b.mp4")
    assert set(clips(source(tmp_path))) == {"open/a.mp4", "open/a.webm", "open/b"}


def test_a_manifest_gives_clips_labels_and_meta_and_one_recording_a_video(tmp_path):
    text = (
        "\ufeffpath,start,stop,split,verb,noun,tags,meta.by\r\n"
        "a.mp4,2,3.5,train,open,3,x|y,ann\r\n"
        "a.mp4,0:00:00.5,0:01:02.25,train,close,0,y,\r\n"
        "./b.mp4,,,validation,,,,\r\n"
    )
    found = manifest(tmp_path, text)
    assert found.heads == {"verb": ["close", "open"], "noun": ["0", "1", "2", "3"], "tags": ["x", "y"]}
    assert found.multi_label == ["tags"]
    assert clips(found) == {
        "a@0.5-62.25": ("train", {"verb": 0, "noun": 0, "tags": [1]}, 0.5, 62.25),
        "a@2-3.5": ("train", {"verb": 1, "noun": 3, "tags": [0, 1]}, 2.0, 3.5),
        "b": ("val", {"verb": -1, "noun": -1, "tags": -1}, 0.0, None),
    }
    recordings = [each for _, each in found.recordings()]
    assert [len(each.segments) for each in recordings] == [2, 1]
    assert recordings[0].segments[1].meta == {"by": "ann"}


def test_a_parquet_manifest_says_the_same_as_a_csv(tmp_path):
    columns = {
        "path": ["a.mp4", "a.mp4", "b.mp4"],
        "start": [0.0, 1.5, None],
        "stop": [1.0, 2.5, None],
        "verb": pa.array(["open", "close", None]).dictionary_encode(),
        "noun": [2.0, None, 0.0],
        "tags": [["x", "y"], [], None],
        "meta.n": [1, 2, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    found = source(tmp_path, annotations=tmp_path / "list.parquet")
    text = "path,start,stop,verb,noun,tags,meta.n\na.mp4,0,1,open,2.0,x|y,1\na.mp4,1.5,2.5,close,,|,2\nb.mp4,,,,0.0,,\n"
    other = manifest(tmp_path, text)
    assert list(found.recordings()) == list(other.recordings())
    assert (found.heads, found.multi_label) == (other.heads, other.multi_label)
    assert clips(found)["a@1.5-2.5"][1] == {"verb": 0, "noun": -1, "tags": []}


def test_declared_classes_fix_numbers_names_and_multi_label(tmp_path):
    (tmp_path / "classes.json").write_text(
        json.dumps({"verb": ["open", "close"], "tags": {"classes": ["b", "a"], "multi_label": True}, "id": ["7", "5"]})
    )
    text = "path,verb,tags,id\na.mp4,1,a,5\nb.mp4,0,a,7\nc.mp4,2,a,5\nd.mp4,0,z,5\ne.mp4,0,b,0\n"
    found = manifest(tmp_path, text, classes=tmp_path / "classes.json")
    assert found.multi_label == ["tags"]
    assert {clip_id: clip[1] for clip_id, clip in clips(found).items()} == {
        "a": {"verb": 1, "tags": [1], "id": 1},
        "b": {"verb": 0, "tags": [1], "id": 0},
    }
    assert {clip_id: each.kind for clip_id, each in rejects(found).items()} == dict.fromkeys("cde", "label")
    assert "line 4" in rejects(found)["c"].reason


def test_numbers_that_are_no_class_numbers_are_rejects_and_make_no_class(tmp_path):
    found = manifest(tmp_path, "path,verb\na.mp4,0\nb.mp4,-1\nc.mp4,10\nd.mp4,0.5\ne.mp4,2\n")
    assert found.heads == {"verb": [str(number) for number in range(11)]}
    assert {clip_id: clip[1]["verb"] for clip_id, clip in clips(found).items()} == {"a": 0, "c": 10, "e": 2}
    assert {clip_id: each.kind for clip_id, each in rejects(found).items()} == {"b": "label", "d": "label"}
    assert "line 3" in rejects(found)["b"].reason and "left empty" in rejects(found)["b"].reason
    found = manifest(tmp_path, "path,verb\na.mp4,open\nb.mp4,-1\n")
    assert found.heads == {"verb": ["open"]} and set(rejects(found)) == {"b"}
    (tmp_path / "classes.json").write_text('{"verb": ["-1", "1"]}')
    found = manifest(tmp_path, "path,verb\na.mp4,1\nb.mp4,-1\n", classes=tmp_path / "classes.json")
    assert {clip_id: clip[1]["verb"] for clip_id, clip in clips(found).items()} == {"a": 1, "b": 0}


def test_without_splits_all_clips_of_a_video_are_in_one(tmp_path):
    rows = "".join(f"{n}.mp4,{start},{start + 1},{n % 2}\n" for n in range(60) for start in range(3))
    of: dict[str, set[str]] = {}
    for clip_id, clip in clips(manifest(tmp_path, "path,start,stop,c\n" + rows)).items():
        of.setdefault(clip_id.split("@")[0], set()).add(clip[0])
    assert all(len(splits) == 1 for splits in of.values())
    assert set.union(*of.values()) == {"train", "val", "test"}


def test_malformed_rows_are_rejects_with_their_line_and_cost_no_other_row(tmp_path):
    rows = {
        "a.mp4,0,1": "row",  # a field is missing
        "b.mp4,zero,1,open": "row",
        "c.mp4,nan,1,open": "row",
        "d.mp4,2,1,open": "interval",
        "e.mp4,1,1,open": "interval",
        "f.mp4,-1,1,open": "interval",
        ",0,1,open": "row",
        'g.mp4,0,1,"open': "row",  # never closed
        "h.mp4,0,inf,open": "row",
        "i.mp4,0:61:00,9999,open": "row",
        "j.mp4,0,1,\udcff": "row",
    }
    text = "path,start,stop,verb\nok1.mp4,0,1,open\n" + "\n".join(rows) + "\nok2.mp4,0,1,close\n"
    found = manifest(tmp_path, text.encode(errors="surrogateescape"))
    assert set(clips(found)) == {"ok1", "ok2"}
    told = sorted((int(each.reason.split()[1].strip(":")), each.kind) for each in rejects(found).values())
    assert told == list(enumerate(rows.values(), 3))


def test_paths_that_lead_out_of_the_folder_are_rejects(tmp_path):
    root = tmp_path / "root"
    touch(tmp_path, "secret/x.mp4", "root/open/ok.mp4", "root/ok.mp4")
    (root / "link.mp4").symlink_to(tmp_path / "secret" / "x.mp4")
    (root / "open" / "out").symlink_to(tmp_path / "secret")
    bad = ["../secret/x.mp4", str(tmp_path / "secret/x.mp4"), "link.mp4", "open/out/x.mp4", "s3://b/x.mp4", "open/.."]
    rows = [*bad, str(root / "ok.mp4"), "open/../open/ok.mp4"]
    found = manifest(root, "path,verb\n" + "".join(f"{path},a\n" for path in rows))
    assert set(clips(found)) == {"ok", "open/ok"}
    assert {each.recording: each.kind for each in rejects(found).values()} == dict.fromkeys(bad, "path")
    found = source(root)
    assert set(clips(found)) == {"open/ok"}
    assert {clip_id: each.kind for clip_id, each in rejects(found).items()} == {
        "link": "path",
        "ok": "label",
        "open/out/x": "path",
    }


def test_what_makes_the_whole_source_unreadable_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        source(tmp_path / "none")
    with pytest.raises(ValueError, match="no videos"):
        source(tmp_path)
    with pytest.raises(FileNotFoundError, match="no manifest"):
        source(tmp_path, annotations=tmp_path / "none.csv")
    for text, said in {
        "": "empty",
        "file,verb\na,b\n": "no column path",
        "path\na\n": "no column of labels",
        "path,,verb\na,1,b\n": "name each",
        "path,verb\na.mp4,\n": "has no label",
        "path,seconds\na.mp4,1.37\n": "column seconds has no label; .*meta.seconds",
        "path,verb.x\na.mp4,open\n": "no dot in its name",
    }.items():
        with pytest.raises(ValueError, match=said):
            manifest(tmp_path, text)
    (tmp_path / "list.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="no Parquet"):
        source(tmp_path, annotations=tmp_path / "list.parquet")
    (tmp_path / "boxes.jsonl").write_text('{"video": "z.mp4", "frame": 0, "boxes": []}\n')
    with pytest.raises(ValueError, match="of no video of the source"):
        manifest(tmp_path, "path,verb\na.mp4,b\n", boxes=tmp_path / "boxes.jsonl")


@pytest.mark.parametrize(
    ("text", "value"), [("12.5", 12.5), ("1:02:03.25", 3723.25), ("02:03", 123.0), ("", None), (7, 7.0)]
)
def test_times_are_seconds_or_hours_minutes_seconds(text, value):
    assert seconds(text) == value


def test_a_manifest_packs_with_overlapping_clips_boxes_and_rejects(tmp_path):
    root = tmp_path / "root"
    write_video(root / "a.mp4", 40, sound=click(4, 1.5))
    whole = write_video(root / "b.mp4", 40).read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "list.csv").write_text(
        "path,start,stop,split,verb,tags\n"
        "a.mp4,1,3,train,open,x|y\na.mp4,0,2,train,close,\nb.mp4,,,val,,x\n"
        "cut.mp4,,,train,open,x\nnone.mp4,,,train,open,x\na.mp4,5,6,train,open,x\n"
    )
    box = {"x1": 0.25, "y1": 0.25, "x2": 0.5, "y2": 0.5, "category": "hand"}
    (tmp_path / "boxes.jsonl").write_text(json.dumps({"video": "a.mp4", "time": 1.5, "boxes": [box]}) + "\n")
    dataset, rows, left = pack_all(
        tmp_path, root=str(root), annotations=str(tmp_path / "list.csv"), boxes=str(tmp_path / "boxes.jsonl")
    )
    assert dataset.heads == {"verb": ["close", "open"], "tags": ["x", "y"]} and dataset.multi_label == ["tags"]
    assert numbers(rows["a@1-3"]) == list(range(10, 30)) and numbers(rows["a@0-2"]) == list(range(20))
    assert [len(boxes) for boxes in rows["a@1-3"]["boxes"]] == [n == 5 for n in range(20)]
    assert [len(boxes) for boxes in rows["a@0-2"]["boxes"]] == [n == 15 for n in range(20)]
    assert rows["a@1-3"]["audio"] is not None and rows["b"]["audio"] is None and rows["b"]["boxes"] is None
    assert rows["a@1-3"]["labels"] == {"verb": 1, "tags": [0, 1]}
    assert rows["a@0-2"]["labels"] == {"verb": 0, "tags": None}
    assert rows["b"]["labels"] == {"verb": None, "tags": [0]}
    kinds = {each.clip_id: each.kind for each in left}
    assert kinds == {"cut": "unreadable", "none": "unreadable", "a@5-6": "past_end"}


@pytest.mark.skipif(not PORTRAIT.exists(), reason="the true sample is not here")
def test_a_true_portrait_clip_packs_upright_with_its_sound(tmp_path):
    import io

    import soundfile

    (tmp_path / "root" / "train" / "closing").mkdir(parents=True)
    (tmp_path / "root" / "train" / "closing" / "portrait.webm").write_bytes(PORTRAIT.read_bytes())
    _, rows, left = pack_all(tmp_path, root=str(tmp_path / "root"))
    row = rows["train/closing/portrait"]
    assert not left and (row["num_frames"], row["width"], row["height"]) == (154, 256, 456)
    assert soundfile.info(io.BytesIO(row["audio"])).duration == pytest.approx(5.13, abs=0.02)
