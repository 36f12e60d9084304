"""The whole examination: this machine, tracking, and the cluster if there is one."""

from __future__ import annotations

import os
import time
from importlib import metadata
from pathlib import Path

from orchestrator.doctor import checks
from orchestrator.doctor.door import check_door, is_jobs_address
from orchestrator.doctor.facts import Facts, facts_of, gpus_here
from orchestrator.doctor.findings import DoctorReport, Finding, failed
from orchestrator.doctor.mlflow_checks import check_mlflow
from orchestrator.errors import ClusterError, TrackingUriError
from orchestrator.jobs.access import cluster_url, given_token
from orchestrator.tracking import tracking_uri


def examine(
    home: Path,
    address: str | None = None,
    *,
    model: str = "bundled",
    expected: int | None = None,
    deadline_s: float = 0.0,
) -> DoctorReport:
    """Look at everything.

    Args:
        home: LATENTUNE_HOME.
        address: of a Ray, or of its Jobs API (http); default RAY_ADDRESS, and without that this
            machine alone.
        model: `base_model.path` of what is to be run.
        expected: how many nodes are meant to be there.
        deadline_s: how long to wait for the cluster and for them.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    client = facts_of("client", model, home)
    findings = [*client_findings(client, model), _tracking(home)]
    findings += checks.check_token(needed=address not in (None, "local"))
    if address is None:
        return DoctorReport(findings=findings)
    if is_jobs_address(address):
        findings += check_door(address, metadata.version("ray"))
        return DoctorReport(address=_shown(address), findings=findings)
    joined, more = _cluster(address, client, model, expected, deadline_s)
    return DoctorReport(address=address, nodes=joined, findings=[*findings, *more])


def _shown(address: str) -> str | None:
    """An address as it can be shown; None for one that may hold a token, or is none."""
    try:
        return cluster_url(address)
    except ClusterError:
        return None


def client_findings(client: Facts, model: str) -> list[Finding]:
    """What is found on this machine."""
    versions = {**client.versions, "ray": metadata.version("ray")}
    return [
        checks.check_floors("client", {**versions, "mlflow": metadata.version("mlflow")}),
        *checks.check_folders(client),
        *checks.check_disks(client),
        checks.check_gpus(client.name, gpus_here()),
        checks.check_model(client, model),
    ]


def _tracking(home: Path) -> Finding:
    try:
        return check_mlflow(tracking_uri(home))
    except TrackingUriError as error:
        return failed("mlflow", "mlflow", str(error), "set MLFLOW_TRACKING_URI")


def _cluster(
    address: str, client: Facts, model: str, expected: int | None, deadline_s: float
) -> tuple[int | None, list[Finding]]:
    from orchestrator.doctor.cluster_checks import cluster_findings
    from orchestrator.doctor.connection import connected

    began = time.monotonic()
    try:
        given_token()  # Ray takes minutes to fail with one that is none
        with connected(address, deadline_s):
            left_s = max(0.0, deadline_s - (time.monotonic() - began))
            return cluster_findings(client, model, expected, left_s)
    except ClusterError as error:
        remedy = (
            "start that Ray, mend the address (head:6379, or auto on the head itself), and see "
            "that RAY_AUTH_MODE=token and the cluster's token are set"
        )
        return None, [failed("cluster", "cluster", f"{address}: {error}", remedy)]
