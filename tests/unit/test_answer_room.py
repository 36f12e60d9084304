"""Answers end where the model's context does, and no answer depends on its neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from tests.decoding_reference import artifact_of
from tests.families import CONTEXT, family
from trainable.answers import decode, free_answers
from trainable.data import EncodedRow
from trainable.decoding import LatentLM
from trainable.layout import whole_layout
from trainable.strategy import InsertionStrategy


def row(query: int, response: int, seed: int = 0) -> EncodedRow:
    ids = np.random.default_rng(seed).integers(4, 20, size=query + response)
    return EncodedRow(ids.astype(np.int64), query, 0)


def attached(name: str, position_rule: str, m: int = 2) -> LatentLM:
    base = family(name)
    strategy = InsertionStrategy.from_dict(
        {"triggers": {"s": {"kind": "start", "m": m}}, "position_rule": position_rule}
    )
    return LatentLM.build(base.model, base.tokenizer, artifact_of(base, strategy))


@pytest.mark.parametrize("position_rule", ["following", "preceding"])
def test_an_embedding_per_position_leaves_what_the_context_does(position_rule: str) -> None:
    lm = attached("gpt2", position_rule)
    rows = [row(CONTEXT - left, 1, left) for left in (1, 3, 3, 200)]
    found = free_answers(lm, rows, 20)
    ends = {lm.tokenizer.eos_token_id}
    for answer, left in zip(found, (1, 3, 3, 20), strict=True):
        assert len(answer) == left or answer[-1] in ends
    assert len(found[1]) == 3, "the answer ends by itself: take another seed"
    alone = [free_answers(lm, [one], 20)[0] for one in rows]
    assert [ids.tolist() for ids in found] == [ids.tolist() for ids in alone]


def test_a_full_context_leaves_no_answer() -> None:
    lm = attached("gpt2", "following")
    assert [len(ids) for ids in free_answers(lm, [row(CONTEXT, 0)], 5)] == [0]


def test_a_long_query_and_a_long_reference_decode_together() -> None:
    lm = attached("gpt2", "following")
    rows = [row(CONTEXT - 2, 2), row(4, 30)]
    assert [len(ids) for ids in decode(lm, rows)] == [2, 30]


def test_latents_with_positions_of_their_own_take_room() -> None:
    lm = attached("llama", "own", m=50)
    rows = [row(CONTEXT - 53, 3), row(10, 3)]
    found = free_answers(lm, rows, 20)
    ends = {lm.tokenizer.eos_token_id}
    assert all(not ends & set(ids.tolist()) for ids in found), "take another seed"
    assert len(found[1]) == 20
    # The last token may have no place itself: nothing comes behind it.
    ids = np.concatenate([rows[0].ids[: rows[0].query_length], found[0]])
    assert len(whole_layout(lm.rules, ids, rows[0].query_length)) == CONTEXT + 1
    assert len(found[0]) == 4
