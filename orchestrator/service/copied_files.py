"""The files of a home that a backup copies, in the order in which they rest on each other.

What is left out is left out by its place, never by a name that something else may have: a search
may be called `cache`. Links are followed; one that leads nowhere, or round in a circle, is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import BackupError
from orchestrator.service.server_record import SERVER_FILE

_SQLITE = b"SQLite format 3\0"
# What rests on what: MLflow's cursor on MLflow, that on events, they on the ledger, it on states.
STAGES = ("shipped.json", "mlflow", "events.jsonl", "states", "study.db", "states")
# Made again at need, or about processes that will be gone.
_OF_HOME = frozenset({"cache", "pulled", "mlflow.lock", "mlflow-server.lock", SERVER_FILE})
_OF_SEARCH = frozenset({"control", "lock", "lock.json", "shipper.lock"})
_RAYS = re.compile(r"tune-[a-z0-9_]{8}")  # of a run: its trials' scratch folder
_SCRATCH = re.compile(r"\..+\.\d+\.tmp")  # of a file that is being written
_BESIDE_DATABASE = ("-wal", "-shm", "-journal")


def members(home: Path, stage: str) -> Iterator[Path]:
    """The files of one of `STAGES`, relative to `home`.

    Raises:
        BackupError: for a link that leads nowhere or in a circle, or what is no file.
    """
    return (path for path in _files(home, Path(), ()) if _stage(path) == stage)


def is_database(path: Path) -> bool:
    """Whether a file is SQLite's."""
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _files(home: Path, folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """All files below a folder; `above` are the folders that it lies in, by device and inode."""
    try:
        names, here = sorted(os.listdir(home / folder)), (home / folder).stat()
    except FileNotFoundError:
        return  # gone since its parent was read
    if (here.st_dev, here.st_ino) in above:
        raise BackupError(f"{home / folder} is a link to what it lies in: remove it")
    for name in names:
        path = folder / name
        if _is_left_out(home, path):
            continue
        if (home / path).is_dir():
            yield from _files(home, path, (*above, (here.st_dev, here.st_ino)))
        elif (home / path).is_file():
            yield path
        elif os.path.lexists(home / path):
            raise BackupError(
                f"{home / path} is a link that leads nowhere, or no file: restore what it stands "
                "for, or remove it"
            )


def _stage(path: Path) -> str:
    if path.name in ("shipped.json", "events.jsonl", "study.db"):
        return path.name
    return "mlflow" if path.parts[0].startswith(("mlflow", "mlartifacts")) else "states"


def _is_left_out(home: Path, path: Path) -> bool:
    match path.parts:
        case (name,):
            if name in _OF_HOME or _SCRATCH.fullmatch(name):
                return True
        case ("searches", _, name):
            if name in _OF_SEARCH or _RAYS.fullmatch(name):
                return True
    if path.parts[0] == "searches" and _SCRATCH.fullmatch(path.name):
        return True
    return _is_beside_database(home / path)


def _is_beside_database(path: Path) -> bool:
    """Whether a file is SQLite's own beside a database, which is copied with what it holds."""
    for end in _BESIDE_DATABASE:
        database = path.with_name(path.name.removesuffix(end))
        if database != path and database.is_file():
            return is_database(database)
    return False
