"""A head of Ray in token mode, with its Jobs server, in processes and a folder of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.integration.small_search import descendants, environment, wait_until

TOKEN = "c4nary0123456789" * 4
_UNSET = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_URI")


@dataclass(frozen=True)
class RayHead:
    """A running head.

    Args:
        url: of its Jobs server.
        pid: of `ray start`, whose descendants all its processes are.
        home: its LATENTUNE_HOME.
        scratch: its HOME; Ray's sessions and the token lie in it.
    """

    url: str
    pid: int
    home: Path
    scratch: Path

    @property
    def token_file(self) -> Path:
        return self.scratch / "token"

    def processes(self, title: str) -> list[int]:
        """The head's processes whose command line holds a text."""
        return [pid for pid in descendants(self.pid) if title in command_line(pid)]


def command_line(pid: int) -> str:
    """A process's arguments; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@contextmanager
def ray_head(scratch: Path, *, cpus: int = 4) -> Iterator[RayHead]:
    """Start a head, and end exactly the processes that it has started."""
    ports = _free_ports(5)
    (scratch / "token").write_text(TOKEN)
    (scratch / "token").chmod(0o600)
    home = scratch / "home"
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
        f"--num-cpus={cpus}", f"--temp-dir={scratch / 'ray'}", f"--object-store-memory={2**27}",
        "--node-ip-address=127.0.0.1", f"--port={ports[0]}", f"--dashboard-port={ports[1]}",
        f"--dashboard-agent-listen-port={ports[2]}", f"--ray-client-server-port={ports[3]}",
        f"--dashboard-agent-grpc-port={ports[4]}", "--min-worker-port=0", "--max-worker-port=0",
        "--include-dashboard=true", "--disable-usage-stats",
    ]  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if name not in _UNSET}
    with (scratch / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=inherited | environment(scratch) | {
                "LATENTUNE_HOME": str(home),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(scratch / "token"),
            },
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{ports[1]}"
    try:
        wait_until(lambda: process.poll() is not None or _answers(url), seconds=120)
        assert process.poll() is None, (scratch / "head.log").read_text()
        yield RayHead(url, process.pid, home, scratch)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    started = descendants(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for pid in [*started, process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(20)


def _answers(url: str) -> bool:
    """Whether jobs can be submitted: the server is there, and so is the agent behind it."""
    try:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return requests.get(f"{url}/api/jobs/", headers=headers, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
