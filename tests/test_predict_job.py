"""rayjobs/predict.py: every input once, in order, equal to mmkd.predict and to an evaluation, and resumable."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import mmkd
from mmkd.ahead import in_order
from mmkd.cli import load_settings
from mmkd.config import Settings, SettingsError
from mmkd.evaluation.split import split_logits
from mmkd.inference import bulk, job
from mmkd.inference.job import list_videos, predict_all
from mmkd.metrics import softmax
from tests.small import HEADS, small_settings, write_dataset
from tests.test_inference import small_model
from tests.test_inference_faults import with_damage
from tests.videos import write_video

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A root with a data set, a model, nine videos and two that are none."""
    root = tmp_path_factory.mktemp("home")
    write_dataset(root / "data" / "small")
    small_model(root / "runs" / "student" / "best", temperatures={"verb": 1.25})
    for number in range(9):
        write_video(root / "in" / f"{number}.mp4", 20 + number)
    (root / "odd").mkdir()
    with_damage(root / "odd" / "damaged.mp4", 40, 1.0, 1.6)
    (root / "in" / "4-broken.mp4").write_text("this is no video")
    (root / "in" / "notes.txt").write_text("neither")
    return root


def settings_of(home, name, **chosen) -> Settings:
    chosen = {"model": "student", "videos": [str(home / "in")], "per_file": 4} | chosen
    run = {"name": name, "home": str(home), "local": True}
    return small_settings(home, run=run, predict=chosen)


def rows_of(home, name):
    files = sorted((home / "runs" / name / "predictions").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()], [file.name for file in files]


def test_every_video_is_there_once_and_is_answered_as_by_itself(home):
    result = predict_all(settings_of(home, "all", features=True))
    assert (result["inputs"], result["answers"], result["errors"], result["files"]) == (10, 9, 1, 3)
    rows, files = rows_of(home, "all")
    assert files == ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
    assert [Path(row["clip"]).name for row in rows] == sorted(path.name for path in (home / "in").glob("*.mp4"))
    model = mmkd.load_model(home / "runs" / "student" / "best")
    for row in rows:
        if row["error"]:
            assert "cannot be opened" in row["error"] and row["top/verb"] is None and row["features"] is None
            assert row["start"] is None
            continue
        (said,) = mmkd.predict(model, row["clip"])
        assert row["window"] == 0 and row["start"] == 0 and row["stop"] == pytest.approx(said.stop)
        for head, names in HEADS.items():
            assert row[f"probabilities/{head}"] == pytest.approx(said.probabilities[head].tolist(), abs=1e-5)
            assert [each["class"] for each in row[f"top/{head}"]] == [each["class"] for each in said.top()[head]]
            assert len(row[f"probabilities/{head}"]) == len(names)
        assert row["top/action"][0]["verb"] == said.top()["action"][0]["verb"]
        x = np.array(row["features"], np.float32) @ model.heads["verb"].weight.detach().numpy().T
        logits = x + model.heads["verb"].bias.detach().numpy()
        assert softmax(logits / 1.25) == pytest.approx(row["probabilities/verb"], abs=1e-5)
    about = json.loads(pq.read_schema(home / "runs/all/predictions/part-000000.parquet").metadata[b"mmkd"])
    assert about["heads"] == HEADS and about["temperatures"] == {"verb": 1.25}
    (line,) = (home / "runs" / "all" / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["clip"].endswith("4-broken.mp4")


@pytest.mark.parametrize("at_once", [{"batch_size": 1}, {"batch_size": 7}, {"num_gpus": 1.0, "num_cpus": 3}])
def test_windows_are_those_of_predict_however_they_are_batched_and_decoded(home, at_once):
    name = f"windows-{len(at_once)}-{at_once.get('batch_size', 0)}"
    videos = [str(home / "in"), str(home / "odd")]
    more = {"window": 1.0, "hop": 0.5, "views": "3x1", "probabilities": False}
    predict_all(settings_of(home, name, videos=videos, **more, **at_once))
    rows, _ = rows_of(home, name)
    assert "probabilities/verb" not in rows[0]
    for video in dict.fromkeys(row["clip"] for row in rows):
        mine = [row for row in rows if row["clip"] == video]
        assert [row["window"] for row in mine] == list(range(len(mine)))
        if video.endswith("broken.mp4"):
            continue
        said = mmkd.predict(home / "runs/student/best", video, window=1.0, hop=0.5, views="3x1")
        assert [(row["start"], row["stop"], row["error"] or "") for row in mine] == [
            (each.start, each.stop, each.error) for each in said
        ]
        for row, each in zip(mine, said, strict=True):
            if not each.error:
                assert row["top/noun"][0]["probability"] == pytest.approx(
                    each.top()["noun"][0]["probability"], abs=1e-5
                )


def test_a_split_has_the_logits_of_an_evaluation(home):
    settings = settings_of(home, "split", videos=[], split="test", views="3x1")
    assert predict_all(settings)["answers"] == 7
    rows, _ = rows_of(home, "split")
    folder = str(home / "runs" / "student" / "best")
    views = settings.model_copy(update={"views": settings.views.model_copy(update={"frames": 4, "size": 16})})
    expected = split_logits(views, [folder], "test", grids=[(3, 1)])
    assert [row["clip"] for row in rows] == expected.clip_ids
    mean = expected.answers(0, "m", 0).mean_logits()["verb"]
    assert np.array([row["probabilities/verb"] for row in rows]) == pytest.approx(softmax(mean / 1.25), abs=1e-5)


def test_the_same_command_again_does_what_is_left_and_then_nothing(home, monkeypatch, capsys):
    settings = settings_of(home, "again")
    predictor, made = job.Predictor, []

    class Dies(predictor):
        def __call__(self, share):
            if len(made) == 2:
                raise KeyboardInterrupt
            made.append(share.number)
            return super().__call__(share)

    monkeypatch.setattr(job, "Predictor", Dies)
    with pytest.raises(KeyboardInterrupt):
        predict_all(settings)
    assert made == [0, 1]
    made[:] = [None]
    assert predict_all(settings)["answers"] == 9
    assert made == [None, 2] and "2 of 3 files are there" in capsys.readouterr().err
    monkeypatch.setattr(job, "Predictor", None)
    assert predict_all(settings)["answers"] == 9
    assert "is finished" in capsys.readouterr().err


def test_another_model_or_other_videos_are_refused_in_the_same_run(home):
    predict_all(settings_of(home, "claimed", videos=[str(home / "in" / "1.mp4")]))
    with pytest.raises(SettingsError, match="inputs was"):
        predict_all(settings_of(home, "claimed"))
    with pytest.raises(SettingsError, match=r"window was 0\.0 and is 1\.0"):
        predict_all(settings_of(home, "claimed", videos=[str(home / "in" / "1.mp4")], window=1.0))


def test_a_folder_of_other_predictions_is_not_added_to(home, tmp_path):
    small_model(home / "models" / "other", temperatures={"verb": 2.0})
    predict_all(settings_of(home, "into", out=str(tmp_path / "out")))
    assert predict_all(settings_of(home, "into-again", out=str(tmp_path / "out")))["answers"] == 9
    with pytest.raises(SettingsError, match=r"out holds predictions that differ in views; delete them"):
        predict_all(settings_of(home, "into-views", out=str(tmp_path / "out"), views="3x1"))
    (tmp_path / "out" / "_prediction.json").unlink()
    with pytest.raises(SettingsError, match="holds files of something else"):
        predict_all(settings_of(home, "into-unknown", out=str(tmp_path / "out")))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [{}, {"num_gpus": 1.0, "num_cpus": 3}])
def test_a_video_that_ends_its_process_is_tried_three_times_and_the_others_are_answered(home, threads):
    """Processes that die in the reading of one video, as of a decoder that crashes, until the share is done."""
    settings = settings_of(home, f"deadly-{len(threads)}", per_file=20, **threads)
    (home / "deadly.yaml").write_text(settings.model_dump_json())
    code = """
import os, sys
from mmkd.config import Settings
from mmkd.inference import bulk
from mmkd.inference.job import predict_all
read = bulk.video_windows
bulk.video_windows = lambda video, *more: os._exit(66) if video.endswith("/5.mp4") else read(video, *more)
predict_all(Settings.model_validate_json(open(sys.argv[1]).read()))
"""
    run = [sys.executable, "-c", code, str(home / "deadly.yaml")]
    ended = [subprocess.run(run, cwd=ROOT, capture_output=True).returncode for _ in range(4)]
    assert ended == [66, 66, 66, 0]
    rows, _ = rows_of(home, settings.run.name)
    errors = {Path(row["clip"]).name: row["error"] for row in rows if row["error"]}
    assert set(errors) == {"4-broken.mp4", "5.mp4"} and len(rows) == 10
    assert errors["5.mp4"] == "the process that read it ended without a word, 3 times"
    assert list((home / "runs" / settings.run.name / "reading").iterdir()) == []


def test_an_error_that_ends_a_job_puts_no_video_under_suspicion(home, monkeypatch):
    settings = settings_of(home, "interrupted", per_file=20)
    for _ in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(bulk, "answers", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                predict_all(settings)
    assert predict_all(settings)["errors"] == 1


def test_a_name_that_is_not_utf_8_is_answered_and_written_as_text(home, tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    os.link(home / "in" / "1.mp4", odd)
    assert predict_all(settings_of(home, "odd-name", videos=[str(tmp_path)]))["answers"] == 1
    ((row,), _) = rows_of(home, "odd-name")
    assert row["clip"] == f"{tmp_path}/caf\\xe9.mp4"


def test_videos_are_found_by_path_folder_pattern_and_listing(home, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text(f"{home}/in/3.mp4\n\n{home}/in/missing.mp4\n")
    found = list_videos([f"{home}/in/[12].mp4", f"{home}/in/3.mp4"], str(listing))
    assert [Path(each).name for each in found] == ["1.mp4", "2.mp4", "3.mp4", "missing.mp4"]
    with pytest.raises(SettingsError, match="has no videos"):
        list_videos([f"{home}/in/x*.mp4"])
    with pytest.raises(SettingsError, match="nothing to predict"):
        list_videos([])
    listing.write_text("clip.mp4\n")
    with pytest.raises(SettingsError, match="relative"):
        list_videos([], str(listing))
    with pytest.raises(ValueError, match="which is relative"):
        settings_of(home, "x", videos=["in/1.mp4"])


def test_the_dry_run_says_what_would_be_done(home, capsys):
    settings = settings_of(home, "dry")
    settings.run.dry_run = True
    assert predict_all(settings)["inputs"] == 10
    assert "on 10 videos; 3 files in" in capsys.readouterr().err and not (home / "runs" / "dry").exists()


def test_the_commands_of_the_page_are_understood():
    text = re.sub(r" *\\\n *", " ", (ROOT / "docs" / "inference.md").read_text())
    found = re.findall(r"^ {4}python rayjobs/predict\.py (.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert found
    for arguments in found:
        chosen = load_settings(shlex.split(arguments), job="predict", about="").predict
        assert chosen.model == "demo-student" and (chosen.videos or chosen.videos_file or chosen.split)


def test_flags_without_a_section_mean_the_settings_of_this_job():
    flags = ["--model", "student", "--videos", "/a.mp4", "/b", "--views", "3x3"]
    chosen = load_settings(flags, job="predict", about="").predict
    assert (chosen.model, chosen.videos, chosen.views) == ("student", ["/a.mp4", "/b"], "3x3")
    assert load_settings(["--model", "a"], job="evaluate", about="").evaluate.models == ["a"]


@pytest.mark.ray
def test_the_job_on_ray_as_a_user_types_it(home):
    """Two actors; the same rows as in one process."""
    out = home / "out"
    command = [sys.executable, "rayjobs/predict.py", "--model", "student", "--videos", str(home / "in"), "--run.home"]
    more = [str(home), "--predict.per_file", "1", "--predict.out", str(out), "--resources.num_cpus", "2"]
    own = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run([*command, *more], cwd=ROOT, env=own, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["answers"], result["errors"], result["files"]) == (9, 1, 10)
    assert "predicted 10/10" in done.stderr
    rows = [row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    predict_all(settings_of(home, "beside"))
    expected, _ = rows_of(home, "beside")
    assert [row["clip"] for row in rows] == [row["clip"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row["error"] == other["error"]
        assert row["probabilities/verb"] == pytest.approx(other["probabilities/verb"], abs=1e-5)


class TestInOrder:
    def test_items_come_in_order_while_the_next_iterators_run(self):
        others_ran = threading.Event()

        def first():
            assert others_ran.wait(10)  # it cannot go on before the second has begun
            yield from (1, 2)

        def second():
            others_ran.set()
            yield from (3, 4, 5)

        assert list(in_order([first, second, lambda: iter([6])], 2, 1)) == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize("threads", [0, 1, 3])
    def test_what_an_iterator_raises_is_raised_at_its_turn(self, threads):
        def broken():
            yield 2
            raise ValueError("torn")

        got = []
        with pytest.raises(ValueError, match="torn"):
            got.extend(in_order([lambda: iter([1]), broken, lambda: iter([3])], threads, 4))
        assert got == [1, 2]

    def test_threads_end_where_nobody_takes_items_any_longer(self):
        before = threading.active_count()
        items = in_order([lambda: iter(range(1000))] * 3, 3, 2)
        assert next(items) == 0
        assert threading.active_count() > before
        items.close()
        for _ in range(100):
            if threading.active_count() == before:
                break
            time.sleep(0.05)
        assert threading.active_count() == before
