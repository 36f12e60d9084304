"""Why trials fail: one kind each, and one message for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from orchestrator.failures import FailureKind, classify, failure_lines, first_cause
from trainable.errors import ContextError, NumericError, RowMemoryError, TrialError


class OutOfMemoryError(RuntimeError):
    """As torch's, by its name: no trial process imports torch."""


@dataclass
class Row:
    uid: str
    failure: str | None
    reason: str | None


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        (NumericError("trial t: the loss is nan at step 3"), FailureKind.NUMERIC, 1),
        (RowMemoryError("a row of 9 tokens"), FailureKind.OUT_OF_MEMORY, 1),
        (OutOfMemoryError("CUDA out of memory"), FailureKind.OUT_OF_MEMORY, 2),
        (MemoryError("no room"), FailureKind.OUT_OF_MEMORY, 2),
        (ContextError("beyond the context"), FailureKind.CONFIGURATION, 1),
        (TrialError("optim.lr"), FailureKind.CONFIGURATION, 1),
        (RuntimeError("CUDA error: device-side assert"), FailureKind.LOST_MACHINE, 1),
        (ZeroDivisionError("division by zero"), FailureKind.BUG, 1),
    ],
)
def test_each_failure_has_its_kind(error: Exception, kind: FailureKind, tries: int) -> None:
    remote: Any = RayTaskError  # Ray gives its constructor no types
    for raised in (error, remote("train", "a\ntraceback", error).as_instanceof_cause()):
        found = classify(raised)
        assert (found.kind, found.tries) == (kind, tries)
        assert str(error) in found.reason
        assert "\n" not in found.reason


ROWS = [
    Row("s-0", "numeric", "the loss is nan"),
    Row("s-1", None, None),
    Row("s-2", "bug", "KeyError: 'x'"),
    Row("s-3", "numeric", "another"),
]


def test_failures_are_told_by_kind_with_the_first_of_each() -> None:
    assert failure_lines(ROWS) == [
        "2 failed, numeric; the first one (s-0): the loss is nan",
        "1 failed, bug; the first one (s-2): KeyError: 'x'",
    ]


def test_a_search_that_failed_as_a_whole_has_one_cause() -> None:
    failed = [row for row in ROWS if row.failure]
    assert first_cause("s", failed) == (
        "all 3 trials of search 's' failed (2 numeric, 1 bug); the first, s-0: the loss is nan"
    )
    assert "no trial" in first_cause("s", [])
