"""Headless Chromium (Debian's package `chromium`), and a record of what it asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CHROMIUM = "chromium"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1700,900", "--virtual-time-budget=60000",
)  # fmt: skip
# What this browser asks for by itself, whatever it shows; no page's fonts or scripts are there.
OWN_HOSTS = {
    "accounts.google.com",
    "clients2.google.com",
    "content-autofill.googleapis.com",
    "optimizationguide-pa.googleapis.com",
    "update.googleapis.com",
}


@contextmanager
def recorder() -> Iterator[tuple[int, list[str]]]:
    """A proxy that lets nothing out: its port, and what was asked for but by the browser itself."""
    asked: list[str] = []

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = urlsplit(self.path if "//" in self.path else f"//{self.path}").hostname
            if host not in OWN_HOSTS:
                asked.append(self.path)
            self.send_error(502)

        do_POST = do_HEAD = do_CONNECT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy.server_port, asked
    finally:
        proxy.shutdown()
        proxy.server_close()
