"""Intervals and tests against what they promise; the long runs are slow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.statistics import Floats, holm, mean_interval, paired_p

RNG_SEED = 7
LOW = -2.2  # a chance of 0.1 on the logit scale


def answers(
    rng: np.random.Generator, ease_C: Floats, seeds: int, spread: float, own: float = 0.0
) -> Floats:
    """[S, C], yes or no: items of some ease, seeds of some skill, a taste of one's own per item."""
    skill_S = spread * rng.normal(size=(seeds, 1))
    taste_C = own * rng.normal(size=(1, len(ease_C)))
    chance_SC = 1 / (1 + np.exp(-(ease_C + skill_S + taste_C)))
    return (rng.random(chance_SC.shape) < chance_SC).astype(float)


def truth(spread_seeds: float, spread_items: float, ease: float = 0.5) -> float:
    """The mean over all seeds and items."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    logits = np.hypot(spread_seeds, spread_items) * points + ease
    return float((weights / (1 + np.exp(-logits))).sum() / weights.sum())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_the_reference(p_values: list[float]) -> None:
    order = np.argsort(p_values, kind="stable")
    expected = np.empty(len(p_values))
    # The definition: the largest of (n - i) p_(i) up to one's own rank.
    for rank, place in enumerate(order):
        steps = [(len(order) - i) * p_values[order[i]] for i in range(rank + 1)]
        expected[place] = min(1.0, max(steps))
    assert holm(p_values) == pytest.approx(expected)
    assert all(one >= other for one, other in zip(holm(p_values), p_values, strict=True))


def test_one_comparison_needs_no_correction() -> None:
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_the_interval_holds_the_mean_and_is_repeatable() -> None:
    scores = answers(np.random.default_rng(0), np.zeros(60), 5, 0.5)
    interval = mean_interval(scores)
    assert interval.low < interval.mean == scores.mean() < interval.high
    assert mean_interval(scores) == interval


def test_many_items_do_not_make_up_for_few_seeds() -> None:
    rng = np.random.default_rng(1)
    few, many = (answers(rng, np.zeros(count), 5, 1.0) for count in (200, 20_000))
    widths = [i.high - i.low for i in (mean_interval(few), mean_interval(many, draws=500))]
    assert widths[1] > 0.5 * widths[0]


@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.0073), (1.0, 0.9927, 1.0)])
def test_scores_all_alike_have_the_exact_binomial_bound(
    value: float, low: float, high: float
) -> None:
    interval = mean_interval(np.full((5, 500), value))
    exact = stats.binomtest(round(500 * value), 500).proportion_ci(method="exact")
    assert interval[1:] == pytest.approx((exact.low, exact.high))
    assert interval[1:] == pytest.approx((low, high), abs=1e-4)


def test_equal_answers_differ_by_nothing() -> None:
    scores = answers(np.random.default_rng(2), np.zeros(50), 3, 0.5)
    assert paired_p(scores - scores) == 1.0
    interval = mean_interval(scores - scores, signed=True)
    assert interval.low < 0 < interval.high


def test_a_clear_difference_is_found() -> None:
    rng = np.random.default_rng(3)
    ease = rng.normal(size=300)
    better, worse = answers(rng, ease + 1.5, 5, 0.2), answers(rng, ease, 5, 0.2)
    assert paired_p(better - worse) < 1e-3
    assert paired_p(worse - better) == paired_p(better - worse)
    assert mean_interval(better - worse, signed=True).low > 0


def test_one_lucky_seed_is_no_difference() -> None:
    difference = np.zeros((5, 500))
    difference[0] = 1.0  # one seed of five right everywhere
    assert paired_p(difference) > 0.2


def test_a_test_over_items_alone_would_be_fooled() -> None:
    """The fallacy that seeds as a random effect prevent, with the null true."""
    rng, fooled, ours = np.random.default_rng(RNG_SEED), 0, 0
    for _ in range(200):
        ease = rng.normal(size=200)
        difference = answers(rng, ease, 5, 0.8) - answers(rng, ease, 5, 0.8)
        fooled += stats.ttest_1samp(difference.mean(axis=0), 0).pvalue < 0.05
        ours += paired_p(difference) < 0.05
    assert fooled > 60
    assert ours < 22


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread_seeds", "spread_items"), [(0.0, 0.0), (0.0, 3.0), (0.3, 2.0), (1.0, 2.0)]
)
def test_intervals_cover_as_often_as_they_say(spread_seeds: float, spread_items: float) -> None:
    rng, covered, repeats = np.random.default_rng(RNG_SEED), 0, 1000
    expected = truth(spread_seeds, spread_items)
    for _ in range(repeats):
        ease = 0.5 + spread_items * rng.normal(size=200)
        interval = mean_interval(answers(rng, ease, 5, spread_seeds), draws=1000)
        covered += interval.low <= expected <= interval.high
    assert covered / repeats > 0.93 - 3 * np.sqrt(0.95 * 0.05 / repeats)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least"), [(5, 0.84), (3, 0.78)])
def test_few_seeds_of_a_score_near_zero_are_covered_less_often(seeds: int, least: float) -> None:
    rng, covered, repeats = np.random.default_rng(RNG_SEED), 0, 1000
    expected = truth(1.0, 0.0, ease=LOW)
    for _ in range(repeats):
        interval = mean_interval(answers(rng, np.full(200, LOW), seeds, 1.0), draws=1000)
        covered += interval.low <= expected <= interval.high
    assert least < covered / repeats < 0.93


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread_seeds", "spread_items"), [(0.0, 0.0), (0.0, 3.0), (0.3, 2.0), (1.0, 2.0)]
)
def test_equal_configurations_are_told_apart_no_oftener_than_allowed(
    spread_seeds: float, spread_items: float
) -> None:
    rng, rejected, repeats = np.random.default_rng(RNG_SEED), 0, 2000
    for _ in range(repeats):
        ease = spread_items * rng.normal(size=200)
        one, other = (answers(rng, ease, 5, spread_seeds, own=0.5) for _ in range(2))
        rejected += paired_p(one - other) < 0.05
    assert rejected / repeats < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)
