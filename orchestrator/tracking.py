"""Where tracking goes, how to start the shipper that sends it, and how far it got.

    events.jsonl ──► shipper (a process of its own) ──► the store at `tracking_uri`
                        └─► shipped.json: the cursor

Nothing here talks to MLflow on the driver's time: `ensure_store` alone imports it, and is
called by the shipper and by `latentune ui`. At its end alone a driver waits for the shipper.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from orchestrator.errors import TrackingUriError
from orchestrator.files import write_atomic
from orchestrator.safety.proxies import reach_directly

logger = logging.getLogger(__name__)

CURSOR_NAME = "shipped.json"
SHIPPING_WAIT_S = 60.0  # of a driver, at its end, for what moves
_TROUBLE_WAIT_S = 5.0  # ... and for what does not
_SHIPPER_LEAVES_S = 5.0
_SHIPPER_AGAIN_S = 30.0  # between two starts while a search runs
_POLL_S = 0.05
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
_PACKAGE_PARENT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """How far a search's events have been delivered.

    Args:
        next_seq: the first event that has not been delivered.
        last_time: the time of the event before it, by which a cursor of another log shows.
        store: which store has them, from `store_id`; None where that was not written down.
        trouble: why nothing moves at the moment; None while it does.
    """

    next_seq: int = 0
    last_time: float | None = None
    store: str | None = None
    trouble: str | None = field(default=None, compare=False)


def tracking_uri(home: Path, config_uri: str | None = None, *, flag: str | None = None) -> str:
    """The MLflow tracking URI: flag over MLFLOW_TRACKING_URI over file over SQLite in `home`.

    Args:
        home: LATENTUNE_HOME.
        config_uri: `tracking.uri` of the search file.
        flag: from the command line.

    Raises:
        TrackingUriError: for a folder, in which MLflow keeps no runs any more, or a scheme that
            it does not know.
    """
    uri = flag or os.environ.get("MLFLOW_TRACKING_URI") or config_uri or default_uri(home)
    try:
        reach_directly(uri)  # with its password
    except ValueError:  # what cannot be read is not repeated: a password may be in it
        raise TrackingUriError(
            "tracking.uri (or MLFLOW_TRACKING_URI) is no URI: its host cannot be read; write "
            "http://host:5000"
        ) from None
    if urlsplit(uri).scheme in ("", "file"):
        raise TrackingUriError(
            f"tracking.uri={uri!r} is a folder, and MLflow 3.17 refuses to keep runs in one; "
            "use a database (sqlite:////absolute/path/mlflow.db) or a server (http://host:5000)"
        )
    if urlsplit(uri).scheme.split("+")[0] not in _SCHEMES:
        raise TrackingUriError(
            f"tracking.uri={without_credentials(uri, uri)!r} is of no kind that MLflow knows; one "
            f"of {', '.join(_SCHEMES)}"
        )
    return uri


def default_uri(home: Path) -> str:
    """The SQLite store under LATENTUNE_HOME."""
    return f"sqlite:///{Path(home).resolve() / 'mlflow.db'}"


def is_server(uri: str) -> bool:
    """Whether a tracking URI is an MLflow server's, not a database's."""
    return urlsplit(uri).scheme in ("http", "https")


def without_credentials(text: str, uri: str) -> str:
    """A text, such as a message, in which a tracking URI shows no user and password."""
    netloc = urlsplit(uri).netloc
    return text.replace(netloc, netloc.rpartition("@")[2]) if "@" in netloc else text


def store_id(uri: str) -> str:
    """What tells a store from others; no password can be read from it."""
    return hashlib.sha256(without_credentials(uri, uri).encode()).hexdigest()[:16]


def artifact_root(home: Path, uri: str) -> str | None:
    """Where new experiments keep artifacts; None where the store decides by itself."""
    return None if is_server(uri) else (Path(home).resolve() / "mlartifacts").as_uri()


def ensure_store(home: Path, uri: str) -> None:
    """Create a database store's tables; once per store, about one second of CPU.

    Its default experiment would otherwise keep artifacts in the current folder.
    """
    root = artifact_root(home, uri)
    if root is None:
        return
    # MLflow takes a second to import; only the shipper and the UI come here.
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "mlflow.lock"):
        SqlAlchemyStore(uri, root)


def start_shipper(
    search_dir: Path, uri: str, *, deadline_s: float | None = None
) -> subprocess.Popen[bytes]:
    """Start the process that delivers a search's events until the search has ended.

    Call it after `search_started` was written: an earlier end of the same search would
    otherwise look like its end. The shipper outlives Ctrl-C and its starter, for as long as
    there is something to deliver.

    Args:
        search_dir: the search's folder; the shipper writes to `shipper.log` in it.
        uri: from `tracking_uri`; handed over in the environment, where `ps` shows no password.
        deadline_s: when to give up; None is never, while the starter lives.
    """
    command = [sys.executable, "-m", "orchestrator.shipper", str(search_dir), "--until-ended"]
    command += ["--starter-pid", str(os.getpid())]
    if deadline_s is not None:
        command += ["--deadline-s", str(deadline_s)]
    path = os.pathsep.join(filter(None, [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
    with (search_dir / "shipper.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            env={**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


class ShipperKeeper:
    """A search's shipper while its driver runs, started again where it ended before the search.

    Args:
        search_dir: the search's folder.
        uri: from `tracking_uri`.
        now: seconds on a clock that never goes back.
    """

    def __init__(
        self, search_dir: Path, uri: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._search_dir, self._uri, self._now = search_dir, uri, now
        self._begun = now()
        self.process = self._started()

    def look(self) -> None:
        """Start another where it is gone; seldom, where each is gone at once."""
        code = self.process.poll()
        if code is None or self._now() - self._begun < _SHIPPER_AGAIN_S:
            return
        logger.warning("the shipper ended (%d) before the search: another is started", code)
        self._begun = self._now()
        with suppress(OSError):  # tracking never stops a search: a later look tries again
            self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        """A shipper that is waited for, however its driver ends: a notebook keeps no zombie."""
        process = start_shipper(self._search_dir, self._uri)
        threading.Thread(target=process.wait, name="shipper", daemon=True).start()
        return process


def wait_shipped(
    search_dir: Path,
    seq: int,
    timeout_s: float,
    *,
    shipper: subprocess.Popen[bytes] | None = None,
) -> bool:
    """Wait until an event has been delivered.

    Args:
        search_dir: the search's folder.
        seq: the event's place in the log.
        timeout_s: how long to wait.
        shipper: if given, waiting ends when this process does.

    Returns:
        Whether the event has been delivered.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        over = time.monotonic() >= deadline or (shipper is not None and shipper.poll() is not None)
        if read_cursor(search_dir).next_seq > seq:
            return True
        if over:
            return False
        time.sleep(_POLL_S)


def finish_shipping(
    search_dir: Path, uri: str, seq: int, shipper: subprocess.Popen[bytes] | None = None
) -> bool:
    """Wait at a driver's end, at most a minute, until an event has been delivered.

    Args:
        search_dir: the search's folder.
        uri: from `tracking_uri`.
        seq: the event's place in the log.
        shipper: the one that was started; without one that lives, another is started.

    Returns:
        Whether it has; where not, that is said with the reason and the remedy.
    """
    if read_cursor(search_dir).next_seq > seq and shipper is None:
        return True
    if shipper is None or shipper.poll() is not None:
        shipper = start_shipper(search_dir, uri)
    deadline = time.monotonic() + SHIPPING_WAIT_S
    while time.monotonic() < deadline and shipper.poll() is None:
        if wait_shipped(search_dir, seq, _TROUBLE_WAIT_S, shipper=shipper):
            break
        if read_cursor(search_dir).trouble is not None:
            break
    cursor = read_cursor(search_dir)
    if cursor.next_seq > seq:
        with suppress(subprocess.TimeoutExpired):
            shipper.wait(_SHIPPER_LEAVES_S)  # it has nothing left to do: no zombie stays
        return True
    logger.warning(
        "tracking at %s does not have everything yet (%s); nothing is lost: `latentune sync %s` "
        "delivers the rest (see %s)",
        without_credentials(uri, uri),
        cursor.trouble or ("it takes its time" if shipper.poll() is None else "the shipper ended"),
        search_dir.name,
        search_dir / "shipper.log",
    )
    return False


def read_cursor(search_dir: Path) -> Cursor:
    """The search's cursor; at the start where there is none, or none that can be read."""
    try:
        return Cursor(**json.loads((search_dir / CURSOR_NAME).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return Cursor()  # to deliver again is safe, to skip is not


def write_cursor(search_dir: Path, cursor: Cursor) -> None:
    """Replace the search's cursor, atomically and on disk when this returns."""
    write_atomic(search_dir / CURSOR_NAME, json.dumps(asdict(cursor)).encode())
