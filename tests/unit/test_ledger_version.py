"""Ledgers of other versions: the first one's is gone on with, a newer one's is refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from orchestrator.errors import LedgerError
from orchestrator.ledger import TrialStatus, read_ledger
from orchestrator.study.version import LEDGER_VERSION
from tests.unit.ledgers import NAME, OBJECTIVE, RUNGS, open_ledger

PAGE = 4096
FIXTURE = Path(__file__).parents[1] / "fixtures" / "ledger_v1.sql"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A folder with a ledger of version 1, whose driver died in the middle of a report."""
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.executescript(FIXTURE.read_text())
    connection.close()
    return tmp_path


def test_a_ledger_of_version_1_can_be_read(first: Path) -> None:
    trials = read_ledger(first, NAME)
    assert [(str(t.status), t.step) for t in trials] == [
        ("complete", 8),
        ("running", 4),
        ("pruned", 2),
        ("complete", 8),
        ("failed", 0),
        ("stopped", 0),
        ("running", 2),
    ]
    assert [trial.failure for trial in trials] == [None] * 4 + ["unknown", None, None]


def test_a_ledger_of_version_1_is_gone_on_with(first: Path) -> None:
    ledger = open_ledger(first, baselines=1, trials=6)
    assert ledger.study.user_attrs["ledger_version"] == LEDGER_VERSION
    # What its driver had reported, and not decided, is decided: the worst of all at its rung.
    assert ledger.trial(6).status is TrialStatus.PRUNED
    assert (ledger.spent_s, ledger.spent("spent_gpu_s")) == (12.5, 3.0)
    asked = ledger.ask()
    assert asked is not None
    assert (asked.number, asked.step, asked.attempts) == (1, 4, 2)
    assert ledger.ask() is None
    assert ledger.report(1, RUNGS[-1], {OBJECTIVE: 0.9}) is TrialStatus.COMPLETE
    assert not open_ledger(first, baselines=1, trials=6).has_work()


UNJUDGED = "delete from trial_user_attributes where key = 'judged'"
FAILED_LATER = "insert into trial_intermediate_values values (11, 5, 2, 0.01, 'FINITE')"


@pytest.mark.parametrize(
    ("change", "score", "status"),
    [
        ("", 0.55, TrialStatus.RUNNING),  # second of five at the first rung: 0.9, 0.5, 0.1, 0.0
        ("", 0.4, TrialStatus.PRUNED),  # third
        # The first ledgers did not note what was judged: the running trial came to that rung with
        # 0.5 nevertheless, and not with the 0.6 of its next report.
        (UNJUDGED, 0.55, TrialStatus.RUNNING),
        (FAILED_LATER, 0.4, TrialStatus.RUNNING),  # third of six
    ],
)
def test_a_ledger_of_version_1_ranks_all_that_came_to_a_rung(
    first: Path, change: str, score: float, status: TrialStatus
) -> None:
    with sqlite3.connect(first / "study.db") as connection:
        connection.execute(change)
    connection.close()
    ledger = open_ledger(first, baselines=1, trials=7)
    new = next(trial for trial in iter(ledger.ask, None) if trial.number > 6)
    assert ledger.report(new.number, RUNGS[0], {OBJECTIVE: score}) is status


@pytest.mark.parametrize("version", [LEDGER_VERSION + 1, 0, "new", None])
def test_a_version_that_is_not_known_is_refused(tmp_path: Path, version: object) -> None:
    ledger = open_ledger(tmp_path)
    ledger.ask()
    ledger.study.set_user_attr("ledger_version", version)
    for opened in (lambda: open_ledger(tmp_path), lambda: read_ledger(tmp_path, NAME)):
        with pytest.raises(LedgerError) as caught:
            opened()
        message = str(caught.value)
        assert f"has version {version!r}, and this latentune knows 1 to" in message
        assert "install the version that wrote it" in message


def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database, " * 1000)
    for opened in (lambda: open_ledger(tmp_path), lambda: read_ledger(tmp_path, NAME)):
        with pytest.raises(LedgerError, match=r"study\.db.*not a database"):
            opened()


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_a_damaged_page_is_said_or_does_not_matter(tmp_path: Path, byte: bytes) -> None:
    ledger = open_ledger(tmp_path)
    for _ in range(3):
        trial = ledger.ask()
        assert trial is not None
        ledger.report(trial.number, RUNGS[0], {OBJECTIVE: 0.5})
    ledger.close()
    study, said = tmp_path / "study.db", 0
    sound = study.read_bytes()
    for page in range(len(sound) // PAGE):
        damaged = sound[: page * PAGE] + PAGE * byte + sound[(page + 1) * PAGE :]
        study.write_bytes(damaged)
        try:
            read_ledger(tmp_path, NAME)
        except LedgerError as error:
            assert f"the study of search {NAME!r} cannot be read" in str(error)
            said += 1
    assert said > 3
