"""What may be said of scores that were measured with a few seeds on some hundred items.

    Y[s, c]  =  mean  +  seed s's share  +  item c's share  +  rest

Both seeds and items are samples: another init would have given other rows, other questions
other columns. So both count as random ("language as a fixed effect" is the fallacy of letting
only one of them be), and neither can stand in for the other: 500 items do not make up for 5
seeds. All seeds answer the same items, so the two are crossed, which `scipy.stats.bootstrap` and
`permutation_test` do not know; signs of 5 seeds flipped could never give a p below 1/16.

Sources: Clark, "The language-as-fixed-effect fallacy" (1973), for min F'; Owen, "The pigeonhole
bootstrap" (2007), for crossed resampling; Hesterberg, "What teachers should know about the
bootstrap" (2015), section 4, for small samples' wider percentiles; Satterthwaite (1946) for
degrees of freedom; Holm (1979).

Shape suffixes: S seeds, C items, B bootstrap draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
DRAWS = 10_000
_DRAWS_AT_ONCE = 1_000
_EQUAL = 1e-9


class Interval(NamedTuple):
    """A mean with the interval that holds it at level `LEVEL`."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class _Shares:
    """What seeds and items each add to a mean's variance, and their degrees of freedom."""

    seed_S: Floats
    item_C: Floats
    seed_variance: float
    item_variance: float

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the sum of both; of seeds alone where it is 0."""
        parts = [(self.seed_variance, len(self.seed_S)), (self.item_variance, len(self.item_C))]
        spread = sum(variance**2 / (count - 1) for variance, count in parts if count > 1)
        total = self.seed_variance + self.item_variance
        return float(total**2 / spread) if spread > 0 else float(max(1, len(self.seed_S) - 1))


def mean_interval(
    scores_SC: Floats,
    *,
    signed: bool = False,
    bounded: bool = True,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """The mean over seeds and items, with a bootstrap interval over both.

    Seeds and items are drawn again with replacement, each on its own. The shares are scaled to
    unbiased variances (a resampled share of n is too small by n - 1 over n, which matters with 5
    seeds), and the percentiles are those of a t with Satterthwaite's degrees of freedom. The rest
    counts in both, so that the interval is too wide rather than too narrow. Where every score is
    equal there is nothing to draw from: zeros and ones then get the exact binomial bound of their
    items, seeds taken for repetitions.

    Args:
        scores_SC: one row per seed, one column per item; from 0 to 1.
        signed: whether they are differences, from -1 to 1.
        bounded: False for scores of any size.
        seed: of the draws.
        draws: bootstrap draws.
    """
    mean = float(scores_SC.mean())
    if float(np.ptp(scores_SC)) < _EQUAL:
        if not bounded:
            return Interval(mean, mean, mean)
        return _constant(round(mean, 9), scores_SC.shape[1], signed)
    shares = _shares(scores_SC)
    rng = np.random.default_rng(seed)
    seeds, items = len(shares.seed_S), len(shares.item_C)
    draws_B = np.concatenate(
        [
            mean
            + _factor(seeds) * _resampled(shares.seed_S, rng, size)
            + _factor(items) * _resampled(shares.item_C, rng, size)
            for size in _sizes(draws)
        ]
    )
    tail = stats.norm.sf(stats.t.isf((1 - LEVEL) / 2, shares.freedom))
    low, high = np.quantile(draws_B, [tail, 1 - tail])
    if not bounded:
        return Interval(mean, float(low), float(high))
    return Interval(mean, max(-1.0 if signed else 0.0, float(low)), min(1.0, float(high)))


def paired_p(differences_SC: Floats) -> float:
    """The two-sided p of no mean difference, for pairs that share seed and item.

    Clark's min F' as a t: seeds and items are both random, and the rest is counted in both, so
    that it errs on the safe side.

    Args:
        differences_SC: one score minus the other.
    """
    mean = float(differences_SC.mean())
    if mean == 0.0:
        return 1.0
    shares = _shares(differences_SC)
    least = 1.0 / differences_SC.shape[1] ** 2  # differences without any spread at all
    error = np.sqrt(max(shares.seed_variance + shares.item_variance, least))
    return float(2 * stats.t.sf(abs(mean) / error, shares.freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; a family's adjusted p values, in the given order."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(1.0, running)
    return adjusted


def _shares(scores_SC: Floats) -> _Shares:
    seed_S = scores_SC.mean(axis=1) - scores_SC.mean()
    item_C = scores_SC.mean(axis=0) - scores_SC.mean()
    return _Shares(
        seed_S=seed_S,
        item_C=item_C,
        seed_variance=_variance(seed_S),
        item_variance=_variance(item_C),
    )


def _variance(share_N: Floats) -> float:
    """Of the mean of the shares; nothing is known of it from a single one."""
    count = len(share_N)
    return float((share_N**2).sum()) / (count - 1) / count if count > 1 else 0.0


def _factor(count: int) -> float:
    return float(np.sqrt(count / (count - 1))) if count > 1 else 0.0


def _resampled(share_N: Floats, rng: np.random.Generator, size: int) -> Floats:
    """[size], the means of so many resamples."""
    count = len(share_N)
    means: Floats = share_N[rng.integers(count, size=(size, count))].mean(axis=1)
    return means


def _sizes(draws: int) -> list[int]:
    whole, rest = divmod(draws, _DRAWS_AT_ONCE)
    return [_DRAWS_AT_ONCE] * whole + [rest] * (rest > 0)


def _constant(mean: float, items: int, signed: bool) -> Interval:
    """What so many items that are all alike say: the bound of Clopper and Pearson (1934)."""
    room = 1 - float(((1 - LEVEL) / 2) ** (1 / items))
    low = mean - room if mean == 1.0 or (signed and mean == 0.0) else mean
    high = mean + room if mean in (0.0, -1.0) else mean
    return Interval(mean, low, high)
