"""python -m mmkd demo: what the server answers, whom it refuses, and what a browser shows of it."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mmkd
from mmkd.teachers import SHIPPED
from mmkd.web.server import make_server
from tests.browser import DESK, PHONE, missing_programs, open_browser
from tests.processes import wait_for
from tests.small import HEADS
from tests.test_inference import small_model
from tests.test_inference_faults import with_damage
from tests.videos import write_video

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("web")
    small_model(root / "student" / "best", temperatures={"verb": 1.25})
    write_video(root / "film.mp4", 40)
    with_damage(root / "damaged.mp4", 40, 1.0, 1.6)
    (root / "text.mp4").write_text("this is no video")
    return root


@pytest.fixture(scope="module")
def server(folder):
    with make_server(mmkd.load_model(folder / "student" / "best"), "student") as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def lines(body):
    return [json.loads(line) for line in body.splitlines()]


def test_each_window_is_a_line_with_what_predict_says_and_the_frames_it_saw(server, folder):
    video = folder / "film.mp4"
    status, _, body = ask(server, "POST", "/predict?window=2&hop=1&views=3x1", video.read_bytes())
    *rows, last = lines(body)
    assert status == 200 and last == {"done": True}
    said = mmkd.predict(folder / "student" / "best", video, window=2.0, hop=1.0, views="3x1")
    assert [(row["start"], row["stop"]) for row in rows] == [(each.start, each.stop) for each in said]
    for row, each in zip(rows, said, strict=True):
        for head in HEADS:
            assert row["probabilities"][head] == pytest.approx(each.probabilities[head].tolist(), abs=1e-5)
        assert len(row["frames"]) == 4 and all(frame.startswith("data:image/jpeg;base64,") for frame in row["frames"])
        assert row["action"][0]["verb"] == each.top(1)["action"][0]["verb"]


def test_what_cannot_be_answered_is_a_line_that_says_why(server, folder):
    *rows, last = lines(ask(server, "POST", "/predict?window=1", (folder / "damaged.mp4").read_bytes())[2])
    assert last == {"done": True}
    assert ["error" in row for row in rows] == [False, True, False, False]
    (row,) = lines(ask(server, "POST", "/predict", (folder / "text.mp4").read_bytes())[2])
    assert row["failed"].startswith("the video cannot be opened")
    for query, why in (("window=-1", "must be seconds"), ("window=x", "could not convert"), ("views=2x2", "views are")):
        (row,) = lines(ask(server, "POST", f"/predict?{query}", (folder / "film.mp4").read_bytes())[2])
        assert why in row["failed"]


def test_only_this_machine_and_the_page_itself_are_answered(server, folder):
    assert server.server_address[0] == "127.0.0.1"
    video = (folder / "film.mp4").read_bytes()
    own = f"http://127.0.0.1:{server.port}"
    assert ask(server, "POST", "/predict", video, Origin=own)[0] == 200
    elsewhere = ({"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Host": "elsewhere.example"})
    for headers in (*elsewhere, {"Sec_Fetch_Site": "cross-site"}):
        assert ask(server, "POST", "/predict", video, **headers)[0] == 403
        assert ask(server, "GET", "/", **headers)[0] == 403
    # What a forwarded port looks like.
    assert ask(server, "GET", "/", Host="localhost:9999", Origin="http://localhost:9999")[0] == 200


def test_paths_and_sizes_that_are_not_served(server):
    for path in ("/server.py", "/../server.py", "/%2e%2e/pyproject.toml", "/page.html/../server.py"):
        assert ask(server, "GET", path)[0] == 404
    assert ask(server, "POST", "/other", b"x")[0] == 404
    assert ask(server, "POST", "/predict", b"")[0] == 411
    assert ask(server, "POST", "/predict", Content_Length=str(1 << 50))[0] == 413
    assert "default-src 'none'" in ask(server, "GET", "/")[1]["Content-Security-Policy"]


@pytest.mark.slow
def test_the_command_says_where_it_is_and_deletes_what_it_was_given_when_it_is_ended(folder, tmp_path):
    """By SIGTERM: Ctrl+C does the same, but programs that a shell starts in the background do not hear it."""
    command = [sys.executable, "-m", "mmkd", "demo", str(folder / "student"), "--port", "0"]
    own = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r"student is at http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/model.json")
        assert json.loads(connection.getresponse().read())["heads"] == HEADS
        slow = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        slow.putrequest("POST", "/predict")
        slow.putheader("Content-Length", "1000000")
        slow.endheaders(b"the beginning of a video")
        wait_for(lambda: [path for path in tmp_path.glob("mmkd-*/*") if path.is_file()], 30)
        process.terminate()
        assert process.wait(30) == 0
        assert list(tmp_path.glob("mmkd-*")) == []
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_port_that_is_taken_and_a_model_of_something_else_are_said(server, folder):
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mmkd", "demo"]
    taken = [str(folder / "student"), "--port", str(server.port)]
    done = subprocess.run([*command, *taken], cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 1 and "in use" in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run([*command, str(SHIPPED / "flow")], cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 1 and "sees flow" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}")
class TestBrowser:
    def predict(self, driver, server, video, window="0", hop="0"):
        """Open the page, give it a video as its file field does, and wait for the last word."""
        driver.get_log("browser")
        driver.get(server.address)
        for name, value in (("window", window), ("hop", hop)):
            driver.execute_script(f"document.getElementById('{name}').value = '{value}'")
        driver.find_element("id", "file").send_keys(str(video))
        for _ in range(200):
            said = driver.find_element("id", "state").text
            if said and "..." not in said:
                return said
            time.sleep(0.1)
        raise AssertionError(said)

    def test_a_video_is_shown_over_time_and_at_a_click(self, browser, server, folder):
        assert self.predict(browser, server, folder / "film.mp4", "2", "0.5") == "film.mp4: 5 windows"
        assert [each.text for each in browser.find_elements("css selector", "#times h3")] == list(HEADS)
        curves = browser.find_elements("css selector", "#times polyline")
        assert len(curves) == 3 + 2 and all(len(each.get_attribute("points").split()) == 5 for each in curves)
        when = browser.find_element("id", "when")
        assert when.text.startswith("0.00 s to 2.00 s, window 1 of 5")
        timeline = browser.find_element("css selector", "#times svg")
        browser.execute_script(
            """const box = arguments[0].getBoundingClientRect();
            arguments[0].dispatchEvent(new MouseEvent("click", {clientX: box.right - 2, bubbles: true}))""",
            timeline,
        )
        assert when.text.startswith("2.00 s to 4.00 s, window 5 of 5")
        pictures = browser.find_elements("css selector", "#frames img")
        assert len(pictures) == 4 and all(int(each.get_attribute("naturalWidth")) == 16 for each in pictures)
        cards = [each.text for each in browser.find_elements("css selector", "#heads .card")]
        assert [card.splitlines()[0] for card in cards] == ["verb", "noun", "action"]
        assert "Calibrated: of answers this sure" in cards[0] and "Not calibrated" in cards[1]
        said = mmkd.predict(folder / "student" / "best", folder / "film.mp4", window=2.0, hop=0.5)[-1].top(1)["verb"][0]
        assert cards[0].splitlines()[1:3] == [said["class"], f"{100 * said['probability']:.1f} %"]
        assert browser.get_log("browser") == []

    def test_a_video_without_an_answer_is_said(self, browser, server, folder):
        assert "was not answered: the video cannot be opened" in self.predict(browser, server, folder / "text.mp4")
        said = self.predict(browser, server, folder / "damaged.mp4", "1")
        assert said == "damaged.mp4: 4 windows, 1 without an answer"
        assert len(browser.find_elements("css selector", "#times .lost")) == 2  # one a head

    def test_an_answer_that_breaks_off_is_said(self, browser, server, folder, monkeypatch):
        rows = [{"start": 0.0, "stop": 1.0, "error": "lost"}]
        monkeypatch.setattr(
            "mmkd.web.server._Handler._answer",
            lambda self, *_: (self._head("application/x-ndjson", None), self._line(rows[0])),
        )
        said = self.predict(browser, server, folder / "film.mp4")
        assert said == "film.mp4 was not answered: its server ended before it did"

    def test_the_page_fits_a_phone(self, browser, server, folder):
        self.predict(browser, server, folder / "film.mp4", "1")
        for width in (DESK, PHONE):
            metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            assert browser.execute_script("return document.documentElement.scrollWidth") == width
