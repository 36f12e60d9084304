"""A search is opened: what another driver has, and what was lost, is left alone."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from orchestrator import driver
from orchestrator.driver_lock import driver_lock
from orchestrator.errors import LedgerError, SearchLockedError
from orchestrator.events import EventLog
from orchestrator.folders import SearchFolder
from orchestrator.opening import leaving_nothing_unbegun, open_ledger
from orchestrator.study.place import STORAGE_VARIABLE
from orchestrator.study.storage import Fence
from tests.unit.ledgers import search_config, search_folder
from trainable.errors import TaskError


def change(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return search_folder(tmp_path / "home")


def test_a_refused_driver_leaves_the_folder_of_the_first_one(
    folder: SearchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both begin in the same instant: nothing was there when the second one looked."""
    config = search_config()

    @contextmanager
    def late(found: SearchFolder) -> Iterator[Fence]:
        with driver_lock(found) as first:
            found.config.write_text(config.to_yaml())
            ledger = open_ledger(config, found, fence=first)
            try:
                with driver_lock(found) as fence:
                    yield fence
            finally:
                ledger.close()

    monkeypatch.setattr(driver, "driver_lock", late)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SearchLockedError, match="is being run by process"):
        driver.run(config, home=tmp_path / "home")
    assert folder.config.exists()
    assert folder.study.exists()


def fail_inside(folder: SearchFolder, told: bool) -> None:
    with driver_lock(folder) as fence, leaving_nothing_unbegun(folder, fence):
        folder.config.write_text(search_config().to_yaml())
        if told:
            with EventLog(folder.events) as log:
                log.append("trial_started", {"number": 0}, f"{folder.name}-0", 1)
        raise LedgerError("broken")


@pytest.mark.parametrize("told", [False, True])
def test_a_new_search_that_fails_before_its_first_trial_leaves_nothing(
    folder: SearchFolder, told: bool
) -> None:
    with pytest.raises(LedgerError, match="broken"):
        fail_inside(folder, told)
    assert folder.path.exists() == told


@pytest.mark.parametrize("knows", [True, False])
def test_a_driver_that_thaws_leaves_the_search_to_the_one_that_took_it_over(
    folder: SearchFolder, knows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began the search, and hung before the first trial for longer than its lease."""
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'shared.db'}")
    config = search_config()
    with ExitStack() as taken_over:
        with (
            pytest.raises(SearchLockedError if knows else LedgerError),
            driver_lock(folder) as fence,
            leaving_nothing_unbegun(folder, fence),
        ):
            folder.config.write_text(config.to_yaml())
            frozen = open_ledger(config, folder, fence=fence)
            change(tmp_path / "shared.db", "UPDATE latentune_leases SET until = 0")
            second = taken_over.enter_context(driver_lock(folder))
            ledger = open_ledger(config, folder, fence=second)
            if knows:
                frozen.add_spent(1.0)
            raise LedgerError("it has not asked yet")
        assert folder.config.exists()
        second()
        asked = ledger.ask()
        assert asked is not None and asked.number == 0
        frozen.close()
        ledger.close()


def test_a_new_search_that_fails_leaves_nothing_in_a_shared_database(
    folder: SearchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'shared.db'}")
    for _ in range(2):
        with (
            pytest.raises(TaskError),
            driver_lock(folder) as fence,
            leaving_nothing_unbegun(folder, fence),
        ):
            open_ledger(search_config(), folder, fence=fence).close()
            raise TaskError("no such file")
        assert not folder.path.exists()


def test_a_search_that_was_there_stays(folder: SearchFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.config.write_text("name: tiny")
    with pytest.raises(LedgerError, match="broken"):
        fail_inside(folder, told=False)
    assert folder.config.exists()


def test_a_database_that_was_never_reached_is_not_noted(
    folder: SearchFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the variable is right, the search begins where it says."""
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'no/such/folder.db'}")
    with pytest.raises(LedgerError, match="cannot be used"), driver_lock(folder):
        pytest.fail("no ledger is there")
    assert not folder.place.exists()
    monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{tmp_path / 'there.db'}")
    with driver_lock(folder) as fence:
        open_ledger(search_config(), folder, fence=fence).close()
    assert folder.place.exists()


@pytest.mark.parametrize("shared", [False, True])
def test_a_lost_ledger_does_not_begin_the_search_again(
    folder: SearchFolder, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "many.db" if shared else folder.study
    if shared:
        monkeypatch.setenv(STORAGE_VARIABLE, f"sqlite:///{study}")
    with driver_lock(folder) as fence, EventLog(folder.events, fence) as log:
        ledger = open_ledger(search_config(), folder, fence=fence)
        ledger.ask()
        log.append("trial_started", {"number": 0}, "tiny-0", 1)
        ledger.close()
    kept = shutil.copy(study, tmp_path / "kept.db")
    study.unlink()
    for _ in range(2):  # the refusal brings no new ledger about
        with driver_lock(folder) as fence, pytest.raises(LedgerError, match=r"is gone: restore"):
            open_ledger(search_config(), folder, fence=fence)
        assert shared or not folder.study.exists()
    shutil.copy(kept, study)
    with driver_lock(folder) as fence:
        ledger = open_ledger(search_config(), folder, fence=fence)
        assert [trial.number for trial in ledger.all()] == [0]
        ledger.close()
