"""`python -m orchestrator.service VERB`: what cluster.yaml and deploy/ start, and its users."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.console import BAD_INPUT, FAILED, fail, say
from orchestrator.errors import SecretError, TrackingError
from orchestrator.folders import home_folder
from orchestrator.safety.mlflow_accounts import ADMIN
from orchestrator.service.mlflow_server import (
    LOCAL_HOSTS,
    ServerOptions,
    admin_password,
    serve,
    start_detached,
    stop_running,
)
from orchestrator.service.mlflow_users import Server, allow_choosing, ensure_user
from orchestrator.service.secret_files import (
    SERVICE_USER,
    as_credentials,
    make_all,
    new_password,
    secrets_folder,
    write_secret,
)

_OF_THE_SERVER = {ADMIN: "the administrator", SERVICE_USER: "the searches' own user"}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The services of a cluster, and who may use them.",
)


@app.command()
def secrets(folder: Annotated[Path, typer.Argument(help="Made where it is missing.")]) -> None:
    """Make the secrets that a cluster needs, each in a file that you alone can read."""
    make_all(folder)
    say(f"{folder} has all secrets; those that were there stay as they were")


@app.command()
def mlflow(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    allowed_hosts: Annotated[str, typer.Option(help="Names it may be called by.")] = LOCAL_HOSTS,
    store: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_BACKEND_STORE_URI",
            help="Database without a password; default SQLite under LATENTUNE_HOME.",
        ),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_ARTIFACTS_DESTINATION",
            help="Folder or bucket; default under LATENTUNE_HOME.",
        ),
    ] = None,
    peer: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="End when this is gone.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it answers.")] = False,
) -> None:
    """Serve MLflow with users, artifacts through the server, and checked host names."""
    os.umask(0o077)  # its databases and artifacts are the owner's alone
    options = ServerOptions(
        home=home_folder(), host=host, port=port, allowed_hosts=allowed_hosts,
        store_uri=store, artifacts=artifacts, peer=peer,
    )  # fmt: skip
    if detach:
        start_detached(options, [word for word in sys.argv[2:] if word != "--detach"])
        say(f"MLflow at {options.url}")
    else:
        serve(options, lambda url: say(f"MLflow at {url}"))


@app.command()
def stop() -> None:
    """End the MLflow server of LATENTUNE_HOME, for example to restore a backup there."""
    ran = stop_running(ServerOptions(home=home_folder()))
    say("the MLflow server has ended" if ran else "no MLflow server runs here")


@app.command()
def user(
    name: Annotated[str, typer.Argument(help="The person's name on the MLflow server.")],
    to: Annotated[Path, typer.Option(help="Where to write the credentials, for that person.")],
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:5000",
    may_choose: Annotated[
        bool, typer.Option("--may-choose", help="May move aliases, and so hand over.")
    ] = False,
) -> None:
    """Add a person, or give one a new password; run it where the server's secrets are.

    The file is what MLflow's clients read as ~/.mlflow/credentials.
    """
    if name in _OF_THE_SERVER:
        raise typer.BadParameter(
            f"{name!r} is {_OF_THE_SERVER[name]}, whose password the server keeps: take another "
            "name for a person"
        )
    admin = Server(url, ADMIN, admin_password(secrets_folder(home_folder())))
    password = new_password()
    # First the file: a password that could not be written down would lock its owner out.
    write_secret(to, as_credentials(name, password))
    try:
        ensure_user(admin, name, password)
    except TrackingError:
        to.unlink()
        raise
    if may_choose:
        allow_choosing(admin, name)
    say(f"{name} logs in with {to}: put it at ~/.mlflow/credentials, mode 600")


def main() -> None:
    """Run a verb; errors are messages and exit codes."""
    try:
        app()
    except SecretError as error:
        fail(str(error), BAD_INPUT)
    except TrackingError as error:
        fail(str(error), FAILED)


if __name__ == "__main__":
    main()
