"""Submission files: they hold what the model said, and every departure from the published form is found."""

import csv
import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from mmkd.dataset import Dataset
from mmkd.metrics import softmax
from mmkd.report.predictions import Predictions
from mmkd.sources.ssv2 import read_classes
from mmkd.submission import write_submission
from mmkd.submission.epic import check_epic_submission, epic_submission, top_actions, write_epic_submission
from mmkd.submission.ssv2 import check_ssv2_submission, ssv2_submission, write_ssv2_submission

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
true_samples = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the true samples are not here")

EPIC = {"verb": [f"verb {n}" for n in range(97)], "noun": [f"noun {n}" for n in range(300)]}
SSV2 = {"action": [f"class {n:03d}" for n in range(174)]}
IDS = ["P01_11_0", "P01_11_1", "P02_101_7"]


def predictions(heads, clip_ids=IDS) -> Predictions:
    random = np.random.default_rng(len(clip_ids))
    logits = {head: random.normal(0, 3, (len(clip_ids), len(names))) for head, names in heads.items()}
    return Predictions("student", list(clip_ids), {head: np.full(len(clip_ids), -1) for head in heads}, logits)


def dataset(heads, source: str) -> Dataset:
    return Dataset(heads=heads, modalities=["rgb"], splits={}, fps=12, made_by={"source": source})


def faults_of(change) -> list[str]:
    """Faults of a good submission of EPIC-KITCHENS that `change` spoils in place."""
    content = epic_submission(predictions(EPIC), EPIC)
    change(content)
    return check_epic_submission(content, IDS)


def written(path: Path, change) -> Path:
    """A file whose text `change` makes of that of a good one."""
    write_epic_submission(path.with_suffix(".json"), predictions(EPIC), EPIC)
    text = change(path.with_suffix(".json").read_text())
    if path.suffix == ".json":
        path.write_text(text)
    else:
        with ZipFile(path, "w") as archive:
            archive.writestr("test.json", text)
    return path


@pytest.mark.parametrize("ending", [".zip", ".json"])
def test_an_epic_file_holds_the_logits_and_the_probabilities_of_actions_and_is_valid(tmp_path, ending):
    given, path = predictions(EPIC), tmp_path / "new" / f"a{ending}"
    write_epic_submission(path, given, EPIC, supervision=(0, 3, 3))
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    assert check_epic_submission(path, IDS) == check_epic_submission(str(path)) == []
    if ending == ".zip":
        with ZipFile(path) as archive:
            assert archive.namelist() == ["test.json"]
            content = json.loads(archive.read("test.json"))
    else:
        content = json.loads(path.read_text())
    assert content == epic_submission(given, EPIC, supervision=(0, 3, 3))
    assert {key: value for key, value in content.items() if key != "results"} == {
        "version": "0.2",
        "challenge": "action_recognition",
        "sls_pt": 0,
        "sls_tl": 3,
        "sls_td": 3,
    }
    assert list(content["results"]) == IDS
    for row, scores in enumerate(content["results"].values()):
        for head in EPIC:
            assert list(scores[head]) == [str(n) for n in range(len(EPIC[head]))]
            np.testing.assert_allclose(list(scores[head].values()), given.logits[head][row], rtol=1e-5)
        p = np.outer(*(softmax(given.logits[head][row]) for head in EPIC))
        keys = [tuple(map(int, key.split(","))) for key in scores["action"]]
        np.testing.assert_allclose(list(scores["action"].values()), [p[key] for key in keys], rtol=1e-5)


def test_the_actions_are_the_highest_of_all_of_them():
    random = np.random.default_rng(0)
    for verbs, nouns, spread in ((97, 300, 1), (97, 300, 10), (97, 300, 0.01), (5, 300, 3), (97, 2, 3), (3, 4, 1)):
        verb, noun = (random.normal(0, spread, (20, n)).astype(np.float32) for n in (verbs, nouns))
        all_of_them = (softmax(verb)[:, :, None] * softmax(noun)[:, None, :]).reshape(20, -1)
        v, n, p = top_actions(verb, noun)
        count = min(100, verbs * nouns)
        np.testing.assert_allclose(p, -np.sort(-all_of_them, axis=1)[:, :count], rtol=1e-9)
        np.testing.assert_allclose(np.take_along_axis(all_of_them, v * nouns + n, axis=1), p, rtol=1e-9)
        assert all(len(set(row)) == count for row in (v * nouns + n).tolist())


def test_actions_that_are_equally_likely_are_named_once_each():
    v, n, p = top_actions(np.zeros((1, 97), np.float32), np.zeros((1, 300), np.float32))
    assert len(set(zip(v[0], n[0], strict=True))) == 100 and np.allclose(p, 1 / 29100)


def clip(content):
    return content["results"][IDS[1]]


def without(mapping, key):
    del mapping[key]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(version="0.1"), "version is '0.1' instead of '0.2'"),
        (lambda c: without(c, "challenge"), "challenge is None"),
        (lambda c: c.update(sls_td=6), "sls_td is 6"),
        (lambda c: c.update(sls_pt=True), "sls_pt is True"),
        (lambda c: without(c, "sls_tl"), "sls_tl is None"),
        (lambda c: without(c, "results"), "results is no object"),
        (lambda c: without(c["results"], IDS[1]), "clip 'P01_11_1' is missing"),
        (lambda c: c["results"].update(P09_1_1=clip(c)), "clip 'P09_1_1' is not in the split"),
        (lambda c: c["results"].update({IDS[1]: [1]}), "clip 'P01_11_1': it is no object"),
        (lambda c: without(clip(c), "noun"), "clip 'P01_11_1': noun is no object of scores"),
        (lambda c: without(clip(c)["verb"], "96"), "clip 'P01_11_1': verb lacks 1 of 97 classes: '96'"),
        (lambda c: clip(c)["noun"].update({"300": 0.5}), "clip 'P01_11_1': noun has keys that are no class: '300'"),
        (lambda c: clip(c)["verb"].update({3: 0.5}), "clip 'P01_11_1': verb has keys that are no class: 3"),
        (lambda c: clip(c)["noun"].update({"7": float("nan")}), "clip 'P01_11_1': noun has scores that are no finite"),
        (lambda c: clip(c)["verb"].update({"7": "0.5"}), "clip 'P01_11_1': verb has scores that are no finite"),
        (lambda c: clip(c)["verb"].update({"7": True}), "clip 'P01_11_1': verb has scores that are no finite"),
        (lambda c: clip(c)["action"].popitem(), "clip 'P01_11_1': action has 99 scores instead of 100"),
        (
            lambda c: clip(c)["action"].update({"x": clip(c)["action"].popitem()[1]}),
            "action has keys that are no class",
        ),
        (lambda c: clip(c)["action"].update({"97,0": clip(c)["action"].popitem()[1]}), "no class: '97,0'"),
        (lambda c: without(clip(c), "action"), "clip 'P01_11_1': it has no action, and others do"),
    ],
)
def test_a_fault_of_an_epic_submission_is_found_and_is_the_only_one(change, said):
    (fault,) = faults_of(change)
    assert said in fault


def test_an_epic_submission_may_go_without_actions():
    assert faults_of(lambda content: [scores.pop("action") for scores in content["results"].values()]) == []
    assert faults_of(lambda content: content["results"].clear())[0] == "there is no clip"


@pytest.mark.parametrize("ending", [".zip", ".json"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"P01_11_1": ', '"P01_11_0": ', ["clip 'P01_11_0' is there more than once", "clip 'P01_11_1' is missing"]),
        (
            '"P01_11_1": {"verb":{',
            '"P01_11_1": {"verb":{"3":0.5,',
            ["clip 'P01_11_1': verb has classes more than once"],
        ),
        ('"P01_11_1": {', '"P01_11_1": {"noun":{},', ["clip 'P01_11_1': 'noun' is there more than once"]),
        ('"P01_11_1": {"verb":{', '"P01_11_1": {"word":{', ["clip 'P01_11_1': verb is no object of scores"]),
        ('"P01_11_1": {"verb":{"0":', '"P01_11_1": {"verb":{"0":NaN,"x":', ["that are no class: 'x'", "those of '0'"]),
        ('"sls_pt"', '"version": "0.2", "sls_pt"', ["'version' is there more than once"]),
        ('"results": {', '"results": {', []),
        ('"results": {', '"results": [', ["holds no JSON"]),
        ("{", "[{}]  {", ["holds no JSON"]),
    ],
)
def test_faults_of_an_epic_file_are_found_as_it_is_read(tmp_path, ending, old, new, said):
    path = written(tmp_path / f"spoilt{ending}", lambda text: text.replace(old, new, 1))
    faults = check_epic_submission(path, IDS)
    assert len(faults) == len(said) and all(part in fault for part, fault in zip(said, faults, strict=True)), faults


def test_a_file_that_is_no_zip_of_test_json_is_told(tmp_path):
    (tmp_path / "text.zip").write_text("{}")
    assert "is no zip archive" in check_epic_submission(tmp_path / "text.zip")[0]
    with ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("folder/test.json", "{}")
    assert "holds 'folder/test.json' instead of test.json alone" in check_epic_submission(tmp_path / "other.zip")[0]
    whole = written(tmp_path / "good.zip", str).read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    assert "is no zip archive" in check_epic_submission(tmp_path / "half.zip")[0]
    (tmp_path / "list.json").write_text("[]")
    assert "holds no object" in check_epic_submission(tmp_path / "list.json")[0]
    with pytest.raises(FileNotFoundError):
        check_epic_submission(tmp_path / "none.zip")


def test_predictions_of_other_heads_or_a_wrong_level_are_refused_before_a_file_is_begun(tmp_path):
    other = {**EPIC, "verb": EPIC["verb"][:-1]}
    with pytest.raises(ValueError, match="97 classes of head 'verb' and the data set has 96"):
        write_epic_submission(tmp_path / "a.zip", predictions(EPIC), other)
    with pytest.raises(ValueError, match="head 'verb'"):
        write_epic_submission(tmp_path / "a.zip", predictions(SSV2), EPIC)
    with pytest.raises(ValueError, match="sls_tl is 7"):
        write_epic_submission(tmp_path / "a.zip", predictions(EPIC), EPIC, supervision=(0, 7, 0))
    with pytest.raises(ValueError, match=r"must end in \.zip or \.json"):
        write_epic_submission(tmp_path / "a.csv", predictions(EPIC), EPIC)
    with pytest.raises(ValueError, match="head 'action'"):
        write_ssv2_submission(tmp_path / "a.csv", predictions(EPIC), EPIC)
    assert not list(tmp_path.iterdir())


def test_an_ssv2_file_names_the_five_likeliest_classes_and_is_valid(tmp_path):
    given, path = predictions(SSV2, ["1", "20", "3"]), tmp_path / "new" / "a.csv"
    write_ssv2_submission(path, given, SSV2)
    assert [other.name for other in path.parent.iterdir()] == ["a.csv"]
    assert check_ssv2_submission(path, ["1", "20", "3"]) == check_ssv2_submission(str(path)) == []
    lines = path.read_text().splitlines()
    assert lines == ssv2_submission(given, SSV2)
    for line, clip_id, logits in zip(lines, given.clip_ids, given.logits["action"], strict=True):
        name, *classes = line.split(";")
        assert name == clip_id and [int(n) for n in classes] == np.argsort(logits)[::-1][:5].tolist()


def test_ssv2_classes_are_numbered_by_name_whatever_order_the_data_set_has_them_in():
    given = predictions(SSV2)
    turned = Predictions("student", IDS, given.labels, {"action": given.logits["action"][:, ::-1]})
    assert ssv2_submission(turned, {"action": SSV2["action"][::-1]}) == ssv2_submission(given, SSV2)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["1;0;1;2;3;4"], ["clip '2' is missing"]),
        (["1;0;1;2;3;4", "2;0;1;2;3;173", "3;0;1;2;3;4"], ["clip '3' is not in the split"]),
        (["1;0;1;2;3;4", "2;0;1;2;3;4", "1;0;1;2;3;4"], ["clip '1' is there more than once"]),
        (["1;0;1;2;3;4", "2;0;1;2;3"], ["clip '2' in line 2: it has 4 classes instead of 5"]),
        (["1;0;1;2;3;4", "2;0;1;2;3;174"], ["clip '2' in line 2: '174' is no class from 0 to 173"]),
        (["1;0;1;2;3;4", "2;0;1;2;3;Falling"], ["clip '2' in line 2: 'Falling' is no class"]),
        (["1;0;1;2;3;4", "2;0;1;2;3;3"], ["clip '2' in line 2: it names a class more than once"]),
        (
            ["1,0,1,2,3,4", "2;0;1;2;3;4"],
            ["clip '1' is missing", "clip '1,0,1,2,3,4' is not", "0 classes instead of 5"],
        ),
        ([], ["there is no clip", "clip '1' is missing", "clip '2' is missing"]),
    ],
)
def test_a_fault_of_an_ssv2_submission_is_found_in_lines_and_in_a_file(tmp_path, lines, said):
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    faults = check_ssv2_submission(lines, ["1", "2"])
    assert len(faults) == len(said) and all(part in fault for part, fault in zip(said, faults, strict=True)), faults
    assert check_ssv2_submission(path, ["1", "2"]) == faults


def test_an_ssv2_file_that_is_no_text_is_told(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    assert "is no text" in check_ssv2_submission(tmp_path / "a.csv")[0]


def test_the_data_set_decides_which_submission_is_written(tmp_path):
    for source in ("epic", "reference"):
        path = write_submission(tmp_path / source, predictions(EPIC), dataset(EPIC, source), supervision=(1, 3, 3))
        assert path == tmp_path / source / "epic-submission.zip" and check_epic_submission(path, IDS) == []
        with ZipFile(path) as archive:
            assert json.loads(archive.read("test.json"))["sls_pt"] == 1
    for source in ("ssv2", "reference"):
        path = write_submission(tmp_path / source, predictions(SSV2), dataset(SSV2, source))
        assert path == tmp_path / source / "ssv2-submission.csv" and check_ssv2_submission(path, IDS) == []


def test_data_of_neither_kind_gets_no_submission(tmp_path):
    epic_55 = {"verb": [str(n) for n in range(125)], "noun": [str(n) for n in range(351)]}
    for heads, source in ((EPIC, "folder"), (SSV2, "tabletop"), (epic_55, "epic"), (EPIC, "ssv2")):
        assert write_submission(tmp_path, predictions(heads), dataset(heads, source)) is None
    assert not list(tmp_path.iterdir())


def test_a_submission_without_some_clips_of_the_split_is_an_error_and_leaves_no_file(tmp_path):
    many = [f"P03_{n}_0" for n in range(12)]
    with pytest.raises(ValueError, match=r"'student' is not valid: clip 'P03_0_0' is missing;.*; and 2 more"):
        write_submission(tmp_path, predictions(EPIC), dataset(EPIC, "epic"), clip_ids=[*IDS, *many])
    with pytest.raises(ValueError, match="clip '7' is missing"):
        write_submission(tmp_path, predictions(SSV2), dataset(SSV2, "ssv2"), clip_ids=[*IDS, "7"])
    assert not list(tmp_path.iterdir())


@true_samples
def test_the_true_test_clips_of_epic_make_a_valid_file(tmp_path):
    folder = FIXTURES / "epic100"
    with open(folder / "EPIC_100_test_timestamps.slice.csv") as file:
        ids = [row["narration_id"] for row in csv.DictReader(file)]
    heads = {}
    for head in EPIC:
        with open(folder / f"EPIC_100_{head}_classes.csv") as file:
            heads[head] = [row["key"] for row in csv.DictReader(file)]
    path = write_submission(tmp_path, predictions(heads, ids), dataset(heads, "epic"), clip_ids=ids)
    assert len(ids) > 50 and path is not None and check_epic_submission(path, ids) == []


@true_samples
def test_classes_in_the_order_of_something_else_get_the_official_numbers(tmp_path):
    official = read_classes(str(FIXTURES / "ssv2" / "something-something-v2-labels.json"))
    other = read_classes(str(FIXTURES / "something_else" / "compositional-labels.json"))
    assert other != official and sorted(other) == official
    given = predictions({"action": official}, ["78687", "42326"])
    order = [official.index(name) for name in other]
    turned = Predictions("student", given.clip_ids, given.labels, {"action": given.logits["action"][:, order]})
    assert ssv2_submission(turned, {"action": other}) == ssv2_submission(given, {"action": official})
    best = given.logits["action"].argmax(axis=1)
    assert [line.split(";")[1] for line in ssv2_submission(given, {"action": official})] == [str(n) for n in best]
