"""A cluster's door, from outside: closed to those without its token, open to those with it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.doctor.findings import Finding, failed, ok, skipped
from orchestrator.safety.proxies import reach_directly

_ANSWERS_S = 10.0
Get = Callable[[str, Mapping[str, str]], tuple[int, str]]


def is_jobs_address(address: str) -> bool:
    """Whether an address is of Ray's dashboard and Jobs API, not of Ray itself."""
    return urlsplit(address).scheme in ("http", "https")


def token_of(environment: Mapping[str, str], default_file: Path) -> str | None:
    """The token that Ray's clients would send; it is never shown."""
    if environment.get("RAY_AUTH_TOKEN"):
        return environment["RAY_AUTH_TOKEN"]
    file = Path(environment.get("RAY_AUTH_TOKEN_PATH") or default_file)
    return file.read_text().strip() if file.exists() else None


def check_door(
    address: str, token: str | None, own_ray: str, get: Get | None = None
) -> Iterator[Finding]:
    """Whether a stranger is turned away, and whether our token opens.

    Args:
        own_ray: the version of Ray that is installed here.
        get: answers a URL and headers with a status and a body; raises OSError where nothing
            answers.
    """
    get, url = get or http_get, f"{address.rstrip('/')}/api/version"
    try:
        stranger, _ = get(url, {})
        status, body = get(url, {"Authorization": f"Bearer {token}"}) if token else (stranger, "")
    except OSError as error:
        remedy = "start the cluster, or open the way to it: `ray dashboard cluster.yaml`"
        yield failed("cluster", "cluster", f"{address} does not answer: {error}", remedy)
        return
    if stranger == 200:
        remedy = "restart it with RAY_AUTH_MODE=token; anyone who reaches it can run commands there"
        yield failed("door", "cluster", f"{address} is open to everyone", remedy)
        return
    if status != 200:
        detail = f"{address} answered {status} to our token" if token else "we have no token"
        remedy = "copy the cluster's token to this machine (see the finding on the token)"
        yield failed("door", "cluster", detail, remedy)
        return
    yield ok("door", "cluster", "closed to strangers, open to our token")
    yield _check_ray(json.loads(body).get("ray_version", "unknown"), own_ray)
    where = "its nodes are seen from the head alone: run `latentune doctor --address auto` there"
    yield skipped("nodes", "cluster", where)


def _check_ray(theirs: str, ours: str) -> Finding:
    if theirs != ours:
        remedy = "install the cluster's version of ray here, or this one there"
        return failed("versions", "cluster", f"ray {theirs} there, {ours} here", remedy)
    return ok("versions", "cluster", f"ray {theirs}, as here")


def http_get(url: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """GET; an error's status is an answer as well."""
    reach_directly(url)
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_ANSWERS_S) as answer:  # noqa: S310
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
