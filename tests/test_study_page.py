"""The report of a study: its page and its pictures."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from mmkd.report.predictions import Predictions
from mmkd.report.study_page import write_study_page, write_study_pictures
from mmkd.study.results import Arm, Claim, Contrast, Interval, StudyResults
from mmkd.study.results import Tested as Model
from mmkd.study.statistics import contrast
from mmkd.study.summaries import summarise
from tests.study_cases import made_results

pytestmark = pytest.mark.slow

EVIL = "<script>alert('$x^$')</script>"  # and a formula that matplotlib would stumble over
SECTIONS = [
    "Claims of the paper", "Students", "Accuracy and calibration", "Accuracy and cost", "Weighting under a bad teacher",
    "Differences to the reference", "Learning rate and epochs", "Fewer training clips", "Teachers", "Cost", "The study",
    "Settings",
]  # fmt: skip
PICTURES = [
    "accuracy_ece", "reliability", "accuracy_gflops", "accuracy_views", "weighting", "differences", "search",
    "data_share",
]  # fmt: skip
FOUND = Interval(0.1, 0.05, 0.15, 0.001)
CLAIMS = [
    Claim("It is more accurate.", "holds", "action accuracy", FOUND, 0.002, ["+10.0 points."]),
    Claim("It is better calibrated.", "does not hold", "ECE", FOUND, 0.002, ["+10.0 points, worse."]),
    Claim("It costs less.", "cannot be told", "GFLOPs", None, float("nan"), ["Nobody counted.", "Not even once."]),
]


def report_of(results: StudyResults, conditional: str = "") -> dict[str, Any]:
    """What the page is made of, with quick intervals."""
    contrasts = [contrast(results, arm.name, arm.reference, replicates=50) for arm in results.arms if arm.reference]
    summaries = summarise(results)
    return {
        "results": results,
        "summaries": summaries,
        "contrasts": contrasts,
        "claims": CLAIMS,
        "primary": contrasts[0],
        "conditional": conditional,
    }


@pytest.fixture(scope="module")
def full() -> dict[str, Any]:
    return report_of(made_results(seeds=3, clips=60))


@pytest.fixture(scope="module")
def page(full: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("full"), full)


def small(arms: tuple[str, str] = ("labels", "distilled"), head: str = "action") -> StudyResults:
    """Two arms, one seed, one head, one view, no costs."""
    named = [Arm(arms[0], arms[0], "primary", "", False), Arm(arms[1], arms[1], "primary", arms[0], False)]
    tested = []
    for place, arm in enumerate(arms):
        random = np.random.default_rng(place)
        labels = np.arange(40) % 3
        logits = (1.0 + place) * np.eye(3)[labels] + random.standard_normal((40, 3))
        answers = Predictions(arm, [f"clip {i}" for i in range(40)], {head: labels}, {head: logits})
        tested.append(Model(arm, 0, -1, {"1x1": answers}, answers))
    return StudyResults(named, tested, {head: ["a", "b", "c"]})


def written(folder: Path, report: dict[str, Any]) -> str:
    write_study_page(folder / "study.html", **report)
    assert [path.name for path in folder.iterdir()] == ["study.html"]
    return (folder / "study.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).replace("&nbsp;", " ").split())


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>([^<]*)</h2>", page)


def pictures(page: str) -> list[str]:
    return re.findall(r'<img class="picture" src="([^"]*)" alt="[^"]+"', page)


def test_a_whole_study_has_every_section_and_every_picture_with_words(page: str) -> None:
    assert headings(page) == SECTIONS
    assert len(pictures(page)) == len(PICTURES) == page.count('<p class="soft">', page.index('<div class="drawn"')) - 2
    assert len(page) < 2_000_000
    assert "nan" not in text_of(page).lower()


def test_the_page_begins_with_the_comparison_that_was_named(tmp_path: Path) -> None:
    accuracy, nll = Interval(0.0813, 0.05, 0.1124, 0.001), Interval(-0.25, -0.5, -0.125, 0.001)
    outcomes, each = {"action": {"accuracy": accuracy, "nll": nll}}, {"action": {"accuracy": [0.07, -0.01, 0.12]}}
    primary = Contrast("distilled", "labels", "test", [0, 1, 2], 1234, outcomes, each)
    page = written(tmp_path, report_of(small(), "Two sets of teachers.") | {"primary": primary})
    top = text_of(page).partition("Claims of the paper")[0]
    assert "distilled − labels: action accuracy +8.1 points (95 % interval +5.0 to +11.2)" in top
    assert "It holds: distilled is more accurate than labels, zero is outside the interval." in top
    assert "named before the study was run" in top and "NLL −0.250 nats (−0.500 to −0.125)" in top
    assert "3 seeds and 1,234 clips of split test" in top and "Seed by seed: +7.0, −1.0, +12.0 points." in top
    assert "Two sets of teachers." in top and "With one seed" not in top


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.02, 0.1, "It cannot be told which is more accurate"),
        (-0.1, -0.02, "It does not hold: distilled is less accurate than labels"),
    ],
)
def test_the_headline_says_what_the_interval_leaves_open(low: float, high: float, said: str, tmp_path: Path) -> None:
    middle = Interval((low + high) / 2, low, high, 0.1)
    report = report_of(small())
    report["primary"] = Contrast("distilled", "labels", "test", [0], 40, {"action": {"accuracy": middle}}, {})
    text = text_of(written(tmp_path, report))
    assert said in text and "With one seed, the interval says nothing of other seeds." in text


def test_a_claim_is_told_in_words_and_signs_with_its_numbers(page: str) -> None:
    cards = text_of(page[page.index("<h2>Claims") : page.index("<h2>Students")])
    assert "✓ holds It is more accurate. Decided by action accuracy. +10.0 points." in cards
    assert "✗ does not hold It is better calibrated. Decided by ECE." in cards
    assert "? cannot be told It costs less. Decided by GFLOPs. Nobody counted. Not even once." in cards


def test_students_stand_by_what_was_named_and_what_explores(page: str, full: dict[str, Any]) -> None:
    table = page[page.index('<table class="wide students">') :]
    table = table[: table.index("</table>")]
    assert re.findall(r'<tr class="apart">.*?<span>(.*?)</span>', table) == [
        "Named before the study was run",
        "Exploratory: 2 seeds, not corrected for many comparisons",
        "No students, for comparison (seeds: sets of teachers)",
    ]
    assert re.findall(r'<tr class="named">.*?<span class="note">(.*?)</span>', table) == ["labels", "distilled"]
    assert all(f'<span class="note">{arm.name}</span>' in table for arm in full["results"].arms)
    summary = next(each for each in full["summaries"] if each.arm.name == "distilled")
    own, interval = summary.heads["action"], full["primary"].outcomes["action"]["accuracy"]
    row = text_of(table[table.index('<span class="note">distilled<') :].partition("</tr>")[0]).replace("−", "-")
    assert f"3 {100 * own['accuracy']:.1f} ±{100 * own['accuracy_sd']:.1f} " in row
    assert f"{100 * interval.difference:+.1f} {100 * interval.low:+.1f} to {100 * interval.high:+.1f} to labels" in row
    assert f"{100 * own['ece']:.1f} ({100 * own['ece_floor']:.1f}) {own['nll']:.2f} {own['brier']:.3f}" in row
    assert f"{100 * summary.unseen['action']['accuracy']:.1f}" in row


def test_a_small_study_leaves_out_what_it_has_not(tmp_path: Path) -> None:
    page = written(tmp_path, report_of(small()) | {"claims": []})
    assert headings(page) == ["Students", "Accuracy and calibration", "Differences to the reference"]
    assert len(pictures(page)) == 3  # accuracy against ECE, reliability, differences
    assert "nan" not in text_of(page).lower() and "unseen" not in page


def test_a_cost_that_could_not_be_measured_is_a_dash(tmp_path: Path) -> None:
    report = report_of(small())
    report["results"].costs = [replace(made_results(1, 4).costs[0], peak_mb=float("nan"))]
    page = written(tmp_path, report)
    assert "student 0.18 M 0.42 3.1 410 - decoding 0.8 ms" in text_of(page[page.index("<h2>Cost") :])


def test_a_quick_study_says_so(tmp_path: Path) -> None:
    report = report_of(small())
    assert "A quick study" not in written(tmp_path, report)
    report["results"].quick = True
    assert "A quick study" in written(tmp_path, report)


def test_the_page_loads_nothing_and_names_are_escaped(tmp_path: Path) -> None:
    report = report_of(small((EVIL, "b" + EVIL), EVIL), EVIL)
    report["claims"] = [Claim(EVIL, EVIL, EVIL, None, float("nan"), [EVIL])]
    results = report["results"]
    results.facts, results.settings_yaml = [(EVIL, EVIL)], EVIL
    results.costs = [replace(cost, name=cost.name + EVIL, parts={EVIL: 1.0}) for cost in made_results(1, 4).costs]
    page = written(tmp_path, report)
    assert page.count("&lt;script&gt;") > 20
    assert not re.search(r"<(script|link|iframe|object)\b|url\(|@import|\bhref=", page)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in re.findall(r'\bsrc="([^"]*)"', page))


def test_pictures_are_written_and_show_something(tmp_path: Path, full: dict[str, Any]) -> None:
    write_study_pictures(tmp_path / "new" / "pictures", **full)
    assert sorted(path.stem for path in (tmp_path / "new" / "pictures").iterdir()) == sorted(PICTURES)
    for name in PICTURES:
        shown = imread(tmp_path / "new" / "pictures" / f"{name}.png")
        assert min(shown.shape[:2]) > 300 and (shown[..., :3].min(axis=2) < 0.5).mean() > 0.002


def test_the_same_study_gives_the_same_page(page: str, tmp_path: Path, full: dict[str, Any]) -> None:
    assert page == written(tmp_path, full)
    other = written(tmp_path, report_of(small()))
    assert not set(pictures(page)) & set(pictures(other))
