"""The main job in small: it compares what it trained with its teachers, on clips that were in no training."""

import json
import re

import numpy as np
import pytest

from mmkd.demo import demo
from mmkd.evaluation.split import split_logits
from mmkd.metrics import evaluate_heads
from mmkd.report.predictions import Predictions
from tests.small import SPLITS, small_settings


@pytest.fixture(scope="module")
def finished(home):
    settings = small_settings(home, run={"name": "demo"})
    return settings, demo(settings)


def test_the_table_names_every_model_and_holds_what_was_measured(finished, home):
    _, result = finished
    run = home / "runs" / "demo"
    table = (run / "table.txt").read_text()
    names = ["teacher rgb", "teacher flow", "teacher boxes", "ensemble", "baseline", "student"]
    assert [name for name in names if re.search(rf"^{name} ", table, re.MULTILINE)] == names
    student = Predictions.load(run / "predictions" / "student.parquet")
    assert len(student.clip_ids) == SPLITS["test"] and "student - baseline: action" in table
    measured = evaluate_heads(student.logits, student.labels)
    assert result["test"]["student"] == {head: round(m["accuracy"], 4) for head, m in measured.items()}
    assert f"{100 * measured['verb']['accuracy']:.1f} ±" in table
    assert (run / "report.html").is_file() and result["model"] == str(home / "runs" / "demo-student" / "best")


def test_the_ensemble_is_weighted_as_its_teachers_were_judged(finished, home):
    run = home / "runs"
    weights = json.loads((run / "demo-student" / "competence.json").read_text())["weight"]
    answers = {name: Predictions.load(run / "demo" / "predictions" / f"{name}.parquet")
               for name in ("teacher-rgb", "teacher-flow", "teacher-boxes", "ensemble")}  # fmt: skip
    for head, shares in weights.items():
        parts = [answers[name].logits[head] for name in ("teacher-rgb", "teacher-flow", "teacher-boxes")]
        expected = sum(share * part for share, part in zip(shares, parts, strict=True))
        assert np.allclose(answers["ensemble"].logits[head], expected, atol=1e-5)


def test_evaluation_sees_every_clip_once_and_in_the_order_of_its_manifest(finished):
    settings, result = finished
    logits = split_logits(settings, [result["model"]], "val")
    assert logits.clip_ids == [f"val-{i:03d}" for i in range(SPLITS["val"])]
    assert logits.present.all() and logits.broken == []


def test_the_same_command_again_says_that_it_is_finished_and_shows_the_table(finished, capsys):
    settings, result = finished
    assert demo(settings) == result
    shown = capsys.readouterr().err
    assert "is finished" in shown and "teacher boxes" in shown
