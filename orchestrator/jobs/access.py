"""Who may talk to a cluster: its address, the token, and no cluster without one.

A Ray that asks for no token runs whatever anybody sends it, so none is used. The token is read
where Ray reads it and travels in one header; it stands in no message, URL or argument.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import requests

from orchestrator.errors import ClusterAccessError, ClusterError
from orchestrator.safety.proxies import is_local, reach_directly

logger = logging.getLogger(__name__)

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
TOKEN_VARIABLE, TOKEN_PATH_VARIABLE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_TOKEN = re.compile(r"[\x21-\x7e]{8,4096}")  # what a header can hold
_OTHERS = 0o077
_ANSWER_S = 20.0
_GET_ONE = "make one with `ray get-auth-token --generate` and start the cluster with it"


@dataclass(frozen=True)
class Access:
    """How to reach a cluster's Jobs server.

    Args:
        url: `http://HEAD:8265`.
        token: None for an open cluster on this machine.
    """

    url: str
    token: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


@dataclass(frozen=True)
class GivenToken:
    """The token that this machine has.

    Args:
        file: that it is in; None where it is in the environment.
        mode: of that file.
    """

    token: str = field(repr=False)
    file: Path | None = None
    mode: int = 0

    @property
    def is_exposed(self) -> bool:
        """Whether others than its owner can read it."""
        return bool(self.mode & _OTHERS)


def open_access(address: str | None = None, *, accept_open_cluster: bool = False) -> Access:
    """Find the cluster and make sure that it, and nobody else, lets us in.

    Args:
        address: default RAY_API_SERVER_ADDRESS, then RAY_ADDRESS.
        accept_open_cluster: use a cluster on this machine that asks for no token.

    Raises:
        ClusterError: if the address names no Jobs server, or none answers there.
        ClusterAccessError: if the cluster is open, or refuses the token.
    """
    url = cluster_url(address)
    reach_directly(url)
    if ask(url, {})[0] == requests.codes.ok:
        _check_open(url, accepted=accept_open_cluster)
        return Access(url)
    access = Access(url, read_token(url))
    status, _ = ask(url, access.headers)
    if status == requests.codes.forbidden:
        raise ClusterAccessError(
            f"403: {url} does not take this token: it is another cluster's, or has changed; get "
            f"the cluster's own and set {TOKEN_VARIABLE} or {TOKEN_PATH_VARIABLE}"
        )
    if status != requests.codes.ok:
        raise ClusterError(f"{url} is no Jobs server of Ray: it answers {status} to /api/version")
    if urlsplit(url).scheme == "http" and not is_local(url):
        logger.warning(
            "the token goes to %s unencrypted: better an SSH tunnel (`ray attach cluster.yaml "
            "-p 8265`) or https", url,
        )  # fmt: skip
    return access


def cluster_url(address: str | None = None) -> str:
    """The Jobs server's URL: flag over RAY_API_SERVER_ADDRESS over RAY_ADDRESS.

    Raises:
        ClusterError: if there is none, or it is no `http://HEAD:8265`.
    """
    found = {"--address": address} | {name: os.environ.get(name) for name in ADDRESS_VARIABLES}
    source, given = next(((s, g) for s, g in found.items() if g), (None, None))
    if source is None or given is None:
        raise ClusterError(
            "no cluster is named: give --address http://HEAD:8265, or set "
            f"{' or '.join(ADDRESS_VARIABLES)}"
        )
    parts = _parts(source, given)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ClusterError(
            f"{source} holds more than a host and a port: write http://HEAD:8265; the token comes "
            f"from {TOKEN_VARIABLE}, {TOKEN_PATH_VARIABLE} or ~/.ray/auth_token"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(
            f"{source}={given!r} is not the address of a Jobs server: write http://HEAD:8265, the "
            "dashboard's port and not that of Ray itself"
        )
    return given.rstrip("/")


def read_token(url: str) -> str:
    """The token, from where Ray reads it; a warning where others can read it as well.

    Raises:
        ClusterAccessError: if there is none, or it is no token.
    """
    given = given_token()
    if given is None:
        raise ClusterAccessError(
            f"401: {url} asks for a token and there is none here: set {TOKEN_VARIABLE}, or "
            f"{TOKEN_PATH_VARIABLE} to a file, or put it into ~/.ray/auth_token (mode 600)"
        )
    if given.is_exposed:
        logger.warning("others may read the token: chmod 600 %s", given.file)
    return given.token


def given_token() -> GivenToken | None:
    """What is found where Ray looks for the token; None where there is nothing.

    Raises:
        ClusterAccessError: if it cannot be read, or is no token.
    """
    if token := os.environ.get(TOKEN_VARIABLE, "").strip():
        return GivenToken(_checked(token, TOKEN_VARIABLE))
    path = token_file()
    try:
        token, mode = path.read_text(encoding="ascii").strip(), path.stat().st_mode & 0o777
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ClusterAccessError(f"the token's file {path} cannot be read: {reason}") from None
    return GivenToken(_checked(token, str(path)), path, mode) if token else None


def token_file() -> Path:
    """The file that the token is in unless the environment holds it."""
    named = os.environ.get(TOKEN_PATH_VARIABLE)
    return Path(os.path.expanduser(named)) if named else Path.home() / ".ray" / "auth_token"


def _checked(token: str, source: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ClusterAccessError(f"what {source} holds is no token: {_GET_ONE}")
    return token


def _parts(source: str, given: str) -> SplitResult:
    """An address in its parts; one that has none is not repeated, since a token may be in it."""
    try:
        parts = urlsplit(given)
        parts.port  # noqa: B018 - to look at it is what raises
    except ValueError:
        raise ClusterError(
            f"{source} is no URL: its host or its port cannot be read; write http://HEAD:8265"
        ) from None
    return parts


def _check_open(url: str, *, accepted: bool) -> None:
    if not is_local(url):
        raise ClusterAccessError(
            f"{url} is an open cluster: it answers without a token, so that whoever reaches it "
            f"runs code there. Nothing was sent; {_GET_ONE} (RAY_AUTH_MODE=token)"
        )
    if not accepted:
        raise ClusterAccessError(
            f"{url} is an open cluster: it answers without a token. Nothing was sent; {_GET_ONE} "
            "(RAY_AUTH_MODE=token), or, on this machine alone, pass --i-accept-open-cluster"
        )


def ask(url: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """The status and body of the Jobs server's answer; no redirect is followed, no netrc read.

    Raises:
        ClusterError: if nobody answers there, or not in HTTP.
    """
    try:
        answer = requests.get(
            f"{url}/api/version",
            headers=headers,
            auth=_as_it_is,
            timeout=_ANSWER_S,
            allow_redirects=False,
        )
    except (requests.RequestException, ValueError) as error:  # what is raised may hold the token
        raise ClusterError(
            f"{url} cannot be reached ({type(error).__name__}): is the cluster up (`ray up`), and "
            "the tunnel to its dashboard open (`ray attach cluster.yaml -p 8265`)?"
        ) from None
    return answer.status_code, answer.text


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
