"""Early stopping: which trials are cut, by Optuna's rules, from what the ledger has recorded.

    asha       at each rung, one in `factor` of those that have come so far goes on
    hyperband  the same, with brackets that begin to cut at later and later rungs
    median     cut where the best score so far is below the median of complete trials' there

Optuna's pruners judge studies with one objective, and a study with several can neither be
reported to nor asked. So they judge a study of their own, in memory, with one direction: a
trial there has the number that it has in the ledger, and is reported the one metric that
early stopping ranks by. It is filled again from the ledger whenever the ledger is opened.
"""

from __future__ import annotations

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)

from orchestrator.sections import StoppingConfig


def pruner_of(stopping: StoppingConfig, steps: int) -> BasePruner:
    """Optuna's pruner for a search's rule.

    Args:
        steps: optimiser steps of a full trial.
    """
    if stopping.kind == "asha":
        return SuccessiveHalvingPruner(
            min_resource=stopping.min_steps, reduction_factor=stopping.factor
        )
    if stopping.kind == "hyperband":
        return HyperbandPruner(
            min_resource=stopping.min_steps,
            max_resource=steps,
            reduction_factor=stopping.factor,
        )
    if stopping.kind == "median":
        return MedianPruner(n_startup_trials=stopping.startup_trials)
    return NopPruner()


class Ranking:
    """How a search's trials stand against each other.

    Args:
        name: the search's; hyperband deals trials to its brackets by it.
        pruner: who judges.
    """

    def __init__(self, name: str, pruner: BasePruner) -> None:
        self._study = optuna.create_study(
            study_name=name,
            direction="maximize",
            pruner=pruner,
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        self._trials: list[optuna.Trial] = []

    def report(self, number: int, step: int, goodness: float) -> None:
        """Take in what a trial has reached at a step: more is better."""
        self._trial(number).report(goodness, step)

    def stops(self, number: int) -> bool:
        """Whether a trial is cut at its last report; to be asked once per report."""
        return self._trial(number).should_prune()

    def complete(self, number: int, goodness: float) -> None:
        """Note that a trial has run to the full budget."""
        self._study.tell(self._trial(number), goodness)

    def _trial(self, number: int) -> optuna.Trial:
        while len(self._trials) <= number:
            self._trials.append(self._study.ask())
        return self._trials[number]
