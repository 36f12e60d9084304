"""A job's work on the head: unpack, run the search as anybody would, tell how it ended."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console

from orchestrator.config import load_search
from orchestrator.console import FAILED, INTERRUPTED, PlainConsole, exit_code, print_line
from orchestrator.driver import run
from orchestrator.engines.roster import read_roster
from orchestrator.folders import HOME_VARIABLE, SearchFolder, home_folder
from orchestrator.jobs.marked_lines import JobProgress, tell_progress, tell_result
from orchestrator.jobs.package import read_submission, unpack
from orchestrator.jobs.sender import check_sender
from orchestrator.ledger import LedgerTrial, TrialStatus
from orchestrator.opening import baseline_configs
from orchestrator.progress import SearchProgress
from orchestrator.results import DataRecord, Estimate, SearchResult
from orchestrator.safety.redaction import Redaction, safe_logging, tell_crash
from orchestrator.tracking import without_credentials
from trainable.errors import LatentuneError

_WIDTH = 200
_BEAT_S = 5.0
_DEFAULT_HOME = ".latentune"


class JobWatcher:
    """Tells people and programs, in the job's log, how the search goes and what it waits for.

    Args:
        progress: who counts, and tells people.
        folder: the search's.
    """

    def __init__(self, progress: SearchProgress, folder: SearchFolder) -> None:
        self._progress = progress
        self._folder = folder
        self._over = threading.Event()
        self._told: JobProgress | None = None
        self._lock = threading.Lock()
        self._beat = threading.Thread(target=self._look, daemon=True, name="progress")

    def __enter__(self) -> Self:
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._beat.join()

    def data_read(self, data: DataRecord) -> None:
        """The rows are known."""
        self._progress.data_read(data)

    def planned(self, found: Estimate, warnings: Sequence[str], *, going_on: bool) -> None:
        """What is left will cost about this."""
        self._progress.planned(found, warnings, going_on=going_on)

    def search_opened(self, trials: Sequence[LedgerTrial]) -> None:
        """A run begins."""
        self._progress.search_opened(trials)
        self._tell()

    def trial_started(self, trial: LedgerTrial) -> None:
        """A trial begins, or goes on."""
        self._progress.trial_started(trial)

    def trial_reported(self, trial: LedgerTrial, status: TrialStatus) -> None:
        """A trial has reached a rung."""
        self._progress.trial_reported(trial, status)
        if status is not TrialStatus.RUNNING:
            self._tell()

    def _look(self) -> None:
        """Engines come and trials wait without anything being reported."""
        while not self._over.wait(_BEAT_S):
            self._tell()

    def _tell(self) -> None:
        roster = read_roster(self._folder.path)
        found = JobProgress(
            trials=self._progress.standing, engines=len(roster.ready), waiting=roster.waiting
        )
        with self._lock:
            if found != self._told:
                tell_progress(found)
            self._told = found


def run_job(package: Path, interrupt: threading.Event) -> int:
    """Run the search of a package; returns the exit code that the command line would have."""
    safe_logging(logging.WARNING, "%(levelname)s: %(message)s")
    sys.excepthook = tell_crash
    console = PlainConsole(file=sys.stdout, width=_WIDTH)
    try:
        result = run_package(package, console, interrupt)
    except LatentuneError as error:
        print_line(console, Redaction.of_environment().of_text(str(error)))
        return exit_code(error)
    print_line(
        console, f"the search is {result.state}" + (f": {result.summary}" if result.best else "")
    )
    tell_result(result)
    return {"complete": 0, "spent": 0, "failed": FAILED}.get(result.state, INTERRUPTED)


def run_package(package: Path, console: Console, interrupt: threading.Event) -> SearchResult:
    """Run the search of a package in the head's LATENTUNE_HOME; raises as `run` does."""
    check_sender(read_submission(package).sender)
    home = _lasting_home()
    search, overrides = unpack(package, home)
    config = load_search(search, overrides)
    print_line(console, f"search {config.name} in {home}")
    total = config.budget.trials + len(baseline_configs()) * config.space.baselines
    folder = SearchFolder.of(home, config.name)
    with (
        SearchProgress(console, total, config.objective) as progress,
        JobWatcher(progress, folder) as watcher,
    ):
        result = run(
            config,
            home=home,
            watcher=watcher,
            interrupt=interrupt,
            say=lambda line: print_line(console, line),
        )
    uri = without_credentials(result.tracking_uri, result.tracking_uri)
    return result.model_copy(update={"tracking_uri": uri})


def _lasting_home() -> Path:
    """The head's LATENTUNE_HOME; never below the current folder, which Ray throws away."""
    named = Path(os.environ.get(HOME_VARIABLE) or _DEFAULT_HOME).expanduser()
    return home_folder(Path.home() / named)
