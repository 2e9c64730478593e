"""A proxy before an HTTP server that lets a share of the calls fail."""

import http.client
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FlakyServer(ThreadingHTTPServer):
    """Passes calls on to another server of this machine; a seeded die says which fail, by 503 or by hanging up.

    Attributes:
        calls, failed: how many there were.
    """

    def __init__(self, port: int, share: float):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port, self.share, self.die, self.lock = port, share, random.Random(0), threading.Lock()
        self.calls = self.failed = 0

    def fault(self) -> str:
        with self.lock:
            self.calls += 1
            if self.die.random() >= self.share:
                return ""
            self.failed += 1
            return self.die.choice(["503", "hangs up"])


class Handler(BaseHTTPRequestHandler):
    server: FlakyServer
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault()
        if fault == "hangs up":
            self.close_connection = True
            return
        if fault:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def flaky(port: int, share: float) -> Iterator[FlakyServer]:
    with FlakyServer(port, share) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
