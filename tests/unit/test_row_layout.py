"""A row laid out token by token is the whole row's layout, however it is fed."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.decoding_reference import naive_matches
from tests.families import tokenizer_of_all
from tests.random_strategies import random_strategy
from trainable.layout import advance, start_state
from trainable.layout_rules import LayoutRules, LayoutState
from trainable.row_layout import LOOK_AHEAD, Outlook, Piece, RowLayout
from trainable.strategy import InsertionStrategy

LENGTH = 3 * LOOK_AHEAD


def rules_of(strategy: InsertionStrategy) -> LayoutRules:
    tokenizer = tokenizer_of_all()
    matches = naive_matches(strategy, tokenizer)
    as_arrays = {pattern: np.array(values) for pattern, values in matches.items()}
    return LayoutRules.build(strategy, as_arrays, tokenizer.bos_token_id)


def delimiter(pattern: str) -> InsertionStrategy:
    triggers = {"d": {"kind": "delimiter", "pattern": pattern}}
    return InsertionStrategy.from_dict({"triggers": triggers})


def new_row(strategy: InsertionStrategy, ids: list[int], q: int) -> tuple[RowLayout, LayoutState]:
    rules = rules_of(strategy)
    state = start_state(rules, ids[:q])
    return RowLayout(Outlook.of(rules), state), state


def random_ids(seed: int) -> list[int]:
    tokenizer = tokenizer_of_all()
    rng = np.random.default_rng(seed)
    ids: list[int] = rng.integers(4, len(tokenizer), size=LENGTH).tolist()
    return [tokenizer.bos_token_id, *ids[1:]]


def slots(pieces: list[Piece]) -> tuple[list[int], list[int]]:
    latents = [int(row) for piece in pieces for row in piece.latent_T]
    return latents, [int(position) for piece in pieces for position in piece.position_T]


@pytest.mark.parametrize("seed", range(40))
def test_any_way_of_feeding_gives_the_same_slots(seed: int) -> None:
    strategy, rng = random_strategy(seed), Random(seed)  # noqa: S311 - no secrets here
    ids, q = random_ids(seed), rng.choice([0, 1, 5, 20])
    row, state = new_row(strategy, ids, q)
    pieces = [row.feed([]), row.feed(ids[:q])]
    begin = q
    while begin < len(ids):
        end = begin + rng.choice([1] * 8 + [2, 7])
        pieces.append(row.feed(ids[begin:end]))
        begin = end
        expected, behind = advance(rules_of(strategy), state, ids[:begin])
        assert row.state == behind
    assert slots(pieces) == (expected.latent_T.tolist(), expected.position_T.tolist())


def test_a_branch_goes_its_own_way() -> None:
    strategy = delimiter("[a-m]")
    plain, matched = (tokenizer_of_all().get_vocab()[character] for character in "9c")
    row, _ = new_row(strategy, [plain], 1)
    row.feed([plain] * 3)
    row.feed([plain])
    other = row.branch()
    assert len(row.feed([matched])) == 2
    assert [len(other.feed([plain])) for _ in range(4)] == [1] * 4
    assert len(other.feed([matched])) == 2
    assert (row.state.length, other.state.length) == (5, 9)


def test_where_every_id_matches_there_is_nothing_to_look_ahead_to() -> None:
    rules = rules_of(delimiter("a"))
    everything = LayoutRules(
        (), tuple(replace(s, matches_V=np.ones(9, bool)) for s in rules.verbal_after), None
    )
    row = RowLayout(Outlook.of(everything), start_state(everything, [3]))
    assert [len(row.feed([3])) for _ in range(4)] == [2] * 4


def test_plain_tokens_are_laid_out_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any) -> Any:
        calls.append(args)
        return advance(*args)

    monkeypatch.setattr("trainable.row_layout.advance", counted)
    plain = tokenizer_of_all().get_vocab()["9"]
    row, _ = new_row(delimiter("[a-m]"), [plain], 1)
    for _ in range(2 * LOOK_AHEAD):
        row.feed([plain])
    assert len(calls) <= 4
