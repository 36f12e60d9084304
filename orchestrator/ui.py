"""The MLflow UI over the same store and artifacts that searches write to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import TrackingError, TrackingUriError
from orchestrator.safety.proxies import reach_directly
from orchestrator.safety.ui_doors import door_options, refuse_open_door, without_open_doors
from orchestrator.tracking import artifact_root, ensure_store, is_server, tracking_uri

READY_S = 120.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where we ask whether it is up


def ui_command(
    home: Path, host: str = "127.0.0.1", port: int = 5000, *, uri: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """The server's command line and environment.

    One worker and no job runner: that starts in half the time and a third of the memory.
    The store's URI goes through the environment, where `ps` shows no password.

    Args:
        home: LATENTUNE_HOME.
        host: address to listen on.
        port: TCP port.
        uri: a database store; default as for searches.
    """
    uri = uri or tracking_uri(home)
    root = artifact_root(home, uri) or ""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", host, "--port", str(port)]
    options, doors = door_options(home, host)
    command += options
    environment = without_open_doors(os.environ)
    environment.pop("MLFLOW_TRACKING_URI", None)
    environment |= doors | {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": root,  # what the shipper gives its experiments
        "MLFLOW_ARTIFACTS_DESTINATION": root,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return command, environment


def serve_ui(
    home: Path,
    host: str = "127.0.0.1",
    port: int = 5000,
    *,
    flag_uri: str | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> str:
    """Serve the UI until interrupted; where tracking goes to a server, only say which.

    Args:
        home: LATENTUNE_HOME.
        host: address to listen on; on 127.0.0.1 nobody is asked for a password.
        port: TCP port.
        flag_uri: tracking URI from the command line.
        on_ready: called with the URL once the server answers.

    Returns:
        The UI's URL.

    Raises:
        TrackingError: for another host without a password, a busy port, or a server that does
            not come up.
    """
    uri = tracking_uri(home, flag=flag_uri)
    if is_server(uri):
        return uri
    refuse_open_door(host)
    _refuse_busy_port(host, port)
    ensure_store(home, uri)
    near = _ANY.get(host, host)
    url = f"http://{f'[{near}]' if ':' in near else near}:{port}"
    command, environment = ui_command(home, host, port, uri=uri)
    log = home / "ui.log"
    with log.open("ab") as output:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_ready(server, url, log)
        on_ready(url)
        server.wait()
    except KeyboardInterrupt:
        pass  # Ctrl-C is how a user closes it
    finally:
        stop_server(server)
    return url


def _refuse_busy_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise TrackingUriError(
                f"port {port} on {host} cannot be used ({error.strerror}): "
                "choose another, for example --port 5001"
            ) from None


def wait_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until a server answers. Raises TrackingError where it ends, or takes too long."""
    reach_directly(url)
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TrackingError(f"the MLflow server ended with {server.returncode}: see {log}")
        if _answers(url):
            return
        time.sleep(0.2)
    raise TrackingError(f"the MLflow server did not answer within {READY_S:.0f} s: see {log}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as reply:  # noqa: S310 - our own
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """End the server and the worker that it started."""
    for number, grace_s in ((signal.SIGTERM, 15.0), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=grace_s)
            return
