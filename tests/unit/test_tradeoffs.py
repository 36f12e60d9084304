"""The Pareto front and its knee."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tradeoffs import goodnesses, knee, pareto_front

SCORES = st.dictionaries(
    st.integers(0, 30), st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1
)


def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


@given(SCORES)
def test_the_front_is_what_nothing_beats(scores: dict[int, tuple[int, int]]) -> None:
    front = pareto_front(scores)
    unbeaten = {n for n in scores if not any(beats(other, scores[n]) for other in scores.values())}
    assert {scores[n] for n in front} == {scores[n] for n in unbeaten}
    assert len({scores[n] for n in front}) == len(front), "equal trials stand there once"
    assert front == sorted(front, key=lambda n: scores[n], reverse=True)


@given(SCORES)
def test_the_knee_is_of_the_front(scores: dict[int, tuple[int, int]]) -> None:
    front = pareto_front(scores)
    assert knee(scores, front) in front


def test_the_knee_is_farthest_from_the_line_between_the_extremes() -> None:
    scores = {0: (1.0, 0.0), 1: (0.9, 0.8), 2: (0.4, 0.9), 3: (0.0, 1.0), 4: (0.3, 0.3)}
    assert pareto_front(scores) == [0, 1, 2, 3]
    assert knee(scores, [0, 1, 2, 3]) == 1


def test_on_a_straight_front_the_first_objective_decides() -> None:
    assert knee({0: (1.0, 0.0), 1: (0.5, 0.5), 2: (0.0, 1.0)}, [0, 1, 2]) == 0


def test_nothing_has_no_knee() -> None:
    assert knee({}, []) is None


def test_less_cost_is_more_goodness() -> None:
    metrics = {"val_ood/exact_match": 0.5, "cost/extra_tokens_pct": 20.0}
    assert goodnesses(metrics, list(metrics)) == [0.5, -20.0]
    assert goodnesses(metrics, ["val_ood/nll"]) is None
