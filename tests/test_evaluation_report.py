"""What a person sees of an evaluation: the text and the page."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmkd.calibration import fit_temperature
from mmkd.cost.record import Cost
from mmkd.evaluation.scores import Evaluation, ModelScores
from mmkd.metrics import binned_calibration_error
from mmkd.report import evaluation_page
from mmkd.report.evaluation_page import CLOSELY, LISTED, shown_model, write_evaluation_page
from mmkd.report.evaluation_text import evaluation_text
from mmkd.report.mistakes import confident_mistakes
from mmkd.report.predictions import Predictions
from mmkd.report.strips import Strip
from mmkd.scoring import score

pytestmark = pytest.mark.slow

HEADS = {
    "verb": ["push", "lift", "drop", "turn", "shake", "roll", "spin"],
    "noun": ["cup", "ball", "box", "pen", "book", "key", "plate", "fork"],
}
NOISE = {"3x3": 1.0, "1x1": 1.5, "1x3": 1.2, "3x1": 1.1}
"""Test views to how noisy answers are."""
SIGNAL = {"teacher rgb": 1.6, "ensemble": 2.6, "ensemble per sample": 3.0, "baseline": 1.4}
"""How far a label's logit stands out of the noise; 2.2 where it is not said."""
MANY = ("teacher rgb", "teacher flow", "baseline", "student", "ensemble", "ensemble per sample")
EVIL = "<script>alert('$x^$')</script>"
CLIPS = 120


def made(
    *names: str,
    heads: Sequence[str] = tuple(HEADS),
    several: Sequence[str] = (),
    grids: Sequence[str] = ("3x3",),
    labelled: bool = True,
    costs: bool = False,
    scale: bool = True,
    rare: bool = True,
) -> Evaluation:
    """Made-up answers to clips of which ten lack a verb and none is of the last class.

    Args:
        several: heads with several labels a clip.
        rare: whether classes of the tail, of nouns, and unseen people are known.
    """
    drawn = np.random.default_rng(0)
    truth = {head: drawn.integers(len(HEADS[head]) - 1, size=CLIPS) for head in heads}
    truth["verb"][:10] = -1
    labels = truth if labelled else {head: np.full(CLIPS, -1) for head in heads}
    models = [_model(name, number, truth, labels, several, grids, scale, rare) for number, name in enumerate(names)]
    evaluation = Evaluation("test", models, {head: HEADS[head] for head in heads})
    if costs:
        evaluation.costs = [_cost(name, i) for i, name in enumerate(names) if name != "ensemble per sample"]
        evaluation.cost_notes = ["On a made-up machine."]
    return evaluation


def _model(
    name: str,
    seed: int,
    truth: Mapping[str, Any],
    labels: Mapping[str, Any],
    several: Sequence[str],
    grids: Sequence[str],
    scale: bool,
    rare: bool,
) -> ModelScores:
    logits = {grid: _logits(name, seed, truth, NOISE[grid]) for grid in grids}
    first, single = logits[grids[0]], [head for head in labels if head not in several]
    known = [head for head in single if (labels[head] >= 0).any()]
    fitted = {head: fit_temperature(first[head], labels[head]) for head in known} if scale else {}
    judged = {head: own if head in single else _many_labels(head, own) for head, own in labels.items()}
    tail, unseen = ({"noun": [0, 3]}, np.arange(CLIPS) % 5 == 0) if rare else (None, None)
    scores = {
        grid: score(own, judged, tail=tail, unseen=unseen, temperatures=fitted if grid == grids[0] else None)
        for grid, own in logits.items()
    }
    ids = [f"clip-{i}" for i in range(CLIPS)]
    answers = Predictions(name, ids, {h: labels[h] for h in single}, {h: first[h] for h in single}) if single else None
    labelled = any(own["n"] for own in scores[grids[0]].values())
    return ModelScores(name, 182_000 + seed, scores, answers, fitted, labelled)


def _logits(name: str, seed: int, truth: Mapping[str, Any], noise: float) -> dict[str, Any]:
    rng, logits = np.random.default_rng([seed, 9]), {}
    for head, labels in truth.items():
        own = noise * rng.normal(size=(CLIPS, len(HEADS[head])))
        own[np.arange(CLIPS), np.maximum(labels, 0)] += SIGNAL.get(name, 2.2)
        logits[head] = (1.8 * own).astype(np.float32)
    return logits


def _many_labels(head: str, labels: Any) -> Any:
    return np.where(labels[:, None] < 0, -1, np.arange(len(HEADS[head])) == labels[:, None]).astype(np.int8)


def _cost(name: str, number: int) -> Cost:
    parts = {"optical flow": 30.0} if name in ("teacher flow", "ensemble") else {}
    return Cost(name, 182_000 + number, 0.3 * (number + 1), 12.3 + 30 * len(parts), 340 / (number + 1), 5.2, parts, 16)


def full_evaluation() -> tuple[Evaluation, list[Strip]]:
    """Everything that a page can show, and strips of two mistakes."""
    evaluation = made(*MANY, grids=tuple(NOISE), costs=True)
    evaluation.broken = [(f"broken-{i}", "no frame could be decoded") for i in range(LISTED + 7)]
    evaluation.facts = [("data", "/a/long/path" * 20)]
    evaluation.settings_yaml = f"data:\n  folder: {'/a/long/path' * 20}\n"
    answers = shown_model(evaluation).predictions
    assert answers is not None
    return evaluation, [Strip(clip, np.full((4, 6, 8, 3), 50, np.uint8)) for clip in confident_mistakes(answers, 2)]


def page_of(folder: Path, evaluation: Evaluation, strips: Sequence[Strip] = ()) -> str:
    write_evaluation_page(folder / "report.html", evaluation, strips)
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    return (folder / "report.html").read_text(encoding="utf-8")


def seen_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


KINDS: dict[str, dict[str, Any]] = {
    "two heads": {},
    "two heads, all that there is": {"grids": tuple(NOISE), "costs": True},
    "one head": {"heads": ("verb",)},
    "without temperatures": {"scale": False, "rare": False},
    "several labels beside one": {"several": ("noun",), "grids": tuple(NOISE), "costs": True},
    "several labels only": {"several": ("verb", "noun"), "grids": tuple(NOISE)},
    "no labels": {"labelled": False, "costs": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("student",), MANY, ("a-very-long-name-of-a-model" * 4, "student")])
def test_text_of_any_kind_fits_the_terminal_and_has_its_page(kind: str, names: Sequence[str], tmp_path: Path) -> None:
    evaluation = made(*names, **KINDS[kind])
    text = evaluation_text(evaluation)
    assert max(map(len, text.splitlines())) <= 120
    assert not re.search(r"\bnan\b|None", text)
    if len(names) == 1:  # pictures take long
        assert not re.search(r"\bnan\b|None", seen_of(page_of(tmp_path, evaluation)))


def test_the_text_has_every_figure_with_its_error_or_its_floor() -> None:
    evaluation = made("student")
    text, (model,) = evaluation_text(evaluation), evaluation.models
    of = model.grids["3x3"]
    for head in ("verb", "noun", "action"):
        own, scaled = of[head], of[head]["scaled"]
        plain, after = re.findall(rf"^{head} .*$", text, re.MULTILINE)
        for key in ("top1", "tail", "unseen"):
            entry = own if key == "top1" else own.get(key)
            assert entry is None or f" {100 * entry['top1']:.1f} ±{100 * entry['top1_se']:.1f}" in plain
        for figures, line in ((own, plain), (scaled, after)):
            for key in ("ece", "ece_mass", *(["ece_class"] if head != "action" else [])):
                assert f" {100 * figures[key]:.1f} ({100 * figures[f'{key}_floor']:.1f})" in line
            assert line.endswith(f" {figures['nll']:.2f}  {figures['brier']:.3f}")
        assert f" {100 * own['top5']:.1f}" in plain and f" {100 * own['mean_class']:.1f}" in plain
        assert "±" not in after
    verb, noun = (model.temperatures[head] for head in ("verb", "noun"))
    assert f"after temperature scaling (T verb {verb:.2f}, noun {noun:.2f}, fitted on the validation split)" in text
    assert "110 to 120 clips of split test, 3x3 views" in text and "(verb 1 of 7, noun 1 of 8)" in text


def test_the_error_of_the_mean_over_classes_is_not_shown() -> None:
    evaluation = made("student")
    before = evaluation_text(evaluation)
    evaluation.models[0].grids["3x3"]["action"]["mean_class_se"] = 0.987
    assert evaluation_text(evaluation) == before


def test_columns_of_rare_classes_and_strangers_are_there_only_with_them() -> None:
    without, given = (evaluation_text(made("student", rare=rare)) for rare in (False, True))
    assert not re.search(r"tail|unseen", without, re.IGNORECASE)
    assert re.search(r"Tail: top-1 of clips of rare classes \(noun \d+, action \d+\)", given)
    assert "(verb 22, noun 24, action 22)" in given


def test_several_models_are_compared_first_in_a_line_each() -> None:
    evaluation = made("baseline", "student")
    top, after = evaluation_text(evaluation).split("\n\n")[0].splitlines(), "\n\nbaseline: 0.18 M parameters"
    assert len(top) == 4 and after in evaluation_text(evaluation)
    for line, model in zip(top[2:], evaluation.models, strict=True):
        own, scaled = model.grids["3x3"]["action"], model.grids["3x3"]["action"]["scaled"]
        assert line.startswith(model.name) and line.endswith(f"{scaled['nll']:.2f}   {scaled['brier']:.3f}")
        assert f"{100 * own['top1']:.1f} ±" in line and f"{100 * scaled['ece']:.1f} (" in line


def test_fewer_views_are_told_with_what_they_cost() -> None:
    evaluation = made("student", "ensemble per sample", grids=tuple(NOISE), costs=True)
    evaluation.costs.append(_cost("ensemble", 3))  # the same under each weighting
    text = evaluation_text(evaluation)
    for model, cost in zip(evaluation.models, (0.3, 1.2), strict=True):
        for grid, views in (("1x1", 1), ("1x3", 3), ("3x1", 3), ("3x3", 9)):
            share = 100 * model.grids[grid]["action"]["top1"]
            assert re.search(rf"^{grid} +{views} +{share:.1f} ±.* {views * cost:.3g}$", text, re.MULTILINE)
    assert "weighs its models by each clip's label" in text
    assert "GFLOPs" not in evaluation_text(made("student", grids=tuple(NOISE)))
    assert "grid" not in evaluation_text(made("student", costs=True))


def test_clips_without_labels_are_said_to_leave_nothing_to_score(tmp_path: Path) -> None:
    evaluation = made("student", "baseline", labelled=False, costs=True)
    page = page_of(tmp_path, evaluation)
    for text in (evaluation_text(evaluation), seen_of(page)):
        assert "Split test has no labels here" in re.sub(r"\s+", " ", text) and "submissions" in text
        assert "top-1" not in text and "12.3" in text and "baseline" in text
    assert "<img" not in page


def test_a_head_with_several_labels_has_its_mean_average_precision(tmp_path: Path) -> None:
    evaluation = made("student", several=("noun",))
    said = f"{100 * evaluation.models[0].grids['3x3']['noun']['mean_average_precision']:.1f}"
    assert f"noun: mean average precision {said} (120 clips)" in evaluation_text(evaluation)
    text = seen_of(page_of(tmp_path, evaluation))
    assert f" {said} " in text and "action" not in text


def test_the_page_shows_all_models_and_what_one_gets_wrong(tmp_path: Path) -> None:
    evaluation, strips = full_evaluation()
    page = page_of(tmp_path, evaluation, strips)
    text = seen_of(page)
    for model in evaluation.models:
        for own in model.grids["3x3"].values():
            assert f"{100 * own['top1']:.1f} ±{100 * own['top1_se']:.1f}" in text
            assert f"{100 * own['scaled']['ece']:.1f} ({100 * own['scaled']['ece_floor']:.1f})" in text
    assert "Mistakes of baseline" in text and page.count("<article") == len(strips)
    assert "broken-49" in page and "broken-50" not in page and "And 7 more" in text
    assert "On a made-up machine." in text and "/a/long/path" in text
    # Accuracy, reliability before and after, views, a matrix a head, and frames.
    assert page.count("<img ") == 1 + 2 * CLOSELY + 1 + 2 + 4 * len(strips)
    assert len(page) < 2_000_000


def test_reliability_is_drawn_of_the_logits_as_they_are_and_after_scaling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation, drawn = made("student"), []
    monkeypatch.setattr(evaluation_page, "reliability_panel", lambda title, result, colour: drawn.append(result))
    page_of(tmp_path, evaluation)
    own = evaluation.models[0].grids["3x3"]["action"]
    for result, figures in zip(drawn, (own, own["scaled"]), strict=True):
        error = binned_calibration_error(result.confidence[result.known], result.correct[result.known])
        assert error == pytest.approx(figures["ece"], abs=1e-5)


def test_reliability_is_drawn_of_few_models_and_once_where_nothing_was_scaled(tmp_path: Path) -> None:
    many = made(*(f"model {i}" for i in range(CLOSELY + 2)), heads=("verb",), scale=False)
    page = page_of(tmp_path, many)
    assert page.count("Reliability diagram") == CLOSELY and f"The first {CLOSELY} models" in page
    assert f"model {CLOSELY + 1}" in page and "temperature" not in page


def test_names_are_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    evaluation, strips = full_evaluation()
    evaluation.models = evaluation.models[2:4]
    evaluation.heads = {head: [EVIL + name for name in HEADS[head]] for head in HEADS} | {EVIL: HEADS["verb"]}
    evaluation.split = evaluation.settings_yaml = evaluation.models[0].name = EVIL
    evaluation.facts, evaluation.broken, evaluation.cost_notes = [(EVIL, EVIL)], [(EVIL, EVIL)], [EVIL]
    evaluation.costs = [_cost(EVIL, 1), _cost("student", 2)]
    for model in evaluation.models:
        model.grids = {grid: {EVIL if h == "verb" else h: x for h, x in of.items()} for grid, of in model.grids.items()}
        assert model.predictions is not None
        model.predictions.name = EVIL
    page = page_of(tmp_path, evaluation, strips)
    assert "<script" not in page and page.count("&lt;script&gt;") > 20
    assert "//" not in re.sub(r"base64,[^\"]*", "", page) and not re.search(r"<(script|link|iframe)\b|url\(", page)
    assert all(source.startswith("data:image/") for source in re.findall(r'\bsrc="([^"]*)"', page))


def test_the_same_evaluation_gives_the_same_page(tmp_path: Path) -> None:
    pages = {page_of(tmp_path, made("student", grids=("3x3", "1x1"))) for _ in range(2)}
    assert len(pages) == 1
