"""A driver that freezes at a report, with leases of seconds where a search's are half a minute.

    python -m tests.faults.brief SEARCH.yaml HOME INSTANT N

    run(config) ──► the N-th report: SIGSTOP ... SIGCONT, by whoever waits ──► goes on, if it may

With the instant `never` it runs to its end. It freezes beside its renewals and not in one, for an
open transaction would hold its lease. Engines that it starts are brief, too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import wraps
from typing import Any

from orchestrator import driver, driver_lock
from orchestrator.assignment import TrialReport
from orchestrator.conductor import Conductor
from orchestrator.config import load_search
from orchestrator.console import exit_code
from orchestrator.engines import actor
from orchestrator.engines.leases import Leases
from orchestrator.study.lease import Lease
from tests.faults.doomed import NEVER
from trainable.errors import LatentuneError

MODULE = "tests.faults.brief"
AT_REPORT = "at-report"
ENGINE_TITLE = "ray::BriefEngine"
LEASE_S = 6.0  # an engine's pulse comes every 2 s
_renewing = threading.Lock()


class BriefLease(Lease):
    """The right to a search's ledger, for seconds."""

    def __init__(self, url: str, search: str) -> None:
        super().__init__(url, search, LEASE_S)

    def renew(self) -> bool:
        """As `Lease`; the driver is frozen before, or after."""
        with _renewing:
            return super().renew()


class BriefEngine(actor.EngineActor):
    """An engine that looks every second whether it is still leased."""

    def __init__(self, *arguments: Any) -> None:
        vars(actor)["LEASE_S"] = LEASE_S  # in the engine's process
        super().__init__(*arguments)
        self._leases = Leases(LEASE_S)


def main(search: str, home: str, instant: str, count: str) -> None:
    """Run a search, frozen at a report unless it never is."""
    from orchestrator.engines import host

    vars(host)["EngineActor"] = BriefEngine
    vars(driver_lock)["Lease"] = BriefLease
    if instant != NEVER:
        _freeze_at(int(count))
    try:
        result = driver.run(load_search(search), home=home)
    except LatentuneError as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(exit_code(error))
    sys.stdout.write(f"{result.state}\n")


def _freeze_at(count: int) -> None:
    original, reports = Conductor.on_report, 0

    @wraps(original)
    def on_report(self: Conductor, report: TrialReport) -> bool:
        nonlocal reports
        reports += 1
        if reports == count:
            with _renewing:
                os.kill(os.getpid(), signal.SIGSTOP)
        return original(self, report)

    Conductor.on_report = on_report  # type: ignore[method-assign]


if __name__ == "__main__":
    main(*sys.argv[1:])
