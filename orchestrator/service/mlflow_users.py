"""People on an MLflow server with basic authentication: add them, say what they may do.

Everyone who is known reads everything (MLflow's permission READ). Who may also move an alias,
which is how a choice is handed over, gets EDIT on registered models.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import TrackingError
from orchestrator.safety.proxies import reach_directly

MIN_PASSWORD = 12  # MLflow refuses shorter ones
_TIMEOUT_S = 30.0
_EXISTS = "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True)
class Server:
    """An MLflow server, and who speaks to it."""

    url: str
    user: str
    password: str

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request.

        Raises:
            TrackingError: where it is refused, with the server's reason, or nobody answers.
        """
        reach_directly(self.url)
        try:
            return self._answer(method, path, body)
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")[:300]
            raise TrackingError(f"{self.url}{path} answered {error.code}: {reason}") from None
        except OSError as error:
            raise TrackingError(f"{self.url} cannot be reached ({error}): does it run?") from None

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {pair}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(  # noqa: S310 - http or https, by `is_server`
            f"{self.url.rstrip('/')}{path}", data, headers, method=method
        )
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as reply:  # noqa: S310
            found = reply.read()
        answer: dict[str, Any] = json.loads(found) if found.strip() else {}
        return answer


def ensure_user(admin: Server, user: str, password: str) -> None:
    """Make a user, or give an existing one this password.

    Raises:
        TrackingError: where the server refuses.
    """
    who = {"username": user, "password": password}
    try:
        admin.call("POST", "/api/2.0/mlflow/users/create", who)
    except TrackingError as error:
        if _EXISTS not in str(error):
            raise
        admin.call("PATCH", "/api/2.0/mlflow/users/update-password", who)


def allow_choosing(admin: Server, user: str) -> None:
    """Let a user move aliases and edit notes of every registered model."""
    grant = {"username": user, "resource_type": "registered_model", "resource_id": "*"}
    admin.call("POST", "/api/3.0/mlflow/users/permissions/grant", {**grant, "permission": "EDIT"})
