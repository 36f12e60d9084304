"""Whether tracking can be written: a server answers, a database has the schema of this MLflow."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from orchestrator.doctor.findings import Finding, failed, ok, skipped, warned
from orchestrator.tracking import is_server, without_credentials

if TYPE_CHECKING:
    from mlflow.utils.rest_utils import MlflowHostCreds

Get = Callable[[str], tuple[int, str, str | None]]
_ANSWERS_S = 10.0


def check_mlflow(uri: str) -> Finding:
    """The store or server behind a tracking URI."""
    return check_server(uri) if is_server(uri) else check_database(uri)


def check_server(uri: str, get: Get | None = None) -> Finding:
    """Whether a server answers us, and which version it is; its schema is its own business.

    Args:
        get: asks a server for its version and returns the answer's status and body, and who it
            was asked as; raises OSError where nothing answers.
    """
    shown = without_credentials(uri, uri)
    try:
        status, body, user = (get or ask_version)(uri)
    except OSError as error:
        remedy = "start it, or set MLFLOW_TRACKING_URI; searches run on and catch up later"
        reason = without_credentials(str(error), uri)
        return failed("mlflow", "mlflow", f"{shown} does not answer: {reason}", remedy)
    if status in (401, 407):
        found = "wants a user, and there is none here" if user is None else f"refused {user}"
        remedy = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or put them into "
            "~/.mlflow/credentials (the cluster's administrator gives you that file)"
        )
        return failed("mlflow", "mlflow", f"{shown} {found}", remedy)
    if status == 403:
        remedy = "start the server with --allowed-hosts that has this name"
        return failed("mlflow", "mlflow", f"{shown} refuses this host name", remedy)
    if status != 200:
        remedy = "see the server's log"
        return failed("mlflow", "mlflow", f"{shown} answered {status}", remedy)
    ours, theirs = metadata.version("mlflow"), body.strip()
    if ours.split(".")[:2] != theirs.split(".")[:2]:
        remedy = "run the same MLflow on both sides"
        return warned("mlflow", "mlflow", f"{shown} is {theirs[:40]}, the client {ours}", remedy)
    known = "" if user is None else f", and lets {user} in"
    return ok("mlflow", "mlflow", f"{shown} answers, version {theirs}{known}")


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


def ask_version(uri: str) -> tuple[int, str, str | None]:
    """A server's answer as MLflow's own client gets it, with its user, token and certificates.

    Returns:
        Its status and body, and who it was asked as; None for nobody.

    Raises:
        OSError: where nothing answers.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    ours = get_default_host_creds(uri)
    try:
        answer = http_request(
            ours, "/version", "GET", max_retries=0, timeout=_ANSWERS_S, raise_on_status=False
        )
    except MlflowException as error:
        raise OSError((str(error).splitlines() or ["no reason given"])[0]) from None
    return answer.status_code, answer.text, _who(uri, ours)


def _who(uri: str, ours: MlflowHostCreds) -> str | None:
    """As whom MLflow's client asks; what a URI holds goes before what it finds itself."""
    named = unquote(urlsplit(uri).username or "")
    if named:
        return f"the user {named!r}, of the tracking URI"
    if ours.username and ours.password:
        return f"the user {ours.username!r}"
    return "the token of MLFLOW_TRACKING_TOKEN" if ours.token else None
