"""Scores of latents: teacher-forced, and by letting the model run.

    forced    one forward over query and reference: is each next token right, and how likely?
    free      greedy decoding of the query alone: what does the model write by itself?

Greedy decoding writes the reference exactly where every forced token is right, so a search
scores by the first, which is much cheaper. The second is for what is handed over, and for
metrics of an answer's text.

Shape suffixes: B rows, N response tokens, J labelled slots of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, StoppingCriteria

from trainable.answer_metrics import judge_all
from trainable.batch import PreparedRow
from trainable.data import (
    EncodedRow,
    EncodedTask,
    Ints,
    Split,
    mean_by_distance,
)
from trainable.decoding import LatentLM
from trainable.errors import ContextError, RowMemoryError
from trainable.layout import whole_layout
from trainable.lengths import answer_room
from trainable.memory import TokenBudget, too_long_message
from trainable.positions import context_of
from trainable.prefix import SharedWave, read_scores, shared_waves
from trainable.prefix_plan import Sharing, SplitRow
from trainable.special_ids import special_ids
from trainable.strategy import PositionRule

ROWS_AT_ONCE = 64
ANSWER_MARGIN_TOKENS = 16  # how much longer than the longest reference an answer may become

Forced: TypeAlias = tuple[PreparedRow, npt.NDArray[np.bool_], npt.NDArray[np.float32]]


def forced_scores(
    model: PreTrainedModel,
    rows: Sequence[PreparedRow],
    latents: Sequence[torch.Tensor],
    micro_batch_tokens: int,
    sharing: Sharing = "auto",
) -> Iterator[Forced]:
    """Score each response token, given the reference before it.

    Args:
        rows: of any owners.
        latents: per owner, its [L, D] parameter.
        sharing: whether rows that begin alike are computed once up to their first sites.

    Yields:
        Each row, in an order that suits the model, with whether the model's token is right, [N],
        and the negative log-likelihood of the reference's in nats, [N].

    Raises:
        RowMemoryError: if a row does not fit into the memory.
    """

    def refuse(split: SplitRow) -> None:
        raise RowMemoryError(too_long_message(split.row))

    for batch in forced_batches(
        model, rows, latents, TokenBudget(micro_batch_tokens), refuse, sharing
    ):
        yield from batch


def forced_batches(
    model: PreTrainedModel,
    rows: Sequence[PreparedRow],
    latents: Sequence[torch.Tensor],
    budget: TokenBudget,
    refuse: Callable[[SplitRow], None],
    sharing: Sharing = "auto",
) -> Iterator[list[Forced]]:
    """As `forced_scores`, a micro-batch at a time; `refuse` is told of rows that do not fit."""
    for wave in shared_waves(model, rows, budget.tokens, sharing, read_scores, training=False):
        for _, scored in budget.run(wave.rows, partial(_force, wave, latents), refuse):
            yield scored


@torch.no_grad()
def _force(
    wave: SharedWave, latents: Sequence[torch.Tensor], batch: Sequence[SplitRow]
) -> list[Forced]:
    nll_J, right_J = (each.cpu().numpy() for each in wave.forward(batch, latents))
    rows = [split.row for split in batch]
    ends = np.cumsum([len(row.response) for row in rows])
    return [
        (row, right_J[end - len(row.response) : end], nll_J[end - len(row.response) : end])
        for row, end in zip(rows, ends, strict=True)
    ]


def answer_metrics(
    lm: LatentLM,
    data: EncodedTask,
    split: Split,
    rows_at_once: int = ROWS_AT_ONCE,
    places: Sequence[int] | None = None,
) -> list[tuple[int, dict[str, float]]]:
    """Decode rows of a split greedily and score the answers by the task's answer metrics.

    An answer may be as long as the longest reference of the split and `ANSWER_MARGIN_TOKENS` more,
    where the model's context leaves so much; one that it cuts off is scored as it is.

    Args:
        places: which rows; default all.

    Returns:
        (distance, metric name to value) per row.

    Raises:
        TaskError: if a metric raises or returns no finite number, naming the row.
    """
    every = data.rows(split)
    chosen = range(len(every)) if places is None else places
    rows = [every[place] for place in chosen]
    answers = free_answers(lm, rows, answer_limit(every), rows_at_once)
    scores = []
    for place, row, ids in zip(chosen, rows, answers, strict=True):
        example = data.example(split, place)
        found = judge_all(
            data.answer_metrics,
            example.origin or f"{split} row {place + 1}",
            answer=data.answer_text(ids),
            # As the answer is made to text: of a chat the template may add to the completion.
            reference=data.answer_text(row.ids[row.query_length :]),
            prompt=example.prompt,
        )
        scores.append((row.distance, found))
    return scores


def answer_limit(rows: Sequence[EncodedRow]) -> int:
    """The most tokens that an answer to any of these rows may have."""
    return max(len(row.ids) - row.query_length for row in rows) + ANSWER_MARGIN_TOKENS


def free_answers(
    lm: LatentLM,
    rows: Sequence[EncodedRow],
    max_new_tokens: int,
    rows_at_once: int = ROWS_AT_ONCE,
) -> list[Ints]:
    """The model's own greedy answers, each up to and with the token that ends it.

    Ends of an answer are the model's own, the tokenizer's EOS, and a special token at the end of
    a reference, which is a chat's end mark. An answer of `max_new_tokens` may have none, and one
    that reaches the end of the model's context neither.
    """
    ends = _end_ids(lm, rows)
    answers = []
    for ids in _continuations(lm, rows, max_new_tokens, rows_at_once, ends):
        over = np.flatnonzero(np.isin(ids, ends))
        answers.append(ids[: over[0] + 1] if len(over) else ids)
    return answers


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
    return _continuations(lm, [row], max_new_tokens, 1)[0]


def evaluate_decoding(
    lm: LatentLM, data: EncodedTask, split: Split, rows_per_distance: int
) -> dict[str, float]:
    """Decode each row greedily and score it, token by token and as an answer.

    Args:
        rows_per_distance: at most so many rows of each distance, the first ones.

    Returns:
        Metric name to value, as `Engine.evaluate` names them; without `nll`.
    """
    by_distance: dict[int, list[int]] = {}
    every = data.rows(split)
    for place, row in enumerate(every):
        chosen = by_distance.setdefault(row.distance, [])
        if len(chosen) < rows_per_distance:
            chosen.append(place)
    scores = []
    for places in by_distance.values():
        waiting = iter([every[place] for place in places])
        while batch := list(islice(waiting, ROWS_AT_ONCE)):
            for row, response in zip(batch, decode(lm, batch), strict=True):
                right_N = response == row.ids[row.query_length :]
                scores.append((row.distance, data.score(row, right_N)))
    if data.answer_metrics:
        places = [place for chosen in by_distance.values() for place in chosen]
        scores += answer_metrics(lm, data, split, places=places)
    return mean_by_distance(scores, split)


def decode(lm: LatentLM, rows: Sequence[EncodedRow]) -> list[Ints]:
    """The model's own greedy response to each row's query, as long as the reference.

    A response that ends early is filled up with -1, which is no token.
    """
    lengths = [len(row.ids) - row.query_length for row in rows]
    responses = []
    continuations = _continuations(lm, rows, max(lengths), len(rows))
    for length, generated in zip(lengths, continuations, strict=True):
        response = np.full(length, -1, dtype=np.int64)
        response[: min(length, len(generated))] = generated[:length]
        responses.append(response)
    return responses


def _end_ids(lm: LatentLM, rows: Sequence[EncodedRow]) -> list[int]:
    known = None if lm.generation_config is None else lm.generation_config.eos_token_id
    own = known if isinstance(known, list) else [known]
    ends = {i for i in (*own, lm.tokenizer.eos_token_id) if i is not None}
    return sorted(ends | ({int(row.ids[-1]) for row in rows} & special_ids(lm.tokenizer)))


def _continuations(
    lm: LatentLM,
    rows: Sequence[EncodedRow],
    max_new_tokens: int,
    rows_at_once: int,
    ends: list[int] | None = None,
) -> list[Ints]:
    """Greedy continuations of the rows' queries, none beyond the model's context.

    A row that is over is fed padding until its whole batch is. Rows share a batch only where the
    context leaves them equally much, so that no answer depends on its neighbours.
    """
    context = context_of(lm.frozen)
    rooms = [answer_room(lm.rules, row, context, max_new_tokens) for row in rows]
    # Rows of like length together: little padding, and answers that end at about the same time.
    order = sorted(
        range(len(rows)), key=lambda place: (rooms[place] or 0, len(rows[place].ids), place)
    )
    found: dict[int, Ints] = {}
    for room, group in groupby(order, key=lambda place: rooms[place]):
        while batch := list(islice(group, rows_at_once if room is not None else 1)):
            chosen, stop = [rows[place] for place in batch], None
            if room is None and context is not None:
                stop = _ContextEnd(lm, chosen[0].query_length, context)
            ids = _generate(lm, chosen, max_new_tokens if room is None else room, ends, stop)
            found |= zip(batch, ids, strict=True)
    return [found[place] for place in range(len(rows))]


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


def _generate(
    lm: LatentLM,
    rows: Sequence[EncodedRow],
    max_new_tokens: int,
    ends: list[int] | None,
    stop: StoppingCriteria | None,
) -> list[Ints]:
    """Greedy continuations of the rows' queries, padded on the left; all of the same length."""
    if not max_new_tokens:
        return [row.ids[:0] for row in rows]
    width = max(row.query_length for row in rows)
    ids_BN = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BN = torch.zeros_like(ids_BN)
    for line, row in enumerate(rows):
        begin = width - row.query_length
        ids_BN[line, begin:] = torch.from_numpy(row.ids[: row.query_length])
        mask_BN[line, begin:] = 1
    options: dict[str, object] = {}
    if ends:
        pad = lm.tokenizer.pad_token_id
        options = {"eos_token_id": ends, "pad_token_id": ends[0] if pad is None else pad}
    if stop is not None:
        options["stopping_criteria"] = [stop]
    output_BN = lm.generate(
        input_ids=ids_BN.to(lm.device),
        attention_mask=mask_BN.to(lm.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        **options,
    )
    generated_BN: Ints = output_BN[:, width:].cpu().numpy()
    return list(generated_BN)
