"""A real Postgres on a free port, for as long as a test needs it; it can crash and come back.

Postgres refuses to run as root, so there it runs as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.mlflow_server import free_port

_PLACES = "/usr/lib/postgresql"
_USER = "latentune"
_NOBODY = 65534
_WAIT_S = "60"


class Postgres:
    """A server and its one database.

    Args:
        folder: its data, socket and log; not below anything that only root may enter.
        tools: the folder of initdb and pg_ctl.
    """

    def __init__(self, folder: Path, tools: Path) -> None:
        self._data = folder / "data"
        self._tools = tools
        self._port = free_port()
        self.url = f"postgresql+psycopg://{_USER}@127.0.0.1:{self._port}/postgres"
        self._call("initdb", "--auth", "trust", "--username", _USER, "--no-sync")
        self._options = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {folder}"
        self.log = folder / "server.log"

    def start(self) -> None:
        """Start it, or start it again."""
        log, options = str(self.log), self._options
        self._call("pg_ctl", "start", "--wait", "-t", _WAIT_S, "-l", log, "-o", options)

    def crash(self) -> None:
        """End all of its processes at once, without a shutdown checkpoint."""
        self._call("pg_ctl", "stop", "--mode", "immediate", "--wait", "-t", _WAIT_S)

    def _call(self, tool: str, *arguments: str) -> None:
        command = [str(self._tools / tool), "--pgdata", str(self._data), *arguments]
        done = subprocess.run(
            [*_as_nobody(), *command], stdin=subprocess.DEVNULL, capture_output=tool == "initdb",
            text=True, check=False, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server; the test is skipped, with the reason, where there can be none."""
    tools = _tools()
    if tools is None:
        pytest.skip("no initdb and pg_ctl on this machine")
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp", ignore_cleanup_errors=True) as path:
        if os.getuid() == 0:
            os.chown(path, _NOBODY, _NOBODY)
        server = Postgres(Path(path), tools)
        server.start()
        try:
            yield server
        finally:
            server.crash()


def _tools() -> Path | None:
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).resolve().parent
    installed = sorted(Path(_PLACES).glob("*/bin/pg_ctl"))
    return installed[-1].parent if installed else None


def _as_nobody() -> Sequence[str]:
    if os.getuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("Postgres does not run as root, and there is no setpriv to become another user")
    return setpriv, f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"
