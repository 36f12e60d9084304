"""Postgres's own tools for a copy of a database and back; passwords travel in the environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from orchestrator.errors import TrackingError

_COUNT_TABLES = "select count(*) from information_schema.tables where table_schema = 'public'"


def is_postgres(uri: str) -> bool:
    """Whether a database URI is Postgres's."""
    return urlsplit(uri).scheme.split("+")[0] in ("postgresql", "postgres")


def dump(uri: str, to: Path, password: str | None = None) -> None:
    """Copy a database into a file as it is at one instant; it may be in use.

    Raises:
        TrackingError: where that fails, with the tool's reason.
    """
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _tool(uri, password, "pg_dump", "--format=custom", "--no-owner", f"--file={to}")


def load(uri: str, source: Path, password: str | None = None) -> None:
    """Fill an empty database from such a file; all of it or nothing. Raises as `dump`."""
    options = ["--no-owner", "--exit-on-error", "--single-transaction"]
    _tool(uri, password, "pg_restore", *options, str(source))


def tables(uri: str, password: str | None = None) -> int:
    """How many tables a database has. Raises as `dump`."""
    return int(_tool(uri, password, "psql", "--no-psqlrc", "-At", f"--command={_COUNT_TABLES}"))


def _tool(uri: str, password: str | None, program: str, *options: str) -> str:
    """Run a tool on a database; the URI that it is given has no password in it."""
    parts = urlsplit(uri)
    user, _, host = parts.netloc.rpartition("@")
    plain = f"{user.partition(':')[0]}@{host}" if user else host
    shown = urlunsplit(("postgresql", plain, parts.path, parts.query, ""))
    password = unquote(parts.password) if parts.password else password
    secret = {"PGPASSWORD": password} if password else {}
    try:
        done = subprocess.run(  # noqa: S603 - Postgres's own tools
            [program, f"--dbname={shown}", *options], env={**os.environ, **secret},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise TrackingError(
            f"{program} is not installed: install Postgres's client tools of the server's version"
        ) from None
    if done.returncode:
        raise TrackingError(f"{program} on {shown} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()
