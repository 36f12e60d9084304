"""Where what a backup needs lies, if not in the home: databases, artifacts, secrets.

ledgers    a search's storage.json
runs       what the MLflow server noted, or the caller says
artifacts  the same
secrets    LATENTUNE_SECRETS
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy.engine import make_url

from orchestrator.errors import BackupError
from orchestrator.folders import all_searches
from orchestrator.service.postgres import is_postgres
from orchestrator.service.secret_files import RAY_TOKEN, SECRETS, secrets_folder
from orchestrator.service.server_record import read_server
from orchestrator.study.place import read_place, shown_url, storage_url
from orchestrator.tracking import is_server, without_credentials


def ledger_database(home: Path) -> str | None:
    """The Postgres that holds searches' ledgers; None where all have files of their own.

    Raises:
        BackupError: for several, or one of another kind.
        LedgerError: for a storage.json that does not say.
    """
    named: dict[str, list[str]] = {}
    for folder in all_searches(home):
        if read_place(folder.path) is not None:
            named.setdefault(storage_url(folder.path), []).append(folder.name)
    told = "; ".join(f"{', '.join(names)} in {shown_url(url)}" for url, names in named.items())
    if len(named) > 1:
        raise BackupError(
            f"ledgers are in several databases ({told}): move the folders of the searches of one "
            "into a LATENTUNE_HOME of their own, and back up each"
        )
    if not all(map(is_postgres, named)):
        raise BackupError(
            f"ledgers are in a database that cannot be copied ({told}): a backup takes a Postgres, "
            "or files under LATENTUNE_HOME; copy it with its own tools, and the folder with `cp`"
        )
    return next(iter(named), None)


def tracking_database(home: Path, given: str | None) -> tuple[str | None, list[str]]:
    """The Postgres that holds MLflow's runs, and what holds runs and is not copied.

    Args:
        given: what the caller says: the store itself, or a server.
    """
    server = read_server(home)
    stores: dict[tuple[str | None, int | None, str | None], str] = {}
    left_out = []
    for place in filter(None, (given, None if server is None else server.store)):
        if is_server(place):
            if server is None:  # whose server that is, nobody knows here
                left_out.append(f"MLflow at {without_credentials(place, place)}")
        elif is_postgres(place):
            url = make_url(place)
            stores.setdefault((url.host, url.port, url.database), place)
        elif not _is_file_in(home, place):
            left_out.append(f"MLflow's store {shown_url(place)}")
    found = list(stores.values())
    left_out += [f"MLflow's store {shown_url(other)}" for other in found[1:]]
    return found[0] if found else None, left_out


def _is_file_in(home: Path, store: str) -> bool:
    url = make_url(store)
    file = Path(url.database or "").resolve()
    return url.get_backend_name() == "sqlite" and file.is_relative_to(home)


def artifacts_elsewhere(home: Path, given: str | None) -> list[str]:
    """Where MLflow's artifacts are, if not under the home."""
    server = read_server(home)
    place = given or (server.artifacts if server is not None else None)
    if place is None:
        return []
    parts = urlsplit(place)
    is_path = parts.scheme in ("", "file")
    if is_path and Path(unquote(parts.path)).resolve().is_relative_to(home):
        return []
    return [place]


def secrets_elsewhere(home: Path) -> tuple[list[Path], list[str]]:
    """The secrets' files, if they are not under the home, and those that are missing there."""
    folder = secrets_folder(home)
    if folder.resolve().is_relative_to(home):
        return [], []
    wanted = [folder / name for name in SECRETS]
    found = [path for path in wanted if path.exists()]
    # The token is the cluster's, and not always among MLflow's.
    return found, [str(p) for p in wanted if p not in found and p.name != RAY_TOKEN]
