"""The pages in a browser: nothing is missing, nothing is loaded from elsewhere, and a phone shows all of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from mmkd.check import check_dataset
from mmkd.report.evaluation_page import write_evaluation_page
from mmkd.report.page import write_report
from mmkd.report.study_page import write_study_page
from mmkd.report.sweep_page import write_sweep_page
from tests.browser import DESK, PHONE, look_at, missing_programs, open_browser
from tests.study_cases import made_results
from tests.test_evaluation_report import full_evaluation
from tests.test_report import full_report, run_page
from tests.test_study_page import PICTURES, report_of
from tests.test_sweep_page import usual

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"not installed: {', '.join(missing_programs())} (Debian: apt-get install chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def assert_whole(driver: webdriver.Chrome, page: Path, pictures: int) -> None:
    seen = look_at(driver, page)
    assert (seen.console, seen.missing, seen.requested) == ([], [], [])
    assert seen.pictures == pictures
    assert seen.width == {DESK: DESK, PHONE: PHONE}
    assert seen.smallest_text >= 12
    assert page.stat().st_size < 2_500_000


def test_the_page_of_a_run(browser: webdriver.Chrome, home: Path, tmp_path: Path) -> None:
    page, _ = run_page(home, tmp_path / "run")
    # Learning, reliability, a matrix a head; 6 mistakes and 6 examples of 4 frames.
    assert_whole(browser, page, 5 + 1 + 2 + 12 * 4)


def test_the_page_of_models_that_are_compared(browser: webdriver.Chrome, tmp_path: Path) -> None:
    report = full_report()
    report.facts = [("run", "/a/long/path" * 20)]
    report.settings_yaml = f"data:\n  folder: {'/a/long/path' * 20}\n"
    write_report(tmp_path / "report.html", report)
    assert_whole(browser, tmp_path / "report.html", 30)


def test_the_page_of_a_sweep(browser: webdriver.Chrome, tmp_path: Path) -> None:
    write_sweep_page(tmp_path / "sweep.html", usual())
    assert_whole(browser, tmp_path / "sweep.html", 10)


def test_the_page_of_an_evaluation(browser: webdriver.Chrome, tmp_path: Path) -> None:
    write_evaluation_page(tmp_path / "report.html", *full_evaluation())
    # Accuracy, reliability of 6 models before and after scaling, views, a matrix a head; 2 mistakes of 4 frames.
    assert_whole(browser, tmp_path / "report.html", 1 + 12 + 1 + 2 + 2 * 4)


def test_the_page_of_a_study(browser: webdriver.Chrome, tmp_path: Path) -> None:
    report = report_of(made_results(seeds=2, clips=120))
    write_study_page(tmp_path / "study.html", **report)
    assert_whole(browser, tmp_path / "study.html", len(PICTURES))


def test_the_contact_sheet(browser: webdriver.Chrome, home: Path) -> None:
    folder = home / "data" / "small"
    check_dataset(str(folder), lambda text: None)
    # The key of the colours; of 3 classes 2 clips each, in RGB, flow and sound.
    assert_whole(browser, folder / "contact_sheet.html", 1 + 6 * 3)


def test_what_is_wrong_with_a_page_is_seen(browser: webdriver.Chrome, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        '<meta name="viewport" content="width=device-width"><img src="absent.png" alt="absent">'
        '<img src="data:image/png;base64,AAAA" alt="broken"><div style="width: 500px; font-size: 7px">wide</div>'
        '<script>console.error("scripts run")</script>'
    )
    seen = look_at(browser, tmp_path / "bad.html")
    assert seen.pictures == 2 and seen.missing == ["absent", "broken"]
    assert seen.requested == [(tmp_path / "absent.png").as_uri()]
    assert seen.width[DESK] == DESK and seen.width[PHONE] > PHONE and seen.smallest_text == 7
    assert any("scripts run" in message for message in seen.console)
    assert any("absent.png" in message for message in seen.console)
