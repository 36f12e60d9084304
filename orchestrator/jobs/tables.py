"""Jobs for people."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.table import Table

from orchestrator.console import print_line
from orchestrator.jobs.records import JobListing, JobRecord
from orchestrator.tables import print_result


def print_jobs(console: Console, listing: JobListing) -> None:
    """The last job of each search."""
    if not listing.jobs:
        _print(console, f"no searches were submitted to {listing.address}")
        return
    table = Table("search", "state", "submitted", "started", "ended")
    for column in table.columns:
        column.overflow = "fold"
    for job in listing.jobs:
        times = f"{job.attempt} x", _clock(job.started_at), _clock(job.ended_at)
        table.add_row(job.name, job.state, *times)
    console.print(table)


def print_job(console: Console, job: JobRecord) -> None:
    """One search's job: where it runs, how far it is or how it ended."""
    ended = f", ended {_clock(job.ended_at)}" if job.ended_at else ""
    began = f"started {_clock(job.started_at)}{ended}"
    _print(console, f"{job.name}: {job.state} as {job.submission_id} on {job.address}, {began}")
    if job.progress is not None:
        one, engines = job.progress.trials, job.progress.engines
        best = "none yet" if one.best is None else f"{one.objective} {one.best:.3f} {one.strategy}"
        _print(
            console,
            f"{one.done} of {one.total} trials ended, {one.running} running on {engines} engines, "
            f"best so far {best}",
        )
        if job.progress.waiting is not None:
            _print(console, f"waiting: {job.progress.waiting.detail}")
    if job.result is not None:
        print_result(console, job.result)
    elif job.message is not None:
        _print(console, job.message)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _print(console: Console, line: str) -> None:
    print_line(console, line)
