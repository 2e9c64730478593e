"""The evaluation: every clip once, in every grid of views, and all figures again from the logits that were kept."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmkd.cluster import ray_session
from mmkd.config import SettingsError
from mmkd.dataset import open_dataset
from mmkd.evaluation.answers import Answers, answers_path
from mmkd.evaluation.ensembles import stacked
from mmkd.evaluation.job import evaluate, grids_of
from mmkd.evaluation.split import split_logits
from mmkd.metrics import topk_accuracy
from mmkd.models import create_model, load_model, save_model
from mmkd.scoring import score
from mmkd.teachers import combine
from tests.small import HEADS, SPLITS, small_settings, write_dataset, write_teachers

VIEWS = {"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1}


def settings_for(home, name, **evaluate_settings):
    data = evaluate_settings.pop("data", {})
    known = {"models": ["rgb"], "cost": False} | evaluate_settings
    return small_settings(home, run={"name": name, "local": True}, evaluate=known, data=data)


def assert_equal(first, second):
    """Scores by head, to rounding."""
    assert first.keys() == second.keys()
    assert all(first[head] == pytest.approx(second[head], abs=1e-6) for head in first)


def test_a_model_is_scored_on_every_clip_and_all_is_computed_again_from_its_logits(home):
    settings = settings_for(home, "evaluated", views="2x3")
    result = evaluate(settings)
    run = home / "runs" / "evaluated"
    answers = Answers.load(answers_path(run, "test", "rgb"))
    assert sorted(answers.clip_ids) == [f"test-{i:03d}" for i in range(SPLITS["test"])]
    said = result["scores"]["rgb"]
    assert said["verb"]["top1"] == topk_accuracy(answers.mean_logits()["verb"], answers.labels["verb"], 1)
    assert said["action"]["n"] == SPLITS["test"]
    scores = json.loads((run / "scores.json").read_text())
    assert list(scores["models"]["rgb"]["views"]) == ["2x3", "1x1", "2x1", "1x3"]
    assert set(scores["models"]["rgb"]["temperatures"]) == set(HEADS)
    for name in ("scores.json", "scores.txt", "report.html", "result.json"):
        (run / name).unlink()
    again = evaluate(small_settings(home, run={"local": True}, evaluate={"logits": "evaluated"}))
    assert json.loads((run / "scores.json").read_text()) == scores and again["scores"] == result["scores"]
    assert "rgb" in (run / "scores.txt").read_text() and (run / "report.html").is_file()


def test_every_grid_of_views_is_what_it_would_be_by_itself(home):
    settings = settings_for(home, "unused", views="3x3")
    folders, grids = [str(home / "models" / name) for name in ("rgb", "flow", "boxes")], grids_of(settings)
    assert grids == [(3, 3), (1, 1), (2, 1), (1, 3), (3, 1), (2, 3)]
    together = split_logits(settings, folders, "val", grids=grids)
    for grid in grids:
        alone = split_logits(settings, folders, "val", grids=[grid])
        for head in HEADS:
            assert np.allclose(together.averaged(grid)[head], alone.averaged()[head], atol=1e-5)


@pytest.mark.ray
def test_one_to_four_workers_see_each_of_a_prime_number_of_clips_once(home):
    settings = small_settings(home, run={"local": False}, resources={"num_cpus": 4, "object_store_mb": 200})
    folders = [str(home / "models" / name) for name in ("rgb", "boxes")]
    alone = split_logits(small_settings(home), folders, "train", grids=[(1, 1)])
    with ray_session(settings):
        for actors in (1, 2, 3, 4):
            found = split_logits(settings, folders, "train", grids=[(1, 1)], actors=actors)
            assert found.clip_ids == alone.clip_ids and len(set(found.clip_ids)) == SPLITS["train"]
            assert all(np.allclose(found.logits[head], alone.logits[head], atol=1e-5) for head in HEADS)
            scores = [score({h: x.averaged()[h][:, 0] for h in HEADS}, x.labels) for x in (found, alone)]
            assert_equal(*scores)


def test_teachers_are_evaluated_alone_and_together_under_each_weighting(home):
    result = evaluate(settings_for(home, "teachers-evaluated", models=[]))
    names = ["teacher rgb", "teacher flow", "teacher boxes", "ensemble", "ensemble uniform", "ensemble per sample"]
    assert list(result["scores"]) == names
    run = home / "runs" / "teachers-evaluated"
    each = [Answers.load(answers_path(run, "test", name)) for name in names[:3]]
    weights = json.loads((run / "competence.json").read_text())["weight"]
    ensemble = Answers.load(answers_path(run, "test", "ensemble")).mean_logits()
    for head in HEADS:
        logits = torch.from_numpy(np.stack([answers.mean_logits()[head] for answers in each], axis=1))
        assert np.allclose(combine(logits, torch.tensor(weights[head])), ensemble[head], atol=1e-5)


def test_ensembles_are_of_the_models_that_saw_the_clip():
    rows = np.ones((2, 1, 2), np.float32)
    one = Answers("one", ["a", "b"], {"verb": np.array([0, 1])}, {"verb": rows})
    two = Answers("two", ["b"], {"verb": np.array([1])}, {"verb": 3 * rows[:1]})
    both = stacked([one, two])
    assert both.clip_ids == ["a", "b"] and both.present.tolist() == [[True, False], [True, True]]
    assert both.ensemble({"verb": [0.5, 0.5]}, "e").logits["verb"][:, 0].tolist() == [[1, 1], [2, 2]]


def test_a_half_written_file_of_logits_is_made_again(home):
    settings = settings_for(home, "half-written")
    result = evaluate(settings)
    path = answers_path(home / "runs" / "half-written", "test", "rgb")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (home / "runs" / "half-written" / "result.json").unlink()
    assert evaluate(settings)["scores"] == result["scores"]
    assert Answers.load(path).clip_ids


def test_classes_in_another_order_are_matched_by_name_and_others_are_refused(home):
    model = load_model(home / "models" / "rgb")
    turned = {head: classes[1:] + classes[:1] for head, classes in HEADS.items()}
    other = create_model(model.spec.arch, turned, "rgb", **model.spec.options)
    state = model.state_dict()
    for head in HEADS:
        for part in ("weight", "bias"):
            state[f"heads.{head}.{part}"] = torch.roll(state[f"heads.{head}.{part}"], -1, 0)
    other.load_state_dict(state)
    other.spec.input = model.spec.input
    save_model(other, home / "models" / "turned")
    scores = [
        evaluate(settings_for(home, f"order-{name}", models=[name]))["scores"][name] for name in ("rgb", "turned")
    ]
    assert_equal(*scores)
    lacking = create_model(model.spec.arch, HEADS | {"verb": ["push", "lift", "throw"]}, "rgb", **model.spec.options)
    lacking.spec.input = model.spec.input
    save_model(lacking, home / "models" / "lacking")
    with pytest.raises(SettingsError, match=r"lacking has other classes in head 'verb'.*drop"):
        evaluate(settings_for(home, "lacking", models=["lacking"]))


def test_logits_that_are_not_finite_stop_the_evaluation_and_name_the_clips(home):
    model = load_model(home / "models" / "rgb")
    with torch.no_grad():
        model.heads["noun"].bias[0] = float("nan")
    save_model(model, home / "models" / "broken")
    with pytest.raises(ValueError, match=r"broken gave noun logits that are not finite for clips test-000"):
        evaluate(settings_for(home, "broken", models=["broken"]))


def test_broken_clips_are_counted_once_though_the_evaluation_is_done_twice(tmp_path):
    def spoil(split, rows):
        rows[1] |= {"rgb": [frame[:50] for frame in rows[1]["rgb"]]}
        return rows

    write_dataset(tmp_path / "data" / "small", spoil)
    write_teachers(tmp_path)
    with pytest.raises(ValueError, match="are broken, more than"):
        evaluate(settings_for(tmp_path, "broken", data={"max_broken_share": 0.0}))
    result = evaluate(settings_for(tmp_path, "broken", data={"max_broken_share": 0.5}))
    assert result["broken_clips"] == 1


def test_splits_that_are_not_there_or_empty_are_refused(home):
    with pytest.raises(ValueError, match=r"no split 'nowhere'"):
        evaluate(settings_for(home, "nowhere", split="nowhere"))


def test_tail_classes_and_unseen_participants_are_scored_apart(tmp_path):
    def with_people(split, rows):
        for number, row in enumerate(rows):
            row["meta"] = [("participant", "P01" if number % 2 else "P02")]
        return rows

    write_teachers(tmp_path)
    folder = write_dataset(tmp_path / "data" / "small", with_people)
    dataset = open_dataset(folder)
    replace(dataset, notes={"tail": {"verb": [2], "noun": []}, "unseen": {"test": ["P02"]}}).save(folder)
    evaluate(settings_for(tmp_path, "people"))
    said = json.loads((tmp_path / "runs" / "people" / "scores.json").read_text())["models"]["rgb"]["views"]["1x1"]
    assert said["verb"]["unseen"]["n"] == 4 and said["verb"]["tail"]["n"] == sum(i % 3 == 2 for i in range(7))
    assert said["action"]["tail"]["n"] == said["verb"]["tail"]["n"]
