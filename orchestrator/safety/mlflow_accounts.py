"""MLflow's settings for passwords: who administers, and what a new user may do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from orchestrator.files import write_atomic

ADMIN = "admin"
PASSWORD_VARIABLE, SETTINGS_VARIABLE = "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_AUTH_CONFIG_PATH"
_PASSWORD_CACHE_S = 60  # without it, each request pays a quarter of a second for its password
_SETTINGS = """\
[mlflow]
default_permission = {permission}
admin_username = {admin}
database_uri = {uri}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = {cache_s}
"""


def write_accounts(settings: Path, permission: Literal["NO_PERMISSIONS", "READ"]) -> Path:
    """Write the settings of MLflow's basic-auth app; no password is in them.

    Args:
        settings: the file; users are in a database beside it.
        permission: of a user on what nobody gave them a permission for.

    Returns:
        The file, as MLFLOW_AUTH_CONFIG_PATH wants it.
    """
    uri = f"sqlite:///{settings.with_suffix('.db').resolve()}"
    text = _SETTINGS.format(
        permission=permission, admin=ADMIN, uri=uri.replace("%", "%%"), cache_s=_PASSWORD_CACHE_S
    )
    settings.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(settings, text.encode())
    settings.chmod(0o600)
    return settings
