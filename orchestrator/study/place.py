"""Where a search's ledger is: a file in the search's folder, or a database that is named there.

    LATENTUNE_STORAGE unset    study.db in the folder, SQLite, guarded by a file lock
    LATENTUNE_STORAGE=URL      any SQLAlchemy URL, Postgres above all, guarded by a lease

The variable says where *new* searches keep their ledgers. One that exists stays where it began:
`storage.json` in its folder names its database, without the password, which comes from the
variable where that names the same server, else from what the database's own client reads
(PGPASSWORD, ~/.pgpass).
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from orchestrator.errors import LedgerError
from orchestrator.files import write_atomic

STORAGE_VARIABLE = "LATENTUNE_STORAGE"
STUDY_FILE = "study.db"
PLACE_FILE = "storage.json"
ID_FILE = "id"
_SECRETS = ("password", "passwd", "sslpassword")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A database that holds a search's ledger.

    Args:
        url: SQLAlchemy's, without the password.
        id: the search folder's own: another folder's search of the same name is another search.
    """

    url: str
    id: str


def storage_url(search_dir: Path) -> str:
    """The SQLAlchemy URL of a search's ledger, password included.

    Raises:
        LedgerError: for a LATENTUNE_STORAGE that is no URL.
    """
    place = read_place(search_dir)
    if place is None:
        wanted = None if (search_dir / STUDY_FILE).exists() else _wanted()
        return _own_file(search_dir) if wanted is None else _rendered(wanted)
    recorded, wanted = make_url(place.url), _wanted()
    if wanted is not None and _server(wanted) == _server(recorded):
        secrets = {key: value for key, value in wanted.query.items() if key in _SECRETS}
        recorded = recorded.set(password=wanted.password).update_query_dict(secrets)
    return _rendered(recorded)


def claim_place(search_dir: Path) -> str:
    """As `storage_url`; a search that is new notes where its ledger will be.

    Its driver alone calls this, once it holds the search: what failed before leaves no note.
    """
    url = storage_url(search_dir)
    if not in_own_file(search_dir, url) and read_place(search_dir) is None:
        _write_place(search_dir, Place(url=written_url(url), id=uuid.uuid4().hex))
    return url


def move_place(search_dir: Path, url: str) -> None:
    """Let a search whose ledger was copied into another database find it there."""
    place = read_place(search_dir)
    if place is not None:
        _write_place(search_dir, replace(place, url=written_url(url)))


def in_own_file(search_dir: Path, url: str) -> bool:
    """Whether a ledger's URL is that of the file in the search's folder."""
    return url == _own_file(search_dir) and read_place(search_dir) is None


def read_place(search_dir: Path) -> Place | None:
    """The database that a search's folder names; None for one with a file of its own."""
    path = search_dir / PLACE_FILE
    if not path.exists():
        return None
    try:
        place = Place(**json.loads(path.read_text()))
        make_url(place.url)
    except (ValueError, TypeError, ArgumentError) as error:
        raise LedgerError(
            f"{path} does not say where the search's ledger is ({error}): restore it from a copy, "
            "or remove the search's folder"
        ) from None
    return place


def folder_id(search_dir: Path) -> str:
    """What tells a search from those of its name in other folders, be they copies of this one.

    Its driver alone calls this: where the ledger is a file, an id is made at the first call.
    """
    place = read_place(search_dir)
    if place is not None:
        return place.id
    path = search_dir / ID_FILE
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex.encode())
    return hashlib.sha256(path.read_bytes() + os.fsencode(search_dir.resolve())).hexdigest()


def shown_url(url: str) -> str:
    """A URL without its password, for messages."""
    return without_password(make_url(url)).render_as_string(hide_password=True)


def written_url(url: str) -> str:
    """A URL that may be written down: without its password, with all else."""
    return _rendered(without_password(make_url(url)))


def without_password(url: URL) -> URL:
    """A URL that may be written down."""
    # `URL.set` takes None for "as it was".
    kept = URL.create(
        url.drivername,
        username=url.username,
        host=url.host,
        port=url.port,
        database=url.database,
        query=url.query,
    )
    return kept.difference_update_query(_SECRETS)


def _write_place(search_dir: Path, place: Place) -> None:
    write_atomic(search_dir / PLACE_FILE, json.dumps(asdict(place), indent=1).encode())


def _own_file(search_dir: Path) -> str:
    return f"sqlite:///{search_dir / STUDY_FILE}"


def _wanted() -> URL | None:
    text = os.environ.get(STORAGE_VARIABLE)
    if not text:
        return None
    try:
        url = make_url(text)
        url.get_dialect()
    except ArgumentError:  # its message would repeat the password
        raise LedgerError(
            f"{STORAGE_VARIABLE} is no SQLAlchemy URL of a database that is known here: expected "
            "for example postgresql+psycopg://user@host/database"
        ) from None
    return _absolute(url) if url.get_backend_name() == "sqlite" else url


def _absolute(url: URL) -> URL:
    """A SQLite file's URL, the same from whatever folder the search is gone on with."""
    if not url.database or url.database == ":memory:":
        raise LedgerError(
            f"{STORAGE_VARIABLE} names no file, and a ledger in memory is lost with its driver: "
            "expected for example sqlite:////srv/latentune/ledgers.db"
        )
    is_uri = url.database.startswith("file:")
    return url if is_uri else url.set(database=str(Path(url.database).absolute()))


def _server(url: URL) -> tuple[object, ...]:
    return url.drivername, url.username, url.host, url.port, url.database


def _rendered(url: URL) -> str:
    return url.render_as_string(hide_password=False)
