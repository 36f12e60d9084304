"""The MLflow server of a cluster: one process to start, with users, behind a loopback address.

    store (SQLite or Postgres) ◄── server ◄── searches' user `latentune`  (~/.mlflow/credentials)
    artifacts ◄── through it        ▲  ▲ ◄─── people, over a tunnel
                                    └─ `admin` adds people

Artifacts travel through the server, so that no worker and no client holds a bucket's
credentials. It may end with the Ray head beside it: `ray down` then leaves nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from orchestrator.errors import TrackingError
from orchestrator.safety.mlflow_accounts import (
    ADMIN,
    PASSWORD_VARIABLE,
    SETTINGS_VARIABLE,
    write_accounts,
)
from orchestrator.service.mlflow_users import Server, ensure_user
from orchestrator.service.secret_files import (
    ADMIN_PASSWORD,
    CREDENTIALS,
    FLASK_KEY,
    POSTGRES_PASSWORD,
    SERVICE_USER,
    credentials,
    ensure_secret,
    read_secret,
    secrets_folder,
    write_secret,
)
from orchestrator.service.server_record import ServerRecord, read_server, write_server
from orchestrator.tracking import default_uri
from orchestrator.ui import stop_server, wait_ready

logger = logging.getLogger(__name__)

LOCAL_HOSTS = "localhost:*,127.0.0.1:*"
PEER_GONE_S = 30.0
_WHO_AM_I = "/api/2.0/mlflow/users/current"
_POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where the server listens and keeps things.

    Args:
        home: LATENTUNE_HOME.
        host: address to listen on.
        port: TCP port.
        allowed_hosts: what browsers and clients may call it, as MLflow's `--allowed-hosts`.
        store_uri: a database without a password in it; default SQLite in `home`.
        artifacts: folder or bucket URI; default a folder in `home`.
        peer: ends with whoever listens at this HOST:PORT; None stays.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 5000
    allowed_hosts: str = LOCAL_HOSTS
    store_uri: str | None = None
    artifacts: str | None = None
    peer: str | None = None

    @property
    def url(self) -> str:
        """How this machine reaches it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.home / "mlflow-server.log"

    @property
    def lock(self) -> Path:
        """Held while it runs."""
        return self.home / "mlflow-server.lock"


def admin_password(folder: Path) -> str:
    """The admin's password: MLFLOW_AUTH_ADMIN_PASSWORD over the file, made where missing."""
    return os.environ.get(PASSWORD_VARIABLE) or ensure_secret(folder, ADMIN_PASSWORD)


def server_command(options: ServerOptions) -> tuple[list[str], dict[str, str]]:
    """The server's arguments, which hold no secret, and its environment, which does.

    Raises:
        SecretError: for a secret that others can read, or that cannot be made.
    """
    home, folder = options.home.resolve(), secrets_folder(options.home)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--app-name", "basic-auth", "--host", options.host, "--port", str(options.port)]
    command += ["--allowed-hosts", options.allowed_hosts]
    left_out = ("MLFLOW_TRACKING_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    environment |= {
        "MLFLOW_BACKEND_STORE_URI": options.store_uri or default_uri(home),
        "MLFLOW_ARTIFACTS_DESTINATION": options.artifacts or str(home / "mlartifacts"),
        SETTINGS_VARIABLE: str(home / "mlflow-auth.ini"),
        PASSWORD_VARIABLE: admin_password(folder),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": ensure_secret(folder, FLASK_KEY),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return command, environment | database_password(folder)


def database_password(folder: Path) -> dict[str, str]:
    """PGPASSWORD from its file, which keeps it out of every database URI."""
    path = folder / POSTGRES_PASSWORD
    return {"PGPASSWORD": read_secret(path)} if path.exists() else {}


def serve(options: ServerOptions, on_ready: Callable[[str], None] = lambda url: None) -> None:
    """Serve until a signal, the server's own end, or that of its peer.

    Raises:
        TrackingError: where another one runs, or this one does not come up.
        SecretError: as `server_command`.
    """
    options.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(options.lock, timeout=0):
            _serve(options, on_ready)
    except Timeout:
        raise TrackingError(f"an MLflow server of {options.home} runs already") from None


def start_detached(options: ServerOptions, arguments: list[str], timeout_s: float = 180.0) -> None:
    """Start a server that outlives us; leave one that runs as it is.

    Args:
        options: as in `arguments`.
        arguments: of `python -m orchestrator.service mlflow`.
        timeout_s: how long it may take.

    Raises:
        TrackingError: where it does not come up.
    """
    options.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_running(options):
        return
    with options.log.open("ab") as log:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "orchestrator.service", "mlflow", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and server.poll() is None:
        if searches_can_log_in(options):
            return
        time.sleep(0.5)
    raise TrackingError(f"the MLflow server did not come up: see {options.log}")


def is_running(options: ServerOptions) -> bool:
    """Whether a server of this home runs."""
    lock = FileLock(options.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def stop_running(options: ServerOptions, timeout_s: float = 60.0) -> bool:
    """End the server of a home and wait until it has; returns whether one ran.

    Raises:
        TrackingError: where it does not end.
    """
    if not options.home.is_dir() or not is_running(options):
        return False
    noted = read_server(options.home)
    if noted is not None and noted.pid is not None:
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(noted.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not is_running(options):
                return True
            time.sleep(0.2)
    raise TrackingError(f"the MLflow server of {options.home} does not end: see {options.log}")


def searches_can_log_in(options: ServerOptions) -> bool:
    """Whether the server answers, and knows the searches' user."""
    path = secrets_folder(options.home) / CREDENTIALS
    if not path.exists():
        return False
    try:
        Server(options.url, *credentials(read_secret(path))).call("GET", _WHO_AM_I)
    except TrackingError:
        return False
    return True


def own_credentials() -> Path:
    """Where MLflow's clients look for user and password."""
    return Path.home() / ".mlflow" / "credentials"


def keep_credentials(text: str) -> None:
    """Let every MLflow client of this account log in; another user's credentials stay."""
    path = own_credentials()
    if path.exists():
        if credentials(read_secret(path))[0] != SERVICE_USER:
            logger.warning("%s holds another user: searches here log in as that one", path)
            return
        path.unlink()
    write_secret(path, text)


def _serve(options: ServerOptions, on_ready: Callable[[str], None]) -> None:
    command, environment = server_command(options)
    write_accounts(Path(environment[SETTINGS_VARIABLE]), "READ")
    signal.signal(signal.SIGTERM, _leave)
    noted = ServerRecord(store=options.store_uri, artifacts=options.artifacts, pid=os.getpid())
    write_server(options.home, noted)
    with options.log.open("ab") as log:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_ready(server, options.url, options.log)
        _let_searches_in(options)
        on_ready(options.url)
        _wait(server, options.peer)
    except KeyboardInterrupt:
        pass  # Ctrl-C is how a person ends it
    finally:
        stop_server(server)
        write_server(options.home, replace(noted, pid=None))


def _let_searches_in(options: ServerOptions) -> None:
    folder = secrets_folder(options.home)
    text = ensure_secret(folder, CREDENTIALS)
    ensure_user(Server(options.url, ADMIN, admin_password(folder)), *credentials(text))
    keep_credentials(text)


def _wait(server: subprocess.Popen[bytes], peer: str | None) -> None:
    """Until the server ends, or its peer has been gone for a while."""
    seen = time.monotonic()
    while server.poll() is None:
        if peer is None or _listens(peer):
            seen = time.monotonic()
        elif time.monotonic() - seen > PEER_GONE_S:
            return
        time.sleep(_POLL_S)
    raise TrackingError(f"the MLflow server ended with {server.returncode}")


def _listens(peer: str) -> bool:
    host, _, port = peer.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except OSError:
        return False


def _leave(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
