"""A ledger that a crash cut anywhere in its last record: all before it is there, and it is said."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.fault_names import Fault
from orchestrator.opening import tell_torn_tail
from tests.faults.tally import Tally
from tests.unit.ledgers import OBJECTIVE, RUNGS, open_ledger

pytestmark = pytest.mark.faults

CHECKED = "opens with all before it, by SQLite's reading; every 509th through the ledger; said"


class TornLedger:
    """A ledger whose last record alone stands in its write-ahead log.

    Args:
        folder: the search's.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        ledger = open_ledger(folder)
        trial = ledger.ask()
        assert trial is not None
        ledger.report(trial.number, RUNGS[0], {OBJECTIVE: 0.25})
        with closing(sqlite3.connect(folder / "study.db")) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.before = ledger.all()
        self.study = (folder / "study.db").read_bytes()
        self.rows_before = _rows(folder)
        ledger.report(trial.number, RUNGS[1], {OBJECTIVE: 0.5})
        self.log = (folder / "study.db-wal").read_bytes()
        assert self.rows_before != _rows(folder)
        ledger.close()

    def cut(self, folder: Path, size: int) -> Path:
        """The same ledger with so many bytes of its last record."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "study.db").write_bytes(self.study)
        (folder / "study.db-wal").write_bytes(self.log[:size])
        return folder


def _rows(folder: Path) -> list[tuple[object, ...]]:
    """All that a ledger has of its trials."""
    tables = "trials", "trial_user_attributes", "trial_intermediate_values", "trial_values"
    with closing(sqlite3.connect(folder / "study.db")) as study:
        found = [study.execute(f"SELECT * FROM {table}").fetchall() for table in tables]  # noqa: S608
    return [row for rows in found for row in rows]


def check_ledger_cuts(
    sizes: Iterable[int],
    torn: TornLedger,
    tmp_path: Path,
    tally: Tally,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for size in sizes:
        with tally.trying(Fault.LEDGER_CUT, CHECKED):
            folder = torn.cut(tmp_path / "cut", size)
            if size % 509 == 0:
                caplog.clear()
                tell_torn_tail(folder / "study.db")
                assert not size or "never finished" in caplog.text
                ledger = open_ledger(folder)
                assert ledger.all() == torn.before
                ledger.close()
            assert _rows(folder) == torn.rows_before


def test_a_ledger_cut_at_some_bytes_of_its_last_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn = TornLedger(tmp_path / "whole")
    check_ledger_cuts(range(0, len(torn.log), 509), torn, tmp_path, Tally(), caplog)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ledger_cut_at_every_byte_of_its_last_record(
    tmp_path: Path, tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    torn = TornLedger(tmp_path / "whole")
    check_ledger_cuts(range(len(torn.log)), torn, tmp_path, tally, caplog)
