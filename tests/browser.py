"""A headless Chromium that opens the pages that mmkd writes, and says what a reader would see go wrong."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PHONE, DESK = 390, 1280
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
_PICTURES = """
return Array.from(document.images, image => [image.alt || image.src.slice(0, 60), image.complete, image.naturalWidth])
"""
_SMALLEST = """
const sizes = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const text = texts.currentNode;
  if (text.data.trim()) sizes.push(parseFloat(getComputedStyle(text.parentElement).fontSize));
}
return Math.min(...sizes)
"""


@dataclass
class Seen:
    """What a browser made of a page.

    Attributes:
        console: messages of the browser's console, of any level.
        pictures: number of <img>.
        missing: those of them that were not loaded.
        requested: addresses that were asked for besides the page itself and what is in it.
        width: width of the window to that of the page, CSS pixels; a wider page is scrolled sideways.
        smallest_text: on a phone, CSS pixels.
    """

    console: list[str]
    pictures: int
    missing: list[str]
    requested: list[str]
    width: dict[int, int]
    smallest_text: float


def missing_programs() -> list[str]:
    """Of Chromium and its driver, what is not installed."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


@contextmanager
def open_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with a new profile in the folder; closed at the end."""
    os.environ["SE_OFFLINE"] = "true"
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def look_at(driver: webdriver.Chrome, page: Path, widths: Sequence[int] = (DESK, PHONE)) -> Seen:
    """Open a page and look at it in windows of some widths, the last one of which is taken for a phone's."""
    for log in ("browser", "performance"):
        driver.get_log(log)
    address = page.resolve().as_uri()
    driver.get(address)
    measured = {}
    for width in widths:
        # A window cannot be as narrow as a phone; what the page is told of it can.
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        measured[width] = driver.execute_script("return document.documentElement.scrollWidth")
    pictures = driver.execute_script(_PICTURES)
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [each["params"] for each in events if each["method"] == "Network.requestWillBeSent"]
    # A new browser's first, empty tab asks for things of its own.
    urls = [each["request"]["url"] for each in asked if each["documentURL"] == address]
    return Seen(
        console=[f"{entry['level']}: {entry['message']}" for entry in driver.get_log("browser")],
        pictures=len(pictures),
        missing=[name for name, complete, width in pictures if not complete or not width],
        requested=[url for url in urls if url != address and not url.startswith("data:")],
        width=measured,
        smallest_text=driver.execute_script(_SMALLEST),
    )
