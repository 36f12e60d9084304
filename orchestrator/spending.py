"""Budgets: what a search has spent, and whether it may go on.

    trials                        the ledger asks for no more
    total_steps, tokens           a report interval begins only while what is spent, and what the
                                  running intervals will spend, is below the budget
    time_s, gpu_hours, money      running time; trials are paused when it is over

So steps and tokens overshoot by less than one report interval of one trial. A trial that may
not go on is paused with its state saved, and goes on when the budget has grown. GPU-hours and
money bound the search and its confirmation together, all others the search alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from orchestrator.ledger import Ledger, LedgerTrial
from orchestrator.sections import BudgetConfig
from trainable.trial import TrialConfig

# A trial, and from which optimiser step to which: the tokens that it is trained on.
TokensOf: TypeAlias = Callable[[TrialConfig, int, int], int]
_HOUR_S = 3600.0
_NOTE_S = 1.0


class Spending:
    """Optimiser steps and tokens, those that running trials are bound to spend included.

    Args:
        budget: what may be spent.
        trials: what earlier runs have left.
        tokens: counts them; None where no budget asks.
    """

    def __init__(
        self,
        budget: BudgetConfig,
        trials: Iterable[LedgerTrial] = (),
        tokens: TokensOf | None = None,
    ) -> None:
        self._budget = budget
        self._tokens_of = tokens
        self._steps_of: dict[int, int] = {}
        self._steps = self._tokens = 0  # sums, so that the last trial costs what the first did
        for trial in trials:
            self.commit(trial.number, trial.config, trial.step)

    @property
    def steps(self) -> int:
        """Optimiser steps of all trials."""
        return self._steps

    @property
    def tokens(self) -> int | None:
        """Tokens trained on; None where they are not counted."""
        return None if self._tokens_of is None else self._tokens

    @property
    def is_open(self) -> bool:
        """Whether another report interval may begin."""
        budget, tokens = self._budget, self.tokens
        return not (
            (budget.total_steps is not None and self.steps >= budget.total_steps)
            or (budget.tokens is not None and tokens is not None and tokens >= budget.tokens)
        )

    def commit(self, number: int, config: TrialConfig, step: int) -> None:
        """Note that a trial goes to `step`, or that it ended there."""
        before = self._steps_of.get(number, 0)
        if self._tokens_of is not None and step != before:
            low, high = sorted((before, step))
            more = self._tokens_of(config, low, high) * (1 if step > before else -1)
            self._tokens += more
        self._steps += step - before
        self._steps_of[number] = step


class Meter:
    """Running time, added to what the ledger has of earlier runs.

    Args:
        ledger: keeps it, so that a driver that dies loses what is since its last note alone.
        budget: what may be spent.
        began: `time.monotonic()` when the run began.

    `gpu_clock` gives GPU-seconds in this run and GPUs now; by default there are none.
    """

    def __init__(self, ledger: Ledger, budget: BudgetConfig, began: float) -> None:
        self.gpu_clock: Callable[[], tuple[float, int]] = lambda: (0.0, 0)
        self._gpu_s_noted = 0.0
        self._ledger = ledger
        self._budget = budget
        self._noted = began

    def note(self, tokens: int | None = None, *, last: bool = True) -> None:
        """Write down the time since the last note, and the tokens so far.

        Args:
            last: whether it must not wait; others are written once a second.
        """
        now = time.monotonic()
        if not last and now - self._noted < _NOTE_S:
            return
        seconds, self._noted = now - self._noted, now
        gpu_s = self.gpu_clock()[0]
        more, self._gpu_s_noted = max(0.0, gpu_s - self._gpu_s_noted), gpu_s
        self._ledger.add_spent(seconds, gpu_s=more, tokens=tokens)

    def skip(self, seconds: float) -> None:
        """Leave out time that is not to count."""
        self._noted += seconds

    def seconds_left(self) -> float:
        """What the budgets of time leave from now on."""
        budget, since = self._budget, time.monotonic() - self._noted
        left = [*shared_s(self._ledger, budget, self.gpu_clock()[1]).values()]
        if budget.time_s is not None:
            left.append(budget.time_s - self._ledger.spent_s)
        return min(left, default=math.inf) - since


def shared_s(ledger: Ledger, budget: BudgetConfig, gpus: int) -> dict[str, float]:
    """The seconds that each budget leaves which bounds a search and its confirmation together.

    Args:
        gpus: in use now.
    """
    left = {}
    if budget.money is not None and budget.price_per_hour is not None:
        taken_s = ledger.spent_s + ledger.spent("confirm_s")
        left["money"] = budget.money / budget.price_per_hour * _HOUR_S - taken_s
    if budget.gpu_hours is not None:
        taken_s = ledger.spent("spent_gpu_s") + ledger.spent("confirm_gpu_s")
        gpu_s = budget.gpu_hours * _HOUR_S - taken_s
        # Without a GPU none is spent; what earlier runs spent counts nevertheless.
        left["gpu_hours"] = gpu_s / gpus if gpus else math.inf if gpu_s > 0 else 0.0
    return left
