"""What a training can be asked for besides the defaults, each seen to do what it says."""

import json
import shutil

import numpy as np
import pytest
import torch

from mmkd.config import Settings, SettingsError
from mmkd.dataset import open_dataset
from mmkd.jobs import distill, train_teacher
from mmkd.models import create_model, load_model, save_model
from mmkd.optimizing import Updater
from mmkd.plan import Plan
from mmkd.runs import read_metrics
from tests.small import HEADS, small_settings, write_dataset, write_teachers

PLAIN = {"scale": (1.0, 1.0), "jitter": 0.0, "hue": 0.0}
SMALL_VIEWS = {"frames": 4, "size": 16, "boxes": 3, "audio_seconds": 0.1}
LABELS = {"distill_weight": 0.0, "label_weight": 1.0}
BOX = {"modality": "boxes", "arch": "stlt", "options": {"width": 16, "depth": 1, "num_heads": 2, "dropout": 0.0}}
"""A network without batch statistics or dropout, so that how a batch is divided does not matter."""


def run(home, name, job=distill, **sections):
    job(small_settings(home, **(sections | {"run": {"name": name, "trace": False} | sections.get("run", {})})))
    return home / "runs" / name


def train_rows(folder):
    return [row for row in read_metrics(folder) if row["kind"] == "train"]


def losses(folder):
    return [row["loss"] for row in train_rows(folder)]


def teach(home, name, **sections):
    return run(home, name, train_teacher, loss=LABELS, teacher=BOX, **sections)


def test_gradient_accumulation_gives_the_same_steps(home):
    whole = teach(home, "whole")
    parts = teach(home, "parts", optim={"epochs": 2, "batch_size": 8, "warmup_epochs": 0.5, "accumulate": 3})
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5)
    a, b = (load_model(folder / "best").state_dict() for folder in (whole, parts))
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


def test_activations_computed_again_give_the_same_steps(home):
    options = BOX | {"options": BOX["options"] | {"depth": 2}}
    optim = {"epochs": 1, "batch_size": 8}
    plain = run(home, "kept", train_teacher, loss=LABELS, teacher=options, optim=optim)
    again = run(
        home, "again-computed", train_teacher, loss=LABELS, teacher=options,
        optim=optim | {"checkpoint_activations": True},
    )  # fmt: skip
    assert losses(again) == pytest.approx(losses(plain), rel=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_a_compiled_network_takes_the_same_steps(home):
    optim = {"epochs": 1, "batch_size": 40}
    whole = {"arch": "r2plus1d_tiny", "options": {"channels": [4, 8], "dropout": 0.0}}
    plain = run(home, "not-compiled", student=whole, optim=optim)
    fast = run(home, "compiled", student=whole, optim=optim | {"compile": True})
    assert losses(fast) == pytest.approx(losses(plain), rel=1e-4)
    assert set(load_model(fast / "best").state_dict()) == set(load_model(plain / "best").state_dict())


def test_a_moving_average_is_what_is_validated_and_kept_and_a_resume_goes_on_with_it(home, tmp_path):
    optim = {"epochs": 2, "batch_size": 8, "ema": 0.9}
    folder = run(home, "ema", optim=optim)
    plain = run(home, "no-ema", optim=optim | {"ema": 0.0})
    assert losses(folder) == losses(plain)  # the training itself is the same
    a, b = (load_model(path / "best").state_dict() for path in (folder, plain))
    assert any(not torch.equal(a[name], b[name]) for name in a)
    (tmp_path / "data").symlink_to(home / "data")
    (tmp_path / "models").symlink_to(home / "models")
    shutil.copytree(folder, tmp_path / "runs" / "ema")
    shutil.rmtree(max((tmp_path / "runs" / "ema" / "checkpoints").glob("checkpoint_*")))
    (tmp_path / "runs" / "ema" / "result.json").unlink()
    resumed = run(tmp_path, "ema", optim=optim)
    val = [[row["val"] for row in read_metrics(path) if row["kind"] == "epoch"] for path in (folder, resumed)]
    assert val[0] == val[1]


def test_a_frozen_backbone_stays_as_it_was_and_the_heads_learn(home):
    start = run(home, "start", optim={"epochs": 1, "batch_size": 8})
    student = {"init": str(start / "best"), "arch": "", "options": {}, "freeze_backbone": True}
    folder = run(home, "frozen", student=student, optim={"epochs": 1, "batch_size": 8})
    before, after = (load_model(path / "best").state_dict() for path in (start, folder))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("backbone."))
    assert not torch.equal(before["heads.verb.weight"], after["heads.verb.weight"])


def test_starting_from_a_model_folder_takes_its_backbone_and_the_classes_of_the_same_name(home, tmp_path):
    torch.manual_seed(5)
    other = create_model("r2plus1d_tiny", {"verb": ["lift", "throw"], "tool": ["a"]}, "rgb", channels=(4, 8))
    save_model(other, tmp_path / "other")
    student = {"init": str(tmp_path / "other"), "arch": "", "options": {}, "freeze_backbone": True}
    folder = run(home, "started", student=student, optim={"epochs": 1, "batch_size": 8, "lr": 1e-9})
    model = load_model(folder / "best")
    assert torch.allclose(model.heads["verb"].weight[1], other.heads["verb"].weight[0], atol=1e-6)
    assert not torch.allclose(model.heads["verb"].weight[0], other.heads["verb"].weight[0])
    with pytest.raises(ValueError, match="does not fit"):
        run(home, "unfit", student=student | {"arch": "r2plus1d_tiny", "options": {"channels": [4, 16]}})


def test_earlier_layers_learn_more_slowly_with_layer_decay(home):
    settings = small_settings(home, optim={"layer_decay": 0.5, "name": "sgd"})
    model = create_model("r2plus1d_tiny", HEADS, "rgb", channels=(4, 8))
    plan = Plan(np.arange(8), np.arange(2), np.arange(0), 1, 8)
    optimizer = Updater(model, model, settings, plan, torch.device("cpu")).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scale = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scale["heads.verb.weight"] == 1.0
    assert scale["backbone.stem.0.weight"] < scale["backbone.blocks.1.spatial.weight"] < 1.0
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay["backbone.blocks.0.spatial_norm.weight"] == 0 == decay["heads.verb.bias"]
    assert decay["heads.verb.weight"] == settings.optim.weight_decay
    with pytest.raises(ValueError, match=r"optim\.name is 'adamx'"):
        Updater(model, model, small_settings(home, optim={"name": "adamx"}), plan, torch.device("cpu"))


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_gradients_that_are_not_finite_move_nothing(home, clip_norm):
    settings = small_settings(home, optim={"clip_norm": clip_norm})
    model = create_model("r2plus1d_tiny", HEADS, "rgb", channels=(4, 8))
    updater = Updater(model, model, settings, Plan(np.arange(8), np.arange(2), np.arange(0), 1, 8), torch.device("cpu"))
    updater.backward(sum(parameter.sum() for parameter in model.parameters()) * float("inf"))
    with pytest.raises(FloatingPointError):
        updater.step(0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_steps_are_near_those_in_full(home, precision):
    """On CPU, where training is otherwise in fp32: what autocast and the scaler do is the same."""
    plan = Plan(np.arange(8), np.arange(2), np.arange(0), 1, 8)
    frames = torch.randint(0, 255, (4, 4, 16, 16, 3), dtype=torch.uint8)
    after = {}
    for autocast in (False, True):
        torch.manual_seed(0)
        model = create_model("r2plus1d_tiny", HEADS, "rgb", channels=(4, 8), dropout=0.0)
        settings = small_settings(home, optim={"precision": precision, "name": "sgd", "lr": 0.1})
        updater = Updater(model, model, settings, plan, torch.device("cpu"), on_cpu=autocast)
        assert updater.scaler.is_enabled() == (autocast and precision == "fp16")
        with updater.autocast():
            logits = model(frames)
        assert (logits["verb"].dtype == torch.float32) != autocast
        updater.backward(sum(x.float().square().mean() for x in logits.values()))
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        updater.step(0)
        after[autocast] = torch.cat([(p.detach() - before[n]).flatten() for n, p in model.named_parameters()])
    cosine = torch.nn.functional.cosine_similarity(after[True], after[False], dim=0)
    assert cosine > 0.99 and after[True].norm() / after[False].norm() == pytest.approx(1.0, abs=0.1)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_clips(home):
    with pytest.raises(ValueError, match=r"not finite in epoch 1, step \d.*train-0\d\d.*lower optim\.lr"):
        run(home, "explodes", optim={"epochs": 3, "batch_size": 8, "lr": 1e30, "clip_norm": 0, "warmup_epochs": 0})


def test_features_of_a_teacher_can_be_a_third_term(home):
    loss = {"feature_weight": 1.0, "feature_teacher": "flow", "feature_layer": "backbone.blocks.1"}
    rows = train_rows(run(home, "features", loss=loss, optim={"epochs": 6, "batch_size": 8}))
    assert rows[-1]["feature"] < rows[0]["feature"]
    assert rows[0]["loss"] == pytest.approx(rows[0]["kd"] + rows[0]["feature"], rel=1e-5)
    model = json.loads((home / "runs" / "features" / "best" / "model.json").read_text())
    assert model["arch"] == "r2plus1d_tiny"  # the projection is not deployed
    load_model(home / "runs" / "features" / "best")
    with pytest.raises(ValueError, match=r"loss\.feature_teacher is 'audio'; the teachers are rgb, flow, boxes"):
        run(home, "no-such", loss=loss | {"feature_teacher": "audio"})


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"kind": "dkd", "label_weight": 0.5, "label_smoothing": 0.1}},
        {"loss": {"kind": "standardized_kl"}, "teachers": {"weighting": "per_sample", "ensemble": "probabilities"}},
        {"views": {"mixup": 0.4, "cutmix": 1.0, "mix_probability": 0.8}, "loss": {"label_weight": 0.5}},
        {"views": {"repeats": 2, "test_clips": 2, "test_crops": 3, "randaugment": 2}},
        {"optim": {"layer_decay": 0.8, "accumulate": 2, "ema": 0.99, "name": "lamb"}},
    ],
    ids=["dkd", "per-sample", "mixing", "repeats-and-test-views", "optimiser"],
)
def test_runs_with_other_settings_end_with_a_model(home, change, request):
    base = {
        "optim": {"epochs": 1, "batch_size": 8, "warmup_epochs": 0.5},
        "teachers": {"folders": ["rgb", "flow", "boxes"], "drop_near_chance": False},
    }
    merged = {key: base.get(key, {}) | change.get(key, {}) for key in base | change}
    merged["views"] = SMALL_VIEWS | merged.get("views", {})
    folder = run(home, f"with-{request.node.callspec.id}", **merged)
    assert all(np.isfinite(loss) for loss in losses(folder))
    load_model(folder / "best")


def test_mixing_moves_the_loss_but_leaves_validation_alone(home):
    views = SMALL_VIEWS
    optim = {"epochs": 1, "batch_size": 8, "lr": 1e-12}
    plain = run(home, "unmixed", views=views, optim=optim)
    mixed = run(home, "mixed", views=views | {"mixup": 1.0}, optim=optim)
    assert losses(mixed)[0] != losses(plain)[0]
    assert read_metrics(mixed)[-1]["val"]["verb"]["n"] == read_metrics(plain)[-1]["val"]["verb"]["n"] == 11


def test_labels_on_a_tenth_of_the_clips_are_enough_for_the_label_term(tmp_path):
    def unlabel(split, rows):
        if split != "train":
            return rows
        none = {"verb": None, "noun": None}
        # Among the labelled are some of the held-out clips, by which the teachers are weighed.
        return [row | {"labels": none} if i % 10 and i not in (3, 5, 6) else row for i, row in enumerate(rows)]

    write_dataset(tmp_path / "data" / "small", unlabel)
    write_teachers(tmp_path)
    rows = train_rows(run(tmp_path, "tenth", loss={"label_weight": 1.0}, data={"folder": "small", "weigh_share": 0.5}))
    assert all(np.isfinite(row["loss"]) and row["kd"] > 0 for row in rows)
    assert any(row["ce"] == 0 for row in rows) and any(row["ce"] > 0 for row in rows)


@pytest.mark.report
def test_multi_label_heads_are_trained_judged_and_reported(tmp_path):
    heads = HEADS | {"tags": ["red", "green", "far"]}

    def tag(split, rows):
        # What a clip's tags are shows in its verb and noun; one clip in seven has unknown tags.
        return [
            row | {"labels": row["labels"] | {"tags": None if i % 7 == 6 else [i % 3, 2] if i % 2 else [i % 3]}}
            for i, row in enumerate(rows)
        ]

    write_dataset(tmp_path / "data" / "small", tag, heads=heads, multi_label=["tags"])
    assert open_dataset(tmp_path / "data" / "small").multi_label == ["tags"]
    network = {"modality": "flow", "arch": "r2plus1d_tiny", "options": {"channels": [4, 8]}}
    optim = {"epochs": 12, "batch_size": 8, "lr": 0.01}
    teacher = run(tmp_path, "t", train_teacher, loss=LABELS, optim=optim, views=SMALL_VIEWS | PLAIN, teacher=network)
    model = load_model(teacher / "best")
    assert model.spec.multi_label == ["tags"]
    rows = [row for row in read_metrics(teacher) if row["kind"] == "epoch"]
    assert 0 < rows[-1]["val"]["tags"]["mean_average_precision"] <= 1 and "accuracy" in rows[-1]["val"]["action"]
    student = run(tmp_path, "s", teachers={"folders": [str(teacher / "best")], "drop_near_chance": False})
    competence = json.loads((student / "competence.json").read_text())
    assert competence["weight"]["tags"] == [1.0]
    assert "<html" in (student / "report.html").read_text()


def test_impossible_combinations_are_refused_naming_the_field(home):
    with pytest.raises(ValueError, match=r"views\.repeats"):
        run(home, "x", views={"repeats": 3})
    with pytest.raises(ValueError, match="feature_weight needs teachers"):
        Settings.model_validate({"loss": LABELS | {"feature_weight": 1.0}})
    with pytest.raises((ValueError, SettingsError), match="head_weights names"):
        run(home, "x2", loss={"head_weights": {"adverb": 1.0}})
