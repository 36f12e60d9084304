"""B8: makespan efficiency on many engines. SIMULATED: no cluster was measured.

A discrete-event simulation of searches on several engines. Each trial ends where early stopping
made its recorded losses end; a step takes what it was measured to take on this machine with so
many trials resident; a report and its answer take a measured round trip, and the driver takes
one report at a time, as it was measured to. Efficiency is
T(1) / (E T(E)), with the same trials on both sides. The simulation is checked against real Ray
actors that run the same searches and sleep as long as a step takes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.finding import finding
from benchmarks.recorded import RUNGS, last_steps, recorded_losses
from benchmarks.setting import Setting, run_row
from benchmarks.simulation import Driver, Search, StepTime, rungs_between, simulate
from benchmarks.timing import in_turn
from benchmarks.workload import chains, join_trials
from trainable.engine import Engine

ENGINES = (4, 16, 64)
TRIALS = (16, 64, 256, 1024)
RESIDENT = (1, 2, 4, 8, 16)
PLACES = (4, 8, 16)  # trials at a time on one engine; the best of these counts
BATCH_ROWS = 4
CHECKED = ((1, 16, False), (2, 32, False), (4, 64, True))  # run on real actors as well
TARGET, TARGET_CASE = 0.90, (16, 256)
ERROR = 0.05


def main(argv: Sequence[str] = ()) -> None:
    """Measure, simulate, check, print and write."""
    run_row("scale-out", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """The check first: a simulation that is wrong says nothing."""
    from benchmarks.replay import replay  # it imports Ray

    step_time = measured_step_time(setting)
    checked = ((1, 4, False),) if setting.quick else CHECKED
    factor = 0.1 if setting.quick else 1.0
    drawn, places = drawn_trials(max(TRIALS)), PLACES[-1]
    searches = [Search(engines, drawn[:n], places, moves) for engines, n, moves in checked]
    real, driver = replay(searches, step_time, factor)
    errors = [
        abs(simulate(search, step_time, driver.scaled(1 / factor)) * factor / seconds - 1)
        for search, seconds in zip(searches, real, strict=True)
    ]
    milliseconds = [1000 * seconds for seconds in step_time.seconds]
    check = finding(
        f"greatest error of the simulation against {len(errors)} searches on real Ray actors",
        [max(errors)],
        ERROR,
        "at most",
        errors=errors,
        real_s=real,
        step_time_ms=dict(zip(map(str, step_time.resident), milliseconds, strict=True)),
        round_trip_ms=1000 * driver.trip_s,
        driver_ms_per_report=1000 * driver.turn_s,
    )
    cases = [
        _case(engines, drawn[:trials], moves, step_time, driver)
        for moves in (False, True)
        for trials in TRIALS
        for engines in ENGINES
    ]
    alone = finding(
        f"a trial-step alone over one of {RESIDENT[-1]} on the same engine",
        [step_time(1) / (step_time(RESIDENT[-1]) / RESIDENT[-1])],
    )
    return [check, alone, *cases]


def _case(
    engines: int,
    drawn: Sequence[Sequence[int]],
    moves: bool,
    step_time: StepTime,
    driver: Driver,
) -> dict[str, Any]:
    one, many = (
        min(simulate(Search(e, drawn, places, moves), step_time, driver) for places in PLACES)
        for e in (1, engines)
    )
    policy = "trials move at rungs" if moves else "trials stay on their engine"
    return finding(
        f"simulated: {engines} engines, {len(drawn):,} trials, {policy}",
        [one / (engines * many)],
        TARGET if (engines, len(drawn)) == TARGET_CASE else None,
        makespan_s=many,
        one_engine_s=one,
    )


def measured_step_time(setting: Setting) -> StepTime:
    """Time a step at several numbers of resident trials."""
    base = setting.base()
    data = chains(base)
    engine = Engine(base)
    uids = join_trials(engine, data, max(RESIDENT), BATCH_ROWS)
    sides = {str(n): partial(engine.step, uids[:n]) for n in RESIDENT}
    spent = in_turn(sides, setting.repeats)
    return StepTime(RESIDENT, [float(np.median(spent[str(n)])) for n in RESIDENT])


def drawn_trials(trials: int) -> list[list[int]]:
    """The steps from rung to rung of trials drawn from the recorded ones, stopped early anew."""
    losses = recorded_losses()
    drawn = np.random.default_rng(0).integers(len(losses), size=trials)
    ends = last_steps([losses[place] for place in drawn])
    return [rungs_between(RUNGS, end) for end in ends]


if __name__ == "__main__":
    main(sys.argv[1:])
