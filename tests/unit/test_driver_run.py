"""A run of the driver, without Ray: its time is written down, and its end is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import driver
from orchestrator.conductor import Quiet
from orchestrator.driver import _Run
from orchestrator.errors import SearchLockedError
from orchestrator.events import EventLog
from orchestrator.ledger import Ledger
from orchestrator.results import DataRecord
from orchestrator.study.storage import no_fence
from orchestrator.tune_adapters import LostTrials
from tests.unit.ledgers import RUNGS, open_ledger, search_config, search_folder
from trainable.errors import DiskFullError

COMMAND = ["touch", "told"]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(open_ledger(search_folder(tmp_path).path)) as ledger:
        yield ledger


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str, str]]:
    """The commands that were run, with the search's name and its state."""
    calls: list[tuple[list[str], str, str]] = []

    def tell_end(command: tuple[str, ...], folder: Path, state: str) -> None:
        calls.append((list(command), folder.name, state))

    monkeypatch.setattr(driver, "tell_end", tell_end)
    return calls


def run_of(tmp_path: Path, ledger: Ledger, began: float = 0.0, **budget: Any) -> _Run:
    config = search_config(
        budget={"trials": 4, "steps": RUNGS[-1], **budget}, tracking={"on_end": COMMAND}
    )
    data: Any = None
    began = began or time.monotonic()
    return _Run(
        config, search_folder(tmp_path), data, ledger, no_fence, None, "", Quiet(), began, print
    )


def test_the_wait_for_an_engine_is_written_down_as_it_goes(tmp_path: Path, ledger: Ledger) -> None:
    run = run_of(tmp_path, ledger, time.monotonic() - 5)
    assert not run._gives_up(threading.Event())
    assert 5 <= ledger.spent_s < 6
    run._gives_up(threading.Event())  # in the same second
    assert ledger.spent_s < 6


def test_a_driver_that_was_taken_over_while_it_waited_touches_no_file(
    tmp_path: Path, ledger: Ledger
) -> None:
    def taken_over(connection: object = None) -> None:
        raise SearchLockedError("was taken over")

    run = run_of(tmp_path, ledger)
    run.data = SimpleNamespace(source=None, checked=lambda _: DataRecord(rows={}))  # type: ignore[assignment]
    run.fence = taken_over
    run.folder.data.write_text("the other's")
    run.folder.result.write_text("the other's")
    fleet: Any = SimpleNamespace(ask=lambda *_: {}, base_model={"hidden_size": 4})
    with EventLog(run.folder.events) as events, pytest.raises(SearchLockedError):
        run._announce(events, fleet)
    assert run.folder.data.read_text() == run.folder.result.read_text() == "the other's"


def test_each_round_of_tune_s_loop_may_write_down_the_time(tmp_path: Path, ledger: Ledger) -> None:
    """Whether a trial reports or not: an interval may take hours."""
    run = run_of(tmp_path, ledger, time.monotonic() - 5)
    parts: Any = SimpleNamespace(append=None), SimpleNamespace(name="e"), None
    run.data = SimpleNamespace(source=None)  # type: ignore[assignment]
    conductor = run._conductor(parts[0], parts[1])
    LostTrials(conductor).on_step_end(1, [])
    assert 5 <= ledger.spent_s < 6


def test_the_end_of_a_run_is_told(
    tmp_path: Path,
    ledger: Ledger,
    told: list[tuple[list[str], str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = SimpleNamespace(state="failed")
    monkeypatch.setattr(_Run, "go", lambda self, interrupt: result)
    assert run_of(tmp_path, ledger).told(None) is result  # type: ignore[comparison-overlap]
    assert told == [(COMMAND, "tiny", "failed")]


def test_so_is_that_of_a_run_without_anything_to_do(
    tmp_path: Path,
    ledger: Ledger,
    told: list[tuple[list[str], str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = SimpleNamespace(finish=lambda state, **_: SimpleNamespace(state=state))
    monkeypatch.setattr(driver, "SearchEnd", lambda **_: ended)
    monkeypatch.setattr(driver._Run, "_confirmed", lambda self, events, interrupt, result: result)
    ledger.add_spent(60.0)
    assert run_of(tmp_path, ledger, time_s=30).told(None).state == "spent"
    assert told == [(COMMAND, "tiny", "spent")]


@pytest.mark.parametrize(
    ("error", "raised", "tells"),
    [
        (DiskFullError("disk full: x"), DiskFullError, True),
        (OSError(28, "No space left on device"), DiskFullError, True),
        (SearchLockedError("taken over"), SearchLockedError, False),  # another one goes on
    ],
)
def test_a_full_disk_is_told_and_a_lost_search_is_not(
    tmp_path: Path,
    ledger: Ledger,
    told: list[tuple[list[str], str, str]],
    error: Exception,
    raised: type[Exception],
    tells: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def go(self: _Run, interrupt: threading.Event) -> None:
        raise error

    monkeypatch.setattr(_Run, "go", go)
    with pytest.raises(raised):
        run_of(tmp_path, ledger).told(None)
    assert told == [(COMMAND, "tiny", "interrupted")] * tells
