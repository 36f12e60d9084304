"""`latentune doctor`, the command."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.console import FAILED, Json, out, print_json
from orchestrator.doctor.door import is_jobs_address
from orchestrator.doctor.findings import DoctorReport
from orchestrator.folders import home_folder

_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def doctor(
    address: Annotated[
        str | None,
        typer.Option(help="http://HOST:8265, or auto on a cluster's head; default RAY_ADDRESS."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="The base model that is to be used: an id or a folder.")
    ] = "bundled",
    expect: Annotated[int | None, typer.Option(min=1, help="So many nodes are to join.")] = None,
    deadline: Annotated[float, typer.Option(min=0, help="Seconds to wait for them.")] = 0.0,
    json: Json = False,
) -> None:
    """Check this machine and a cluster: versions, token, clocks, disks, GPUs, model, tracking."""
    from orchestrator.doctor.examination import examine

    _refuse_counting(address or os.environ.get("RAY_ADDRESS"), expect, deadline)
    report = examine(home_folder(), address, model=model, expected=expect, deadline_s=deadline)
    if json:
        print_json(report)
    else:
        print_report(report)
    if not report.is_well:
        raise typer.Exit(FAILED)


def _refuse_counting(address: str | None, expect: int | None, deadline: float) -> None:
    """Nodes are counted from inside the cluster alone; what cannot be heeded is refused."""
    if expect is None and not deadline:
        return
    if address is None or is_jobs_address(address):
        looked_at = "this machine alone" if address is None else "an http address"
        raise typer.BadParameter(
            f"--expect and --deadline count nodes, which {looked_at} does not show: run "
            "`latentune doctor --address auto --expect N` on the cluster's head (`ray exec "
            "cluster.yaml '…'`), or leave them out"
        )


def print_report(report: DoctorReport) -> None:
    """The findings for people, each with its remedy."""
    table = Table(show_edge=False)
    for name in ("check", "where", "", "found"):
        table.add_column(name, overflow="fold")
    for finding in report.findings:
        remedy = "" if finding.remedy is None else f"\n→ {finding.remedy}"
        outcome = Text(finding.outcome, style=_STYLES[finding.outcome])
        table.add_row(finding.check, finding.where, outcome, finding.detail + remedy)
    out.print(table)
