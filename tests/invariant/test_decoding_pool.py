"""Many trials decoded in one batch write what each of their prompts makes a model write alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from tests.decoding_reference import artifact_of
from tests.families import FAMILIES, family
from tests.random_strategies import random_strategy
from trainable.answers import OneByOne, decoder
from trainable.base_model.loading import BaseModel
from trainable.decoding import LatentLM
from trainable.decoding_pool import DecodingPool
from trainable.decoding_row import Request
from trainable.errors import RowMemoryError, StrategyError
from trainable.row_cache import RowCache
from trainable.strategy import InsertionStrategy

PROMPTS = ("44@47=", "", "a,b;1,2,3,4,5,6", ",", "Zz=7,8,9")
NEW_TOKENS = 14
SEEDS = range(6)
# A character that these random models write now and then, so that some answers end early.
ENDS = frozenset(range(20, 32))


def lms_of(base: BaseModel, seeds: Sequence[int] = SEEDS) -> list[LatentLM]:
    """Trials of random strategies, one of them without latents."""
    strategies = [random_strategy(seed) for seed in seeds] + [InsertionStrategy()]
    return [LatentLM.build(base.model, base.tokenizer, artifact_of(base, s)) for s in strategies]


def requests_of(base: BaseModel, owners: int, ends: frozenset[int]) -> list[Request]:
    """Each owner's prompts, of unequal lengths, with unequal room."""
    return [
        Request(owner, np.array(base.tokenizer(text)["input_ids"]), NEW_TOKENS - line, ends)
        for line, text in enumerate(PROMPTS)
        for owner in range(owners)
    ]


def alone(lms: Sequence[LatentLM], requests: Sequence[Request]) -> list[list[int]]:
    """Each request by itself, by `LatentLM.generate`."""
    found = dict(OneByOne(lms, rows_at_once=1).run(requests))
    return [found[place].tolist() for place in range(len(requests))]


def together(pool: DecodingPool, requests: Sequence[Request]) -> list[list[int]]:
    found = dict(pool.run(requests))
    return [found[place].tolist() for place in range(len(requests))]


@pytest.fixture(scope="module")
def expected(tiny_base: BaseModel) -> list[list[int]]:
    lms = lms_of(tiny_base)
    return alone(lms, requests_of(tiny_base, len(lms), ENDS))


@pytest.mark.parametrize("name", FAMILIES)
def test_together_is_alone(name: str) -> None:
    """All at once on every family of models; strategies, prompts and room all differ."""
    base = family(name, FAMILIES[name].kernels[0])
    lms = lms_of(base, (1, 2))
    requests = requests_of(base, len(lms), frozenset())
    expected = alone(lms, requests)
    for chunk_slots in (1, 64):
        assert together(DecodingPool(lms, chunk_slots=chunk_slots), requests) == expected


@pytest.mark.parametrize(
    ("rows_at_once", "cache_slots", "chunk_slots"),
    [(1, None, 64), (3, None, 1), (16, 100, 2), (64, 400, 64), (None, None, None)],
)
def test_neither_places_nor_slots_change_an_answer(
    tiny_base: BaseModel,
    expected: list[list[int]],
    rows_at_once: int | None,
    cache_slots: int | None,
    chunk_slots: int | None,
) -> None:
    """Rows wait, end early, are replaced, and wait again where the cache is full."""
    lms = lms_of(tiny_base)
    requests = requests_of(tiny_base, len(lms), ENDS)
    early = [
        len(ids) < request.max_new_tokens for request, ids in zip(requests, expected, strict=True)
    ]
    assert any(early), "no answer ended early: take other ends"
    assert not all(early), "all answers ended early: take other ends"
    pool = DecodingPool(
        lms, rows_at_once=rows_at_once, cache_slots=cache_slots, chunk_slots=chunk_slots
    )
    assert together(pool, requests) == expected


def test_the_cache_stays_within_its_slots(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room is that of the rows of the moment, whatever has been there before them."""
    sizes = []
    lms = lms_of(tiny_base)
    pool = DecodingPool(lms, rows_at_once=8, cache_slots=600)
    resize = pool._cache.resize

    def noted(rows: int, slots: int) -> None:
        sizes.append((rows, slots))
        resize(rows, slots)

    monkeypatch.setattr(pool._cache, "resize", noted)
    requests = requests_of(tiny_base, len(lms), frozenset())
    longest = 0
    for request, answer in zip(requests, alone(lms, requests), strict=True):
        query = request.query_ids.tolist()
        piece = lms[request.owner].start_row(query).feed([*query, *answer])
        longest = max(longest, len(piece))
    list(pool.run(requests))
    assert sizes
    assert all(rows == 1 or rows * slots <= 600 for rows, slots in sizes)
    assert max(slots for _, slots in sizes) <= 2 * longest + 32
    assert max(rows for rows, _ in sizes) > 1


@contextmanager
def memory_of(base: BaseModel, rows: int, slots: int) -> Iterator[None]:
    """The model runs out of memory above so many rows at once, or so many slots of one."""

    def watch(_: Any, __: Any, options: dict[str, Any], output: Any) -> None:
        found = options["position_ids"].shape
        if found[0] > rows or found[1] > slots:
            raise torch.OutOfMemoryError("out of memory")

    hook = base.model.register_forward_hook(watch, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("chunk_slots", [1, 64])
@pytest.mark.parametrize("rows", [1, 5])
def test_out_of_memory_decodes_fewer_at_once_and_changes_no_answer(
    tiny_base: BaseModel,
    expected: list[list[int]],
    caplog: pytest.LogCaptureFixture,
    chunk_slots: int,
    rows: int,
) -> None:
    lms = lms_of(tiny_base)
    pool = DecodingPool(lms, chunk_slots=chunk_slots)
    with memory_of(tiny_base, rows, 10_000), caplog.at_level(logging.WARNING):
        assert together(pool, requests_of(tiny_base, len(lms), ENDS)) == expected
    assert "from now on at most" in caplog.text
    assert len(caplog.records) < 8


def test_growing_answers_run_out_of_memory_too(
    tiny_base: BaseModel, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the model but in the cache: what is left of it half grown is not gone on with."""
    lms = lms_of(tiny_base)
    resize, left = RowCache.resize, [3]

    def failing(cache: RowCache, rows: int, slots: int) -> None:
        if cache.rows and left[0]:
            left[0] -= 1
            cache.rows, cache.slots = rows, slots
            raise torch.OutOfMemoryError("out of memory")
        resize(cache, rows, slots)

    monkeypatch.setattr(RowCache, "resize", failing)
    pool = DecodingPool(lms, cache_slots=400)
    assert together(pool, requests_of(tiny_base, len(lms), ENDS)) == expected
    assert left == [0]


def test_a_prompt_that_does_not_fit_by_itself_fails_its_trial_alone(tiny_base: BaseModel) -> None:
    lms = lms_of(tiny_base, (1, 2))
    requests = requests_of(tiny_base, len(lms), frozenset())
    requests.append(Request(1, np.arange(10, 90) % 50 + 10, 4))
    expected = alone(lms, requests)
    with memory_of(tiny_base, 8, 60):
        pool = DecodingPool(lms)
        found = {place: ids.tolist() for step in pool.steps(requests) for place, ids in step}
        with pytest.raises(RowMemoryError, match=r"a prompt of \d+ tokens.*data\.max_tokens"):
            dict(DecodingPool(lms).run(requests))
    assert pool.failures.keys() == {1}
    assert found.keys() >= owned(requests, 0) | owned(requests, 2)
    assert all(expected[place] == ids for place, ids in found.items())


def test_no_step_decodes_more_than_a_token_of_each_row(tiny_base: BaseModel) -> None:
    """So that whoever waits for a step waits for one forward, not for an answer."""
    lms, forwards, most = lms_of(tiny_base), [0], 0
    count = tiny_base.model.register_forward_hook(lambda *_: forwards.append(1))
    try:
        pool = DecodingPool(lms)
        steps = 0
        for _ in pool.steps(requests_of(tiny_base, len(lms), frozenset())):
            most, steps = max(most, len(forwards) - 1), steps + 1
            forwards[:] = [0]
    finally:
        count.remove()
    assert most == 1
    assert steps >= NEW_TOKENS


def test_a_cancelled_trial_is_not_heard_of_again(tiny_base: BaseModel) -> None:
    lms = lms_of(tiny_base, (1, 2))
    requests = requests_of(tiny_base, len(lms), frozenset())
    expected = alone(lms, requests)
    for rows_at_once in (1, 4, 64):
        pool, found = DecodingPool(lms, rows_at_once=rows_at_once), dict[int, list[int]]()
        for place, ids in pool.run(requests):
            assert requests[place].owner != 1 or not found.keys() & owned(requests, 1)
            found[place] = ids.tolist()
            if requests[place].owner == 1:
                pool.cancel(1)
        assert len(found.keys() & owned(requests, 1)) == 1
        assert found.keys() - owned(requests, 1) == owned(requests, 0) | owned(requests, 2)
        assert all(expected[place] == ids for place, ids in found.items())


def owned(requests: Sequence[Request], owner: int) -> set[int]:
    return {place for place, request in enumerate(requests) if request.owner == owner}


def test_positions_of_their_own_end_with_the_context(tiny_base: BaseModel) -> None:
    """Under `own` an answer ends where its next token would leave the context."""
    strategy = InsertionStrategy.from_dict(
        {"triggers": {"e": {"kind": "every", "k": 2, "m": 3}}, "position_rule": "own"}
    )
    base = tiny_base
    lm = LatentLM.build(base.model, base.tokenizer, artifact_of(base, strategy))
    query = np.array(base.tokenizer("44@47=")["input_ids"])
    requests = [Request(0, query, 30, context=context) for context in (20, 31, 33, 512)]
    found = together(DecodingPool([lm]), requests)
    assert found == alone([lm], requests)
    assert len({len(ids) for ids in found}) > 2


def test_no_room_is_no_answer(tiny_base: BaseModel) -> None:
    lms = lms_of(tiny_base, ())
    query = np.array(tiny_base.tokenizer("1")["input_ids"])
    assert together(DecodingPool(lms), [Request(0, query, 0)]) == [[]]
    assert list(DecodingPool(lms).run([])) == []


def test_nothing_to_go_on_from_is_refused(tiny_base: BaseModel) -> None:
    pool = DecodingPool(lms_of(tiny_base, ()))
    with pytest.raises(StrategyError, match="nothing predicts the first token"):
        list(pool.run([Request(0, np.zeros(0, dtype=np.int64), 3)]))


def test_a_model_with_a_penalty_decodes_by_its_own_generate(tiny_base: BaseModel) -> None:
    lms = lms_of(tiny_base, (1, 2))
    assert isinstance(decoder(lms), DecodingPool)
    lms[1].generation_config.repetition_penalty = 5.0
    penalised = decoder(lms)
    assert isinstance(penalised, OneByOne)
    requests = requests_of(tiny_base, len(lms), ENDS)
    found = dict(penalised.run(requests))
    assert sorted(found) == list(range(len(requests)))
    plain = together(DecodingPool(lms), requests)
    differs = {
        requests[place].owner for place, ids in found.items() if ids.tolist() != plain[place]
    }
    assert differs == {1}
    penalised.cancel(1)
    assert {requests[place].owner for place, _ in penalised.run(requests)} == {0, 2}


def test_weights_and_latents_are_left_alone(tiny_base: BaseModel) -> None:
    lms = lms_of(tiny_base, (1, 2))
    before = {key: value.clone() for key, value in tiny_base.model.state_dict().items()}
    latents = [lm.latents.clone() for lm in lms]
    list(DecodingPool(lms).run(requests_of(tiny_base, len(lms), frozenset())))
    after = tiny_base.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(torch.equal(lm.latents, kept) for lm, kept in zip(lms, latents, strict=True))
