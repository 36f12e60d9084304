"""Layouts against a naive reference, over random strategies and sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.random_strategies import insertion_strategies
from tests.reference import Slot, reference_layout
from trainable.errors import StrategyError
from trainable.layout import NO_TARGET, NOT_LATENT, Layout, advance, start_state, whole_layout
from trainable.layout_rules import Bools, LayoutRules
from trainable.strategy import InsertionStrategy, PositionRule

BOS = 0
VOCABULARY = 7
MATCHES: dict[str, Bools] = {
    "a": np.array([False, True, True, False, False, False, False]),
    "b": np.array([False, False, True, True, False, False, False]),
    "nothing": np.zeros(VOCABULARY, dtype=bool),
}


@dataclass(frozen=True)
class Case:
    strategy: InsertionStrategy
    bos_id: int | None
    ids: list[int]
    query_length: int

    @property
    def rules(self) -> LayoutRules:
        return LayoutRules.build(self.strategy, MATCHES, self.bos_id)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    bos_id = draw(st.sampled_from([None, BOS]))
    query = draw(st.lists(st.integers(1, VOCABULARY - 1), max_size=8))
    if bos_id is not None and draw(st.booleans()):
        query = [BOS, *query]
    response = draw(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=10))
    return Case(draw(insertion_strategies(sorted(MATCHES))), bos_id, query + response, len(query))


def slots_of(layout: Layout) -> list[Slot]:
    return [
        Slot(int(i), None if row == NOT_LATENT else int(row), int(position))
        for i, row, position in zip(
            layout.verbal_T, layout.latent_T, layout.position_T, strict=True
        )
    ]


def laid_out_one_by_one(case: Case, length: int) -> list[Slot]:
    state = start_state(case.rules, case.ids[: case.query_length])
    slots: list[Slot] = []
    for token in case.ids[:length]:
        piece, state = advance(case.rules, state, [token])
        slots += slots_of(piece)
    return slots


@settings(max_examples=300, deadline=None)
@given(cases())
def test_whole_layout_is_the_reference(case: Case) -> None:
    expected = reference_layout(
        case.strategy,
        {pattern: [bool(match) for match in values] for pattern, values in MATCHES.items()},
        case.bos_id,
        case.ids,
        case.query_length,
    )
    layout = whole_layout(case.rules, case.ids, case.query_length)
    assert slots_of(layout) == expected.slots + expected.pending
    assert layout.pending == len(expected.pending)
    assert slots_of(layout.without_pending()) == expected.slots
    n = len(case.ids)
    if case.query_length not in expected.predictor:
        try:
            layout.predictors(case.query_length, n)
        except StrategyError:
            return
        raise AssertionError("s_q has nothing before it, and was not refused")
    for view in (layout, layout.without_pending()):
        predictors = view.predictors(case.query_length, n)
        assert predictors.tolist() == [expected.predictor[i] for i in range(case.query_length, n)]


@settings(max_examples=300, deadline=None)
@given(cases())
def test_incremental_is_whole_at_every_length(case: Case) -> None:
    for length in range(1, len(case.ids) + 1):
        at_once = start_state(case.rules, case.ids[: case.query_length])
        whole, _ = advance(case.rules, at_once, case.ids[:length])
        assert laid_out_one_by_one(case, length) == slots_of(whole)


@settings(max_examples=300, deadline=None)
@given(cases(), st.data())
def test_any_cut_into_pieces_is_whole(case: Case, data: st.DataObject) -> None:
    n = len(case.ids)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    state = start_state(case.rules, case.ids[: case.query_length])
    slots: list[Slot] = []
    for begin, end in zip([0, *cuts], [*cuts, n], strict=True):
        piece, state = advance(case.rules, state, case.ids[begin:end])
        slots += slots_of(piece)
        assert state.length == end
        assert piece.pending <= len(piece)
    assert slots == slots_of(whole_layout(case.rules, case.ids, case.query_length))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_without_latents_the_verbal_sequence_remains(case: Case) -> None:
    layout = whole_layout(case.rules, case.ids, case.query_length).without_pending()
    verbal = layout.verbal_T[layout.latent_T == NOT_LATENT]
    assert verbal.tolist() == list(range(len(case.ids)))
    assert layout.latent_count == len(layout) - len(case.ids)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_position_ids_follow_the_rule(case: Case) -> None:
    layout = whole_layout(case.rules, case.ids, case.query_length)
    if case.strategy.position_rule is PositionRule.OWN:
        assert layout.position_T.tolist() == list(range(len(layout)))
        return
    following = case.strategy.position_rule is PositionRule.FOLLOWING
    behind = len(case.ids)  # pending latents stand before s_n
    for slot in reversed(range(len(layout))):
        if layout.latent_T[slot] == NOT_LATENT:
            behind = int(layout.verbal_T[slot])
            assert layout.position_T[slot] == behind
        else:
            assert layout.position_T[slot] == (behind if following else max(behind - 1, 0))


@settings(max_examples=300, deadline=None)
@given(cases())
def test_no_label_on_a_latent(case: Case) -> None:
    layout = whole_layout(case.rules, case.ids, case.query_length).without_pending()
    # What a slot predicts is always the place of a verbal token behind it, and never a latent's.
    slot_of_token = np.flatnonzero(layout.latent_T == NOT_LATENT)
    for slot, target in enumerate(layout.target_T):
        if target != NO_TARGET and target < len(case.ids):
            assert layout.latent_T[slot_of_token[target]] == NOT_LATENT
            assert slot < slot_of_token[target]


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_response_token_has_one_predictor_before_it(case: Case) -> None:
    layout = whole_layout(case.rules, case.ids, case.query_length).without_pending()
    try:
        predictors = layout.predictors(case.query_length, len(case.ids))
    except StrategyError:
        return
    slot_of_token = np.flatnonzero(layout.latent_T == NOT_LATENT)
    assert len(set(predictors.tolist())) == len(case.ids) - case.query_length
    for i, slot in zip(range(case.query_length, len(case.ids)), predictors, strict=True):
        assert slot < slot_of_token[i]
        assert i == 0 or slot >= slot_of_token[i - 1]
        assert layout.target_T[slot] == i
        # Between the predictor and its token stand latents alone that came once s_i was known.
        assert (layout.target_T[slot + 1 : slot_of_token[i]] == NO_TARGET).all()


@settings(max_examples=300, deadline=None)
@given(insertion_strategies(sorted(MATCHES)))
def test_a_strategy_survives_plain_data(strategy: InsertionStrategy) -> None:
    again = InsertionStrategy.from_dict(strategy.to_dict())
    assert again == strategy
    assert list(again.triggers) == list(strategy.triggers)
    assert again.short_name == strategy.short_name
    assert again.to_dict() == strategy.to_dict()
    assert sum(again.group_sizes) == again.latent_count
