"""What a model writes by itself: greedy answers to the queries of rows, of many trials at once.

    rows ──► requests (how much room, what ends an answer) ──► a decoder ──► answers

The decoder is a `DecodingPool`, which decodes all trials' requests in one batch. Where a model
asks for what a pool has not, it is its own `generate()`, one trial after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import Protocol

import numpy as np
import torch
from transformers import StoppingCriteria

from trainable.data import EncodedRow, Ints
from trainable.decoding import LatentLM
from trainable.decoding_pool import DecodingPool, can_pool
from trainable.decoding_row import Request
from trainable.errors import ContextError, RowMemoryError
from trainable.layout import whole_layout
from trainable.lengths import answer_room
from trainable.positions import context_of
from trainable.special_ids import special_ids
from trainable.strategy import PositionRule


class Decoder(Protocol):
    """Answers requests of several owners.

    Attributes:
        failures: owner to why nothing more is decoded for it.
    """

    failures: dict[int, RowMemoryError]

    def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Ints]]:
        """Yield each request's place and its answer, as answers end."""
        ...

    def steps(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Ints]]]:
        """As `run`, a piece of the work at a time: what ended in each, often nothing."""
        ...

    def cancel(self, owner: int) -> None:
        """Decode nothing more for an owner."""
        ...


def decoder(lms: Sequence[LatentLM], rows_at_once: int | None = None) -> Decoder:
    """What decodes for these owners, all of one frozen model.

    Args:
        rows_at_once: the most rows of a batch. Default: as the device has room for.
    """
    if all(can_pool(lm) for lm in lms):
        return DecodingPool(lms, rows_at_once=rows_at_once)
    return OneByOne(lms, rows_at_once)


def free_answers(
    lm: LatentLM,
    rows: Sequence[EncodedRow],
    max_new_tokens: int,
    rows_at_once: int | None = None,
) -> list[Ints]:
    """The model's own greedy answers, each up to and with the token that ends it.

    An answer of `max_new_tokens` may have no end, and one that reaches the end of the model's
    context neither. No answer depends on its neighbours.
    """
    found = dict(decoder([lm], rows_at_once).run(answer_requests(lm, rows, max_new_tokens)))
    return [found[place] for place in range(len(rows))]


def answer_requests(
    lm: LatentLM, rows: Sequence[EncodedRow], max_new_tokens: int, owner: int = 0
) -> list[Request]:
    """Requests for answers to the rows' queries.

    Ends of an answer are the model's own, the tokenizer's EOS, and a special token at the end of
    a reference, which is a chat's end mark.
    """
    tokenizer = lm.tokenizer
    marks = {int(row.ids[-1]) for row in rows} & special_ids(tokenizer)
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ends = frozenset({*_model_ends(lm), *own, *marks})
    return [_request(lm, row, max_new_tokens, ends, owner) for row in rows]


def continue_prompt(lm: LatentLM, ids_N: Ints, max_new_tokens: int) -> Ints:
    """What the model makes of a prompt by itself, up to the end of its context at most.

    Raises:
        ContextError: if the prompt leaves no room in the context.
    """
    row, context = EncodedRow(ids_N, len(ids_N), 0), context_of(lm.frozen)
    if context is not None:
        own = lm.rules.position_rule is PositionRule.OWN
        needed = len(whole_layout(lm.rules, ids_N, len(ids_N))) if own else len(ids_N)
        if needed >= context:
            latents = " with its latents" if own else ""
            raise ContextError(
                f"the prompt{latents} needs {needed} positions, the base model's context is "
                f"{context}: nothing is left for an answer; give a shorter prompt"
            )
    request = _request(lm, row, max_new_tokens, _model_ends(lm), 0)
    ((_, answer),) = decoder([lm]).run([request])
    return answer


def decode(lm: LatentLM, rows: Sequence[EncodedRow], rows_at_once: int | None = None) -> list[Ints]:
    """The model's own greedy response to each row's query, as long as the reference.

    A response that ends early is filled up with -1, which is no token.
    """
    lengths = [len(row.ids) - row.query_length for row in rows]
    ends = _model_ends(lm)
    requests = [
        _request(lm, row, length, ends, 0) for row, length in zip(rows, lengths, strict=True)
    ]
    responses = [np.full(length, -1, dtype=np.int64) for length in lengths]
    for place, ids in decoder([lm], rows_at_once).run(requests):
        responses[place][: len(ids)] = ids
    return responses


def _model_ends(lm: LatentLM) -> frozenset[int]:
    known = None if lm.generation_config is None else lm.generation_config.eos_token_id
    ends = known if isinstance(known, list) else [known]
    return frozenset(i for i in ends if i is not None)


def _request(
    lm: LatentLM, row: EncodedRow, max_new_tokens: int, ends: frozenset[int], owner: int
) -> Request:
    """A request for no more than the model's context has room for."""
    context = context_of(lm.frozen)
    room = answer_room(lm.rules, row, context, max_new_tokens)
    query_ids = row.ids[: row.query_length]
    if room is None:  # latents take positions too: only the answer itself tells
        return Request(owner, query_ids, max_new_tokens, ends, context)
    return Request(owner, query_ids, room, ends)


class OneByOne:
    """A decoder that asks `LatentLM.generate`, a batch of one owner at a time.

    Args:
        lms: one per owner.
        rows_at_once: the most rows of a batch.
    """

    def __init__(self, lms: Sequence[LatentLM], rows_at_once: int | None = None) -> None:
        self._lms = lms
        self._rows_at_once = rows_at_once or 64
        self._cancelled: set[int] = set()
        self.failures: dict[int, RowMemoryError] = {}

    def cancel(self, owner: int) -> None:
        """Decode nothing more for an owner."""
        self._cancelled.add(owner)

    def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Ints]]:
        """Yield each request's place and its answer."""
        for answers in self.steps(requests):
            for place, ids in answers:
                if requests[place].owner not in self._cancelled:
                    yield place, ids

    def steps(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Ints]]]:
        """As `run`, a batch at a time.

        Rows share a batch only where they may answer equally much, so that no answer depends on
        its neighbours; those of like length do, for little padding.
        """

        def alike(place: int) -> tuple[int, int, list[int], bool]:
            request = requests[place]
            ends = sorted(request.ends)
            return request.owner, request.max_new_tokens, ends, request.context is not None

        order = sorted(
            range(len(requests)), key=lambda place: (alike(place), len(requests[place].query_ids))
        )
        for (owner, _, _, in_context), places in groupby(order, key=alike):
            while batch := self._next(owner, places, in_context):
                answers = _generate(self._lms[owner], [requests[place] for place in batch])
                yield list(zip(batch, answers, strict=True))

    def _next(self, owner: int, places: Iterable[int], in_context: bool) -> list[int]:
        if owner in self._cancelled:
            return []
        return list(islice(places, 1 if in_context else self._rows_at_once))


class _ContextEnd(StoppingCriteria):
    """Ends an answer whose next token would have a position beyond the context, under `own`."""

    def __init__(self, lm: LatentLM, query_length: int, context: int) -> None:
        self._lm = lm
        self._query_length = query_length
        self._context = context

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object
    ) -> torch.BoolTensor:
        """[1], whether it ends here."""
        ids_N = input_ids[0].cpu().numpy()
        slots = len(whole_layout(self._lm.rules, ids_N, self._query_length))
        over: torch.BoolTensor = torch.tensor([slots > self._context], device=input_ids.device)  # type: ignore[assignment]
        return over


def _generate(lm: LatentLM, requests: Sequence[Request]) -> list[Ints]:
    """Answers to requests that are alike, padded on the left."""
    first = requests[0]
    if not first.max_new_tokens:
        return [request.query_ids[:0] for request in requests]
    width = max(len(request.query_ids) for request in requests)
    ids_BN = torch.zeros(len(requests), width, dtype=torch.long)
    mask_BN = torch.zeros_like(ids_BN)
    for line, request in enumerate(requests):
        begin = width - len(request.query_ids)
        ids_BN[line, begin:] = torch.from_numpy(request.query_ids)
        mask_BN[line, begin:] = 1
    ends, pad = sorted(first.ends), lm.tokenizer.pad_token_id
    options: dict[str, object] = {"eos_token_id": ends}
    if ends:
        options["pad_token_id"] = ends[0] if pad is None else pad
    if first.context is not None:
        options["stopping_criteria"] = [_ContextEnd(lm, width, first.context)]
    output_BN = lm.generate(
        input_ids=ids_BN.to(lm.device),
        attention_mask=mask_BN.to(lm.device),
        max_new_tokens=first.max_new_tokens,
        do_sample=False,
        return_dict_in_generate=False,
        **options,
    )
    generated_BN: Ints = output_BN[:, width:].cpu().numpy()
    return [_up_to_end(ids_N, ends) for ids_N in generated_BN]


def _up_to_end(ids_N: Ints, ends: Sequence[int]) -> Ints:
    over = np.flatnonzero(np.isin(ids_N, ends))
    return ids_N[: over[0] + 1] if len(over) else ids_N
