"""Back up everything that cannot be made again, searches running or not, and put it back.

    TO/backup.json     what is in there, by digest, and what is not
       home/           LATENTUNE_HOME: searches, MLflow's SQLite files and artifacts, secrets
       postgres/       MLflow's store and the ledgers, where they are in one

A driver writes a trial's state, then the ledger, then the event, then MLflow hears of it. A copy
that reads in the other direction holds, for each thing, all that it rests on: a search goes on
from it as after a crash.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.driver_lock import is_held
from orchestrator.errors import BackupError, ConfigError
from orchestrator.files import write_atomic
from orchestrator.folders import UPLOADS, all_searches, by_content
from orchestrator.results import SCHEMA_VERSION, Record
from orchestrator.service.copied_files import STAGES, is_database, members
from orchestrator.service.postgres import dump, is_postgres, load, tables
from orchestrator.service.secret_files import read_secret, write_secret
from orchestrator.service.server_record import ServerRecord, write_server
from orchestrator.service.whereabouts import (
    artifacts_elsewhere,
    ledger_database,
    secrets_elsewhere,
    tracking_database,
)
from orchestrator.study.place import move_place
from orchestrator.tracking import without_credentials
from orchestrator.yaml_source import dump_yaml, read_yaml
from trainable.artifact import versions

logger = logging.getLogger(__name__)

MANIFEST = "backup.json"
_HOME, _DUMPS = "home", "postgres"
# Databases that may be a Postgres, by the stage at which they are copied.
TRACKING, STUDIES = "mlflow", "study.db"
_HOW_TO_NAME = {
    TRACKING: "--store postgresql://USER@HOST/DATABASE",
    STUDIES: "LATENTUNE_STORAGE=postgresql+psycopg://USER@HOST/DATABASE",
}
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)


class BackupRecord(Record):
    """What a backup holds."""

    schema_version: int = SCHEMA_VERSION
    made: float
    home: str
    searches: list[str]
    running: list[str]
    databases: dict[str, str]
    left_out: list[str]
    versions: dict[str, str]
    files: dict[str, str]


def backup(
    home: Path,
    to: Path,
    *,
    databases: Mapping[str, str] | None = None,
    artifacts: str | None = None,
    password: str | None = None,
) -> BackupRecord:
    """Copy LATENTUNE_HOME, and what its searches and its server keep elsewhere, into a new folder.

    What cannot be copied is warned of, and stands in the record's `left_out`.

    Args:
        home: LATENTUNE_HOME.
        to: a folder that does not exist; it appears whole or not at all.
        databases: URIs of `TRACKING`, the MLflow server's, and of `STUDIES`, where they are not
            those that the server and the searches themselves have noted.
        artifacts: where that server keeps artifacts; default what it has noted.
        password: of a Postgres, unless its URI has it.

    Raises:
        BackupError: where `to` exists or lies in `home`, nothing is there to copy, a link leads
            nowhere, or ledgers are where they cannot be copied from.
        TrackingError: where a database cannot be copied.
        SecretError: for a secret that cannot be read.
    """
    home, to = home.resolve(), to.absolute()
    _refuse_target(home, to)
    kept, left_out = _databases(home, databases or {})
    left_out += artifacts_elsewhere(home, artifacts)
    secrets, missing = secrets_elsewhere(home)
    servers = dict(kept)
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as made:
        scratch = Path(made) / "backup"
        (scratch / _HOME).mkdir(mode=0o700, parents=True)
        began, running = time.time(), [f.name for f in all_searches(home) if is_held(f)]
        for stage in STAGES:
            if stage in servers:
                dump(servers.pop(stage), _dump_of(scratch, stage), password)
            _copy(home, members(home, stage), scratch / _HOME)
        _copy_secrets(secrets, scratch / _HOME)
        record = BackupRecord(
            made=began,
            home=str(home),
            searches=[folder.name for folder in all_searches(scratch / _HOME)],
            running=running,
            databases={name: without_credentials(uri, uri) for name, uri in kept.items()},
            left_out=left_out + missing,
            versions=versions(),
            files=_digests(scratch),
        )
        write_atomic(scratch / MANIFEST, record.model_dump_json(indent=1).encode())
        scratch.rename(to)
    for place in record.left_out:
        logger.warning("NOT in the backup: %s; see that it has a copy of its own", place)
    return record


def restore(
    source: Path,
    home: Path,
    *,
    databases: Mapping[str, str] | None = None,
    password: str | None = None,
) -> BackupRecord:
    """Put a backup back where nothing is.

    Args:
        source: what `backup` made.
        home: LATENTUNE_HOME; empty, or not there.
        databases: URIs of empty ones, for those that the backup holds.
        password: of a Postgres, unless its URI has it.

    Raises:
        BackupError: for a folder that is no backup or was changed, or a target that has anything.
        TrackingError: where the database cannot be filled.
    """
    home = home.absolute()
    record = _checked(source)
    if home.exists() and any(home.iterdir()):
        raise BackupError(
            f"{home} is not empty: nothing is overwritten; end the MLflow server there (`python -m "
            "orchestrator.service stop`) and move the folder aside, or set LATENTUNE_HOME"
        )
    targets = {name: _empty(name, databases or {}, password) for name in record.databases}
    for name, uri in targets.items():
        load(uri, _dump_of(source, name), password)
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}.") as made:
        scratch = Path(made) / "home"
        shutil.copytree(source / _HOME, scratch)
        _move_artifacts(scratch / "mlflow.db", Path(record.home), home)
        for folder in all_searches(scratch):
            _move_uploads(folder.config, scratch, home)
            if STUDIES in targets:
                move_place(folder.path, targets[STUDIES])
        if TRACKING in targets:
            write_server(scratch, ServerRecord(store=targets[TRACKING]))
        if home.exists():
            home.rmdir()
        scratch.rename(home)
    return record


def _refuse_target(home: Path, to: Path) -> None:
    if not home.is_dir():
        raise BackupError(f"there is no {home}: set LATENTUNE_HOME to what is to be backed up")
    if to.exists():
        raise BackupError(f"{to} exists: nothing is overwritten; name a folder that does not")
    if to.resolve().is_relative_to(home):
        raise BackupError(f"{to} lies in {home}, which is to be copied: name another folder")


def _databases(home: Path, given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What is to be dumped, by stage, and what holds runs and cannot be."""
    tracking, left_out = tracking_database(home, given.get(TRACKING))
    found = {TRACKING: tracking, STUDIES: ledger_database(home) or given.get(STUDIES)}
    return {name: uri for name, uri in found.items() if uri and is_postgres(uri)}, left_out


def _copy(home: Path, members: Iterable[Path], to: Path) -> None:
    for member in members:
        target = to / member
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if is_database(home / member):
                _copy_database(home / member, target)
            else:
                shutil.copy2(home / member, target)
        except FileNotFoundError:
            continue  # a state that newer ones have replaced meanwhile


def _copy_secrets(secrets: Sequence[Path], to: Path) -> None:
    """Put secrets that lie elsewhere where a home has its own."""
    for path in secrets:
        target = to / "secrets" / path.name
        target.unlink(missing_ok=True)  # another, which nobody used
        write_secret(target, read_secret(path))


def _copy_database(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite file that others may be writing."""
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=60)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _digests(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path) for path in found}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(source: Path) -> BackupRecord:
    """The backup's record. Raises BackupError unless every file is what it was."""
    try:
        record = BackupRecord.model_validate(json.loads((source / MANIFEST).read_text()))
    except (OSError, ValueError, ValidationError):
        raise BackupError(
            f"{source} is no backup (expected {MANIFEST} in it): give the folder that "
            "`latentune backup` made"
        ) from None
    if record.schema_version != SCHEMA_VERSION:
        raise BackupError(f"{source} was made by another version: {record.versions}")
    there = _digests(source)
    there.pop(MANIFEST)
    changed = sorted(n for n in there.keys() | record.files if there.get(n) != record.files.get(n))
    if changed:
        raise BackupError(
            f"{source} was changed since it was made: {', '.join(changed[:5])}"
            f"{' and more' if len(changed) > 5 else ''}; nothing was written"
        )
    return record


def _dump_of(folder: Path, name: str) -> Path:
    return folder / _DUMPS / f"{name.removesuffix('.db')}.dump"


def _empty(name: str, databases: Mapping[str, str], password: str | None) -> str:
    """The URI of an empty database for this dump. Raises BackupError where there is none."""
    uri = databases.get(name)
    if uri is None or not is_postgres(uri):
        raise BackupError(
            f"the backup holds a Postgres of {name.removesuffix('.db')}: name an empty one with "
            f"{_HOW_TO_NAME[name]}"
        )
    count = tables(uri, password)
    if count:
        shown = without_credentials(uri, uri)
        raise BackupError(f"{shown} has {count} tables: nothing is overwritten; name an empty one")
    return uri


def _move_uploads(config: Path, copied: Path, home: Path) -> None:
    """Let a search find the uploaded files that it names by their path, and that moved with it.

    Args:
        copied: the home as it was filled.
        home: where it will be.
    """
    try:
        data = read_yaml(config).data
    except ConfigError:  # it comes back as it was
        return
    moved = _in_home(data, copied, home)
    if moved != data:
        write_atomic(config, dump_yaml(moved).encode())


def _in_home(value: Any, copied: Path, home: Path) -> Any:
    """Plain data that names uploaded files which are in `copied` by their place in `home`."""
    if isinstance(value, dict):
        return {key: _in_home(item, copied, home) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_home(item, copied, home) for item in value]
    if not isinstance(value, str) or by_content(value) == value:
        return value
    name = by_content(value)
    is_here = (copied / UPLOADS / name.partition("/")[0]).is_dir()
    return str(home / UPLOADS / name) if is_here else value


def _move_artifacts(database: Path, old: Path, new: Path) -> None:
    """Artifacts that MLflow knows by their path on this disk have moved with their home."""
    if not database.exists() or old == new:
        return
    before, after = (f"{home.as_uri()}/mlartifacts" for home in (old, new))
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in _PLACES:
            connection.execute(
                f"update {table} set {column} = ? || substr({column}, ?) "  # noqa: S608 - our names
                f"where substr({column}, 1, ?) = ?",
                (after, len(before) + 1, len(before), before),
            )
