"""A server of small files on this machine, which answers as public sources do, or as they do on a bad day."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ETAG = '"first"'


@dataclass
class Server:
    """What is served, how it misbehaves, and what it was asked for.

    ``cuts``: after how many bytes the next answers end; ``pause_s``: seconds between pieces of 1,000 bytes.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    etag: str = ETAG
    pause_s: float = 0.0
    retry_after: str = ""
    ranges: bool = True

    def whole(self, path: str) -> int:
        """How often all of a file was asked for."""
        return self.asked.count((path, ""))


@contextmanager
def serve() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, server)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(f"http://127.0.0.1:{http.server_address[1]}")
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def _answer(request: BaseHTTPRequestHandler, server: Server) -> None:
    path = request.path
    server.asked.append((path, request.headers.get("Range", "")))
    if path in server.redirects:
        request.send_response(302)
        request.send_header("Location", server.redirects[path])
        request.send_header("Content-Length", "0")
        if server.retry_after:
            request.send_header("Retry-After", server.retry_after)
        request.end_headers()
    elif path not in server.files:
        request.send_error(404)
    else:
        _send(request, server, server.files[path])


def _send(request: BaseHTTPRequestHandler, server: Server, body: bytes) -> None:
    start = 0
    wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    if wanted and server.ranges and request.headers.get("If-Range", server.etag) == server.etag:
        start = int(wanted[1])
    if start >= len(body) > 0:
        request.send_error(416)
        return
    request.send_response(206 if start else 200)
    request.send_header("Content-Length", str(len(body) - start))
    request.send_header("ETag", server.etag)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    request.send_header("Content-Type", "text/html" if body[:1] == b"<" else "application/octet-stream")
    request.end_headers()
    body = body[start : start + server.cuts.pop(0)] if server.cuts else body[start:]
    for place in range(0, len(body), 1000 if server.pause_s else len(body)):
        request.wfile.write(body[place : place + 1000] if server.pause_s else body)
        time.sleep(server.pause_s)
    request.close_connection = True
