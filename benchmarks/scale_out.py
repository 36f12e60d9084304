"""B8: makespan efficiency on many engines. SIMULATED: no cluster was measured.

A discrete-event simulation of searches on several engines. Each trial ends where early stopping
made its recorded losses end; a step takes what it was measured to take on this machine with so
many trials resident; a report and its answer take the round trip of a bare call of a Ray actor, and
the driver takes one report at a time, each as long as such a call takes it; two rows have it take
as long as this product's own driver (`benchmarks.driver_loop`). Efficiency is
T(1) / (E T(E)), with the same trials on both sides. The simulation is checked against real Ray
actors that run the same searches and sleep half as long as a step takes. Scoring is not in it.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.finding import finding
from benchmarks.recorded import RUNGS, last_steps, recorded_losses
from benchmarks.schedules import longest_first, shortest_s, spread_s
from benchmarks.setting import Setting, run_row
from benchmarks.simulation import Driver, Search, StepTime, rungs_between, simulate
from benchmarks.timing import in_turn
from benchmarks.workload import chains, join_trials
from trainable.engine import Engine

ENGINES = (4, 16, 64)
TRIALS = (16, 64, 256, 1024)
RESIDENT = (1, 2, 4, 8, 16)
PLACES = 8  # trials at a time on one engine, as by default
BATCH_ROWS = 4
CHECKED = ((1, 16, False), (2, 32, False), (4, 64, True))  # run on real actors as well
TARGET, TARGET_CASE = 0.90, (16, 256)
ERROR = 0.05
FACTOR = 0.5  # of a step's time, in the check: a search of ten seconds in five
REPLAYS = 3
UNEVEN, DRAWS = (0.6, 2.5), 50  # times the measured round trip, to see what hangs on who is first


def main(argv: Sequence[str] = ()) -> None:
    """Measure, simulate, check, print and write."""
    run_row("scale-out", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """The check first: a simulation that is wrong says nothing."""
    step_time = measured_step_time(setting)
    drawn = drawn_trials(max(TRIALS))
    check, driver = _checked(setting, drawn, step_time)
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
    limits = _limits(drawn, step_time, driver)
    chance = [_of_chance(drawn, step_time, driver.scaled(1 / FACTOR))]
    return [check, *chance, alone, *cases, *_with_our_driver(drawn, step_time, driver), *limits]


def _checked(
    setting: Setting, drawn: Sequence[Sequence[int]], step_time: StepTime
) -> tuple[dict[str, Any], Driver]:
    """The simulation against real actors, and what their driver's decisions cost."""
    from benchmarks.replay import replay  # it imports Ray

    cases = ((1, 4, False),) if setting.quick else CHECKED
    factor, repeats = (0.1, 1) if setting.quick else (FACTOR, REPLAYS)
    searches = [Search(engines, drawn[:n], PLACES, moves) for engines, n, moves in cases]
    real, driver = replay(searches, step_time, factor, repeats)
    slowed = driver.scaled(1 / factor)
    simulated = [simulate(search, step_time, slowed) * factor for search in searches]
    errors = [
        [abs(one / other - 1) for one, other in zip(simulated, run, strict=True)] for run in real
    ]
    milliseconds = [1000 * seconds for seconds in step_time.seconds]
    found = finding(
        f"greatest error of the simulation against {len(searches)} searches on real Ray actors",
        [max(run) for run in errors],
        ERROR,
        "at most",
        errors=errors,
        real_s=real,
        simulated_s=simulated,
        factor=factor,
        step_time_ms=dict(zip(map(str, step_time.resident), milliseconds, strict=True)),
        round_trip_ms=1000 * driver.trip_s,
        driver_ms_per_report=1000 * driver.turn_s,
    )
    return found, driver


def _of_chance(
    drawn: Sequence[Sequence[int]], step_time: StepTime, driver: Driver
) -> dict[str, Any]:
    """By how much a checked search's makespan hangs on whose report comes a moment earlier."""
    spreads = []
    for engines, trials, moves in CHECKED:
        search, draw = Search(engines, drawn[:trials], PLACES, moves), random.Random(0).uniform  # noqa: S311
        uneven = partial(draw, *UNEVEN)
        times = [simulate(search, step_time, driver, uneven) for _ in range(DRAWS)]
        spreads.append(max(times) / min(times))
    case = "the longest over the shortest makespan of these searches, simulated with uneven trips"
    return finding(case, spreads)


def _case(
    engines: int,
    drawn: Sequence[Sequence[int]],
    moves: bool,
    step_time: StepTime,
    driver: Driver,
) -> dict[str, Any]:
    one, many = (simulate(Search(e, drawn, PLACES, moves), step_time, driver) for e in (1, engines))
    policy = "trials move at rungs" if moves else "trials stay on their engine"
    return finding(
        f"simulated: {engines} engines, {len(drawn):,} trials, {policy}",
        [one / (engines * many)],
        TARGET if (engines, len(drawn)) == TARGET_CASE else None,
        makespan_s=many,
        one_engine_s=one,
    )


def _limits(
    drawn: Sequence[Sequence[int]], step_time: StepTime, driver: Driver
) -> list[dict[str, Any]]:
    """What stands between the target's case and its target."""
    engines, trials = TARGET_CASE
    found = []
    for count in TRIALS:
        one = simulate(Search(1, drawn[:count], PLACES), step_time, driver)
        search = Search(engines, drawn[:count], PLACES)
        least = shortest_s(search, step_time, range(1, PLACES + 1))
        case = f"no schedule of {count:,} trials on {engines} engines can be better than"
        found.append(finding(case, [one / (engines * least)]))
    one = simulate(Search(1, drawn[:trials], PLACES), step_time, driver)
    search = Search(engines, drawn[:trials], PLACES)
    others = {
        "if trials moved between any two steps": spread_s(search, step_time),
        "if it were known which trials will be stopped, longest first": simulate(
            longest_first(search), step_time, driver
        ),
    }
    of = f"simulated: {engines} engines, {trials:,} trials"
    return found + [
        finding(f"{of}, {what}", [one / (engines * makespan)], makespan_s=makespan)
        for what, makespan in others.items()
    ]


def _with_our_driver(
    drawn: Sequence[Sequence[int]], step_time: StepTime, driver: Driver
) -> list[dict[str, Any]]:
    """The target's case, and the largest, with as much of a driver's time as ours takes."""
    rows = json.loads((machine.RESULTS / "driver-loop.json").read_text())["rows"]
    (per_trial,) = [row["last_tenth_ms"] / 1000 for row in rows if row["what"] == "Ray Tune"]
    ours = replace(driver, turn_s=per_trial * len(drawn) / sum(map(len, drawn)))
    found = []
    for engines, trials in (TARGET_CASE, (max(ENGINES), max(TRIALS))):
        one, many = (
            simulate(Search(e, drawn[:trials], PLACES), step_time, ours) for e in (1, engines)
        )
        case = f"simulated: {engines} engines, {trials:,} trials, our driver's own time per trial"
        found.append(finding(case, [one / (engines * many)], driver_ms_per_trial=1000 * per_trial))
    return found


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
