"""Secrets in files that their owner alone reads: made once, never shown, never an argument.

    secrets/                  0700; every file 0600
      ray_token               what each process and client of the Ray cluster shows
      postgres_password
      mlflow_admin_password   of the user `admin`, who adds people
      mlflow_flask_key        what the server signs its forms with
      mlflow_credentials      the searches' own user, written as MLflow's ~/.mlflow/credentials is

Docker mounts the same files as /run/secrets.
"""

from __future__ import annotations

import configparser
import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import SecretError

RAY_TOKEN = "ray_token"  # noqa: S105 - names of files, like those below
POSTGRES_PASSWORD = "postgres_password"  # noqa: S105
ADMIN_PASSWORD = "mlflow_admin_password"  # noqa: S105
FLASK_KEY = "mlflow_flask_key"
CREDENTIALS = "mlflow_credentials"
FOLDER_VARIABLE = "LATENTUNE_SECRETS"
SERVICE_USER = "latentune"

_SECTION, _USER, _PASSWORD = "mlflow", "mlflow_tracking_username", "mlflow_tracking_password"


def secrets_folder(home: Path) -> Path:
    """LATENTUNE_SECRETS, else the folder under LATENTUNE_HOME."""
    return Path(os.environ.get(FOLDER_VARIABLE) or home / "secrets")


def make_all(folder: Path) -> list[Path]:
    """Make every secret that is missing; those that exist stay."""
    for name in _MAKERS:
        ensure_secret(folder, name)
    return [folder / name for name in _MAKERS]


def ensure_secret(folder: Path, name: str) -> str:
    """A secret's text; made where it is missing.

    Raises:
        SecretError: for a file that others can read, or a folder that cannot be written.
    """
    path = folder / name
    if not path.exists():
        write_secret(path, _MAKERS[name]())
    return read_secret(path)


def read_secret(path: Path) -> str:
    """The text of a file that only its owner can read.

    Raises:
        SecretError: where others can read it, or we cannot.
    """
    try:
        mode, text = path.stat().st_mode, path.read_text().strip()
    except OSError as error:
        raise SecretError(
            f"{path} cannot be read ({error.strerror}): run as its owner, or let "
            "`python -m orchestrator.service secrets FOLDER` make it"
        ) from None
    if mode & 0o077:
        raise SecretError(f"{path} can be read by others: `chmod 600 {path}`")
    return text


def write_secret(path: Path, text: str) -> None:
    """Write a new file with mode 0600; an existing one is not touched.

    Raises:
        SecretError: where it exists or cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise SecretError(f"{path} cannot be written ({error.strerror})") from None
    with os.fdopen(file, "w") as stream:
        stream.write(text.rstrip("\n") + "\n")


def credentials(text: str) -> tuple[str, str]:
    """User and password of an MLflow credentials file.

    Raises:
        SecretError: for another kind of file.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
        return parser[_SECTION][_USER], parser[_SECTION][_PASSWORD]
    except (configparser.Error, KeyError):
        raise SecretError(
            f"{CREDENTIALS} is no MLflow credentials file (expected a section [{_SECTION}] with "
            f"{_USER} and {_PASSWORD}): remove it, and another is made"
        ) from None


def as_credentials(user: str, password: str) -> str:
    """The text of a file that MLflow's clients read as ~/.mlflow/credentials."""
    parser = configparser.ConfigParser(interpolation=None)
    parser[_SECTION] = {_USER: user, _PASSWORD: password}
    text = io.StringIO()
    parser.write(text)
    return text.getvalue()


def new_password() -> str:
    """A password of 192 random bits that needs no quoting anywhere."""
    return secrets.token_hex(24)


def _new_token() -> str:
    return secrets.token_hex(32)


def _new_credentials() -> str:
    return as_credentials(SERVICE_USER, new_password())


_MAKERS: dict[str, Callable[[], str]] = {
    RAY_TOKEN: _new_token,
    POSTGRES_PASSWORD: new_password,
    ADMIN_PASSWORD: new_password,
    FLASK_KEY: _new_token,
    CREDENTIALS: _new_credentials,
}
SECRETS = tuple(_MAKERS)
