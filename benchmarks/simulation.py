"""A discrete-event simulation of searches on several engines: no model, no processes.

A trial goes to the least loaded engine and takes part in its steps until its next rung; then its
report travels, and the answer: go on, or the next trial.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step with so many trials resident; straight lines between measured points."""

    resident: Sequence[int]
    seconds: Sequence[float]

    def __call__(self, trials: int) -> float:
        """Beyond the last point, as many seconds per trial as there."""
        if trials > self.resident[-1]:
            return self.seconds[-1] * trials / self.resident[-1]
        return float(np.interp(trials, self.resident, self.seconds))


@dataclass(frozen=True)
class Search:
    """What is run.

    Args:
        trials: the steps of each from rung to rung.
        places: trials at a time on one engine.
        moves: whether a trial that goes on from a rung goes to the least loaded engine; its state
            is kilobytes. Otherwise it stays where it is.
    """

    engines: int
    trials: Sequence[Sequence[int]]
    places: int
    moves: bool = False


@dataclass
class _SimulatedEngine:
    steps: dict[int, int] = field(default_factory=dict)  # resident trial to steps left till a rung
    assigned: int = 0
    inside: tuple[int, ...] = ()  # the trials of the step that is under way


def rungs_between(rungs: Sequence[int], end: int) -> list[int]:
    """The steps from rung to rung of a trial that ends there."""
    return [high - low for low, high in itertools.pairwise((0, *rungs)) if high <= end]


@dataclass(frozen=True)
class Driver:
    """What decisions cost.

    Args:
        trip_s: from a rung's report to the trial's next step, or the next trial's first.
        turn_s: of it, what keeps the driver from the next report: it takes one at a time, so that
            trials which report together go on one after the other.
    """

    trip_s: float
    turn_s: float = 0.0

    def scaled(self, factor: float) -> Driver:
        """Everything so many times as long."""
        return Driver(self.trip_s * factor, self.turn_s * factor)


def simulate(
    search: Search, step_time: StepTime, driver: Driver, uneven: Callable[[], float] = lambda: 1.0
) -> float:
    """The makespan in seconds.

    Args:
        uneven: what each round trip is multiplied by, as real ones differ.
    """
    trials, engines = search.trials, search.engines
    pool = [_SimulatedEngine() for _ in range(engines)]
    waiting = list(range(len(trials)))
    left = [list(steps) for steps in trials]
    order = itertools.count()  # of events at the same time
    events: list[tuple[float, int, int, int]] = []  # time, order, engine, trial or -1 for a step
    touched: set[int] = set()  # engines that may begin a step
    now, free_at = 0.0, 0.0  # when the driver is free

    def least_loaded() -> int:
        return min(range(engines), key=lambda e: pool[e].assigned)

    def send(trial: int, place: int) -> None:
        nonlocal free_at
        pool[place].assigned += 1
        begun = max(now, free_at)
        free_at = begun + driver.turn_s
        heapq.heappush(events, (begun + driver.trip_s * uneven(), next(order), place, trial))

    def fill() -> None:
        while waiting and pool[least_loaded()].assigned < search.places:
            send(waiting.pop(0), least_loaded())

    fill()
    while events:
        now, _, place, trial = heapq.heappop(events)
        engine = pool[place]
        if trial >= 0:  # it arrives, for its next rung
            engine.steps[trial] = left[trial].pop(0)
        else:
            for done in _step(engine):
                engine.assigned -= 1
                if left[done]:
                    send(done, least_loaded() if search.moves else place)
            fill()
        touched.add(place)
        if events and events[0][0] == now:
            continue  # what comes at the same time takes part in the same step
        for place in sorted(touched):
            engine = pool[place]
            if engine.steps and not engine.inside:
                engine.inside = tuple(engine.steps)
                end = now + step_time(len(engine.inside))
                heapq.heappush(events, (end, next(order), place, -1))
        touched.clear()
    return now


def _step(engine: _SimulatedEngine) -> list[int]:
    """End a step; the trials that reached their rung, which are resident no more.

    Who arrived while it was under way had no part in it.
    """
    for trial in engine.inside:
        engine.steps[trial] -= 1
    done = [trial for trial in engine.inside if engine.steps[trial] == 0]
    for trial in done:
        del engine.steps[trial]
    engine.inside = ()
    return done
