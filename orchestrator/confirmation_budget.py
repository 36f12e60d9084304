"""What a confirmation may spend, and what it has spent: in its search's ledger, beside it.

gpu_hours, money    bound a search and its confirmation together: it is not begun where they
leave less than it may take, and pauses, states saved, where they are over
all others          bound the search alone
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.confirmation_estimate import most_members, span
from orchestrator.confirmation_record import ConfirmationEstimate
from orchestrator.errors import ConfirmationError
from orchestrator.events import EventLog
from orchestrator.ledger import Ledger
from orchestrator.results import Estimate
from orchestrator.search_config import SearchConfig
from orchestrator.spending import shared_s


class ConfirmationMeter:
    """Running time and optimiser steps of a confirmation, added to what the ledger has of it.

    Args:
        ledger: keeps them; a driver that dies loses what came since the last note.
        config: the search's, with its `confirm` section as it is now.
        planned: what the search's last run expected it to take; None where no run said.

    `gpu_clock` gives GPU-seconds in this run and GPUs now; by default there are none.
    """

    def __init__(
        self, ledger: Ledger, config: SearchConfig, planned: ConfirmationEstimate | None
    ) -> None:
        self.gpu_clock: Callable[[], tuple[float, int]] = lambda: (0.0, 0)
        self.planned = planned
        self.seconds = 0.0
        self.steps = 0
        self._ledger = ledger
        self._config = config
        self._gpu_s_noted = 0.0
        self._noted: float | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time for as long as this lasts."""
        self._noted = time.monotonic()
        try:
            yield
        finally:
            self.note()
            self._noted = None

    def note(self, steps: int = 0) -> None:
        """Write down the time since the last note, and optimiser steps that were made."""
        if self._noted is None:
            return
        now = time.monotonic()
        seconds, self._noted = now - self._noted, now
        gpu_s = self.gpu_clock()[0]
        more, self._gpu_s_noted = max(0.0, gpu_s - self._gpu_s_noted), gpu_s
        self.seconds += seconds
        self.steps += steps
        self._ledger.add(confirm_s=seconds, confirm_gpu_s=more, confirm_steps=steps)

    def skip(self, seconds: float) -> None:
        """Leave out time that is not to count."""
        if self._noted is not None:
            self._noted += seconds

    def seconds_left(self) -> float:
        """What the budgets that bound it leave from now on."""
        since = 0.0 if self._noted is None else time.monotonic() - self._noted
        left = shared_s(self._ledger, self._config.budget, self.gpu_clock()[1])
        return min(left.values(), default=math.inf) - since

    def check(self, done: int) -> None:
        """Refuse to begin what the budgets do not cover.

        Args:
            done: members that are trained already.

        Raises:
            ConfirmationError: naming the budget.
        """
        planned, needed_s = self.planned, 0.0
        if planned is not None and planned.seconds is not None:
            share = max(0, sum(most_members(self._config)) - done) / planned.members
            needed_s = planned.seconds * share
        gpus = 0 if planned is None else planned.gpus
        for name, left_s in shared_s(self._ledger, self._config.budget, gpus).items():
            if left_s <= 0 or left_s < needed_s:
                raise ConfirmationError(
                    f"budget.{name}={getattr(self._config.budget, name):g} leaves "
                    f"{span(max(0.0, left_s))}, and it may take {span(needed_s)}: raise it and run "
                    "the search again, or ask for less, for example with --set confirm.top=1"
                )


def planned_confirmation(events: EventLog) -> ConfirmationEstimate | None:
    """What the last run of a search expected its confirmation to take."""
    told = [e.payload for e in events.read() if e.type == "search_started"]
    found = told[-1].get("estimate") if told else None
    return None if found is None else Estimate.model_validate(found).confirmation
