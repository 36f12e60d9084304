"""B5: how full an engine is in a search of 64 trials that are stopped early.

The trials and the steps at which they end are recorded ones. Continuous: a trial that ends is
replaced before the next step. By refill: a place stays empty until all places are.

    useful slots      those of rows, over all that go through the model, padding included
    makespan in slots the places that are held, times the steps: what a search takes where a step
                      costs the same however many of its places are filled
    makespan          seconds on this machine, where a step with fewer rows is shorter; of the same
                      search with a quarter of the steps. The target is meant for them
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.finding import finding
from benchmarks.recorded import last_steps, recorded_losses
from benchmarks.setting import Setting, run_row
from benchmarks.slots import Slots, count, rows_of_step
from benchmarks.timing import in_turn, ratios
from benchmarks.workload import chains, config, fixed_rows, join_trials
from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec

PLACES = 8  # trials at a time, as by default
TIMED_ROWS, COUNTED_ROWS = 2, 8  # rows per trial-step: short enough to time, and the default
TIMED_SHARE = 4  # one in so many steps

Step = dict[int, int]  # trial to the steps that it has done


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write."""
    run_row("occupancy", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Slots counted, makespans counted and timed."""
    base = setting.base()
    data = fixed_rows(base, 256) if setting.large else chains(base)
    ends = last_steps(recorded_losses())
    if setting.quick:
        ends = [min(end, 3) for end in ends[:10]]
    steps = list(continuous(ends, PLACES)), list(by_refill(ends, PLACES))
    slots = _counted(Engine(base), data, steps[0])
    facts: dict[str, Any] = {"trials": len(ends), "places": PLACES, "trial_steps": sum(ends)}
    timed = [math.ceil(end / TIMED_SHARE) for end in ends]
    spent = in_turn(
        {
            "continuous": partial(_run, base, data, list(continuous(timed, PLACES))),
            "by refill": partial(_run, base, data, list(by_refill(timed, PLACES))),
        },
        setting.repeats,
    )
    return [
        finding("useful slots", [slots.useful / slots.executed], 0.95, slots=vars(slots), **facts),
        finding(
            "makespan in slots, by refill over continuous",
            [len(steps[1]) / len(steps[0])],
            steps=[len(each) for each in steps],
            **facts,
        ),
        finding(
            "makespan in seconds on this machine, by refill over continuous",
            ratios(spent["by refill"], spent["continuous"]),
            2.0,
            seconds=spent,
            profile={f"a step of 1 trial, of one of {PLACES}": _share_of_one(base, data, setting)},
            **facts,
        ),
    ]


def _share_of_one(base: BaseModel, data: EncodedTask, setting: Setting) -> float:
    """What a step of one trial takes of one that fills all places: what refilling can lose."""
    engine = Engine(base)
    uids = join_trials(engine, data, PLACES, TIMED_ROWS)
    sides = {"one": partial(engine.step, uids[:1]), "full": partial(engine.step, uids)}
    spent = in_turn(sides, setting.repeats)
    return statistics.median(ratios(spent["one"], spent["full"]))


def continuous(ends: Sequence[int], places: int) -> Iterator[Step]:
    """The steps of a search in which the next trial takes a free place at once."""
    waiting = list(range(len(ends)))
    inside: Step = {}
    while waiting or inside:
        while waiting and len(inside) < places:
            inside[waiting.pop(0)] = 0
        yield dict(inside)
        inside = _after(inside, ends)


def by_refill(ends: Sequence[int], places: int) -> Iterator[Step]:
    """The steps of a search in which places are filled when all are free."""
    for begin in range(0, len(ends), places):
        inside = dict.fromkeys(range(begin, min(begin + places, len(ends))), 0)
        while inside:
            yield dict(inside)
            inside = _after(inside, ends)


def _after(inside: Step, ends: Sequence[int]) -> Step:
    return {trial: done + 1 for trial, done in inside.items() if done + 1 < ends[trial]}


def _counted(engine: Engine, data: EncodedTask, steps: Sequence[Step]) -> Slots:
    configs = [config(trial, COUNTED_ROWS) for trial in range(1 + max(map(max, steps)))]
    counts = [count(engine.batches(rows_of_step(engine, data, step, configs))) for step in steps]
    return sum(counts, Slots())


def _run(base: BaseModel, data: EncodedTask, steps: Sequence[Step]) -> None:
    """Train the steps on an engine of its own, trials joining and leaving as they say."""
    engine = Engine(base)
    for step in steps:
        uids = {str(trial) for trial in step}
        for uid in set(engine.trials()) - uids:
            engine.leave(uid)
        for uid in sorted(uids - set(engine.trials())):
            engine.join(TrialSpec(uid, config(int(uid), TIMED_ROWS), 90), data)
        engine.step()


if __name__ == "__main__":
    main(sys.argv[1:])
