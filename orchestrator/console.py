"""What the command line's verbs share: where they write, and options that several have."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, TextIO

import typer
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from orchestrator.errors import (
    EventLogError,
    JobError,
    LedgerError,
    TrackingError,
    TrackingUriError,
)
from orchestrator.safety.redaction import Redaction
from orchestrator.safety.terminal import harmless, harmless_json
from trainable.errors import DiskFullError, LatentuneError, NumericError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
# Nobody's input was wrong.
_FAILURES = (TrackingError, EventLogError, LedgerError, NumericError, DiskFullError, JobError)

Json = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]
Name = Annotated[str, typer.Argument(help="The search's name.")]
BasePath = Annotated[str | None, typer.Option(help="Where the base model is now, if it has moved.")]
Format = Annotated[Literal["peft"], typer.Option("--format", help="The other library.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the base model's own code run.")
]


class PlainConsole(Console):
    """A console on which texts are texts: no markup, no emoji codes, no control characters."""

    def __init__(
        self, *, stderr: bool = False, file: TextIO | None = None, width: int | None = None
    ) -> None:
        super().__init__(stderr=stderr, file=file, width=width, markup=False, emoji=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What rich makes of it; its own control codes, of live lines, pass."""
        for segment in super().render(renderable, options):
            plain = segment.control is not None
            yield segment if plain else Segment(harmless(segment.text), segment.style)


err = PlainConsole(stderr=True)
out = PlainConsole()


def print_json(record: BaseModel) -> None:
    """Print a record as JSON, and nothing else."""
    sys.stdout.write(harmless_json(record.model_dump_json(indent=2)) + "\n")


def quiet_bars(arguments: Sequence[str]) -> None:
    """Before transformers is imported: no loading bar where a program or a file reads along."""
    if "--json" in arguments or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def print_line(console: Console, text: str) -> None:
    """Print a line as it is, whatever console it is: no markup, no colours, no breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a line as it is."""
    print_line(out, text)


def exit_code(error: LatentuneError) -> int:
    """What a process ends with after an error of ours."""
    failed = isinstance(error, _FAILURES) and not isinstance(error, TrackingUriError)
    return FAILED if failed else BAD_INPUT


def fail(message: str, code: int) -> None:
    """Say what went wrong, without secrets, and leave."""
    print_line(err, Redaction.of_environment().of_text(message))
    sys.exit(code)
