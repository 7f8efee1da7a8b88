"""A small web server for tests: ranges, broken connections, wrong answers, all on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """One file, and how the server behaves when it is asked for.

    ``cuts`` are the bytes of the body after which connections end, one for each request; ``stalls`` those after which
    nothing more comes. ``statuses`` are answered instead of the file, one for each request.
    """

    body: bytes
    ranges: bool = True
    honest_ranges: bool = True  # whether If-Range is heeded
    etag: str | None = "made"
    kind: str = "application/octet-stream"
    length: bool = True
    rate: float = 0.0  # seconds between pieces of 4 KiB
    cuts: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def tag(self) -> str | None:
        """Return what the server calls this version."""
        return f'"{hashlib.md5(self.body).hexdigest()}"' if self.etag == "made" else self.etag


@dataclass
class Site:
    """What is served, and the headers of all requests so far."""

    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def url(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self.address}/{name}"

    def ranges(self) -> list[str | None]:
        """Return the ranges that were asked for."""
        return [asked for _, asked, _ in self.requests]


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    """Run a server as long as the context lasts."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                _answer(self, site)

    class Server(ThreadingHTTPServer):
        daemon_threads = False
        block_on_close = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        site.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    name = handler.path.lstrip("/")
    asked, condition = handler.headers["Range"], handler.headers["If-Range"]
    site.requests.append((name, asked, condition))
    page = site.pages.get(name)
    handler.close_connection = True
    if page is None or page.statuses:
        handler.send_response(404 if page is None else page.statuses.pop(0))
        handler.send_header("Content-Length", "0")
        handler.send_header("Retry-After", "0")
        handler.end_headers()
        return
    size, start = len(page.body), 0
    partly = asked is not None and page.ranges and (condition in (None, page.tag()) or not page.honest_ranges)
    if partly:
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= size:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{size}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
    handler.send_response(206 if partly else 200)
    if partly:
        handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    if page.length:
        handler.send_header("Content-Length", str(size - start))
    if page.tag():
        handler.send_header("ETag", page.tag() or "")
    handler.send_header("Content-Type", page.kind)
    handler.send_header("Connection", "close")
    handler.end_headers()
    stall = page.stalls.pop(0) if page.stalls else None
    cut = page.cuts.pop(0) if page.cuts else None
    ends = [n for n in (stall, cut) if n is not None]
    end = min([start + min(ends), size]) if ends else size
    for i in range(start, end, 4096):
        handler.wfile.write(page.body[i : min(i + 4096, end)])
        handler.wfile.flush()
        if page.rate and site.stop.wait(page.rate):
            return
    if stall is not None:
        site.stop.wait(30)
