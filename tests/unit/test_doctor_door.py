"""The doctor at a cluster's door, with any token and any answer; no token is ever shown."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.doctor import checks
from orchestrator.doctor.door import check_door, is_jobs_address
from orchestrator.doctor.findings import Finding
from orchestrator.errors import ClusterError
from orchestrator.jobs.access import open_access
from tests.unit.fake_head import TOKEN, fake_head
from tests.unit.test_doctor import outcome

VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
OTHER = "another" * 5


@pytest.fixture(autouse=True)
def nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token and no address but what a test sets."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")


def token_findings(needed: bool = True) -> list[str]:
    found = list(checks.check_token(needed=needed))
    assert TOKEN not in repr(found)
    return [outcome(one) for one in found]


def door_findings(address: str, ray_version: str = ray.__version__) -> list[Finding]:
    found = list(check_door(address, ray_version))
    assert TOKEN not in repr(found) and OTHER not in repr(found)
    return found


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert token_findings(needed=False) == ["skipped"]
    assert token_findings() == ["failed"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token_findings() == ["failed", "failed"]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "~/token")  # read by `submit`, so by the doctor
    assert token_findings() == ["failed"]
    file.chmod(0o600)
    assert token_findings() == ["ok"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert token_findings() == ["ok"]


def two_lines(path: Path) -> None:
    path.write_text(f"{TOKEN}\n{TOKEN}\n")
    path.chmod(0o600)


@pytest.mark.parametrize(
    "make",
    [
        two_lines,
        Path.mkdir,
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.symlink_to(path),
    ],
)
def test_a_token_that_is_none_is_a_finding(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert token_findings() == ["failed"]
    with fake_head() as head:
        assert [outcome(one) for one in door_findings(head.url)] == ["failed"]
        said = CliRunner().invoke(app, ["doctor", "--address", head.url])
        assert said.exit_code == 1 and said.exception is not None
        assert isinstance(said.exception, SystemExit)
        assert TOKEN not in said.output
        assert all("Authorization" not in headers for _, _, headers, _ in head.requests)


@pytest.mark.parametrize(
    ("token", "asked", "version", "expected"),
    [
        (TOKEN, TOKEN, ray.__version__, ["ok", "ok", "skipped"]),
        (TOKEN, TOKEN, "2.59.0", ["ok", "failed", "skipped"]),
        (TOKEN, None, ray.__version__, ["failed"]),
        (OTHER, TOKEN, ray.__version__, ["failed"]),
        (None, TOKEN, ray.__version__, ["failed"]),
    ],
)
def test_doors(
    token: str | None,
    asked: str | None,
    version: str,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if token is not None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with fake_head(asked) as head:
        found = door_findings(f"{head.url}/", version)
        if asked is None:  # an open door is told nothing
            assert all("Authorization" not in headers for _, _, headers, _ in head.requests)
    assert [outcome(one) for one in found] == expected


@contextmanager
def speaking(words: bytes) -> Iterator[str]:
    """A port that says so to whoever comes; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    visitor, _ = server.accept()
                except TimeoutError:
                    continue
                with visitor:
                    visitor.recv(4096)
                    visitor.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        over.set()
        thread.join()


@pytest.mark.parametrize(
    "words",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_what_is_no_jobs_server(words: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with speaking(words) as url:
        found = door_findings(url)
    assert [(one.check, outcome(one)) for one in found] == [("cluster", "failed")]


def test_an_answer_that_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)

    def ask(url: str, headers: Mapping[str, str]) -> tuple[int, str]:
        return (200, "<html>") if headers else (401, "")

    found = list(check_door("http://head:8265", "2.60.0", ask))
    assert [(one.check, outcome(one)) for one in found] == [("cluster", "failed")]


@pytest.mark.parametrize(
    "address",
    ["http://h:abc", "http://h:99999", "http://[::1", "http://", f"http://u:{TOKEN}@h:1",
     f"http://u:{TOKEN}", f"http://h:1/?token={TOKEN}", f"http://{TOKEN * 9}:1"],
)  # fmt: skip
def test_addresses_that_are_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", OTHER)
    assert is_jobs_address(address)
    said = CliRunner().invoke(app, ["doctor", "--json", "--address", address])
    assert isinstance(said.exception, SystemExit) and said.exit_code == 1
    assert [outcome(one) for one in check_door(address, "2.60.0")] == ["failed"]
    with pytest.raises(ClusterError):
        open_access(address)
    if not address.endswith(f"{TOKEN}:1"):  # a host's name is what is looked up
        assert TOKEN not in said.output
