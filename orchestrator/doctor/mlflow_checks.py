"""Whether tracking can be written: a server answers, a database has the schema of this MLflow."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.doctor.findings import Finding, failed, ok, skipped, warned
from orchestrator.tracking import is_server, without_credentials

_ANSWERS_S = 10.0


def check_mlflow(uri: str) -> Finding:
    """The store or server behind a tracking URI."""
    return check_server(uri) if is_server(uri) else check_database(uri)


def check_server(uri: str, get: Callable[[str], tuple[int, str]] | None = None) -> Finding:
    """Whether a server answers, and which version it is; its schema is its own business.

    Args:
        get: answers a URL with a status and a body; raises OSError where nothing answers.
    """
    get = get or http_get
    shown = without_credentials(uri, uri)
    try:
        status, body = get(f"{uri.rstrip('/')}/version")
    except OSError as error:
        remedy = "start it, or set MLFLOW_TRACKING_URI; searches run on and catch up later"
        return failed("mlflow", "mlflow", f"{shown} does not answer: {error}", remedy)
    if status in (401, 407):
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return failed("mlflow", "mlflow", f"{shown} wants a user", remedy)
    if status == 403:
        remedy = "start the server with --allowed-hosts that has this name"
        return failed("mlflow", "mlflow", f"{shown} refuses this host name", remedy)
    if status != 200:
        remedy = "see the server's log"
        return failed("mlflow", "mlflow", f"{shown} answered {status}", remedy)
    ours, theirs = metadata.version("mlflow"), body.strip()
    if ours.split(".")[:2] != theirs.split(".")[:2]:
        remedy = "run the same MLflow on both sides"
        return warned("mlflow", "mlflow", f"{shown} is {theirs}, the client {ours}", remedy)
    return ok("mlflow", "mlflow", f"{shown} answers, version {theirs}")


def check_database(uri: str, newest: Callable[[], str | None] | None = None) -> Finding:
    """Whether a database's schema is that of the MLflow installed here.

    Args:
        newest: the revision that is wanted; by default `newest_revision`, which takes seconds.
    """
    shown = without_credentials(uri, uri)
    file = Path(urlsplit(uri).path[1:]) if uri.startswith("sqlite:///") else None
    if file is not None and not file.exists():
        return skipped("mlflow", "mlflow", f"{shown} is made when a search first writes to it")
    import sqlalchemy

    try:
        found = revision_of(uri)
    except sqlalchemy.exc.SQLAlchemyError as error:
        remedy = "start the database, or mend the tracking URI"
        return failed("mlflow", "mlflow", f"{shown}: {str(error).splitlines()[0]}", remedy)
    wanted = (newest or newest_revision)()
    if found != wanted:
        remedy = f"back it up, then `mlflow db upgrade {shown}`"
        detail = f"{shown} has the schema {found}, this MLflow wants {wanted}"
        return failed("mlflow", "mlflow", detail, remedy)
    return ok("mlflow", "mlflow", f"{shown} has the current schema")


def revision_of(uri: str) -> str | None:
    """The schema revision that a store has; None for a database that is no store."""
    import sqlalchemy
    from alembic.migration import MigrationContext

    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            revision: str | None = MigrationContext.configure(connection).get_current_revision()
            return revision
    finally:
        engine.dispose()


def newest_revision() -> str | None:
    """The schema revision that the installed MLflow wants."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    package = find_spec("mlflow")
    assert package is not None and package.origin is not None, "mlflow is a dependency"
    config = Config()
    config.set_main_option(
        "script_location", str(Path(package.origin).parent / "store/db_migrations")
    )
    head: str | None = ScriptDirectory.from_config(config).get_current_head()
    return head


def http_get(url: str) -> tuple[int, str]:
    """GET; an error's status is an answer as well."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError(f"{url!r} is no http address")
    try:
        with urllib.request.urlopen(url, timeout=_ANSWERS_S) as answer:  # noqa: S310
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
