"""The page's server: it gives out the page, takes a video, and answers with a line of JSON for each of its windows.

It listens on loopback alone. Other pages in the same browser could still send it requests, so it answers only those
that name it by a loopback address and come from its own page.
"""

from __future__ import annotations

import base64
import json
import math
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import simplejpeg

from mmkd.inference.answers import Prediction, answer
from mmkd.inference.sampling import Frames, sampling_of
from mmkd.inference.windows import reason_of, video_windows
from mmkd.models import Recogniser

HERE = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
MAX_BYTES = 8 << 30
"""Of a video."""
LOOPBACK = ("127.0.0.1", "localhost")
PIECE = 1 << 20
SHOWN_WINDOWS = 400
"""Whose frames are sent: a browser keeps them."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'"
)


class Server(ThreadingHTTPServer):
    """Serves one model's page at `address`."""

    daemon_threads, block_on_close = True, False

    def __init__(self, model: Recogniser, name: str, port: int):
        self.folder = tempfile.TemporaryDirectory(prefix="mmkd-", ignore_cleanup_errors=True)
        super().__init__(("127.0.0.1", port), _Handler)
        self.model, self.name = model, name
        self.busy = threading.Lock()
        self.port = int(self.server_address[1])
        self.address = f"http://127.0.0.1:{self.port}/"

    def server_close(self) -> None:
        """Stop listening, and delete what was uploaded; answers under way are lost."""
        super().server_close()
        self.folder.cleanup()


def make_server(model: Recogniser, name: str, port: int = 0) -> Server:
    """A server that is ready to be started.

    Args:
        model: of RGB frames.
        name: of it, for people.
        port: 0: a free one.

    Raises:
        OSError: the port is taken.
    """
    return Server(model, name, port)


def said_of(model: Recogniser, path: str, views: str, window: float, hop: float) -> Iterator[dict[str, Any]]:
    """What the page shows of each window of a video.

    Raises:
        ValueError: the video cannot be read, or an argument cannot be.
    """
    sampling = sampling_of(model.spec, views)
    for number, clip in enumerate(video_windows(path, sampling, window, hop)):
        if clip.rgb is None:
            yield {"start": clip.start, "stop": clip.stop, "error": clip.error}
            continue
        prediction = answer(model, clip.rgb, clip.start, clip.stop)
        frames = _pictures(clip.rgb[len(clip.rgb) // 2]) if number < SHOWN_WINDOWS else []
        yield _shown(prediction) | {"frames": frames}


def _shown(said: Prediction) -> dict[str, Any]:
    times = {"start": said.start, "stop": said.stop}
    if said.error:
        return times | {"error": said.error}
    rounded = {head: [round(float(p), 5) for p in values] for head, values in said.probabilities.items()}
    return times | {"probabilities": rounded, "action": said.top(3).get("action", [])}


def _pictures(frames: Frames) -> list[str]:
    """The frames of one view as JPEGs in data URLs."""
    jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=85) for frame in frames]
    return ["data:image/jpeg;base64," + base64.b64encode(jpeg).decode() for jpeg in jpegs]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 60
    """Seconds that a browser may say nothing."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if not self._from_here():
            return
        if path == "/model.json":
            self._send("application/json", json.dumps(self._facts()).encode())
        elif path in FILES:
            name, kind = FILES[path]
            self._send(f"{kind}; charset=utf-8", (HERE / name).read_bytes())
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        asked = urlsplit(self.path)
        if not self._from_here():
            return
        if asked.path != "/predict":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        length = self.headers["Content-Length"] or ""
        size = int(length) if length.isdecimal() else 0
        if not 0 < size <= MAX_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE if size else HTTPStatus.LENGTH_REQUIRED)
            return
        with tempfile.NamedTemporaryFile(dir=self.server.folder.name) as file:
            while size and (piece := self.rfile.read(min(PIECE, size))):
                file.write(piece)
                size -= len(piece)
            file.flush()
            if not size:  # else the browser went away
                self._answer(file.name, {name: values[-1] for name, values in parse_qs(asked.query).items()})

    def _answer(self, path: str, fields: Mapping[str, str]) -> None:
        """A line for each window, as it is answered; the last line says that it was."""
        self._head("application/x-ndjson", None)
        try:
            views, window, hop = fields.get("views", "1x1"), float(fields.get("window", 0)), float(fields.get("hop", 0))
            with self.server.busy:
                for row in said_of(self.server.model, path, views, window, hop):
                    self._line(row)
            self._line({"done": True})
        except (BrokenPipeError, ConnectionResetError):  # the page was closed
            return
        except Exception as error:  # whatever a library makes of a file that nobody foresaw
            self._line({"failed": reason_of(error).replace(Path(path).name, "the video")})

    def _facts(self) -> dict[str, Any]:
        spec = self.server.model.spec
        return {
            "name": self.server.name,
            "arch": spec.arch,
            "input": spec.input,
            "heads": spec.heads,
            "multi_label": list(spec.multi_label),
            "calibrated": {head: math.isfinite(spec.temperatures.get(head, math.nan)) for head in spec.heads},
        }

    def _from_here(self) -> bool:
        """Whether a request is to a loopback address and from the page itself; says so where it is not."""
        host, origin = self.headers["Host"] or "", self.headers["Origin"]
        own = origin is None or urlsplit(origin).netloc == host
        # Behind `ssh -L` the port that a browser sees may be another one.
        loopback = urlsplit(f"//{host}").hostname in LOOPBACK
        if loopback and own and self.headers["Sec-Fetch-Site"] not in ("cross-site", "same-site"):
            return True
        self.send_error(HTTPStatus.FORBIDDEN, "this page is for the machine that it runs on")
        return False

    def _send(self, kind: str, content: bytes) -> None:
        self._head(kind, len(content))
        self.wfile.write(content)

    def _head(self, kind: str, size: int | None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def _line(self, row: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is printed for a request."""
