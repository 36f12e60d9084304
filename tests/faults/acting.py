"""Watchers that do something to a search while it runs, and what they do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from orchestrator.ledger import LedgerTrial, TrialStatus
from tests.integration.small_search import Watching, own_processes


class AtReport(Watching):
    """Runs an action at the n-th report of a search, in the driver's thread.

    Args:
        n: counted from 1.
        action: what to do.
    """

    def __init__(self, n: int, action: Callable[[], None]) -> None:
        super().__init__()
        self._n = n
        self._act = action

    def trial_reported(self, trial: LedgerTrial, status: TrialStatus) -> None:
        super().trial_reported(trial, status)
        if len(self.reports) == self._n:
            self._act()


class AtStart(Watching):
    """Runs an action when the n-th trial of a search is to begin, in the driver's thread.

    Args:
        n: counted from 1; a trial that begins again counts again.
        action: what to do.
    """

    def __init__(self, n: int, action: Callable[[], None]) -> None:
        super().__init__()
        self._left = n
        self._act = action

    def trial_started(self, trial: LedgerTrial) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()


def freeze_own(titles: Sequence[str], seconds: float) -> int:
    """SIGSTOP our own Ray workers of these titles, and SIGCONT after a while; how many."""
    frozen = stop_own(titles)
    threading.Timer(seconds, thaw, [frozen]).start()
    return len(frozen)


def stop_own(titles: Sequence[str]) -> list[int]:
    """SIGSTOP our own Ray workers of these titles; which."""
    frozen = [pid for title in titles for pid in own_processes(title)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    return frozen


def thaw(pids: Sequence[int]) -> None:
    """SIGCONT."""
    for pid in pids:
        with suppress(ProcessLookupError):  # somebody gave it up meanwhile
            os.kill(pid, signal.SIGCONT)
