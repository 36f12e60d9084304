"""What early stopping by successive halving leaves of a search's steps, on average.

At a rung, the i-th trial to arrive goes on if it is among the best max(1, i // factor) of the
i that have come so far. In a random order, whether it is depends on no earlier trial's fate, so
the number that go on is a sum of independent draws, and its distribution is exact: rung after
rung, for trials whose scores are all different and in no order. A search that learns where good
trials are sends later ones further.

Source: the rule is Optuna's `SuccessiveHalvingPruner`; arXiv 1810.05934.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Chances = npt.NDArray[np.float64]
_NEGLIGIBLE = 1e-9


def expected_arrivals(trials: int, rungs: Sequence[int], factor: int) -> list[float]:
    """How many of the trials reach each rung, the first and the full budget included."""
    arrived_N: Chances = np.zeros(trials + 1)
    arrived_N[trials] = 1.0
    expected = [float(trials)]
    for _ in rungs[1:]:
        arrived_N = _after_rung(arrived_N, factor)
        expected.append(float(arrived_N @ np.arange(len(arrived_N))))
    return expected


def expected_steps(trials: int, rungs: Sequence[int], factor: int) -> float:
    """Optimiser steps of all trials together."""
    arrivals = expected_arrivals(trials, rungs, factor)
    lengths = np.diff([0, *rungs])
    return float(np.dot(arrivals, lengths))


def _after_rung(arrived_N: Chances, factor: int) -> Chances:
    """From how many come to a rung to how many leave it, each as a distribution."""
    left_N = np.zeros_like(arrived_N)
    promoted_N = np.zeros_like(arrived_N)  # of the first n, as a distribution
    promoted_N[0] = 1.0
    for n in range(len(arrived_N)):
        if n > 0:
            chance = max(1, n // factor) / n
            promoted_N[1:] = promoted_N[1:] * (1 - chance) + promoted_N[:-1] * chance
            promoted_N[0] *= 1 - chance
        if arrived_N[n] > _NEGLIGIBLE:
            left_N += arrived_N[n] * promoted_N
    return left_N
