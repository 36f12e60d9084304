"""The page of reliability is that of the stored runs, and hides nothing that failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability import GLUED, OURS, PAGE, page, stored
from tests.faults.tally import Tally


def found(**fields: Any) -> dict[str, Any]:
    row = {
        "fault": "Ctrl-C once", "checked": "all", "tried": 3, "survived": 3, "steps_again": 0,
        "seconds": 1.0, "failures": [], "numbers": {},
    }  # fmt: skip
    return {"machine": {"processor": "a processor", "cores": 2}, "rows": [row | fields]}


def test_the_page_is_that_of_the_stored_runs() -> None:
    assert PAGE.read_text() == page(stored(OURS), stored(GLUED))


def test_a_page_says_what_was_lost_and_what_was_not_run() -> None:
    assert page(None, None).count("Not run yet.") == 2
    assert "| Ctrl-C once | 3 | 3 | nothing |" in page(found(), None)
    text = page(found(survived=2, failures=["a trial | runs"]), None)
    assert "| Ctrl-C once | 3 | **2** | a trial \\| runs |" in text
    text = page(None, found(fault="none", survived=1, numbers={"runs too many": 2, "zero": 0}))
    assert "| none | 3 | **1** | runs too many: 2 |" in text


def test_tries_are_counted_and_replace_earlier_ones_of_the_same_fault(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    for kind in ("kept", "tried again"):
        earlier = Tally()
        with earlier.trying(kind, "all"):
            pass
        earlier.store(path)
    tally = Tally()
    with tally.trying("tried again", "all") as row:
        row.steps_again += 2
    with pytest.raises(AssertionError, match="lost"), tally.trying("tried again", "all"):
        raise AssertionError("a trial was lost")
    tally.store(path)
    rows = json.loads(path.read_text())["rows"]
    assert [(row["fault"], row["tried"], row["survived"]) for row in rows] == [
        ("kept", 1, 1),
        ("tried again", 2, 1),
    ]
    assert rows[1]["failures"] == ["a trial was lost"]
