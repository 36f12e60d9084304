"""The verbs for searches on a cluster: `latentune submit` and `latentune jobs`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from orchestrator.console import BAD_INPUT, FAILED, INTERRUPTED, Json, Name, out, print_json, say

if TYPE_CHECKING:
    from orchestrator.jobs.records import JobRecord

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="http://HEAD:8265; default RAY_API_SERVER_ADDRESS, then RAY_ADDRESS.",
    ),
]
AcceptOpen = Annotated[
    bool,
    typer.Option(
        "--i-accept-open-cluster",
        help="Use a cluster on this machine that asks for no token.",
    ),
]
_EXIT_CODES = {"complete": 0, "spent": 0, "failed": FAILED, "killed": FAILED, "refused": BAD_INPUT}

jobs = typer.Typer(no_args_is_help=True, help="Look after searches that were submitted.")


def submit(
    search: Annotated[Path, typer.Argument(metavar="SEARCH.yaml", help="The search file.")],
    address: Address = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field.")
    ] = None,
    paths_on_cluster: Annotated[
        bool,
        typer.Option(
            "--paths-on-cluster",
            help="Data and base model lie on the cluster: upload and check nothing of them.",
        ),
    ] = False,
    ship_code: Annotated[
        bool, typer.Option("--ship-code", help="Send this latentune, in place of the head's.")
    ] = False,
    runtime_env: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="More for Ray's runtime environment: pip, uv, …"),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the log to the end; Ctrl-C leaves it running.")
    ] = False,
    accept_open: AcceptOpen = False,
    json: Json = False,
) -> None:
    """Start a search on a cluster, or go on with one that was stopped or killed there."""
    from orchestrator.jobs.submission import submit as submit_search

    submitted = submit_search(
        search,
        address=address,
        overrides=set_ or [],
        paths_on_cluster=paths_on_cluster,
        ship_code=ship_code,
        runtime_env=runtime_env,
        accept_open_cluster=accept_open,
    )
    if wait:
        _write(submitted.follow(), sys.stderr)
    job = submitted.wait() if wait else submitted.status()
    _show(job, json=json)
    if wait:
        raise typer.Exit(_EXIT_CODES.get(job.state, INTERRUPTED))
    if not json:
        say(f"see `latentune jobs status {job.name}`, `latentune jobs logs {job.name} --follow`")


@jobs.command(name="list")
def list_(address: Address = None, accept_open: AcceptOpen = False, json: Json = False) -> None:
    """List the searches that were submitted to a cluster."""
    from orchestrator.jobs.cluster import open_cluster
    from orchestrator.jobs.submitted import list_jobs
    from orchestrator.jobs.tables import print_jobs

    listing = list_jobs(open_cluster(address, accept_open_cluster=accept_open))
    print_json(listing) if json else print_jobs(out, listing)


@jobs.command()
def status(
    name: Name, address: Address = None, accept_open: AcceptOpen = False, json: Json = False
) -> None:
    """Show how a submitted search stands, or how it ended."""
    from orchestrator.jobs.submitted import SubmittedSearch

    found = SubmittedSearch.find(name, address=address, accept_open_cluster=accept_open)
    _show(found.status(), json=json)


@jobs.command()
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", help="Until the job has ended.")] = False,
    address: Address = None,
    accept_open: AcceptOpen = False,
    json: Json = False,
) -> None:
    """Print what a submitted search has written."""
    from orchestrator.jobs.submitted import SubmittedSearch

    if follow and json:
        raise typer.BadParameter("--follow and --json exclude each other: leave one out")
    found = SubmittedSearch.find(name, address=address, accept_open_cluster=accept_open)
    if json:
        print_json(found.log_record())
    else:
        _write(found.follow() if follow else [found.logs()], sys.stdout)


@jobs.command()
def stop(
    name: Name, address: Address = None, accept_open: AcceptOpen = False, json: Json = False
) -> None:
    """Pause a submitted search: running trials save their state; submitting again goes on."""
    from orchestrator.jobs.submitted import SubmittedSearch

    found = SubmittedSearch.find(name, address=address, accept_open_cluster=accept_open)
    _show(found.stop(), json=json)


def _show(job: JobRecord, *, json: bool) -> None:
    from orchestrator.jobs.tables import print_job

    print_json(job) if json else print_job(out, job)


def _write(lines: Iterable[str], stream: TextIO) -> None:
    for line in lines:
        stream.write(line)
        stream.flush()
