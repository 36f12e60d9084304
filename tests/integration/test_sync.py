"""`latentune sync`: what an outage or a driver's death left undelivered arrives, once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock

from orchestrator import shipper as shipper_module
from orchestrator.cli import main
from orchestrator.errors import SearchLockedError, SearchNotFoundError
from orchestrator.events import read_events
from orchestrator.files import write_atomic
from orchestrator.folders import SearchFolder
from orchestrator.opening import open_ledger
from orchestrator.shipper import YIELD_NAME
from orchestrator.shipping.sync import sync
from orchestrator.tracking import default_uri, read_cursor
from tests.integration.tracked_search import NAME, Stored, TrackedSearch, tracked_search
from tests.unit.ledgers import empty_study, search_config

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackedSearch]:
    """A search whose driver was killed; nothing was delivered."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracked_search(tmp_path / "home") as search:
        config, folder = search_config(name=NAME), SearchFolder(search.folder)
        write_atomic(folder.config, config.to_yaml().encode())
        folder.study.write_bytes(empty_study())
        with closing(open_ledger(config, folder)) as ledger:
            ledger.ask()
        search.start()
        search.report(search.start_trial(0), 20, 0.1)
        yield search


def test_a_killed_driver_s_search_is_ended_and_delivered(search: TrackedSearch) -> None:
    found = sync(NAME, home=search.home, timeout_s=60)
    assert (found.events, found.delivered, found.pending) == (4, 4, 0)
    assert found.closed
    assert found.trouble is None
    stored = Stored(search.uri)
    assert {run.info.status for run in stored.runs.values()} == {"KILLED"}
    assert stored.points("parent", "trials/running") == [(0, 1.0)]
    before = stored.everything()
    again = sync(NAME, home=search.home, timeout_s=60)
    assert (again.events, again.delivered, again.pending, again.closed) == (4, 0, 0, False)
    assert Stored(search.uri).everything() == before


def test_a_killed_confirmation_is_ended_too(search: TrackedSearch) -> None:
    search.end()
    search.log.append("confirm_started", {"state": "running"})
    search.start_trial(7)
    assert sync(NAME, home=search.home, timeout_s=60).closed
    stored = Stored(search.uri)
    assert stored.runs["parent"].info.status == "FINISHED"
    assert stored.runs[f"{NAME}-7"].info.status == "KILLED"
    (*_, last) = read_events(search.folder / "events.jsonl")
    assert (last.type, last.payload) == ("confirm_ended", {"state": "interrupted"})


def test_a_run_that_was_left_running_is_ended(search: TrackedSearch) -> None:
    """Its shipper was killed between the batch and the cursor, or a person resumed the run."""
    search.end("interrupted")
    assert search.ship()
    stored = Stored(search.uri)
    stored.client.update_run(stored.runs[f"{NAME}-0"].info.run_id, status="RUNNING")
    search.set_back(3)
    assert sync(NAME, home=search.home, timeout_s=60).delivered == 1
    assert Stored(search.uri).runs[f"{NAME}-0"].info.status == "KILLED"


def test_a_store_that_is_away_is_said_and_nothing_is_lost(
    search: TrackedSearch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATENTUNE_HOME", str(search.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD)
    monkeypatch.setattr(sys, "argv", ["latentune", "sync", NAME, "--timeout-s", "1", "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    told = json.loads(capsys.readouterr().out)
    assert (left.value.code, told["schema_version"], told["pending"]) == (1, 1, 4)
    assert "does not answer" in told["trouble"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(sys, "argv", ["latentune", "sync", NAME])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert f"{NAME}: 4 of 4 events delivered to sqlite:" in capsys.readouterr().out
    assert Stored(search.uri).count == 2


def test_another_store_gets_all_of_it(search: TrackedSearch, tmp_path: Path) -> None:
    assert sync(NAME, home=search.home, timeout_s=60).delivered == 4
    (tmp_path / "elsewhere").mkdir()
    other = default_uri(tmp_path / "elsewhere")
    found = sync(NAME, home=search.home, timeout_s=60, flag=other)
    assert (found.delivered, found.pending) == (4, 0)
    assert Stored(other).count == 2


def test_a_running_search_and_an_unknown_one_are_refused(search: TrackedSearch) -> None:
    with FileLock(search.folder / "lock"), pytest.raises(SearchLockedError, match="by itself"):
        sync(NAME, home=search.home, timeout_s=60)
    with pytest.raises(SearchNotFoundError, match="no search 'other'"):
        sync("other", home=search.home, timeout_s=60)
    assert read_cursor(search.folder).next_seq == 0


@pytest.mark.slow
def test_a_shipper_that_asks_a_dead_store_again_and_again_makes_room(
    search: TrackedSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""if True:
        from pathlib import Path
        from orchestrator import shipper
        shipper.LONGEST_WAIT_S = 0.2
        print("ready", flush=True)
        watch = shipper.Watch(60)
        shipper.ship(Path({str(search.folder)!r}), {DEAD!r}, until_ended=True, watch=watch)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        while read_cursor(search.folder).trouble is None:
            assert other.poll() is None
            time.sleep(0.05)
        assert sync(NAME, home=search.home, timeout_s=60).pending == 0
        assert other.wait(30) == 0
    assert not (search.folder / YIELD_NAME).exists()
    assert shipper_module.LONGEST_WAIT_S == 10.0
