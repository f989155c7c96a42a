"""An HTTP proxy before one server that answers as bad networks do: errors, delays, connections that break.

It holds no tests.
"""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_SECONDS = 0.1
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
UNAVAILABLE = b"<Error><Code>ServiceUnavailable</Code><Message>come again</Message></Error>"


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to `upstream` (`host:port`), except for a share of them.

    `faults` is the share of requests that meet each fault:
        refused: status 500 or 503, the server was not reached
        dropped: the connection breaks before the server was reached
        lost: the server did what it was asked to, then the connection breaks without an answer
        cut: the connection breaks inside the answer
        slow: the answer comes late
    `methods` limits faults to requests of these HTTP methods; `met` counts them. `requests` counts all by method,
    listings as LIST.
    """

    daemon_threads = True

    def __init__(self, upstream: str, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: Mapping[str, float] = {}
        self.script: list[str] = []
        self.methods: frozenset[str] = frozenset()
        self.met: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    def reset(self, faults: Mapping[str, float], methods: str = "", script: Sequence[str] = ()) -> None:
        """Sets the faults that requests of `methods` (separated by spaces; none: all) meet from now on.

        Args:
            script: what the first of them meet, one after the other ("" for nothing); `faults` hold after that.
        """
        self.faults, self.script, self.methods = faults, list(script), frozenset(methods.split())
        self.met.clear()
        self.requests.clear()

    def draw(self, method: str) -> str:
        """The fault that the next request meets; "" for none."""
        if self.methods and method not in self.methods:
            return ""
        with self._lock:
            fault = self.script.pop(0) if self.script else self._drawn()
            self.met[fault] += bool(fault)
        return fault

    def _drawn(self) -> str:
        point = self._random.random()
        for fault, share in self.faults.items():
            point -= share
            if point < 0:
                return fault
        return ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or the content would wait for the acknowledgement of the headers, 40 ms
    server: FaultyProxy

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self._pass_on()

    def _pass_on(self) -> None:
        assert self.headers.get("Transfer-Encoding") is None, "bodies come with their length"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests["LIST" if "list-type=2" in self.path else self.command] += 1
        fault = self.server.draw(self.command)
        if fault == "dropped":
            self.close_connection = True
            return
        if fault == "refused":
            self._answer(503, {"Content-Type": "application/xml"}, UNAVAILABLE)
            return
        status, headers, content = self._upstream(body)
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        if fault == "lost":
            self.close_connection = True
            return
        self._answer(status, headers, content, cut=fault == "cut")

    def _upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            headers = dict(answer.headers)
            if self.command == "HEAD":  # its length is that of the content which is not sent
                return answer.status, headers, b""
            return answer.status, headers, content
        finally:
            connection.close()

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes, cut: bool = False) -> None:
        length = headers["Content-Length"] if self.command == "HEAD" and content == b"" else str(len(content))
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True


@contextmanager
def faulty_proxy(upstream: str, seed: int = 0) -> Iterator[FaultyProxy]:
    """A proxy at work in a thread of its own, without faults until `reset` gives it some."""
    with FaultyProxy(upstream, seed) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
