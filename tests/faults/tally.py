"""What each fault did, counted: tried, survived, lost. Kept where a page can be written from it.

With FAULTS_RESULTS naming a file, the faults tried by this run replace their earlier rows there;
other rows stay, so that one arm can be repeated alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine

RESULTS_VARIABLE = "FAULTS_RESULTS"
FAILURES_KEPT = 10


@dataclass
class Row:
    """One kind of fault.

    Args:
        fault: in a person's words.
        checked: what was held against the search afterwards.
        tried: how often it was caused.
        survived: how often everything checked held.
        steps_again: optimiser steps that were trained twice, over all tries.
        seconds: that all tries took.
        failures: what did not hold, one line each, of the first that did not.
        numbers: what else was measured.
    """

    fault: str
    checked: str
    tried: int = 0
    survived: int = 0
    steps_again: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)


class Tally:
    """The rows of one run."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    @contextmanager
    def trying(self, fault: str, checked: str) -> Iterator[Row]:
        """Count one try; it survived if nothing is raised. One skipped or broken off is none."""
        row = self.rows.setdefault(fault, Row(fault, checked))
        row.tried += 1
        began = time.monotonic()
        try:
            yield row
        except (KeyboardInterrupt, pytest.skip.Exception):
            row.tried -= 1
            raise
        except BaseException as error:
            said = str(error).strip() or type(error).__name__
            if len(row.failures) < FAILURES_KEPT:
                row.failures.append(said.splitlines()[0][:200])
            raise
        else:
            row.survived += 1
        finally:
            row.seconds += time.monotonic() - began

    def store(self, path: Path) -> None:
        """Put the rows into the file, in place of earlier ones of the same faults."""
        kept = json.loads(path.read_text())["rows"] if path.exists() else []
        rows = {row["fault"]: row for row in kept}
        for row in (row for row in self.rows.values() if row.tried):
            rows[row.fault] = asdict(row) | {"seconds": round(row.seconds, 1)}
        found = {"machine": machine.facts(), "rows": list(rows.values())}
        path.write_text(json.dumps(found, indent=1) + "\n")
