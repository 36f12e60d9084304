"""Early stopping replayed on recorded curves: a search without a model, in milliseconds.

Trials arrive in a given order, several at a time as in a search, and are judged at each rung by
their recorded scores, by the rule of a search, which is that of Optuna's `SuccessiveHalvingPruner`.
A test holds one against the other.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.stopping import goes_on

AT_ONCE = 8  # trials that train together, as in the demo


@dataclass(frozen=True)
class Replay:
    """What one search spent, and whom it left.

    Args:
        reached: per curve, the step that it came to.
        complete: the curves that ran to the end.
    """

    reached: tuple[int, ...]
    complete: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Optimiser steps of all trials."""
        return sum(self.reached)

    def winner(self, finals: Sequence[float]) -> int:
        """The best at the end, of those that ran to it; the first of equals."""
        return max(self.complete, key=lambda which: finals[which])


def replay(
    curves: Sequence[Mapping[int, float]],
    order: Sequence[int],
    rungs: Sequence[int],
    factor: int,
    at_once: int = AT_ONCE,
) -> Replay:
    """Run the curves as a search.

    Args:
        curves: per trial, step to the score that early stopping ranks by; higher is better.
        order: in which the trials are asked.
        rungs: where they are judged; the last is the end.
        factor: one in `factor` goes on.
    """
    seen: list[list[float]] = [[] for _ in rungs]  # the scores at each rung so far, ascending
    waiting = list(order)[::-1]
    reached, complete = [0] * len(curves), list[int]()
    running: list[tuple[int, int, int, int]] = []  # time, place in the order, curve, rung
    asked = now = 0
    while waiting or running:
        while waiting and len(running) < at_once:
            heapq.heappush(running, (now + rungs[0], asked, waiting.pop(), 0))
            asked += 1
        now, place, which, rung = heapq.heappop(running)
        reached[which] = rungs[rung]
        if rung == len(rungs) - 1:
            complete.append(which)
        elif goes_on(curves[which][rungs[rung]], seen[rung], factor):
            later = now + rungs[rung + 1] - rungs[rung]
            heapq.heappush(running, (later, place, which, rung + 1))
    return Replay(tuple(reached), tuple(complete))
