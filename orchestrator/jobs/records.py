"""A search's job as `--json`, Python and tables show it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.job_submission import JobStatus

from orchestrator.console import BAD_INPUT, INTERRUPTED
from orchestrator.jobs.marked_lines import JobProgress
from orchestrator.record import SCHEMA_VERSION, Record
from orchestrator.results import SearchResult

PREFIX = "latentune-"
JobState = Literal[
    "waiting", "running", "complete", "spent", "interrupted", "failed", "refused", "killed"
]  # fmt: skip
OPEN_STATES: tuple[JobState, ...] = ("waiting", "running")


class JobRecord(Record):
    """A search's job.

    Args:
        name: the search's.
        submission_id: the job's name in Ray.
        attempt: how often the search has been submitted to this cluster.
        address: the cluster's.
        state: `waiting` for the head, `running`, `complete`, `spent` (a budget is), `interrupted`
            (stopped), `failed`, `refused` (nothing was trained), or `killed`; after the last four,
            submitting again goes on with the search, and after `spent` with a larger budget.
        message: why it is not complete.
        started_at: Unix seconds.
        progress: of a search that runs; None where nothing was asked or told.
        result: of one that has ended.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    submission_id: str
    attempt: int
    address: str
    state: JobState
    message: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    progress: JobProgress | None = None
    result: SearchResult | None = None

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in OPEN_STATES


class JobListing(Record):
    """The last job of every search of a cluster."""

    schema_version: int = SCHEMA_VERSION
    address: str
    jobs: list[JobRecord]


class JobLog(Record):
    """What a job has written, without the lines for programs."""

    schema_version: int = SCHEMA_VERSION
    name: str
    submission_id: str
    log: str


def submission_id(name: str, attempt: int) -> str:
    """What Ray calls the n-th job of a search; it takes no id twice."""
    return f"{PREFIX}{name}.{attempt}"


def read_job(details: JobDetails, address: str) -> JobRecord | None:
    """Ray's record of a job as ours; None for a job that is no search."""
    found = details.submission_id or ""
    name, dot, attempt = found.removeprefix(PREFIX).rpartition(".")
    if not (found.startswith(PREFIX) and dot and attempt.isdecimal()):
        return None
    state = _state(details)
    return JobRecord(
        name=name,
        submission_id=found,
        attempt=int(attempt),
        address=address,
        state=state,
        message=None if state == "complete" else _message(details),
        started_at=_seconds(details.start_time),
        ended_at=_seconds(details.end_time),
    )


def latest(jobs: Iterable[JobRecord]) -> list[JobRecord]:
    """The last job of each search, by name."""
    last: dict[str, JobRecord] = {}
    for job in jobs:
        if job.name not in last or last[job.name].attempt < job.attempt:
            last[job.name] = job
    return [last[name] for name in sorted(last)]


def _state(details: JobDetails) -> JobState:
    known: dict[JobStatus, JobState] = {
        JobStatus.PENDING: "waiting",
        JobStatus.RUNNING: "running",
        JobStatus.STOPPED: "interrupted",
        JobStatus.SUCCEEDED: "complete",
    }
    if details.status in known:
        return known[details.status]
    ended: dict[int | None, JobState] = {1: "failed", BAD_INPUT: "refused"}
    ended[INTERRUPTED] = "interrupted"
    return ended.get(details.driver_exit_code, "killed")


def _message(details: JobDetails) -> str | None:
    """Ray's words; the end of the log, which it adds where a command failed, is in the log."""
    text = details.message
    if text is None or details.status is not JobStatus.FAILED:
        return None
    head, _, tail = text.partition("last available logs (truncated to 20,000 chars):\n")
    if "No module named 'orchestrator'" in tail:
        return (
            "latentune is not installed on the head: install the version that you have here, or "
            "submit with --ship-code"
        )
    return (tail or head).strip() or None


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
