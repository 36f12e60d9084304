"""Early stopping replayed on recorded curves: a search without a model, in milliseconds.

Trials arrive in a given order, several at a time as in a search, and Optuna's own pruner judges
their recorded scores at each rung.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

AT_ONCE = 8  # trials that train together, as in the demo


@dataclass(frozen=True)
class Replay:
    """What one search spent, and which curve it picked.

    Args:
        steps: optimiser steps of all trials.
        winner: the best at the end among the trials that ran to it.
        reached: per curve, the step that it came to.
    """

    steps: int
    winner: int
    reached: tuple[int, ...]


def replay(
    curves: Sequence[Mapping[int, float]],
    finals: Sequence[float],
    order: Sequence[int],
    rungs: Sequence[int],
    factor: int,
) -> Replay:
    """Run the curves as a search.

    Args:
        curves: per trial, step to the score that early stopping ranks by; higher is better.
        finals: per trial, the objective at its end.
        order: in which the trials are asked.
        rungs: where they are judged; the last is the end.
        factor: one in `factor` goes on.
    """
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=rungs[0], reduction_factor=factor
        ),
    )
    waiting = iter(order)
    # (time, place in the order, which curve, the next rung's place, Optuna's trial)
    running: list[tuple[int, int, int, int, Any]] = []
    for place, which in _first(waiting, AT_ONCE):
        running.append((rungs[0], place, which, 0, study.ask()))
    heapq.heapify(running)
    asked, reached, complete = len(running), [0] * len(curves), list[int]()
    while running:
        now, place, which, rung, trial = heapq.heappop(running)
        trial.report(curves[which][rungs[rung]], rungs[rung])
        last = rung == len(rungs) - 1
        if not last and not trial.should_prune():
            later = now + rungs[rung + 1] - rungs[rung]
            heapq.heappush(running, (later, place, which, rung + 1, trial))
            continue
        reached[which] = rungs[rung]
        if last:
            complete.append(which)
        for _, following in _first(waiting, 1):
            heapq.heappush(running, (now + rungs[0], asked, following, 0, study.ask()))
            asked += 1
    winner = max(complete, key=lambda which: finals[which])
    return Replay(sum(reached), winner, tuple(reached))


def _first(waiting: Iterator[int], count: int) -> Iterator[tuple[int, int]]:
    for place in range(count):
        following = next(waiting, None)
        if following is None:
            return
        yield place, following
