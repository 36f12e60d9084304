"""What a job tells its submitter: marked lines in the job's log, among those for people.

    latentune:progress {"trials": {"done": 3, …}, …}
    latentune:result 0/2 {"name": …
    latentune:result 1/2 …}

The log is the one thing of a job that every client can read, while it runs and after. A result is
cut into pieces, because what follows a log takes no line beyond 4 MB.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from orchestrator.engines.waiting import WaitingRecord
from orchestrator.progress import Standing
from orchestrator.record import Record
from orchestrator.results import SearchResult

_MARK = "latentune:"
_PROGRESS = f"{_MARK}progress "
_RESULT = re.compile(rf"{_MARK}result (?P<place>\d+)/(?P<count>\d+) (?P<piece>.*)")
_PIECE_CHARS = 16_000


class JobProgress(Record):
    """How far a job is.

    Args:
        trials: how many have ended and run, and the best of them.
        engines: that take trials.
        waiting: why trials wait; None if none does.
    """

    trials: Standing
    engines: int = 0
    waiting: WaitingRecord | None = None


def tell_progress(progress: JobProgress) -> None:
    """Write how far the job is."""
    _write([_PROGRESS + progress.model_dump_json()])


def tell_result(result: SearchResult) -> None:
    """Write how the search has ended."""
    text = result.model_dump_json()
    pieces = [text[i : i + _PIECE_CHARS] for i in range(0, len(text), _PIECE_CHARS)]
    count = len(pieces)
    _write([f"{_MARK}result {place}/{count} {piece}" for place, piece in enumerate(pieces)])


def read_progress(log: str) -> JobProgress | None:
    """The last progress that a log tells of."""
    for line in reversed(log.splitlines()):
        if line.startswith(_PROGRESS):
            try:
                return JobProgress.model_validate_json(line.removeprefix(_PROGRESS))
            except ValidationError:
                return None
    return None


def read_told_result(log: str) -> SearchResult | None:
    """The result that a log ends with; None where there is none, or not all of it."""
    found = [match for line in log.splitlines() if (match := _RESULT.fullmatch(line))]
    count = int(found[-1]["count"]) if found else 0
    pieces = found[len(found) - count :]
    if not found or [int(one["place"]) for one in pieces] != list(range(count)):
        return None
    try:
        return SearchResult.model_validate_json("".join(one["piece"] for one in pieces))
    except ValidationError:
        return None


def for_people(chunks: Iterable[str]) -> Iterator[str]:
    """A log's lines, one by one, without those that are marked."""
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        yield from (line + "\n" for line in lines if not line.startswith(_MARK))
    if rest and not rest.startswith(_MARK):
        yield rest + "\n"


def _write(lines: Iterable[str]) -> None:
    """Each in one call: what other processes and threads write to the log stays outside."""
    for line in lines:
        os.write(1, (line + "\n").encode())
