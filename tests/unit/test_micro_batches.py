"""How rows are cut into micro-batches: within the budget, with little padding."""

from __future__ import annotations

import itertools
from typing import cast

import numpy as np
import pytest

from trainable.batch import (
    FORWARDS_PER_BATCH,
    PAST_PER_SLOT,
    PreparedRow,
    batch_memory,
    batch_slots,
    micro_batches,
)


class Row:
    """As much of a prepared row as cutting needs."""

    def __init__(self, length: int, past: int = 0) -> None:
        self.length = length
        self.past = past

    def __len__(self) -> int:
        return self.length


def cut(lengths: list[int], max_tokens: int) -> list[list[int]]:
    rows = cast(list[PreparedRow], [Row(length) for length in lengths])
    return [[len(row) for row in batch] for batch in micro_batches(rows, max_tokens)]


def cost(batches: list[list[int]], max_tokens: int) -> float:
    return sum(len(batch) * max(batch) + max_tokens / FORWARDS_PER_BATCH for batch in batches)


def test_it_is_the_cheapest_cut_there_is() -> None:
    draw = np.random.default_rng(0)
    for _ in range(12):
        lengths = sorted(draw.integers(1, 40, size=7).tolist(), reverse=True)
        max_tokens = int(draw.choice([1, 60, 100, 10_000]))
        every = []
        for size in range(7):
            for marks in itertools.combinations(range(1, 7), size):
                ends = [0, *marks, 7]
                batches = [lengths[a:b] for a, b in itertools.pairwise(ends)]
                if all(len(b) == 1 or len(b) * b[0] <= max_tokens for b in batches):
                    every.append(cost(batches, max_tokens))
        found = cut(lengths, max_tokens)
        assert list(itertools.chain(*found)) == lengths
        assert cost(found, max_tokens) == pytest.approx(min(every))


def test_rows_of_other_lengths_go_their_own_way() -> None:
    lengths = [30] * 20 + [60] * 20
    assert [set(batch) for batch in cut(lengths, 2048)] == [{60}, {30}]
    assert len(cut([29, 30] * 20, 2048)) == 1


def test_a_row_beyond_the_budget_goes_alone() -> None:
    assert cut([50, 10, 200, 10], 40) == [[200], [50], [10, 10]]


def test_no_rows_make_no_batch() -> None:
    assert cut([], 100) == []


def test_mixed_lengths_are_hardly_padded() -> None:
    draw = np.random.default_rng(1)
    lengths = (draw.choice([28, 34, 41, 52, 64], 64) + draw.integers(0, 30, 64)).tolist()
    rows = cast(list[PreparedRow], [Row(length) for length in lengths])
    slots = sum(batch_slots(batch) for batch in micro_batches(rows, 2048))
    assert sum(lengths) / slots > 0.95


def test_what_rows_go_on_from_takes_its_share_of_the_memory() -> None:
    """Tails of three slots behind 400: their keys and values are kept for each of them."""
    draw = np.random.default_rng(0)
    rows = cast(
        list[PreparedRow],
        [Row(3, int(past)) for past in draw.integers(0, 400, size=500)] + [Row(0)] * 40,
    )
    batches = list(micro_batches(rows, 512))
    assert sum(map(len, batches)) == len(rows)
    for batch in batches:
        kept = len(batch) * max(row.past for row in batch)
        assert batch_slots(batch) + kept / PAST_PER_SLOT <= 512
        assert batch_memory(batch) <= 512
    assert len(batches) < len(rows) / 8
    (alone,) = micro_batches(cast(list[PreparedRow], [Row(3, 10_000)]), 512)
    assert len(alone) == 1
