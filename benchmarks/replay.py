"""Real Ray actors in the place of engines, which sleep as long as a step takes.

What is real: processes, calls, threads, the driver's decisions as reports come in. What is not:
the model.
"""

from __future__ import annotations

import logging
import queue
import statistics
import time
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

import ray

from benchmarks.simulation import Driver, Search

_CALLS_AT_ONCE = 64
_TRIPS, _ROUNDS = 100, 10


class ReplayEngine:
    """An engine that sleeps.

    Args:
        step_time: number of resident trials to seconds of a step.
        factor: how much faster than that.
    """

    def __init__(self, step_time: Callable[[int], float], factor: float) -> None:
        self._step_time = step_time
        self._factor = factor
        self._work: queue.SimpleQueue[tuple[int, queue.SimpleQueue[None]]] = queue.SimpleQueue()
        Thread(target=self._run, daemon=True).start()

    def ready(self) -> None:
        """Answer."""

    def train(self, steps: int) -> None:
        """Train a trial so many steps, among the others that are here; returns when it is done."""
        answer: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._work.put((steps, answer))
        answer.get()

    def _run(self) -> None:
        inside: list[tuple[int, queue.SimpleQueue[None]]] = []
        end = 0.0
        while True:
            if not inside:
                inside.append(self._work.get())
                end = time.perf_counter()
            while not self._work.empty():
                inside.append(self._work.get())
            end += self._factor * self._step_time(len(inside))
            time.sleep(max(0.0, end - time.perf_counter()))
            inside = [(steps - 1, answer) for steps, answer in inside]
            for steps, answer in inside:
                if steps == 0:
                    answer.put(None)
            inside = [one for one in inside if one[0] > 0]


def replay(
    searches: Sequence[Search], step_time: Callable[[int], float], factor: float, repeats: int
) -> tuple[list[list[float]], Driver]:
    """Run searches on actors of a local Ray, one after the other, `repeats` times.

    Returns:
        Per repeat each search's makespan, and what the driver's decisions cost.
    """
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        decorate: Any = ray.remote  # its types know no max_concurrency
        kind = decorate(num_cpus=0, max_concurrency=_CALLS_AT_ONCE)(ReplayEngine)
        most = max(search.engines for search in searches)
        actors = [kind.remote(step_time, factor) for _ in range(most)]
        ray.get([actor.ready.remote() for actor in actors])
        driver = Driver(
            statistics.median(_trip_s(actors[0]) for _ in range(_TRIPS)),
            statistics.median(_turn_s(actors) for _ in range(_ROUNDS)),
        )
        return [[_run(search, actors) for search in searches] for _ in range(repeats)], driver
    finally:
        ray.shutdown()


def _trip_s(actor: Any) -> float:
    begin = time.perf_counter()
    ray.get(actor.ready.remote())
    return time.perf_counter() - begin


def _turn_s(actors: Sequence[Any]) -> float:
    """Seconds of the driver per report, where many come at once and each is answered by a call."""
    begin = time.perf_counter()
    calls = {actors[place % len(actors)].ready.remote(): place for place in range(_CALLS_AT_ONCE)}
    while calls:
        for call in ray.wait(list(calls))[0]:
            calls.pop(call)
    return (time.perf_counter() - begin) / _CALLS_AT_ONCE


def _run(search: Search, actors: Sequence[Any]) -> float:
    """Drive one search: the least loaded engine gets the next trial, rung by rung."""
    waiting = list(range(len(search.trials)))
    left = [list(steps) for steps in search.trials]
    load = [0] * search.engines
    calls: dict[Any, tuple[int, int]] = {}

    def send(trial: int, place: int) -> None:
        load[place] += 1
        calls[actors[place].train.remote(left[trial].pop(0))] = (place, trial)

    begin = time.perf_counter()
    while waiting or calls:
        while waiting and min(load) < search.places:
            send(waiting.pop(0), load.index(min(load)))
        for call in ray.wait(list(calls))[0]:
            place, trial = calls.pop(call)
            load[place] -= 1
            if left[trial]:
                send(trial, load.index(min(load)) if search.moves else place)
    return time.perf_counter() - begin
