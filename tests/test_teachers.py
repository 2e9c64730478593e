"""The ensemble answers for what is there, and teachers that cannot teach are refused by name."""

import json
import shutil

import numpy as np
import pytest
import torch

from mmkd.competence import judge
from mmkd.dataset import open_dataset
from mmkd.evaluation.split import split_logits
from mmkd.jobs import distill
from mmkd.matching import check_teachers
from mmkd.metrics import softmax
from mmkd.models import create_model, load_model, save_model
from mmkd.plan import PADDING
from mmkd.reader import read_unit
from mmkd.shards import read_manifest
from mmkd.teachers import Ensemble
from mmkd.weigh import weigh
from tests.small import HEADS, small_settings

INPUT = {"frames": 4, "sampling": "uniform"}
DATA = {"fingerprint": "f", "weigh_share": 0.3, "weigh_seed": 0}


def block_of(home, clips):
    folder = home / "data" / "small"
    views = small_settings(home).views
    modalities = ("rgb", "flow", "boxes")
    return read_unit(open_dataset(folder), read_manifest(folder, "train"), views, np.array(clips), 0, modalities)


def folders(home):
    return [str(home / "models" / name) for name in ("rgb", "flow", "boxes")]


def test_each_teachers_logits_stay_apart_and_everything_but_rgb_is_dropped(home):
    block = block_of(home, [4, 5, PADDING, 6])
    out = Ensemble(folders(home), HEADS, batch_size=2)(block)
    assert set(out) == {
        "clip", "status", "label/verb", "label/noun", "rgb", "has/rgb", "teacher_present",
        "teacher_logits/verb", "teacher_logits/noun",
    }  # fmt: skip
    assert out["teacher_logits/verb"].shape == (4, 3, 3) and out["teacher_logits/noun"].shape == (4, 3, 2)
    assert out["teacher_present"].tolist() == [[True] * 3, [True] * 3, [False] * 3, [True] * 3]
    alone = load_model(folders(home)[1])(torch.from_numpy(block["flow"][[0, 1, 3]]))
    assert np.allclose(out["teacher_logits/noun"][[0, 1, 3], 1], alone["noun"].detach(), atol=1e-6)


def test_a_missing_modality_masks_its_teacher_only(home):
    block = block_of(home, [4, 5])
    block["has/flow"][1] = False
    out = Ensemble(folders(home), HEADS)(block)
    assert out["teacher_present"].tolist() == [[True, True, True], [True, False, True]]
    assert not out["teacher_logits/verb"][1, 1].any() and out["teacher_logits/verb"][1, 2].any()


def test_non_finite_logits_name_the_teacher_and_the_clips(home):
    ensemble = Ensemble(folders(home), HEADS)
    with torch.no_grad():
        ensemble.models[1].heads["verb"].bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"teacher flow gave non-finite verb logits.*\[4, 5\]"):
        ensemble(block_of(home, [4, 5]))


def test_a_teacher_with_other_classes_or_views_or_that_saw_the_held_out_clips_is_refused(home, tmp_path):
    expected = INPUT | {"size": 16}
    assert [d["modality"] for d in check_teachers(folders(home), HEADS, expected, DATA)] == ["rgb", "flow", "boxes"]
    with pytest.raises(ValueError, match=r"models/rgb has other classes.*'noun'.*does not know saucer"):
        check_teachers(folders(home), HEADS | {"noun": ["cup", "saucer"]}, expected, DATA)
    with pytest.raises(ValueError, match=r"models/rgb has no head 'adverb'.*it has verb, noun"):
        check_teachers(folders(home), {"adverb": ["slowly"]}, expected, DATA)
    assert check_teachers(folders(home), HEADS | {"noun": ["ball", "cup"]}, expected, DATA)  # matched by name
    with pytest.raises(ValueError, match=r"views\.frames 4 \(here 8\)"):
        check_teachers(folders(home), HEADS, expected | {"frames": 8}, DATA)
    model = create_model("r2plus1d_tiny", HEADS, "rgb", channels=(4, 8))
    save_model(model, tmp_path, {"data": DATA | {"weigh_seed": 7}})
    with pytest.raises(ValueError, match=r"weigh_seed 7, so it saw clips"):
        check_teachers([str(tmp_path)], HEADS, expected, DATA)
    save_model(model, tmp_path, {"data": DATA | {"saw_held_out": True, "train": "train"}})
    with pytest.raises(ValueError, match=r"trained on all of split 'train', as students are"):
        check_teachers([str(tmp_path)], HEADS, expected, DATA)
    assert check_teachers([str(tmp_path)], HEADS, expected, DATA, needs_held_out=False)
    assert check_teachers([str(tmp_path)], HEADS, expected, DATA | {"fingerprint": "another"})


def test_a_teacher_with_its_classes_in_another_order_answers_in_ours(home, tmp_path):
    block = block_of(home, [4, 5])
    plain = Ensemble(folders(home), HEADS)(block)
    turned = Ensemble(folders(home), {"verb": ["drop", "push", "lift"], "noun": HEADS["noun"]})(block)
    assert np.array_equal(turned["teacher_logits/verb"], plain["teacher_logits/verb"][:, :, [2, 0, 1]])
    assert np.array_equal(turned["teacher_logits/noun"], plain["teacher_logits/noun"])


def test_test_views_are_averaged(home):
    block = block_of(home, [4, 5])
    other = block_of(home, [4, 5]) | {"rgb": 255 - block["rgb"]}
    both = {name: np.stack([block[name], other[name]], axis=1) if name == "rgb" else block[name] for name in block}
    one, two, mean = (Ensemble(folders(home)[:1], HEADS, batch_size=3)(each) for each in (block, other, both))
    expected = (one["teacher_logits/verb"] + two["teacher_logits/verb"]) / 2
    assert np.allclose(mean["teacher_logits/verb"], expected, atol=1e-6)


def test_features_of_a_teachers_layer_come_with_its_answers(home):
    block = block_of(home, [4, 5, PADDING])
    block["has/flow"][1] = False
    out = Ensemble(folders(home), HEADS, feature=("flow", "backbone"))(block)
    model = load_model(folders(home)[1])
    own = model.backbone(model.prepare(torch.from_numpy(block["flow"][:1]))).detach().numpy()
    assert np.allclose(out["teacher_features"][:1], own, atol=1e-6) and not out["teacher_features"][1:].any()
    assert out["feature_present"].tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"no layer 'backbone\.blocks\.9'; did you mean backbone\.blocks\.1"):
        Ensemble(folders(home), HEADS, feature=("flow", "backbone.blocks.9"))


def test_teachers_asked_one_after_the_other_answer_as_all_at_once(home):
    block = block_of(home, [4, 5, PADDING])
    block["has/flow"][1] = False
    feature = ("flow", "backbone")
    together = Ensemble(folders(home), HEADS, feature=feature)(block)
    first = Ensemble(folders(home), HEADS, feature=feature, members=[2, 0], later=["flow"])(block)
    assert {"flow", "has/flow", "rgb"} <= set(first) and "boxes/boxes" not in first
    apart = Ensemble(folders(home), HEADS, feature=feature, members=[1])(first)
    assert set(apart) == set(together)
    assert all(np.array_equal(apart[name], together[name]) for name in together)


def judged(good: list[float], **options):
    """Teachers that are right on a share of 200 clips of two classes, and sure of it to the same degree."""
    n = 200
    labels = np.arange(n) % 2
    logits = np.zeros((n, len(good), 2), np.float32)
    for k, share in enumerate(good):
        says = np.where(np.arange(n) < share * n, labels, 1 - labels)
        logits[np.arange(n), k, says] = 1.0
    defaults = {"weighting": "held_out", "gamma": 0.1, "drop_near_chance": True}
    names = [f"t{k}" for k in range(len(good))]
    return judge(names, {"verb": logits}, np.ones((n, len(good)), bool), {"verb": labels}, **(defaults | options))


def test_better_teachers_weigh_more_and_one_near_chance_is_left_out():
    competence = judged([0.9, 0.7, 0.52], drop_near_chance=False)
    assert competence.accuracy["verb"] == pytest.approx([0.9, 0.7, 0.52])
    assert competence.weight["verb"][0] > competence.weight["verb"][1] > competence.weight["verb"][2] > 0
    assert sum(competence.weight["verb"]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"teacher t2 is near chance on every head"):
        judged([0.9, 0.7, 0.52])
    with pytest.raises(ValueError, match=r"no teacher is better than chance on head verb: t0 52\.0 %"):
        judged([0.52])


def test_uniform_weights_are_equal():
    assert judged([0.9, 0.7], weighting="uniform").weight["verb"] == [0.5, 0.5]


def test_shipped_teachers_fit_the_built_in_data():
    from mmkd.config import MODALITIES
    from mmkd.sources.tabletop import HEADS as TABLETOP
    from mmkd.teachers import SHIPPED

    for modality in MODALITIES:
        description = json.loads((SHIPPED / modality / "model.json").read_text())
        assert description["heads"] == TABLETOP and description["modality"] == modality
        assert description["training"]["data"]["made_by"]["seed"] != 0  # not the demo's clips
        load_model(SHIPPED / modality)


def test_weighing_by_itself_gives_what_distilling_begins_with(home, capsys):
    distill(small_settings(home, run={"name": "begins"}, optim={"epochs": 1, "batch_size": 8}))
    begun = json.loads((home / "runs" / "begins" / "competence.json").read_text())
    alone = weigh(small_settings(home, optim={"batch_size": 5}))
    assert alone["clips"] == begun["count"]["verb"][0]
    for name in ("accuracy", "ece", "cross_entropy", "weight"):
        assert all(alone[name][head] == pytest.approx(begun[name][head], abs=1e-6) for head in HEADS)
    said = capsys.readouterr().err
    assert "teacher           verb acc   ECE    CE  weight" in said
    with pytest.raises(ValueError, match="no teachers to weigh"):
        weigh(small_settings(home, loss={"distill_weight": 0.0, "label_weight": 1.0}))


def test_a_student_is_no_teacher_for_clips_that_it_saw(home):
    distill(small_settings(home, run={"name": "pupil"}, optim={"epochs": 1, "batch_size": 8}))
    pupil = {"folders": [str(home / "runs" / "pupil" / "best")]}
    with pytest.raises(ValueError, match=r"as students are, so it saw the clips it would be weighed on"):
        weigh(small_settings(home, teachers=pupil | {"drop_near_chance": False}))
    unjudged = pupil | {"drop_near_chance": False, "weighting": "uniform"}
    assert weigh(small_settings(home, teachers=unjudged))["weight"]["verb"] == [1.0]


def test_test_splits_are_answered_in_all_test_views(home):
    views = {"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1}
    settings = [small_settings(home, views=views | more) for more in ({}, {"test_clips": 2, "test_crops": 3})]
    one, many = (split_logits(each, folders(home), "test") for each in settings)
    assert one.clip_ids == many.clip_ids and len(one.clip_ids) == 7
    means = [each.averaged()["verb"] for each in (one, many)]
    assert means[0].shape == means[1].shape and not np.allclose(*means)
    weights = {head: [0.2, 0.3, 0.5] for head in HEADS}
    soft = one.of_ensemble(weights, "e", 0, "probabilities").logits["noun"]
    mean = np.einsum("ntc,t->nc", softmax(one.averaged()["noun"]), [0.2, 0.3, 0.5])
    assert np.allclose(softmax(soft), mean, atol=1e-6)


def test_teachers_are_found_by_the_names_of_their_runs(home):
    from mmkd.resolve import teacher_folders

    run = home / "runs" / "by-its-run" / "best"
    shutil.copytree(home / "models" / "flow", run)
    settings = small_settings(home, teachers={"folders": ["by-its-run", "rgb", str(home / "models" / "boxes")]})
    assert teacher_folders(settings) == (str(run), str(home / "models" / "rgb"), str(home / "models" / "boxes"))
    shutil.rmtree(run)
    with pytest.raises(FileNotFoundError, match="by-its-run is no model folder; looked for"):
        teacher_folders(settings)
