"""mmkd.serving on Ray Serve: videos by HTTP, answered as `mmkd.predict` does, several at a time."""

import json
import os
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

import mmkd
from tests.test_inference import small_model
from tests.videos import write_video

pytest.importorskip("starlette", reason="pip install 'mmkd[serve]'")
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("serving")
    small_model(root / "runs" / "student" / "best", temperatures={"verb": 1.25})
    for number in range(6):
        write_video(root / f"{number}.mp4", 20 + 5 * number)
    before = os.environ.get("MMKD_HOME")
    os.environ["MMKD_HOME"] = str(root)
    yield root
    if before is None:
        del os.environ["MMKD_HOME"]
    else:
        os.environ["MMKD_HOME"] = before


@pytest.fixture(scope="module")
def address(root):
    import ray
    from ray import serve

    from mmkd.serving import app

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": 18765})
    serve.run(app({"model": "student", "max_mb": "1", "wait": "0.1"}))
    yield "http://127.0.0.1:18765/"
    serve.shutdown()
    ray.shutdown()


def post(address, content, query=""):
    request = urllib.request.Request(address + query, data=content, method="POST")
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_videos_that_come_at_once_are_answered_as_by_themselves(root, address):
    videos = [root / f"{number}.mp4" for number in range(6)] * 2
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda video: post(address, video.read_bytes(), "?window=1&hop=0.5&top=2"), videos))
    for video, said in zip(videos, found, strict=True):
        expected = mmkd.predict(root / "runs/student/best", video, window=1.0, hop=0.5)
        assert [(clip["start"], clip["stop"]) for clip in said["clips"]] == [
            (round(each.start, 3), round(each.stop, 3)) for each in expected
        ]
        for clip, each in zip(said["clips"], expected, strict=True):
            for head, best in each.top(2).items():
                assert [row["probability"] for row in clip["top"][head]] == pytest.approx(
                    [row["probability"] for row in best], abs=1e-5
                )


def test_clips_of_several_requests_are_answered_together(root, address):
    """Of twelve clips that come at once."""
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: post(address, (root / "5.mp4").read_bytes()), range(12)))
    assert max(said["together"] for said in found) > 1


def test_what_cannot_be_answered_has_a_status_and_a_reason(root, address):
    for content, query, status, why in (
        (b"this is no video", "", 422, "the video cannot be opened"),
        ((root / "0.mp4").read_bytes(), "?window=-1", 422, "must be seconds"),
        ((root / "0.mp4").read_bytes(), "?views=1000000x1", 422, "100 at most"),
        ((root / "0.mp4").read_bytes(), "?top=0", 422, "top must be 1 or more"),
        (bytes(2 << 20), "", 413, "more than 1 MB"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(address, content, query)
        assert refused.value.code == status and why in json.load(refused.value)["error"]


def test_options_that_cannot_be_are_named():
    from mmkd.serving import app

    with pytest.raises(ValueError, match="batch"):
        app({"model": "student", "batch": "0"})
    with pytest.raises(FileNotFoundError, match="no model folder"):
        app({"model": "nobody"})
