"""A real browser, where one is installed, and pages of our own for it."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "chrome")


def chromium() -> str | None:
    """The program: HEADRACE_CHROMIUM, or what the PATH has; None where there is none."""
    return os.environ.get("HEADRACE_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


class Pages:
    """One page, whatever its path, and what its scripts post back as JSON.

    Attributes:
        port: Of 127.0.0.1, where it is served.
        content: The page.
        posted: What was posted.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.port: int = server.server_address[1]
        self.content = ""
        self.posted: queue.Queue[Any] = queue.Queue()


@contextmanager
def serving_pages() -> Generator[Pages]:
    """A server of pages on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.content.encode()
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            pages.posted.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        pages = Pages(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield pages
        finally:
            server.shutdown()


@contextmanager
def visiting(program: str, url: str, folder: Path) -> Generator[None]:
    """The browser with one page open, its profile under `folder`; it is ended with the block."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--no-zygote", "--disable-dev-shm-usage")
    argv = [program, *options, f"--user-data-dir={folder}", "--remote-debugging-port=0", url]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            yield
        finally:
            browser.kill()
