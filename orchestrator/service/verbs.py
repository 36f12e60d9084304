"""`latentune backup` and `latentune restore`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.console import Json, print_json, say
from orchestrator.folders import home_folder

logger = logging.getLogger(__name__)

Store = Annotated[
    str | None,
    typer.Option(
        envvar="MLFLOW_BACKEND_STORE_URI",
        help="The MLflow server's Postgres, without a password; default what the server noted "
        "in LATENTUNE_HOME.",
    ),
]


def backup(
    to: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Copy all searches, the MLflow store, its artifacts and its secrets; searches may run."""
    from orchestrator.service.backup import backup

    found = backup(
        home_folder(),
        to,
        databases=_databases(store),
        artifacts=os.environ.get("MLFLOW_ARTIFACTS_DESTINATION"),
        password=_password(),
    )
    if json:
        print_json(found)
        return
    say(f"{to}: {len(found.searches)} searches, {len(found.files)} files; keep it like a password")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="What `backup` made.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Put a backup back under LATENTUNE_HOME, where nothing may be yet."""
    from orchestrator.service.backup import restore

    found = restore(source, home_folder(), databases=_databases(store), password=_password())
    _tell_secrets(home_folder())
    if json:
        print_json(found)
    else:
        say(f"{home_folder()}: {len(found.searches)} searches; `latentune list` shows them")


def _tell_secrets(home: Path) -> None:
    """Secrets come back into the home; a server that has them elsewhere does not see them."""
    from orchestrator.service.secret_files import FOLDER_VARIABLE, secrets_folder

    here, used = home / "secrets", secrets_folder(home)
    if here.is_dir() and used.resolve() != here.resolve():
        logger.warning(
            "%s=%s: the backup's secrets are in %s; copy them there", FOLDER_VARIABLE, used, here
        )


def _databases(store: str | None) -> dict[str, str]:
    """Where MLflow's store and the ledgers are, if not under LATENTUNE_HOME."""
    from orchestrator.service.backup import STUDIES, TRACKING
    from orchestrator.study.place import STORAGE_VARIABLE

    named = {
        TRACKING: store or os.environ.get("MLFLOW_TRACKING_URI"),
        STUDIES: os.environ.get(STORAGE_VARIABLE),
    }
    return {name: uri for name, uri in named.items() if uri}


def _password() -> str | None:
    from orchestrator.service.secret_files import POSTGRES_PASSWORD, read_secret, secrets_folder

    path = secrets_folder(home_folder()) / POSTGRES_PASSWORD
    return read_secret(path) if path.exists() else None
