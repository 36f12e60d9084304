"""A cluster's door, from outside: closed to those without its token, open to those with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

import requests

from orchestrator.doctor.findings import Finding, failed, ok, skipped
from orchestrator.errors import ClusterAccessError, ClusterError
from orchestrator.jobs.access import Access, ask, cluster_url, read_token
from orchestrator.safety.proxies import reach_directly

Ask = Callable[[str, Mapping[str, str]], tuple[int, str]]
_COPY_IT = "copy the cluster's token to this machine (see the finding on the token)"


def is_jobs_address(address: str) -> bool:
    """Whether an address is of Ray's dashboard and Jobs API, not of Ray itself."""
    return address.lower().startswith(("http:", "https:"))


def check_door(address: str, own_ray: str, ask: Ask = ask) -> Iterator[Finding]:
    """Whether a stranger is turned away, and whether our token opens, asked as `submit` asks.

    Args:
        own_ray: the version of Ray that is installed here.
        ask: answers a URL and headers with a status and a body; raises ClusterError where
            nothing answers.
    """
    try:
        url = cluster_url(address)
        reach_directly(url)
        stranger, _ = ask(url, {})
        if stranger == requests.codes.ok:
            remedy = "restart it with RAY_AUTH_MODE=token; whoever reaches it runs commands there"
            yield failed("door", "cluster", f"{url} is open to everyone", remedy)
            return
        status, body = ask(url, Access(url, read_token(url)).headers)
    except ClusterAccessError as error:
        yield failed("door", "cluster", str(error), _COPY_IT)
    except ClusterError as error:
        remedy = "start the cluster, or open the way to it: `ray dashboard cluster.yaml`"
        yield failed("cluster", "cluster", str(error), remedy)
    else:
        yield from _answered(url, status, body, own_ray)


def _answered(url: str, status: int, body: str, own_ray: str) -> Iterator[Finding]:
    """What follows from an answer to our token."""
    if status in (requests.codes.unauthorized, requests.codes.forbidden):
        yield failed("door", "cluster", f"{url} answered {status} to our token", _COPY_IT)
        return
    theirs = _ray_version(body) if status == requests.codes.ok else None
    if theirs is None:
        detail = f"{url} is no Jobs server of Ray: it answered {status} to /api/version"
        remedy = "give the dashboard's address (port 8265), and see what stands before it"
        yield failed("cluster", "cluster", detail, remedy)
        return
    yield ok("door", "cluster", "closed to strangers, open to our token")
    yield _check_ray(theirs, own_ray)
    where = "its nodes are seen from the head alone: run `latentune doctor --address auto` there"
    yield skipped("nodes", "cluster", where)


def _ray_version(body: str) -> str | None:
    """The version in a Jobs server's answer; None if it is not one."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return str(found.get("ray_version", "unknown")) if isinstance(found, dict) else None


def _check_ray(theirs: str, ours: str) -> Finding:
    if theirs != ours:
        remedy = "install the cluster's version of ray here, or this one there"
        return failed("versions", "cluster", f"ray {theirs} there, {ours} here", remedy)
    return ok("versions", "cluster", f"ray {theirs}, as here")
