"""`python -m mmkd predict`: what it prints, what it does where some videos cannot be answered, and what it does not
import."""

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd.__main__ import COMMANDS, main
from mmkd.evaluation.models import evaluated_models
from mmkd.extras import require_extra
from mmkd.inference.command import _parser
from mmkd.inference.sampling import sampling_of
from tests.small import HEADS, small_settings
from tests.test_inference import small_model
from tests.test_inference_faults import with_damage
from tests.videos import write_video

ROOT = Path(__file__).parents[1]
TRAINING = ("h5py", "ijson", "matplotlib", "optuna", "panda3d", "pandas", "pyarrow", "ray", "soundfile", "soxr")
TRAINING += ("tensorboardX", "tyro")
EXTRA = tuple(name for name in TRAINING if name not in ("pandas", "pyarrow", "soundfile", "soxr"))
"""What prediction does not import: modules of the extra `train`, and such as read data sets."""


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """A folder with a model, videos, and one that is none; it is the working directory."""
    small_model(tmp_path / "home" / "runs" / "student" / "best", temperatures={"verb": 1.25})
    for name in ("a.mp4", "more/b.mkv", "more/deep/c.MOV"):
        write_video(tmp_path / "in" / name, 25)
    (tmp_path / "in" / "more" / "broken.mp4").write_text("this is no video")
    (tmp_path / "in" / "notes.txt").write_text("neither")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMKD_HOME", str(tmp_path / "home"))
    return tmp_path


def run(capsys, *arguments):
    """Exit status, standard output and standard error of `python -m mmkd`."""
    status = 0
    try:
        main(arguments)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("page", ["README.md", "docs/inference.md"])
def test_commands_of_the_pages_are_understood(page):
    found = re.findall(r"^ {4}python -m mmkd predict (.*?)(?: +#.*)?$", (ROOT / page).read_text(), re.M)
    assert len(found) > 1 and all(_parser().parse_args(shlex.split(arguments)) for arguments in found)


def test_without_arguments_the_commands_are_listed(capsys):
    status, out, _ = run(capsys)
    assert status == 0 and all(re.search(rf"^  {name} +{about}$", out, re.M) for name, (_, about) in COMMANDS.items())
    assert run(capsys, "--help")[1] == out
    status, _, err = run(capsys, "prodict")
    assert status == 2 and "no command 'prodict'" in err and "predict" in err


def test_a_video_gets_a_line_of_likeliest_classes_for_each_head_and_for_the_action(videos, capsys):
    status, out, err = run(capsys, "predict", "student", "in/a.mp4", "--top", "2")
    where, verb, noun, action = out.splitlines()
    assert status == 0 and where == "in/a.mp4  0.00 to 2.50 s"
    assert re.fullmatch(r"  verb    (push|lift|drop) \d+\.\d %, (push|lift|drop) \d+\.\d %", verb)
    assert re.fullmatch(r"  noun    (cup|ball) \d+\.\d %, (cup|ball) \d+\.\d %", noun)
    assert re.fullmatch(r"  action  (push|lift|drop) (cup|ball) \d+\.\d %, .*%", action)
    assert "temperatures fitted on its validation split: verb 1.25" in err
    assert "no temperature for noun: probabilities are not calibrated (T = 1)" in err


def test_folders_and_patterns_are_all_their_videos_and_failures_do_not_stop_the_others(videos, capsys):
    arguments = ("predict", "home/runs/student/best", "in", "in/more/*.mkv", "none.mp4", "in/*.avi", "--json")
    status, out, err = run(capsys, *arguments)
    said = rows(out)
    assert [each["clip"] for each in said] == [
        "in/a.mp4", "in/more/b.mkv", "in/more/broken.mp4", "in/more/deep/c.MOV", "none.mp4", "in/*.avi"
    ]  # fmt: skip
    errors = {each["clip"]: each["error"] for each in said if "error" in each}
    assert list(errors) == ["in/more/broken.mp4", "none.mp4", "in/*.avi"]
    assert "cannot be opened: Invalid data" in errors["in/more/broken.mp4"] and "No such file" in errors["none.mp4"]
    assert "has no videos" in errors["in/*.avi"]
    assert all(set(each["top"]) == {*HEADS, "action"} for each in said if "error" not in each)
    assert status == 1 and "in/more/broken.mp4" in err.splitlines()[-1] and "in/a.mp4" not in err.splitlines()[-1]


def test_windows_are_a_json_object_a_line_with_their_times(videos, capsys):
    status, out, _ = run(capsys, "predict", "student", "in/a.mp4", "--window", "1", "--hop", "0.5", "--json")
    said = rows(out)
    assert status == 0 and [(each["start"], each["stop"]) for each in said] == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5)]
    for each in said:
        assert each["clip"] == "in/a.mp4" and each["temperatures"] == {"verb": 1.25}
        assert sum(one["probability"] for one in each["top"]["verb"]) == pytest.approx(1)
        assert {one["class"] for one in each["top"]["noun"]} == set(HEADS["noun"])
        assert set(each["top"]["action"][0]) == {"verb", "noun", "probability"}


def test_a_video_that_was_answered_in_part_has_failed(videos, capsys):
    with_damage(videos / "hurt.mp4", 60, 4.0, 5.0)
    status, out, err = run(capsys, "predict", "student", "hurt.mp4", "in/a.mp4", "--window", "1", "--json")
    said = rows(out)
    assert status == 1 and err.splitlines()[-1] == "failed, wholly or in part: hurt.mp4"
    assert [each["start"] for each in said if "error" in each] == [4] and len(said) == 6 + 3
    assert run(capsys, "predict", "student", "hurt.mp4", "--window", "1")[2].count("hurt.mp4  4.00 to 5.00 s: ") == 1


def test_what_nobody_foresaw_in_a_file_is_said_and_the_others_are_answered(videos, capsys, monkeypatch):
    from mmkd.inference import videos as module

    answer = module.answer
    left = [RuntimeError("out of memory")]

    def fails_once(*arguments):
        if left:
            raise left.pop()
        return answer(*arguments)

    monkeypatch.setattr(module, "answer", fails_once)
    status, out, _ = run(capsys, "predict", "student", "in/a.mp4", "in/more/b.mkv", "--json")
    first, second = rows(out)
    assert status == 1
    assert first == {"clip": "in/a.mp4", "error": "RuntimeError: out of memory"}
    assert "top" in second


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nowhere", "in/a.mp4"), 1, "nowhere is no model folder; looked for model.json in"),
        (("student", "in/a.mp4", "--views", "2x2"), 1, "views are '2x2'"),
        (("student", "in/a.mp4", "--hop", "1"), 1, "say how long they are"),
        (("student", "in/a.mp4", "--device", "abacus"), 1, "abacus"),
        (("student",), 2, "VIDEO"),
        (("student", "in/a.mp4", "--top", "0"), 2, "0 is not a number from 1 up"),
    ],
)
def test_what_cannot_be_asked_is_refused(videos, capsys, arguments, status, said):
    got, out, err = run(capsys, "predict", *arguments)
    assert (got, out) == (status, "") and said in err
    if status == 1:
        (row,) = rows(run(capsys, "predict", *arguments, "--json")[1])
        assert said in row["error"]


def test_a_model_is_found_by_the_name_that_an_evaluation_finds_it_by(home):
    settings = small_settings(home, evaluate={"models": ["rgb"]})
    assert evaluated_models(settings)[0].folder == str(home / "models" / "rgb")


def without(modules, code):
    """Run code in a process of its own in which some modules are not installed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    text = f"import sys\nsys.modules.update(dict.fromkeys({modules}))\n{code}"
    return subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120)


def test_predicting_needs_and_imports_nothing_of_training(tmp_path):
    small_model(tmp_path / "model")
    video = write_video(tmp_path / "a.mp4", 12)
    code = f"""
import mmkd
assert mmkd.predict({str(tmp_path / "model")!r}, {str(video)!r})[0].top()["action"]
import numpy
recognizer = mmkd.StreamingRecognizer({str(tmp_path / "model")!r}, 8)
assert [recognizer.push(numpy.zeros((24, 32, 3), numpy.uint8)) for _ in range(8)][-1]
from mmkd.__main__ import main
main(["predict", {str(tmp_path / "model")!r}, {str(video)!r}])
print(*sys.modules)
"""
    done = without((), code)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.splitlines()[-1].split())
    assert not {name.partition(".")[0] for name in imported} & set(TRAINING)
    ours = {name for name in imported if name.startswith("mmkd.")}
    assert not ours & {f"mmkd.{name}" for name in ("cli", "jobs", "pipeline", "reader", "shards", "training", "bank")}


@pytest.mark.slow
def test_every_command_works_without_the_extra(home, tmp_path):
    """With clips of a data set, which the base install reads, to calibrate and compare on."""
    small_model(tmp_path / "model")
    data, model = str(home / "data" / "small"), str(tmp_path / "model")
    code = f"""
from mmkd.__main__ import main
main(["export", {model!r}, "--to", "torchscript", "--check", {data!r}])
main(["export", {model!r}, "--to", "onnx", "--precision", "int8", "--calibrate", {data!r}, "--check", {data!r}])
main(["card", {model!r}])
import mmkd
from mmkd.web.server import make_server
make_server(mmkd.load_model({model!r}), "model").server_close()
"""
    done = without(EXTRA, code)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "model").iterdir()}
    assert made >= {"model.torchscript", "model.int8.onnx", "README.md"}


def test_reading_needs_no_torch(tmp_path):
    sampling = pickle.dumps(sampling_of(small_model().spec, "2x3"))
    video = write_video(tmp_path / "a.mp4", 12)
    code = f"""
import pickle
from mmkd.inference.windows import video_windows
(clip,) = video_windows({str(video)!r}, pickle.loads({sampling!r}))
print(*clip.rgb.shape)
"""
    assert without((*TRAINING, "torch"), code).stdout == "6 4 16 16 3\n"


@pytest.mark.parametrize("job", ["rayjobs/evaluate.py", "rayjobs/record.py", "tuning/sweep.py", "-m mmkd.bank"])
def test_a_job_without_the_extra_says_what_to_install(job):
    start = f"import runpy; runpy.run_path({str(ROOT / job)!r}, run_name='__main__')"
    if job.startswith("-m"):
        start = "import runpy; runpy.run_module('mmkd.bank', run_name='__main__')"
    done = without(TRAINING, start)
    assert done.returncode == 1
    assert "ray, tyro are not installed: pip install 'mmkd[train]'" in done.stderr.splitlines()[-1]


def test_what_is_installed_is_not_asked_for():
    require_extra("train", "numpy", "ray")
    with pytest.raises(ModuleNotFoundError, match=r"nothing_such is not installed: pip install 'mmkd\[train\]'"):
        require_extra("train", "numpy", "nothing_such")
