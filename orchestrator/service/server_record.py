"""What a home's MLflow server was started with, written down in the home by the server itself.

Its store and its bucket stand on its command line alone. Who backs up, in another process with
another environment, reads them here; who ends it finds its process.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import TrackingError
from orchestrator.files import write_atomic
from orchestrator.study.place import written_url

SERVER_FILE = "mlflow-server.json"


@dataclass(frozen=True, kw_only=True)
class ServerRecord:
    """A server of a home.

    Args:
        store: its database, without a password; None for SQLite in the home.
        artifacts: the folder or bucket; None for the folder in the home.
        pid: its process; None when it has ended.
    """

    store: str | None = None
    artifacts: str | None = None
    pid: int | None = None


def write_server(home: Path, record: ServerRecord) -> None:
    """Write the record down, without a password."""
    kept = asdict(record)
    if record.store is not None:
        kept["store"] = written_url(record.store)
    write_atomic(home / SERVER_FILE, json.dumps(kept, indent=1).encode())


def read_server(home: Path) -> ServerRecord | None:
    """The record of the last server of a home; None where none has run.

    Raises:
        TrackingError: for a file that is none.
    """
    path = home / SERVER_FILE
    try:
        return ServerRecord(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise TrackingError(
            f"{path} does not say where MLflow keeps its runs ({error}): start the server again, "
            "which writes it"
        ) from None
