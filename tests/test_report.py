"""Stored predictions, the comparison table and the report page."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from matplotlib.figure import Figure

from mmkd.metrics import evaluate_heads
from mmkd.report.figures import epoch_axes
from mmkd.report.mistakes import confident_mistakes
from mmkd.report.page import Curve, Report, Strip, write_report
from mmkd.report.predictions import Predictions, outcomes
from mmkd.report.strips import strip_card
from mmkd.report.table import comparison, difference, format_table
from mmkd.run_report import clip_strips, write_run_report
from tests.small import HEADS, SPLITS, make_clip, small_settings, write_dataset

pytestmark = pytest.mark.slow

CLASSES = {"verb": ["lift", "drop", "shake"], "noun": ["mug", "ball"]}
EVIL = "<script>alert('$x^$')</script>"  # and a formula that matplotlib would stumble over


def made(
    name: str, seed: int, *, n: int = 60, signal: float = 1.0, heads: tuple[str, ...] = ("verb", "noun")
) -> Predictions:
    """Predictions on clip-0 .. clip-n-1, whose labels are the same for every seed; one verb label is unknown."""
    truth, noise = np.random.default_rng(0), np.random.default_rng(seed)
    labels = {head: truth.integers(len(names), size=n) for head, names in CLASSES.items()}
    labels["verb"][5] = -1
    logits = {head: noise.normal(size=(n, len(names))).astype(np.float32) for head, names in CLASSES.items()}
    for head, scores in logits.items():
        scores[np.arange(n), labels[head]] += signal
    clips = [f"clip-{i}" for i in range(n)]
    return Predictions(
        name, clips, {h: labels[h] for h in heads}, {h: logits[h] for h in heads}, 182_000, f"seed {seed}"
    )


def shuffled(one: Predictions, seed: int = 3) -> Predictions:
    order = np.random.default_rng(seed).permutation(len(one.clip_ids))
    return Predictions(
        one.name,
        [one.clip_ids[i] for i in order],
        {head: labels[order] for head, labels in one.labels.items()},
        {head: logits[order] for head, logits in one.logits.items()},
    )


def curve(name: str) -> Curve:
    train = [{"kind": "train", "step": i, "epoch": 1, "loss": 2 / i, "kd": 1 / i, "ce": 3 / i} for i in range(1, 90)]
    val = {head: {"accuracy": 0.5} for head in (*CLASSES, "action")}
    return Curve(name, [*train, {"kind": "epoch", "epoch": 1, "position": 89, "score": 0.5, "val": val}])


def full_report() -> Report:
    models = [made("teacher rgb", 1), made("ensemble", 2, signal=3), made("baseline", 3), made("student", 4, signal=2)]
    shares = {"verb": [0.5], "noun": [0.6]}
    return Report(
        title="tabletop",
        lead="Student and baseline.",
        facts=[("run", "/runs/a & b")],
        heads=CLASSES,
        predictions=models,
        curves=[curve("student"), curve("baseline")],
        strips=[
            Strip("clip-1", np.full((12, 6, 8, 3), 99, np.uint8)),
            Strip("clip-5", np.zeros((2, 6, 8, 3), np.uint8)),
        ],
        difference=("student", "baseline"),
        competence={
            "names": ["rgb"],
            "accuracy": shares,
            "ece": shares,
            "cross_entropy": shares,
            "weight": {"verb": [1.0], "noun": [0.0]},
            "count": {"verb": [30], "noun": [30]},
            "chance": {"verb": 0.4, "noun": 0.5},
        },
        mistakes_of="student",
        mistakes=[Strip(clip, np.full((4, 6, 8, 3), 50, np.uint8)) for clip in confident_mistakes(models[3], 2)],
        settings_yaml="run:\n  seed: 0\n",
    )


def written(folder: Path, report: Report) -> str:
    write_report(folder / "report.html", report)
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    return (folder / "report.html").read_text(encoding="utf-8")


def run_page(home: Path, run: Path) -> tuple[Path, list[str]]:
    """report.html of a finished run on the small data, and its most confident mistakes."""
    settings, noise = small_settings(home), np.random.default_rng(0)
    clips = [make_clip("val", number) for number in range(SPLITS["val"])]
    labels = {head: np.array([clip.labels[head] for clip in clips]) for head in HEADS}
    logits = {head: noise.normal(size=(len(clips), len(names))) for head, names in HEADS.items()}
    answers = Predictions("distill", [clip.clip_id for clip in clips], labels, logits)
    answers.save(run / "predictions-val.parquet")
    settings.save(run / "config.yaml")
    result = {"kind": "distill", "epochs": 1, "best_epoch": 1, "run_folder": str(run), "seconds": 1.0}
    result |= {"clips_per_second": 9.0, "wait_share": 0.1, "broken_clips": 0}
    (run / "result.json").write_text(json.dumps(result))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve("distill").rows))
    write_run_report(settings, run)
    return run / "report.html", confident_mistakes(answers, 6)


def text_of(page: str) -> str:
    return re.sub(r"<[^>]*>", " ", page)


def test_predictions_come_back_from_parquet_as_they_were(tmp_path: Path) -> None:
    before = made("student é", 1)
    before.save(tmp_path / "p" / "student.parquet")
    after = Predictions.load(tmp_path / "p" / "student.parquet")
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["student.parquet"]
    assert (after.name, after.clip_ids, after.parameters, after.note) == (
        before.name,
        before.clip_ids,
        182_000,
        "seed 1",
    )
    assert list(after.logits) == ["verb", "noun"]
    for head in CLASSES:
        assert np.array_equal(after.labels[head], before.labels[head]) and after.labels[head].dtype == np.int64
        assert np.array_equal(after.logits[head], before.logits[head]) and after.logits[head].dtype == np.float32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clip_ids": ["a", "a"]}, "more than once"),
        ({"labels": {"verb": [0, 3]}}, "3 classes"),
        ({"labels": {"noun": [0, 1]}}, "must be the same"),
        ({"logits": {"verb": [[0, 0, 0], [0, float("nan"), 0]]}}, "'b' are not finite"),
        ({"logits": {"verb": [[0, 0, 0]]}}, "2 clips"),
    ],
)
def test_predictions_that_do_not_fit_together_are_refused(change: dict, said: str) -> None:
    good = {"clip_ids": ["a", "b"], "labels": {"verb": [0, -1]}, "logits": {"verb": np.zeros((2, 3))}}
    Predictions("student", **good)
    with pytest.raises(ValueError, match=said):
        Predictions("student", **(good | change))


def test_outcomes_of_clips_average_to_the_metrics() -> None:
    one = made("student", 1)
    metrics = evaluate_heads(one.logits, one.labels)
    for head, result in outcomes(one).items():
        known = result.known
        assert known.sum() == metrics[head]["n"]
        assert result.correct[known].mean() == pytest.approx(metrics[head]["accuracy"])
        assert result.nll[known].mean() == pytest.approx(metrics[head]["nll"])


def test_difference_pairs_clips_by_id_and_not_by_place() -> None:
    a, b = made("student", 1, signal=2), made("baseline", 2)
    straight, crossed = difference(a, b), difference(a, shuffled(b))
    assert list(straight) == ["verb", "noun", "action"]
    assert straight["verb"]["n"] == straight["action"]["n"] == 59
    for head, entry in straight.items():
        for key in ("accuracy", "nll", "ece"):
            assert crossed[head][key] == pytest.approx(entry[key], abs=1e-12)
            ours, theirs = (evaluate_heads(each.logits, each.labels)[head][key] for each in (a, b))
            assert entry[key]["difference"] == pytest.approx(ours - theirs)
            assert entry[key]["low"] < entry[key]["high"]


def test_intervals_are_95_percent_of_the_paired_spread() -> None:
    a, b = made("student", 1, n=400, signal=2), made("baseline", 2, n=400)
    entry, ours, theirs = difference(a, b)["noun"], outcomes(a)["noun"], outcomes(b)["noun"]
    for key, values in (("accuracy", ours.correct * 1.0 - theirs.correct), ("nll", ours.nll - theirs.nll)):
        half = 1.96 * values.std() / 20
        assert entry[key]["low"] == pytest.approx(values.mean() - half, abs=0.01 * half)
        assert entry[key]["high"] == pytest.approx(values.mean() + half, abs=0.01 * half)
    # The spread of a calibration error over 400 clips: a few points, not a few tenths or tens of points.
    assert 0.02 < entry["ece"]["high"] - entry["ece"]["low"] < 0.2


def test_a_model_compared_with_itself_differs_by_nothing() -> None:
    one = made("student", 1)
    for entry in difference(one, shuffled(one)).values():
        for key in ("accuracy", "nll", "ece"):
            assert entry[key] == pytest.approx({"difference": 0, "low": 0, "high": 0}, abs=1e-12)


def test_difference_is_refused_for_other_clips_or_labels() -> None:
    with pytest.raises(ValueError, match=r"1 of them are in one only \(such as 'clip-60'\)"):
        difference(made("student", 1, n=60), made("baseline", 1, n=61))
    other = made("baseline", 1)
    other.labels["noun"][7] = 1 - other.labels["noun"][7]
    with pytest.raises(ValueError, match=r"other labels of head 'noun' in 1 clips \(such as 'clip-7'\)"):
        difference(made("student", 1), other)
    with pytest.raises(ValueError, match="compare like"):
        difference(made("student", 1), made("baseline", 1, heads=("verb",)))


def test_terminal_table_shows_what_was_measured_in_120_columns() -> None:
    models = [made("baseline", 1), made("student with a name that is far too long for a table", 2, signal=3)]
    rows, gain = comparison(models), difference(models[1], models[0])
    table = format_table(rows, {"student - baseline": gain})
    assert max(map(len, table.splitlines())) <= 120
    for row in rows:
        for metrics in row["metrics"].values():
            cell = f"{100 * metrics['accuracy']:.1f} ±{100 * metrics['standard_error']:.1f}"
            assert re.search(rf"{re.escape(cell)} +{100 * metrics['ece']:.1f} +{metrics['nll']:.2f}", table)
    points = {key: f"{100 * gain['action']['accuracy'][key]:+.1f}" for key in ("difference", "low", "high")}
    line = (
        f"student - baseline: action {points['difference']} points (95 % interval {points['low']} to {points['high']})"
    )
    assert line in table and "0.18 M" in table and "59 to 60 clips" in table


def test_many_heads_are_shown_in_blocks_that_fit() -> None:
    labels, logits = {f"head{i}": [0, 1] for i in range(7)}, {f"head{i}": np.eye(2) for i in range(7)}
    table = format_table(comparison([Predictions("student", ["a", "b"], labels, logits)]))
    assert max(map(len, table.splitlines())) <= 120
    assert all(f"head{i}" in table for i in range(7)) and table.count("100.0 ±0.0") == 8


def test_clips_without_any_label_give_dashes(tmp_path: Path) -> None:
    blind = Predictions("student", ["a", "b"], {"verb": [-1, -1]}, {"verb": np.eye(2, 3)})
    assert re.search(r"student +- +- +- +-\n", format_table(comparison([blind])))
    page = written(tmp_path, Report("t", "", [], {"verb": CLASSES["verb"]}, [blind], [], []))
    assert "nan" not in text_of(page)


def test_the_page_shows_the_figures_the_difference_and_the_clips(tmp_path: Path) -> None:
    report = full_report()
    text = text_of(written(tmp_path, report))
    for row in comparison(report.predictions):
        metrics = row["metrics"]["action"]
        assert f"{100 * metrics['accuracy']:.1f} ±{100 * metrics['standard_error']:.1f}" in text
    gain = difference(report.predictions[3], report.predictions[2])["action"]["accuracy"]["difference"]
    assert f"{100 * gain:+.1f} points" in text
    student = report.predictions[3]
    assert CLASSES["noun"][student.labels["noun"][1]] in text and "clip-1" in text
    assert "unknown · " in text and "label unknown" in text  # clip-5 has no verb
    assert "/runs/a &amp; b" in text and "seed: 0" in text


def test_strips_say_right_or_wrong_by_sign_and_word(tmp_path: Path) -> None:
    labels = {"verb": [1, 1]}
    models = [
        Predictions("baseline", ["a", "b"], labels, {"verb": [[9, 0, 0], [0, 9, 0]]}),
        Predictions("student", ["a"], {"verb": [1]}, {"verb": [[0, 9, 0]]}),
    ]
    report = Report("t", "", [], {"verb": CLASSES["verb"]}, models, [], [Strip("a", np.zeros((3, 6, 8, 3), np.uint8))])
    card = re.search(r"<article.*?</article>", written(tmp_path, report))
    assert card is not None and card[0].count("<img ") == 3
    assert re.search(r"baseline\s+✗ wrong\s+lift\s+100&nbsp;%\s+student\s+✓ right\s+drop", text_of(card[0]))


def test_large_frames_are_shown_smaller_in_their_shape() -> None:
    one = Predictions("student", ["a"], {"verb": [1]}, {"verb": [[0, 9, 0]]})
    card = strip_card(Strip("a", np.zeros((2, 240, 320, 3), np.uint8)), [one], CLASSES)
    jpegs = [base64.b64decode(content) for content in re.findall(r'base64,([^"]*)"', card)]
    assert [simplejpeg.decode_jpeg_header(jpeg)[:2] for jpeg in jpegs] == [(144, 192)] * 2


def test_the_page_of_a_run_shows_clips_of_its_split_and_its_mistakes(home: Path, tmp_path: Path) -> None:
    page, wrong = run_page(home, tmp_path / "student")
    text, html = text_of(page.read_text()), page.read_text()
    shown = html[html.index("Most confident mistakes") : html.index("Example clips")]
    assert re.findall(r"val-\d+", shown) == wrong and len(wrong) == 6
    assert "Mistakes of distill" in text and html.count("<article") == 12


def test_frames_are_those_of_the_clips_asked_for_and_broken_clips_are_left_out(home: Path, tmp_path: Path) -> None:
    asked = ["val-004", "val-000", "val-009"]
    strips = clip_strips(small_settings(home), "val", asked)
    assert [strip.clip_id for strip in strips] == asked
    for strip in strips:
        # The moving square is red or green after the noun.
        noun = int(strip.clip_id[-3:]) // 3 % 2
        means = strip.frames.mean(axis=(0, 1, 2))
        assert strip.frames.shape == (4, 16, 16, 3) and means[noun] > means[1 - noun] + 10

    def spoilt(split: str, rows: list) -> list:
        rows[0]["rgb"] = [b"no picture"] * len(rows[0]["rgb"])
        return rows

    write_dataset(tmp_path / "data" / "small", spoilt)
    strips = clip_strips(small_settings(tmp_path), "val", asked)
    assert [strip.clip_id for strip in strips] == ["val-004", "val-009"]
    with pytest.raises(KeyError, match="train-000"):
        clip_strips(small_settings(home), "val", ["train-000"])


def test_names_from_data_are_escaped(tmp_path: Path) -> None:
    report = full_report()
    report.heads = {head: [f"{EVIL}{name}" for name in names] for head, names in CLASSES.items()}
    report.title = report.lead = report.settings_yaml = EVIL
    report.facts = [(EVIL, EVIL)]
    report.predictions[3].name = report.predictions[3].note = report.curves[0].name = EVIL
    report.difference, report.mistakes_of = (EVIL, "baseline"), EVIL
    report.competence = {**(report.competence or {}), "names": [EVIL]}
    renamed = report.predictions[1]
    renamed.clip_ids[1] = report.strips[0].clip_id = EVIL
    page = written(tmp_path, report)
    assert "<script" not in page and page.count("&lt;script&gt;") > 12


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, full_report())
    sources = re.findall(r'\bsrc="([^"]*)"', page)
    # Accuracy, learning, reliability, and the two clips' frames; a matrix a head, and the two mistakes' frames.
    assert len(sources) == 2 + 5 + 3 + 8 + 2 + 2 + 4 + 4
    assert all(source.startswith(("data:image/svg+xml;base64,", "data:image/jpeg;base64,")) for source in sources)
    assert "//" not in re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"<(script|link|iframe|object)\b|url\(|@import|\bhref=", page)


@pytest.mark.parametrize("values", [[60.0], [60.0, 60.1], [10.0, 100.0], [0.0, 0.0]])
def test_a_ring_around_the_highest_point_is_whole(values: list[float]) -> None:
    figure = Figure(figsize=(4.4, 3.0))
    axes = figure.subplots()
    axes.plot(range(len(values)), values)
    epoch_axes(axes)
    low, high = axes.get_ylim()
    room = 72 * 3.0 * axes.get_position().height * (high - max(values)) / (high - low)
    assert low == 0 and room > 6.5  # points: half the ring's size and line


def test_the_same_report_gives_the_same_file(tmp_path: Path) -> None:
    assert written(tmp_path, full_report()) == written(tmp_path, full_report())


def test_one_model_with_one_head_and_nothing_else_gives_a_page(tmp_path: Path) -> None:
    one = made("student", 1, heads=("verb",))
    page = written(
        tmp_path, Report("distill", "On val.", [], {"verb": CLASSES["verb"]}, [one], [Curve("student", [])], [])
    )
    accuracy = comparison([one])[0]["metrics"]["verb"]["accuracy"]
    assert f"{100 * accuracy:.1f} ±" in text_of(page) and "action" not in text_of(page)
    assert page.count("<img ") == 1  # the reliability diagram
    assert not re.search("Learning|Mistakes|Teachers|Example clips|Settings", page)


def test_a_report_that_does_not_fit_together_is_refused_before_it_is_written(tmp_path: Path) -> None:
    one = made("student", 1)
    cases = [
        ("different names", Report("t", "", [], CLASSES, [one, one], [], [])),
        ("one prediction or more", Report("t", "", [], CLASSES, [], [], [])),
        ("3 classes in head 'verb'", Report("t", "", [], CLASSES | {"verb": ["lift"]}, [one], [], [])),
        (r"difference with \['baseline'\]", Report("t", "", [], CLASSES, [one], [], [], ("student", "baseline"))),
        ("mistakes of 'baseline'", Report("t", "", [], CLASSES, [one], [], [], mistakes_of="baseline")),
    ]
    for said, report in cases:
        with pytest.raises(ValueError, match=said):
            write_report(tmp_path / "report.html", report)
    assert not list(tmp_path.iterdir())
