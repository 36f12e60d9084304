"""A job on the head: its signals, its home, and what it tells."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import SearchConfig
from orchestrator.engines.roster import Roster, write_roster
from orchestrator.engines.waiting import WaitingRecord
from orchestrator.errors import LedgerError, SearchExistsError
from orchestrator.folders import SearchFolder
from orchestrator.jobs import work
from orchestrator.jobs.marked_lines import read_progress, read_told_result
from orchestrator.jobs.package import write_package
from orchestrator.results import SearchResult
from tests.integration.small_search import small_config

STOPPED = """
import os, signal, sys
from orchestrator.jobs.entry import _interrupted_by_signals
assert "numpy" not in sys.modules  # whose threads would take the signal
interrupt = _interrupted_by_signals()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as ray.init does
os.kill(os.getpid(), signal.SIGTERM)
print(interrupt.wait(20))
"""


@pytest.fixture
def config(tiny_folder: Path) -> SearchConfig:
    return SearchConfig.model_validate(small_config(tiny_folder))


@pytest.fixture
def package(config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package, in the folder that Ray has made for it."""
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    folder = tmp_path / "package"
    folder.mkdir()
    write_package(config, folder)
    monkeypatch.chdir(folder)
    return folder


def test_a_signal_interrupts_and_does_not_end() -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "stopping: running trials save their state\nTrue\n"


STATES = [("complete", 0), ("spent", 0), ("failed", 1), ("interrupted", 130)]


@pytest.mark.parametrize(("state", "code"), STATES)
def test_the_exit_code_and_the_result(
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    state: Any,
    code: int,
) -> None:
    result = SearchResult(
        name="small", state=state, objective="val_ood/exact_match",
        tracking_uri="http://user:secret@h:5000", best=None, artifact=None, summary=None, trials=[],
    )  # fmt: skip
    monkeypatch.setattr(work, "run", lambda *_, **__: result)
    assert work.run_job(package, threading.Event()) == code
    out = capfd.readouterr().out
    assert "secret" not in out
    assert read_told_result(out) == result.model_copy(update={"tracking_uri": "http://h:5000"})


@pytest.mark.parametrize(
    ("error", "code"), [(SearchExistsError("another one"), 2), (LedgerError("broken"), 1)]
)
def test_a_refusal_is_told(
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(work, "run", refuse)
    assert work.run_job(package, threading.Event()) == code
    out = capfd.readouterr().out
    assert str(error) in out
    assert read_told_result(out) is None


def test_what_a_search_waits_for_is_told(
    package: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    waiting = WaitingRecord(kind="no-gpu", detail="no node has a GPU")

    def run(config: SearchConfig, *, home: Path, watcher: Any, **_: Any) -> None:
        folder = SearchFolder.of(home, config.name).path
        folder.mkdir(parents=True)
        watcher.search_opened([])
        write_roster(folder, Roster(waiting=waiting))
        log = ""
        while (told := read_progress(log)) is None or told.waiting is None:
            log += capfd.readouterr().out  # by itself: nothing is reported meanwhile
        assert (told.trials.total, told.engines, told.waiting) == (3, 0, waiting)
        raise SearchExistsError("enough")

    monkeypatch.setattr(work, "_BEAT_S", 0.01)
    monkeypatch.setattr(work, "run", run)
    assert work.run_job(package, threading.Event()) == 2


@pytest.mark.parametrize(
    ("named", "found"), [(None, "user/.latentune"), ("~/there", "user/there"), ("rel", "user/rel")]
)
def test_the_home_lasts(
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: str | None,
    found: str,
) -> None:
    """Never below the current folder, which Ray throws away."""
    homes: list[Path] = []

    def run(config: SearchConfig, *, home: Path, **_: Any) -> SearchResult:
        homes.append(home)
        raise SearchExistsError(config.base_model.path)

    monkeypatch.setattr(work, "run", run)
    monkeypatch.delenv("LATENTUNE_HOME", raising=False)
    if named is not None:
        monkeypatch.setenv("LATENTUNE_HOME", named)
    work.run_job(package, threading.Event())
    assert homes == [tmp_path / found]
    assert (homes[0] / "uploads" / "small.yaml").exists()
