"""The result page of a sweep."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmkd.report import sweep_figures
from mmkd.report.sweep_page import Cost, SweepReport, TrialRow, pareto_front, write_sweep_page

pytestmark = pytest.mark.slow

EVIL = "<script>alert('$x^$')</script>"  # and a formula that matplotlib would stumble over


def trial(name: str, accuracy: float | None, ece: float | None = None, **changed: Any) -> TrialRow:
    """A trial of three epochs, the last the best."""
    number = sum(map(ord, name))
    values = {"loss.temperature": 1.0 + number % 7, "loss.label_weight": number % 5 / 5, "loss.kind": "kl"}
    curve = [] if accuracy is None else [(1, 0.5 * accuracy), (2, 0.8 * accuracy), (3, accuracy)]
    nll = None if accuracy is None else 1.25
    row = TrialRow(name, values, "finished", 3, accuracy, ece, nll, curve, 41.0, f"/runs/sweep/{name}")
    return replace(row, **changed)


def report_of(trials: list[TrialRow], best: str) -> SweepReport:
    val = {"verb": {"accuracy": 0.7}, "action": {"accuracy": 0.6}}
    rows = [{"kind": "train", "step": i, "epoch": 1, "loss": 2 / i} for i in range(1, 20)]
    return SweepReport(
        title="Sweep of the student",
        lead="A few trials.",
        facts=[("search", "optuna, seed 0")],
        space=[("loss.temperature", "1 to 10, logarithmic"), ("loss.label_weight", "0 to 1")],
        log_scale={"loss.temperature"},
        trials=trials,
        best=best,
        measure="action accuracy",
        pareto=False,
        cost=Cost(4, 1000, 0, 7000, 8000, 60.0, 90.0, 100.0, 1.5),
        best_rows=[*rows, {"kind": "epoch", "epoch": 1, "position": 19, "score": 0.6, "val": val}],
        best_values_yaml="loss:\n  temperature: 4.0\n",
        settings_yaml="run:\n  seed: 0\n",
    )


def usual() -> SweepReport:
    best = trial("03", 0.6213, 0.081, values={"loss.temperature": 4.37, "loss.label_weight": 0.31, "loss.kind": "dkd"})
    early = trial("01", 0.3, 0.05, status="stopped", epochs=1, curve=[(1, 0.3)])
    broken = trial("02", None, status="failed", epochs=0, error="ValueError: a < b & c")
    return report_of([trial("00", 0.55, 0.03), early, broken, best, trial("04", 0.5, 0.09)], "03")


def written(folder: Path, report: SweepReport) -> str:
    write_sweep_page(folder / "sweep.html", report)
    assert [path.name for path in folder.iterdir()] == ["sweep.html"]
    return (folder / "sweep.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).replace("&nbsp;", " ").split())


def pictures(page: str) -> list[str]:
    return re.findall(r'<img class="picture" src="([^"]*)"', page)


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([("a", 0.5, 0.1)], ["a"]),
        ([("a", 0.5, 0.1), ("b", 0.6, 0.2), ("c", 0.4, 0.3)], ["b", "a"]),
        ([("a", 0.5, 0.1), ("b", 0.5, 0.2)], ["a"]),  # as accurate, worse calibrated
        ([("a", 0.5, 0.1), ("b", 0.4, 0.1)], ["a"]),
        ([("a", 0.5, 0.1), ("b", 0.5, 0.1)], ["a", "b"]),  # neither is better
        ([("a", None, 0.01), ("b", 0.9, None), ("c", 0.5, 0.1), ("d", float("nan"), 0.0)], ["c"]),
        ([("a", 0.5, None)], []),
        ([], []),
    ],
)
def test_the_front_is_what_no_other_trial_beats(points: list[tuple], front: list[str]) -> None:
    assert pareto_front([trial(name, accuracy, ece) for name, accuracy, ece in points]) == front


def test_the_page_says_what_was_best_how_trials_ended_and_what_it_cost(tmp_path: Path) -> None:
    page = written(tmp_path, usual())
    text = text_of(page)
    assert "Best is trial 03: action accuracy 62.1 % on val" in text
    assert "loss.temperature 4.37 , loss.label_weight 0.31 , loss.kind dkd" in text
    assert "5 trials: 3 finished, 1 stopped early, 1 failed." in text
    assert "best 62.1 %, median 55.0 %, worst 50.0 %" in text and "test split" in text
    assert "computed by this sweep: 1,000" in text and "on its own: 8,000" in text and "8 times that" in text
    assert "temperature: 4.0" in text and "1 to 10, logarithmic" in text and "seed: 0" in text
    # The map, all settings, three panels, the front, all curves, and the best trial's loss and two heads.
    assert len(pictures(page)) == 10


def test_trials_stand_by_accuracy_and_the_failed_last_with_their_error(tmp_path: Path) -> None:
    page = written(tmp_path, usual())
    table = page[page.index("<h2>Trials</h2>") :]
    assert re.findall(r'<th class="first">(\d+) ', table) == ["03", "00", "04", "01", "02"]
    row = text_of(table[table.index('<th class="first">03') :])
    assert row.startswith("03 best, front 62.1 8.1 1.25 3 41 finished 4.37 0.31 dkd")
    assert "02 - - - 0 41 failed" in text_of(table) and "ValueError: a &lt; b &amp; c" in table


def test_a_status_that_is_not_known_is_shown_as_it_is(tmp_path: Path) -> None:
    report = usual()
    report.trials[0].status = "<lost>"
    page = written(tmp_path, report)
    assert "5 trials: 2 finished, 1 stopped early, 1 failed, 1 &lt;lost&gt;." in page
    assert "squares: &lt;lost&gt;." in page
    assert "00 front 55.0 3.0 1.25 3 41 &lt;lost&gt;" in text_of(page)

    def drawn(temperature: float) -> str:
        trials = [replace(report.trials[0], values={"loss.temperature": temperature}), *report.trials[1:]]
        return sweep_figures.setting_panel(trials, "03", "loss.temperature", set(), "accuracy")

    assert drawn(2.0) != drawn(3.0)  # it has a mark, which moves; the axis goes from 1 to 7 in both


def test_the_front_is_shown_where_there_is_an_ece(tmp_path: Path) -> None:
    report = usual()
    assert "<h2>Accuracy and calibration</h2>" in written(tmp_path, report)
    report.pareto = True
    assert "<h2>Accuracy and calibration, searched for together</h2>" in written(tmp_path, report)
    for row in report.trials:
        row.ece = None
    page = written(tmp_path, report)
    assert "Accuracy and calibration" not in page and "front" not in page[: page.index("<h2>Trials")]


def test_the_page_loads_nothing_and_text_is_escaped(tmp_path: Path) -> None:
    report = usual()
    report.title = report.lead = report.measure = report.best_values_yaml = report.settings_yaml = EVIL
    report.facts, report.space = [(EVIL, EVIL)], [(EVIL, EVIL)]
    report.trials[2] = replace(report.trials[2], name=EVIL, error=EVIL, run_folder=EVIL)
    report.trials[3].values = {EVIL: EVIL, "loss.temperature": 2.0}
    page = written(tmp_path, report)
    assert page.count("&lt;script&gt;") > 12
    assert not re.search(r"<(script|link|iframe|object)\b|url\(|@import|\bhref=", page)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in re.findall(r'\bsrc="([^"]*)"', page))


def test_a_best_trial_that_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'09' .* not among the trials \['00', '01', '02', '03', '04'\]"):
        write_sweep_page(tmp_path / "sweep.html", replace(usual(), best="09"))
    with pytest.raises(ValueError, match=r"'02' .* has no accuracy"):
        write_sweep_page(tmp_path / "sweep.html", replace(usual(), best="02"))
    assert not list(tmp_path.iterdir())


def test_one_trial_that_took_all_answers_from_the_bank_gives_a_page(tmp_path: Path) -> None:
    report = report_of([trial("00", 0.5)], "00")
    report.cost = Cost(1, 0, 500, 1000, 1000, 0.0, 9.0, 9.0, 0.2)
    report.best_rows, report.facts, report.settings_yaml = [], [], ""
    text = text_of(written(tmp_path, report))
    assert "1 trial: 1 finished." in text and "test split" not in text
    assert "1 teacher computed 0 answers for 1 trial." in text and "no recording pass" in text and "before: 500" in text
    assert "nan" not in text.lower() and "Settings" not in text


def test_one_setting_is_shown_against_accuracy(tmp_path: Path) -> None:
    report = usual()
    for row in report.trials:
        row.values = {"optim.lr": 0.001 * (1 + int(row.name))}
    page = written(tmp_path, report)
    assert "Accuracy over" not in page and "All settings" not in page
    assert "Accuracy against optim.lr." in page


def test_any_kind_of_value_and_absent_ones_are_shown(tmp_path: Path) -> None:
    report, lists = usual(), [[64], [64, 32], [64]]
    for i, row in enumerate(report.trials):
        row.accuracy = 0.5 if row.accuracy is not None else None
        row.values = {"views.flip": bool(i % 2), "model.width": lists[i % 3], "a.very_long_name_of_a_setting" * 3: i}
        if i % 2:
            row.values["optim.warmup"] = None if i == 1 else "auto"
    table = text_of(written(tmp_path, report)).split("Trials")[-1]
    assert "true [64] 3 auto" in table and "false [64] 0 -" in table and "true [64, 32] 1 null" in table


def test_two_hundred_trials_give_a_page(tmp_path: Path) -> None:
    trials = [trial(f"{i:03}", 0.3 + (i * 37 % 200) / 500, 0.02 + (i * 91 % 200) / 900) for i in range(200)]
    best = max(trials, key=lambda row: row.accuracy or 0)
    report = replace(report_of(trials, best.name), best_rows=[])
    text = text_of(written(tmp_path, report))
    assert "200 trials: 200 finished." in text and all(f" {row.name} " in text for row in trials)


def test_other_data_give_other_pictures_and_the_same_data_the_same() -> None:
    report = usual()
    other = [*report.trials[:4], trial("04", 0.61, 0.02)]
    pair, names, log = ["loss.temperature", "loss.label_weight"], ["loss.temperature", "loss.kind"], report.log_scale

    def drawn(trials: list[TrialRow], log: set[str]) -> list[str]:
        common = (trials, "03")
        return [
            sweep_figures.accuracy_map(*common, pair, log, "accuracy"),
            sweep_figures.parallel_lines(*common, names, log, "accuracy"),
            sweep_figures.setting_panel(*common, "loss.temperature", log, "accuracy"),
            sweep_figures.pareto_picture(*common, pareto_front(trials), "accuracy"),
            sweep_figures.learning_curves(*common, "accuracy"),
        ]

    first = drawn(report.trials, log)
    assert first == drawn(report.trials, log)
    assert all(a != b for a, b in zip(first, drawn(other, log), strict=True))
    assert all(a != b for a, b in zip(first[:3], drawn(report.trials, set())[:3], strict=True))
