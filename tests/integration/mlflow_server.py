"""A real MLflow server on a free port, for as long as a test needs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from orchestrator.tracking import default_uri
from orchestrator.ui import ui_command

READY_S = 90.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as reply:  # noqa: S310 - our own server
        return bytes(reply.read())


@contextmanager
def server(home: Path, port: int, *, proxied: bool) -> Iterator[str]:
    """A real MLflow server; `proxied`: artifacts travel through it, as on a server of one's own."""
    # Its own store, also where a test's searches are told of this very server.
    command, environment = ui_command(home, port=port, uri=default_uri(home))
    if proxied:
        environment.pop("MLFLOW_DEFAULT_ARTIFACT_ROOT")
    log = home / "server.log"
    home.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_healthy(url, process, log)
        yield url
    finally:
        with suppress(ProcessLookupError):  # what it died of is told above
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            fetch(f"{url}/health")
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"no answer from the server:\n{log.read_text()}")
