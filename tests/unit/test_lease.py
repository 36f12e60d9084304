"""A lease: one driver, by the database's clock, and nothing written by one that lost it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text

from orchestrator.errors import LedgerError, SearchLockedError
from orchestrator.events import EventLog, read_events
from orchestrator.study.lease import Lease, end_lease, is_leased, machine
from tests.unit.ledgers import OBJECTIVE, RUNGS, open_ledger


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared.db'}"


@pytest.fixture
def lease(url: str) -> Iterator[Lease]:
    with Lease(url, "tiny") as lease:
        yield lease


def change(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def elsewhere(url: str) -> None:
    """Let the lease be another machine's."""
    change(url, "UPDATE latentune_leases SET machine = 'another', host = 'far', pid = 7")


def test_a_second_driver_is_refused_and_told_who_runs_it(url: str, lease: Lease) -> None:
    assert is_leased(url, "tiny")
    with pytest.raises(SearchLockedError) as caught:
        Lease(url, "tiny")
    assert f"process {os.getpid()} on {socket.gethostname()}" in str(caught.value)
    assert "latentune stop tiny" in str(caught.value)
    with Lease(url, "another") as other:  # of another search
        assert other.token == 1


def test_a_lease_that_was_given_back_is_free_and_tokens_rise(url: str) -> None:
    tokens = []
    for _ in range(3):
        with Lease(url, "tiny") as lease:
            tokens.append(lease.token)
        assert not is_leased(url, "tiny")
    assert tokens == [1, 2, 3]


def test_a_lease_of_another_machine_holds_until_its_time_is_over(url: str, lease: Lease) -> None:
    elsewhere(url)
    with pytest.raises(SearchLockedError, match="process 7 on far"):
        Lease(url, "tiny")
    change(url, "UPDATE latentune_leases SET until = until - 31")
    with Lease(url, "tiny") as next_one:
        assert next_one.token == 2


def test_a_dead_process_of_this_machine_holds_nothing(url: str, lease: Lease) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    change(url, f"UPDATE latentune_leases SET pid = {dead.pid}")  # noqa: S608
    assert not is_leased(url, "tiny")
    with Lease(url, "tiny") as next_one:
        assert next_one.token == 2


def test_clocks_of_machines_do_not_matter(
    url: str, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(url)
    for hours in (1, -1):
        monkeypatch.setattr("time.time", lambda now=hours * 3600.0: now)
        assert is_leased(url, "tiny")
        assert lease.renew()


def test_renewal_moves_the_end_and_knows_when_it_is_another_s(url: str) -> None:
    with Lease(url, "tiny") as lost:
        change(url, "UPDATE latentune_leases SET until = 0")
        assert lost.renew()
        assert is_leased(url, "tiny")
        change(url, "UPDATE latentune_leases SET until = 0")
        with Lease(url, "tiny"):
            assert not lost.renew()
            assert is_leased(url, "tiny")


def test_a_driver_whose_search_was_taken_over_writes_nothing(url: str, tmp_path: Path) -> None:
    with Lease(url, "tiny") as lost:
        folder = tmp_path / "ledger"
        folder.mkdir()
        (folder / "study.db").symlink_to(tmp_path / "shared.db")
        ledger = open_ledger(folder, fence=lost.fence)
        ledger.ask()
        change(url, "UPDATE latentune_leases SET until = 0")
        with Lease(url, "tiny"):
            for write in (
                lambda: ledger.report(0, RUNGS[0], {OBJECTIVE: 0.5}),
                lambda: ledger.fail(0, "late"),
                lambda: ledger.pause(0, 1),
                ledger.ask,
            ):
                with pytest.raises(SearchLockedError, match=f"by process {os.getpid()} on"):
                    write()
            assert ledger.trial(0).reports == {}
            assert [trial.number for trial in ledger.all()] == [0]


def test_a_driver_whose_search_was_taken_over_tells_no_event(url: str, tmp_path: Path) -> None:
    """It hung, and wakes up: two writers would leave a log that nobody can read."""
    path = tmp_path / "events.jsonl"
    with Lease(url, "tiny") as lost, EventLog(path, lost.fence) as late:
        late.append("confirm_started", {"state": "running"})
        change(url, "UPDATE latentune_leases SET until = 0")
        with Lease(url, "tiny") as held, EventLog(path, held.fence) as log:
            log.append("confirm_started", {"state": "running"})
            with pytest.raises(SearchLockedError, match=f"by process {os.getpid()} on"):
                late.append("trial_report", {"step": 2}, "tiny-confirm-a-1000", 1)
            log.append("confirm_ended", {"state": "confirmed"})
    assert [event.seq for event in read_events(path)] == [0, 1, 2]


def test_a_database_that_is_away_is_waited_for_as_long_as_the_lease(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else can have taken the search before it was over."""
    with Lease(url, "tiny") as lease:
        change(url, "ALTER TABLE latentune_leases RENAME TO away")
        lease.fence()
        monkeypatch.setattr(lease, "_renewed", lease._renewed - 31)
        with pytest.raises(LedgerError, match="cannot be used"):
            lease.fence()
        change(url, "ALTER TABLE away RENAME TO latentune_leases")
        lease.fence()


def test_a_lease_that_cannot_be_given_back_is_said_to_last(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that goes on in the same process, a notebook's, has to wait for its end."""
    with Lease(url, "tiny", 20):
        change(url, "ALTER TABLE latentune_leases RENAME TO away")
    change(url, "ALTER TABLE away RENAME TO latentune_leases")
    assert "ends with this process, or by itself within 20 s" in caplog.text
    assert is_leased(url, "tiny")


def test_a_renewal_beside_a_transition_costs_neither(url: str, tmp_path: Path) -> None:
    """In one SQLite file: what began by reading could not write once another had written."""
    (tmp_path / "study.db").symlink_to(tmp_path / "shared.db")
    renewed: list[bool] = []
    with Lease(url, "tiny") as lease:

        def fence(connection: Connection | None = None) -> None:
            lease.fence(connection)
            thread = threading.Thread(target=lambda: renewed.append(lease.renew()))
            thread.start()
            thread.join(0.5)
            threads.append(thread)

        threads: list[threading.Thread] = []
        ledger = open_ledger(tmp_path, fence=fence)
        ledger.ask()
        assert ledger.report(0, RUNGS[0], {OBJECTIVE: 0.5}) == "running"
        for thread in threads:
            thread.join()
        assert renewed == [True] * len(threads)
        ledger.close()


def test_a_removed_search_leaves_no_lease_and_no_token_twice(url: str) -> None:
    """A driver that hung must not take the next search of the name for its own."""
    with Lease(url, "tiny") as hung:
        end_lease(url, "tiny")
        assert not is_leased(url, "tiny")
        with Lease(url, "tiny") as next_one:
            next_one.fence()
            assert not hung.renew()
            with pytest.raises(SearchLockedError, match="was taken over"):
                hung.fence()


def test_a_database_that_is_not_there_is_said_without_its_password(tmp_path: Path) -> None:
    url = f"sqlite:////{tmp_path}/no/such/folder.db"
    with pytest.raises(LedgerError, match="cannot be used"):
        Lease(url, "tiny")


def test_a_driver_of_a_database_that_is_not_installed_is_said() -> None:
    url = "mysql+oursql://me:s3cret@db/x"
    for use in (lambda: Lease(url, "tiny"), lambda: is_leased(url, "tiny")):
        with pytest.raises(LedgerError) as caught:
            use()
        assert "s3cret" not in str(caught.value)


def test_process_ids_are_those_of_one_boot_and_one_namespace() -> None:
    assert machine() == machine()
    assert machine().count("/") == 1
