"""What the doctor found: one line per check and machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from orchestrator.record import SCHEMA_VERSION, Record

Outcome = Literal["ok", "warning", "failed", "skipped"]


class Finding(Record):
    """The outcome of one check on one machine.

    Args:
        check: its name.
        where: `client`, `cluster`, `mlflow`, or a node.
        remedy: what to do; None where nothing is to be done.
    """

    check: str
    where: str
    outcome: Outcome
    detail: str
    remedy: str | None = None


class DoctorReport(Record):
    """All findings.

    Args:
        address: of the cluster; None where this machine alone was looked at, or where it is none.
        nodes: those that have joined, if there is a cluster.
    """

    schema_version: int = SCHEMA_VERSION
    address: str | None = None
    nodes: int | None = None
    findings: list[Finding] = Field(default=[])

    @property
    def is_well(self) -> bool:
        """Whether no check failed."""
        return all(finding.outcome != "failed" for finding in self.findings)


def ok(check: str, where: str, detail: str) -> Finding:
    """A check that found all well."""
    return Finding(check=check, where=where, outcome="ok", detail=detail)


def failed(check: str, where: str, detail: str, remedy: str) -> Finding:
    """A check that found what keeps searches from running."""
    return Finding(check=check, where=where, outcome="failed", detail=detail, remedy=remedy)


def warned(check: str, where: str, detail: str, remedy: str) -> Finding:
    """A check that found what may go wrong."""
    return Finding(check=check, where=where, outcome="warning", detail=detail, remedy=remedy)


def skipped(check: str, where: str, detail: str) -> Finding:
    """A check that could not be made here, and need not be."""
    return Finding(check=check, where=where, outcome="skipped", detail=detail)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 where no check failed, else 1."""
    return int(any(finding.outcome == "failed" for finding in findings))
