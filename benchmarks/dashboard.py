"""Pictures of Ray's dashboard beside a running distillation, for docs/cluster.md.

    python benchmarks/dashboard.py [--to docs] [--run.home /abs]

Starts `rayjobs/distill.py` on HOME/data/tabletop, waits until it trains, opens the pages in a headless Chromium with
the token of this machine, and ends the job. It needs chromium, chromedriver and selenium. Any setting of the job can
follow.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from mmkd.cli import load_settings  # noqa: E402
from mmkd.runs import read_metrics  # noqa: E402
from tests.browser import open_browser  # noqa: E402

TOKEN = Path("~/.ray/auth_token").expanduser()
PAUSE = 5.0
"""Seconds that a page takes to fill."""


def open_page(driver: WebDriver, address: str) -> None:
    driver.get("about:blank")  # else only the part after # would change
    driver.get(address)
    time.sleep(PAUSE)


def save(driver: WebDriver, picture: Path, height: int) -> None:
    driver.set_window_size(1400, height)
    time.sleep(PAUSE)
    driver.save_screenshot(str(picture))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "docs")
    own, rest = parser.parse_known_args()
    flags = ["--run.name", "dashboard", "--optim.epochs", "30", "--resources.readers", "2", *rest]
    settings = load_settings(flags, job="distill", about="", program="python benchmarks/dashboard.py")
    shutil.rmtree(settings.home / "runs" / settings.run.name, ignore_errors=True)
    command = [sys.executable, str(ROOT / "rayjobs" / "distill.py"), *flags]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = ""
        for line in job.stderr or ():
            print(line, end="", file=sys.stderr)
            if found := re.search(r"Ray dashboard: (\S+)", line):
                address = found[1]
                break
        while len(read_metrics(settings.home / "runs" / settings.run.name)) < 20:
            time.sleep(1)
        with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as driver:
            driver.get(address)
            if TOKEN.is_file():
                driver.add_cookie({"name": "ray-authentication-token", "value": TOKEN.read_text().strip()})
            open_page(driver, f"{address}/#/jobs/01000000")
            driver.find_element(By.XPATH, "//*[text()='Ray Data Overview']").click()
            time.sleep(PAUSE)
            driver.find_element(By.XPATH, "//table//tbody//tr[1]//*[name()='svg']").click()
            save(driver, own.to / "dashboard_job.png", 1130)
            open_page(driver, f"{address}/#/actors")
            driver.find_element(By.XPATH, "//label[text()='Class']/following::input[1]").send_keys("Worker")
            save(driver, own.to / "dashboard_actors.png", 660)
    finally:
        job.terminate()
        job.wait()


if __name__ == "__main__":
    main()
