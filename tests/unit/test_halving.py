"""The expected arrivals at each rung, against Optuna's own pruner in random orders."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from orchestrator.halving import expected_arrivals, expected_steps

RUNGS, FACTOR, TRIALS = (2, 6, 18), 3, 9


def test_a_single_trial_is_never_cut() -> None:
    assert expected_arrivals(1, RUNGS, FACTOR) == [1, 1, 1]
    assert expected_steps(1, RUNGS, FACTOR) == 18


def test_without_rungs_all_steps_are_done() -> None:
    assert expected_steps(7, [18], FACTOR) == 7 * 18


def test_two_trials_by_hand() -> None:
    # The first goes on; the second where it is better, which has chance 1/2.
    assert expected_arrivals(2, (1, 3), 2) == [2, 1.5]


def arrivals(random: np.random.Generator) -> list[int]:
    """One search, one trial after another, judged by Optuna."""
    study = optuna.create_study(
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=RUNGS[0], reduction_factor=FACTOR
        ),
        direction="maximize",
    )
    counts = [0] * len(RUNGS)
    for _ in range(TRIALS):
        trial = study.ask()
        for place, rung in enumerate(RUNGS):
            counts[place] += 1
            trial.report(random.random(), rung)
            if trial.should_prune():
                break
        study.tell(trial, 0.0)
    return counts


def test_against_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    random = np.random.default_rng(0)
    counts = np.array([arrivals(random) for _ in range(100)])
    expected = expected_arrivals(TRIALS, RUNGS, FACTOR)
    error = counts.std(0) / np.sqrt(len(counts))
    assert counts.mean(0) == pytest.approx(expected, abs=float(4 * error.max()))
    assert expected[2] < expected[1] < TRIALS
