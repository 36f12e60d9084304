"""Who may come in to the MLflow UI: by which names, from which pages, and with which password.

    127.0.0.1       no password; only by the names of this machine's loopback
    anything else   MLflow's basic-auth app with an administrator's password, or not at all

A page of another site can make a browser ask a server on 127.0.0.1 (DNS rebinding): such a request
carries the other site's name as `Host` or `Origin`, and MLflow answers it with 403.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

from orchestrator.errors import TrackingUriError
from orchestrator.safety.mlflow_accounts import (
    PASSWORD_VARIABLE,
    SETTINGS_VARIABLE,
    write_accounts,
)

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HOSTS_VARIABLE = "MLFLOW_SERVER_ALLOWED_HOSTS"
_SWITCHED_OFF = "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"
_KEY_VARIABLE = "MLFLOW_FLASK_SERVER_SECRET_KEY"
_LEAST_PASSWORD = 12
_NAMES = ("localhost", "127.0.0.1", "[::1]")


def refuse_open_door(host: str) -> None:
    """Refuse to listen for other machines without a password.

    Raises:
        TrackingUriError: with what is missing.
    """
    if host in LOOPBACK:
        return
    remedy = (
        "use 127.0.0.1 and an SSH tunnel (ssh -L 5000:127.0.0.1:5000 HOST), or an MLflow server "
        "of your own (MLFLOW_TRACKING_URI)"
    )
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if not password and not os.environ.get(SETTINGS_VARIABLE):
        raise TrackingUriError(
            f"host {host!r} would open the UI, without a password, to other machines: set "
            f"{PASSWORD_VARIABLE} (at least {_LEAST_PASSWORD} characters) for the user admin; or "
            + remedy
        )
    if password and len(password) < _LEAST_PASSWORD:
        raise TrackingUriError(
            f"{PASSWORD_VARIABLE} has {len(password)} characters, expected at least "
            f"{_LEAST_PASSWORD}: choose a longer one"
        )
    if importlib.util.find_spec("flask_wtf") is None:
        raise TrackingUriError(
            f"host {host!r} needs MLflow's password check, which is not installed: "
            f"pip install 'latentune[auth]'; or {remedy}"
        )


def door_options(home: Path, host: str) -> tuple[list[str], dict[str, str]]:
    """What an MLflow server must be told to keep others out: arguments and environment.

    The password goes through the environment, where `ps` does not show it.
    """
    given = os.environ.get(HOSTS_VARIABLE)
    options = ["--allowed-hosts", given or ",".join(_allowed_hosts(host))]
    if host in LOOPBACK:
        return options, {}
    environment = {_KEY_VARIABLE: os.environ.get(_KEY_VARIABLE) or secrets.token_hex(32)}
    if not os.environ.get(SETTINGS_VARIABLE):
        settings = write_accounts(home / "ui-auth.ini", "NO_PERMISSIONS")
        environment[SETTINGS_VARIABLE] = str(settings)
    return [*options, "--app-name", "basic-auth"], environment


def without_open_doors(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which nothing switches these checks off."""
    return {name: value for name, value in environment.items() if name != _SWITCHED_OFF}


def _allowed_hosts(host: str) -> list[str]:
    """Names by which the server may be called, at any port: tunnels have their own.

    MLflow's default takes private addresses by their first digits, and so `10.evil.example`.
    """
    names = [*_NAMES]
    if host not in LOOPBACK:
        names += [host, socket.gethostname(), socket.getfqdn(), *_addresses()]
    unique = dict.fromkeys(name for name in names if name not in ("0.0.0.0", "::", ""))  # noqa: S104
    return [form for name in unique for form in (name, f"{name.replace('[', '[[]')}:*")]


def _addresses() -> list[str]:
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    except OSError:
        return []
    return [str(one[4][0]) for one in found]
