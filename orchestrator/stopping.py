"""Early stopping: which trials are cut, by Optuna's rules, from what the ledger has recorded.

    asha       at each rung, one in `factor` of those that have come so far goes on
    hyperband  the same, with brackets that begin to cut at later and later rungs
    median     cut where the best score so far is below the median of complete trials' there

The rules are those of Optuna's pruners, decision by decision (`tests/unit/test_stopping.py` asks
both), and not the pruners themselves: these read every trial of a study at each report, so that
the ten-thousandth would cost what all before it cost together, and they judge no study with
several objectives. Here each rung keeps its scores in order, and a report is looked up among
them. All of it is filled again from the ledger whenever the ledger is opened.

Source: Optuna 5.0, `SuccessiveHalvingPruner` (arXiv 1810.05934), `HyperbandPruner`
(arXiv 1603.06560) and `MedianPruner`.
"""

from __future__ import annotations

import math
from binascii import crc32
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from orchestrator.sections import StoppingConfig


class Rule(Protocol):
    """Who judges. It remembers what it has seen, and serves one ranking."""

    def stops(self, number: int, reports: Mapping[int, float]) -> bool:
        """Whether a trial is cut at its last report.

        Args:
            reports: its own so far, step to score; more is better.
        """
        ...

    def complete(self, reports: Mapping[int, float]) -> None:
        """Note what a trial reported that has run to the full budget."""
        ...


class Never:
    """Cuts nobody."""

    def stops(self, number: int, reports: Mapping[int, float]) -> bool:
        """No."""
        return False

    def complete(self, reports: Mapping[int, float]) -> None:
        """Nothing."""


def goes_on(score: float, seen: list[float], factor: int) -> bool:
    """Whether a trial is among the best one in `factor` of a rung so far, itself included.

    Args:
        seen: the scores of those that came before, ascending; this one is put among them.
    """
    insort(seen, score)
    return score >= seen[-max(1, len(seen) // factor)]


class Halving:
    """At each rung, one in so many of those that have come so far goes on.

    Args:
        min_steps: optimiser steps of rung 0.
        factor: the ratio of one rung to the next.
        first: the rung at which it begins to cut.
    """

    def __init__(self, min_steps: int, factor: int, first: int = 0) -> None:
        self._min_steps = min_steps
        self._factor = factor
        self._first = first
        self._scores: defaultdict[int, list[float]] = defaultdict(list)  # rung to scores, sorted
        self._passed: Counter[int] = Counter()  # trial to rungs that it has come to

    def stops(self, number: int, reports: Mapping[int, float]) -> bool:
        """Whether it is not among the best of a rung that it has come to since the last time."""
        step = max(reports, default=0)
        while step >= self._min_steps * self._factor ** (self._first + self._passed[number]):
            seen = self._scores[self._passed[number]]
            self._passed[number] += 1
            if not goes_on(reports[step], seen, self._factor):
                return True
        return False

    def complete(self, reports: Mapping[int, float]) -> None:
        """Nothing: it has come to the rungs by itself."""


class Hyperband:
    """Successive halving in brackets, each beginning a rung later than the one before.

    Args:
        name: the search's; with a trial's number, it deals the trial to a bracket.
        min_steps: optimiser steps of the first bracket's rung 0.
        factor: the ratio of one rung to the next.
        steps: optimiser steps of a full trial.
    """

    def __init__(self, name: str, min_steps: int, factor: int, steps: int) -> None:
        self._name = name
        count = math.floor(math.log(steps / min_steps, factor)) + 1
        self._brackets = [Halving(min_steps, factor, first) for first in range(count)]
        self._shares = [math.ceil(count * factor**s / (s + 1)) for s in reversed(range(count))]

    def stops(self, number: int, reports: Mapping[int, float]) -> bool:
        """Whether the trial's bracket cuts it."""
        place = crc32(f"{self._name}_{number}".encode()) % max(1, sum(self._shares))
        for bracket, share in zip(self._brackets, self._shares, strict=True):
            if place < share:
                return bracket.stops(number, reports)
            place -= share
        return False  # a full trial is shorter than the first rung: there is no bracket

    def complete(self, reports: Mapping[int, float]) -> None:
        """Nothing: it has come to the rungs by itself."""


class Median:
    """Cut where the best score so far is below the median of complete trials' at this step.

    Args:
        startup_trials: so many are to be complete before any is cut.
    """

    def __init__(self, startup_trials: int) -> None:
        self._startup_trials = startup_trials
        self._complete = 0
        self._scores: defaultdict[int, list[float]] = defaultdict(list)  # step to scores, sorted

    def stops(self, number: int, reports: Mapping[int, float]) -> bool:
        """Whether the best that it has reported is below the median."""
        scores = self._scores.get(max(reports, default=0))
        if not scores or self._complete < self._startup_trials:
            return False
        middle = scores[(len(scores) - 1) // 2 : len(scores) // 2 + 1]
        return max(reports.values()) < float(np.percentile(middle, 50))  # rounded as Optuna's

    def complete(self, reports: Mapping[int, float]) -> None:
        """One more to be compared with, at every step that it reported."""
        self._complete += 1
        for step, score in reports.items():
            insort(self._scores[step], score)


def rule_of(stopping: StoppingConfig, steps: int, name: str) -> Rule:
    """A search's rule, which has seen nothing yet.

    Args:
        steps: optimiser steps of a full trial.
        name: the search's.
    """
    if stopping.kind == "asha":
        return Halving(stopping.min_steps, stopping.factor)
    if stopping.kind == "hyperband":
        return Hyperband(name, stopping.min_steps, stopping.factor, steps)
    if stopping.kind == "median":
        return Median(stopping.startup_trials)
    return Never()


class Ranking:
    """How a search's trials stand against each other.

    Args:
        rule: who judges.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._reports: defaultdict[int, dict[int, float]] = defaultdict(dict)

    def report(self, number: int, step: int, score: float) -> None:
        """Take in what a trial has reached at a step, once: more is better."""
        self._reports[number].setdefault(step, score)

    def stops(self, number: int) -> bool:
        """Whether a trial is cut at its last report; to be asked once per report."""
        return self._rule.stops(number, self._reports[number])

    def complete(self, number: int) -> None:
        """Note that a trial has run to the full budget."""
        self._rule.complete(self._reports[number])
