"""What goes to this machine goes past every proxy; what goes elsewhere does not."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from orchestrator.jobs.access import open_access
from orchestrator.jobs.cluster import Cluster
from orchestrator.safety.proxies import is_local, reach_directly
from orchestrator.service.mlflow_users import Server
from tests.unit.fake_head import TOKEN, fake_head

NAMES = ("no_proxy", "NO_PROXY")


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A proxy for everything; what it was asked for."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response(502)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for name in NAMES:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_no_proxy_sees_the_token(proxied: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with fake_head() as head:
        assert Cluster(open_access(head.url)).jobs() == []
        answer = Server(head.url, "admin", "hidden")
        with pytest.raises(Exception, match="answered 403"):
            answer.call("GET", "/api/jobs/")
        assert len(head.requests) > 2
    assert proxied == []


def test_other_machines_are_reached_as_before(proxied: list[str]) -> None:
    reach_directly("http://head.example:8265")
    assert [os.environ[name] for name in NAMES] == ["", ""]
    reach_directly("http://127.0.0.1:8265")
    assert requests.get("http://head.example:8265/x", timeout=10).status_code == 502
    assert proxied == ["http://head.example:8265/x None"]


def test_what_was_named_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "intranet, 10.0.0.1")
    monkeypatch.setenv("NO_PROXY", "")
    for url in ("http://[::1]:5000", "http://localhost:5000", "http://localhost:8265"):
        reach_directly(url)
        assert urllib.request.proxy_bypass(url.removeprefix("http://"))
    assert {os.environ[name] for name in NAMES} == {"intranet,10.0.0.1,::1,[::1],localhost"}
    monkeypatch.setenv("no_proxy", "*")
    reach_directly("http://127.0.0.1:1")
    assert os.environ["no_proxy"] == "*"


def test_without_a_proxy_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *(f"{kind}_proxy" for kind in ("http", "https", "all", "ftp"))):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    reach_directly("http://127.0.0.1:5000")
    assert not any(name in os.environ for name in NAMES)


@pytest.mark.parametrize(
    ("url", "expected"),
    [("http://127.0.0.2:1", True), ("http://[::1]:1", True), ("http://localhost", True),
     ("http://head:1", False), ("http://10.0.0.1", False), ("sqlite:////x", False)],
)  # fmt: skip
def test_which_urls_are_this_machines(url: str, expected: bool) -> None:
    assert is_local(url) is expected
