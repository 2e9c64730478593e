"""Data sets and recordings in an S3 store: a server of moto's on this machine stands for it."""

import os
from pathlib import Path

import pytest

from mmkd import packing_plan, storage
from mmkd.check import check_dataset
from mmkd.dataset import open_dataset
from mmkd.jobs import distill, train_teacher
from mmkd.packing import pack
from mmkd.sources.recording import Segment
from mmkd.sources.video import VideoRecording
from tests.flaky import flaky
from tests.processes import seen
from tests.small import small_settings, write_dataset, write_teachers
from tests.test_packing import HEADS, Videos, quiet
from tests.videos import click, write_video

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def bucket():
    """Address of an empty bucket, without what tells where its server is."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in keys}
    os.environ.update(keys)
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="mmkd")
    yield f"s3://mmkd/{{}}?endpoint_override=http://{host}:{port}&region=us-east-1"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


def test_files_are_written_whole_found_and_read_anywhere_in_them(bucket, tmp_path):
    for root in (bucket.format("files"), str(tmp_path / "files")):
        path = storage.join(root, "a", "b.txt")
        assert not storage.is_file(path) and storage.size_of(path) == -1 and storage.list_files(root) == []
        storage.write_bytes(path, b"0123456789")
        storage.write_bytes(storage.join(root, "c.txt"), b"x")
        assert storage.is_file(path) and storage.size_of(path) == 10 and storage.read_text(path) == "0123456789"
        with storage.open_input(path) as file:
            file.seek(4)
            assert file.read(3) == b"456"
        assert storage.list_files(root) == ["c.txt"] and storage.list_folders(root) == ["a"]
        assert storage.list_files(root, recursive=True) == ["a/b.txt", "c.txt"]
        assert storage.name_of(path) == "b.txt" and storage.is_folder(storage.join(root, "a"))
        storage.delete_folder(storage.join(root, "a"))
        assert not storage.is_file(path)
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(path)


@pytest.mark.slow
@pytest.mark.faults
def test_a_store_of_which_every_fifth_call_fails(bucket, tmp_path):
    write_dataset(tmp_path / "data" / "small")
    for path in sorted((tmp_path / "data" / "small").rglob("*.*")):
        name = path.relative_to(tmp_path / "data" / "small").as_posix()
        storage.write_bytes(bucket.format(f"flaky/{name}"), path.read_bytes())
    write_teachers(tmp_path)
    port = int(bucket.partition("127.0.0.1:")[2].partition("&")[0])
    with flaky(port, 0.2) as server:
        folder = bucket.format("flaky").replace(f":{port}", f":{server.server_port}")
        settings = small_settings(tmp_path, data={"folder": folder}, run={"name": "flaky"}, optim={"epochs": 1})
        result = distill(settings)
    assert server.failed > 20
    assert result["broken_clips"] == 0 and not (tmp_path / "runs" / "flaky" / "notices.jsonl").exists()
    clips = seen(tmp_path / "runs" / "flaky")
    assert clips["train", 1] == list(range(37)) and clips["val", 1] == list(range(11))


def test_a_path_from_data_cannot_leave_its_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "secret")
    for folder in (str(tmp_path / "data"), "s3://bucket/data"):
        assert storage.inside(folder, "a/b.mp4") == storage.join(folder, "a/b.mp4")
        for name in ("../secret", "/etc/passwd", "a/../../secret", "s3://other/x", "a\0b"):
            with pytest.raises(ValueError, match=r"leads out|no path"):
                storage.inside(folder, name)
    with pytest.raises(ValueError, match="leads out"):
        storage.inside(tmp_path / "data", "link")


def test_an_unknown_or_unreachable_store_is_said():
    with pytest.raises(ValueError, match="cannot be reached"):
        storage.is_file("nosuch://bucket/a")


@pytest.mark.slow
def test_videos_and_shards_in_a_store_give_the_data_set_that_local_ones_give(bucket, tmp_path, monkeypatch):
    listed = {"local": [], "remote": []}
    for n in range(16):
        path = write_video(tmp_path / "videos" / f"{n}.mp4", 12, sound=click(1.2, 0.5))
        remote = bucket.format(f"videos/{n}.mp4")
        storage.write_bytes(remote, Path(path).read_bytes())
        for name, place in (("local", str(path)), ("remote", remote)):
            segments = (Segment(f"{n}", {"action": n % 2}),)
            listed[name].append(("train" if n < 12 else "val", VideoRecording(place, f"{n}.mp4", segments)))
    folders = {"local": "here", "remote": bucket.format("data/there")}
    for name, recordings in listed.items():
        monkeypatch.setattr(packing_plan, "make_source", lambda settings, recordings=recordings: Videos(recordings))
        pack(small_settings(tmp_path, data={"folder": folders[name]}), quiet, on_ray=False)
    here, there = open_dataset(tmp_path / "data" / "here"), open_dataset(folders["remote"])
    assert here.fingerprint == there.fingerprint and here.heads == HEADS
    assert storage.list_files(folders["remote"]) == ["dataset.json", "rejects.parquet"]
    checked = check_dataset(folders["remote"], quiet)
    assert checked["clips"] == 16 and storage.is_file(storage.join(folders["remote"], "contact_sheet.html"))
    sections = {"data": {"folder": folders["remote"], "weigh_share": 0.3}, "optim": {"epochs": 1, "batch_size": 4}}
    teacher = {"modality": "flow", "options": {"channels": [4, 8]}, "arch": "r2plus1d_tiny"}
    labels = {"distill_weight": 0, "label_weight": 1}
    run = {"name": "taught"}
    result = train_teacher(small_settings(tmp_path, teacher=teacher, loss=labels, run=run, **sections))
    assert result["epochs"] == 1 and result["broken_clips"] == 0
    taught = {"folders": [result["model"]], "drop_near_chance": False}
    assert distill(small_settings(tmp_path, teachers=taught, run={"name": "student"}, **sections))["epochs"] == 1
