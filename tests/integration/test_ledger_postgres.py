"""The ledger in a real Postgres: transactions, the lease, and a driver that lost it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from orchestrator.driver_lock import driver_lock, is_held
from orchestrator.errors import LedgerError, SearchLockedError
from orchestrator.folders import SearchFolder
from orchestrator.ledger import Ledger
from orchestrator.opening import open_ledger
from orchestrator.results import read_result
from orchestrator.study.lease import Lease
from orchestrator.study.owner import forget_study
from orchestrator.study.place import STORAGE_VARIABLE, storage_url
from tests.unit.ledgers import NAME, OBJECTIVE, RUNGS, search_config, search_folder

servers = pytest.importorskip("tests.faults.postgres")
pytest.importorskip("psycopg")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with servers.postgres() as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[SearchFolder]:
    monkeypatch.setenv(STORAGE_VARIABLE, server.url)
    folder = search_folder(tmp_path)
    yield folder
    forget_study(folder.path, NAME)


def expire(folder: SearchFolder) -> None:
    engine = create_engine(storage_url(folder.path))
    with engine.begin() as connection:
        connection.execute(text("UPDATE latentune_leases SET until = 0"))
    engine.dispose()


def opened(folder: SearchFolder, fence: Any) -> Ledger:
    config = search_config()
    folder.config.write_text(config.to_yaml())
    return open_ledger(config, folder, fence=fence)


def test_a_search_goes_to_its_end_in_two_runs(folder: SearchFolder) -> None:
    with driver_lock(folder) as fence:
        first = opened(folder, fence)
        params = [trial.params for _ in range(2) if (trial := first.ask())]
        assert first.report(0, RUNGS[0], {OBJECTIVE: 0.9}) == "running"
        assert first.report(1, RUNGS[0], {OBJECTIVE: 0.1}) == "pruned"
        first.add_spent(2.5)
        assert is_held(folder)
        first.close()
    assert not is_held(folder)
    with driver_lock(folder) as fence:
        again = opened(folder, fence)
        assert again.spent_s == 2.5
        trial = again.ask()
        assert trial is not None
        assert (trial.number, trial.step, trial.attempts) == (0, RUNGS[0], 2)
        assert [one.params for one in again.all()] == params
        assert again.report(0, RUNGS[-1], {OBJECTIVE: 0.95}) == "complete"
        again.close()
    statuses = [str(trial.status) for trial in read_result(folder, "").trials]
    assert statuses == ["complete", "pruned"]


def test_a_transition_that_was_cut_short_never_was(folder: SearchFolder) -> None:
    with driver_lock(folder) as fence:
        ledger = opened(folder, fence)
        ledger.ask()

        def die(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        ledger._store.tell = die  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            ledger.report(0, RUNGS[-1], {OBJECTIVE: 0.5})
        ledger.close()
        again = opened(folder, fence)
        assert (again.trial(0).step, again.trial(0).reports) == (0, {})
        again.close()


def test_a_second_driver_is_refused(folder: SearchFolder) -> None:
    with driver_lock(folder) as fence:
        opened(folder, fence).close()
        refused: list[str] = []

        def second() -> None:
            with pytest.raises(SearchLockedError) as caught, driver_lock(folder):
                pytest.fail("two drivers run one search")
            refused.append(str(caught.value))

        threads = [threading.Thread(target=second) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(refused) == 8
    assert all(f"process {os.getpid()} on" in message for message in refused)


def test_only_one_of_many_that_start_at_once_holds_the_search(folder: SearchFolder) -> None:
    with driver_lock(folder) as fence:
        opened(folder, fence).close()
    ready, leases = threading.Barrier(8), list[Lease]()

    def start() -> None:
        ready.wait()
        try:
            leases.append(Lease(storage_url(folder.path), NAME))
        except SearchLockedError:
            pass

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leases) == 1
    leases[0].release()


def test_a_driver_that_lost_its_search_writes_nothing(folder: SearchFolder) -> None:
    with driver_lock(folder) as lost_fence:
        lost = opened(folder, lost_fence)
        lost.ask()
        expire(folder)
        with driver_lock(folder) as fence:
            with pytest.raises(SearchLockedError, match="was taken over by process"):
                lost.report(0, RUNGS[0], {OBJECTIVE: 0.5})
            mine = opened(folder, fence)
            trial = mine.ask()
            assert trial is not None
            assert (trial.number, trial.attempts) == (0, 2)
            mine.close()
        lost.close()


def test_a_database_that_went_away_is_said_and_gone_on_with(
    folder: SearchFolder, server: Any
) -> None:
    with driver_lock(folder) as fence:
        ledger = opened(folder, fence)
        ledger.ask()
        server.crash()
        try:
            with pytest.raises(LedgerError, match="cannot be used") as caught:
                ledger.report(0, RUNGS[0], {OBJECTIVE: 0.5})
            assert "it goes on" in str(caught.value)
        finally:
            server.start()
        assert ledger.report(0, RUNGS[0], {OBJECTIVE: 0.5}) == "running"
        ledger.close()
