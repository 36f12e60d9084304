"""What other schedules would make of the same trials: limits to hold a simulated makespan against.

    shortest_s     no schedule is shorter: all trial-steps at the cheapest number of trials in a
                   step, on engines that are never idle; or the longest trial, alone on an engine
    spread_s       trials move between any two steps, so that no engine ever has two more than
                   another; decisions cost nothing
    longest_first  the queue, were it known which trials will be stopped

The product knows at a rung who goes on, and not before; that costs it what lies between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.simulation import Search, StepTime


def shortest_s(search: Search, step_time: StepTime, places: Sequence[int]) -> float:
    """A bound from below of any schedule's makespan.

    Args:
        places: the numbers of trials in a step that may be chosen.
    """
    steps = [sum(trial) for trial in search.trials]
    cheapest = min(step_time(count) / count for count in places)
    return max(sum(steps) * cheapest / search.engines, max(steps) * step_time(1))


def longest_first(search: Search) -> Search:
    """The same trials, those with most steps at the head of the queue."""
    return replace(search, trials=sorted(search.trials, key=sum, reverse=True))


def spread_s(search: Search, step_time: StepTime) -> float:
    """The makespan where trials are spread evenly at every moment, in the queue's order."""
    waiting = [float(sum(trial)) for trial in search.trials]
    inside: list[float] = []  # steps left of each
    now = 0.0
    while waiting or inside:
        free = search.engines * search.places - len(inside)
        inside, waiting = inside + waiting[:free], waiting[free:]
        done = min(inside)
        now += done / _steps_per_s(len(inside), search.engines, step_time)
        inside = [left - done for left in inside if left > done]
    return now


def _steps_per_s(trials: int, engines: int, step_time: StepTime) -> float:
    """Of each trial; those on an engine with one more take turns at it with the others."""
    low, fuller = divmod(trials, engines)
    steps_per_s = fuller * (low + 1) / step_time(low + 1)
    if low:
        steps_per_s += (engines - fuller) * low / step_time(low)
    return steps_per_s / trials
