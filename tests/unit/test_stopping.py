"""Early stopping, against Optuna's own pruners; and a late report judged as cheaply as an early."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
import pytest

from orchestrator.sections import StoppingConfig
from orchestrator.stopping import Ranking, rule_of

NAME = "peers"
MIN_STEPS, STEPS = 2, 54
KINDS = ["asha", "hyperband", "median"]
PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "asha": lambda factor: optuna.pruners.SuccessiveHalvingPruner(
        min_resource=MIN_STEPS, reduction_factor=factor
    ),
    "hyperband": lambda factor: optuna.pruners.HyperbandPruner(
        min_resource=MIN_STEPS, max_resource=STEPS, reduction_factor=factor
    ),
    "median": lambda factor: optuna.pruners.MedianPruner(n_startup_trials=factor),
    "none": lambda _: optuna.pruners.NopPruner(),
}


class Optunas:
    """The same questions, asked of a pruner of Optuna's over a study in memory."""

    def __init__(self, pruner: optuna.pruners.BasePruner) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.RandomSampler(seed=0)
        self._study = optuna.create_study(
            study_name=NAME, direction="maximize", pruner=pruner, sampler=sampler
        )
        self._trials: list[optuna.Trial] = []

    def report(self, number: int, step: int, score: float) -> None:
        """As `Ranking`'s."""
        while len(self._trials) <= number:
            self._trials.append(self._study.ask())
        self._trials[number].report(score, step)

    def stops(self, number: int) -> bool:
        """As `Ranking`'s."""
        return bool(self._trials[number].should_prune())

    def complete(self, number: int) -> None:
        """As `Ranking`'s; the value is nobody's business."""
        self._study.tell(self._trials[number], 0.0)


def ranking(kind: Any, factor: int = 3, steps: int = STEPS, name: str = NAME) -> Ranking:
    """A new one; for the median, `factor` trials start it up."""
    stopping = StoppingConfig(kind=kind, min_steps=MIN_STEPS, factor=factor, startup_trials=factor)
    return Ranking(rule_of(stopping, steps, name))


def compare(ours: Ranking, theirs: Optunas, seed: int, decisions: int) -> list[bool]:
    """Report trials in a random order, eight at a time, to both; what was decided, told apart."""
    chance = random.Random(seed)  # noqa: S311 - scores, no secrets
    numbers = itertools.count(0, chance.choice([1, 3]))  # between them baselines, unseen
    running: dict[int, int] = {}
    decided: list[bool] = []
    while len(decided) < decisions:
        while len(running) < 8:
            running[next(numbers)] = 0
        number = chance.choice(list(running))
        step = running[number] = running[number] + chance.choice([1, 1, 2, 4, 9, 30])
        score = chance.choice([chance.random(), chance.randrange(-6, 6) / 6])  # with ties
        for one in (ours, theirs):
            one.report(number, min(step, STEPS), score)
        if step >= STEPS:
            for one in (ours, theirs):
                one.complete(number)
            del running[number]
            continue
        decided.append(ours.stops(number))
        assert theirs.stops(number) is decided[-1], f"decision {len(decided)} of seed {seed}"
        if decided[-1]:
            del running[number]
    return decided


@pytest.mark.parametrize("kind", [*KINDS, "none"])
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_each_decision_is_optunas(kind: str, factor: int) -> None:
    for seed in range(4):
        theirs = Optunas(PRUNERS[kind](factor))
        decided = compare(ranking(kind, factor), theirs, seed, decisions=400)
        assert len(set(decided)) == (1 if kind == "none" else 2), "one answer to everything"


def test_a_full_trial_below_the_first_rung_has_no_bracket() -> None:
    short = MIN_STEPS - 1
    pruner = optuna.pruners.HyperbandPruner(min_resource=MIN_STEPS, max_resource=short)
    ours, theirs = ranking("hyperband", steps=short), Optunas(pruner)
    for number in range(9):
        for one in (ours, theirs):
            one.report(number, short, -float(number))
            assert not one.stops(number)


@pytest.mark.parametrize("kind", KINDS)
def test_a_late_report_is_judged_as_cheaply_as_an_early_one(kind: str) -> None:
    ours = ranking(kind)
    chance = random.Random(0)  # noqa: S311 - scores, no secrets
    taken = [calls(partial(judge, ours, n, chance.random())) for n in range(1_000)]
    assert sum(taken[-100:]) <= 1.2 * sum(taken[100:200])


def judge(ours: Ranking, number: int, score: float) -> None:
    """One trial, to its end."""
    for step in (MIN_STEPS, 3 * MIN_STEPS):
        ours.report(number, step, score)
        if ours.stops(number):
            return
    ours.report(number, STEPS, score)
    ours.complete(number)


def calls(work: Callable[[], None]) -> int:
    """How many functions a piece of work calls, its own and those in C."""
    count = [0]

    def note(_: Any, event: str, __: Any) -> None:
        count[0] += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count[0]
