"""The driver's loop without an engine: a sound search, and a last trial as cheap as the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from benchmarks import driver_loop, machine
from benchmarks.driver_loop import Loop, tenths
from orchestrator.study.audit import audit_search

TRIALS = 40
KNOWN = 12  # trials that the store keeps at most, eight running ones among them


def test_a_late_trial_asks_the_database_no_more_than_an_early_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.study.store._KNOWN", KNOWN)
    marks: list[tuple[int, int]] = []
    statements = [0]
    loop = Loop(tmp_path, TRIALS, lambda: marks.append((statements[0], loop.events.next_seq)))

    def count(*_: Any) -> None:
        statements[0] += 1

    storage: Any = loop.ledger.study._storage
    event.listen(storage._backend.engine, "before_cursor_execute", count)
    loop.run()
    assert len(loop.ledger._store._known) <= KNOWN
    loop.close()
    assert audit_search(loop.folder) == []
    assert len(marks) == TRIALS
    (s0, e0), (s1, e1) = marks[0], marks[9]
    (s2, e2), (s3, e3) = marks[-10], marks[-1]
    assert (s3 - s2) / (e3 - e2) <= 1.2 * (s1 - s0) / (e1 - e0)
    assert (s3 - s2) / (e3 - e2) < 8, "statements per event"


def test_a_half_that_is_not_run_keeps_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(trials: int, *, tune: bool = False) -> dict[str, Any]:
        ends = [float(n) for n in range(1, trials + 1)]
        what = "Ray Tune" if tune else "driver"
        return {"what": what, "seconds": 1.0, "memory_mib": [1], **tenths(0.0, ends)}

    for module in (driver_loop, machine):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(driver_loop, "facts", lambda: {"load_before": 0.5})
    monkeypatch.setattr(driver_loop, "measure", measure)
    monkeypatch.setattr("logging.disable", lambda _: None)
    for trials, tune in ((10, 20), (30, 0)):
        asked = ["driver_loop", "--trials", str(trials), "--tune", str(tune)]
        monkeypatch.setattr("sys.argv", asked)
        driver_loop.main()
    found = {row["what"]: row["trials"] for row in driver_loop.stored()}
    assert found == {"driver": 30, "Ray Tune": 20}


def test_tenths_are_means_of_what_passed_between_ends() -> None:
    ends = [float(10 + n) for n in range(1, 11)] + [20 + 2.0 * n for n in range(1, 11)]
    row = tenths(10.0, ends)
    assert row["trials"] == 20
    assert row["tenths_ms"] == [1000.0] * 5 + [2000.0] * 5
    assert row["last_over_first"] == 2.0
