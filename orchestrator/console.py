"""What the command line's verbs share: where they write, and options that several have."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer
from pydantic import BaseModel
from rich.console import Console

from orchestrator.errors import (
    EventLogError,
    JobError,
    LedgerError,
    TrackingError,
    TrackingUriError,
)
from trainable.errors import LatentuneError, NumericError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]
Name = Annotated[str, typer.Argument(help="The search's name.")]
BasePath = Annotated[str | None, typer.Option(help="Where the base model is now, if it has moved.")]
Format = Annotated[Literal["peft"], typer.Option("--format", help="The other library.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the base model's own code run.")
]
_FAILURES = (TrackingError, EventLogError, LedgerError, NumericError, JobError)  # no bad input
err = Console(stderr=True)
out = Console()


def print_json(record: BaseModel) -> None:
    """Print a record as JSON, and nothing else."""
    sys.stdout.write(record.model_dump_json(indent=2) + "\n")


def say(text: str) -> None:
    """Print a line as it is."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def exit_code(error: LatentuneError) -> int:
    """What a process ends with after an error of ours."""
    failed = isinstance(error, _FAILURES) and not isinstance(error, TrackingUriError)
    return FAILED if failed else BAD_INPUT


def fail(message: str, code: int) -> None:
    """Say what went wrong and leave."""
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
