"""Scores of latents: teacher-forced, and by letting the model run.

    forced    one forward over query and reference: is each next token right, and how likely?
    free      greedy decoding of the query alone: what does the model write by itself?

Greedy decoding writes the reference exactly where every forced token is right, so a search
scores by the first, which is much cheaper. The second is for what is handed over, and for
metrics of an answer's text.

Shape suffixes: B rows, N response tokens, J labelled slots of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from trainable.answer_metrics import judge_all
from trainable.answers import answer_requests, decode, decoder
from trainable.batch import PreparedRow
from trainable.data import EncodedRow, EncodedTask, Ints, Split, mean_by_distance
from trainable.decoding import LatentLM
from trainable.decoding_row import Request
from trainable.errors import RowMemoryError, TaskError
from trainable.memory import TokenBudget, too_long_message
from trainable.prefix import SharedWave, read_scores, shared_waves
from trainable.prefix_plan import Sharing, SplitRow

ANSWER_MARGIN_TOKENS = 16  # how much longer than the longest reference an answer may become

Forced: TypeAlias = tuple[PreparedRow, npt.NDArray[np.bool_], npt.NDArray[np.float32]]
DistanceScores: TypeAlias = tuple[int, dict[str, float]]
_Result = TypeVar("_Result")


def forced_scores(
    model: PreTrainedModel,
    rows: Sequence[PreparedRow],
    latents: Sequence[torch.Tensor],
    budget: TokenBudget,
    sharing: Sharing = "auto",
) -> Iterator[Forced]:
    """Score each response token, given the reference before it.

    Args:
        rows: of any owners.
        latents: per owner, its [L, D] parameter.
        budget: of slots that go through the model at once.
        sharing: whether rows that begin alike are computed once up to their first sites.

    Yields:
        Each row, in an order that suits the model, with whether the model's token is right, [N],
        and the negative log-likelihood of the reference's in nats, [N].

    Raises:
        RowMemoryError: if a row does not fit into the memory.
    """

    def refuse(split: SplitRow) -> None:
        raise RowMemoryError(too_long_message(split.row))

    for batch in forced_batches(model, rows, latents, budget, refuse, sharing):
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
    for wave in shared_waves(model, rows, budget, sharing, read_scores, training=False):
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
    rows_at_once: int | None = None,
    places: Sequence[int] | None = None,
) -> list[DistanceScores]:
    """Decode rows of a split greedily and score the answers by the task's answer metrics.

    As `answer_scoring`, of one owner.

    Args:
        places: which rows; default all.

    Returns:
        (distance, metric name to value) per row.

    Raises:
        TaskError: if a metric raises or returns no finite number, naming the row.
        RowMemoryError: if a row does not fit into the memory.
    """
    scoring = answer_scoring([lm], [data], split, rows_at_once, places)
    (found,) = _finished(scoring)
    if isinstance(found, Exception):
        raise found
    return found


def answer_scoring(
    lms: Sequence[LatentLM],
    data: Sequence[EncodedTask],
    split: Split,
    rows_at_once: int | None = None,
    places: Sequence[int] | None = None,
    wanted: Callable[[int], bool] = lambda _: True,
) -> Generator[None, None, list[list[DistanceScores] | TaskError | RowMemoryError]]:
    """Decode rows of a split for many owners together, and score the answers; a piece at a time.

    An answer may be as long as the longest reference of the split and `ANSWER_MARGIN_TOKENS` more,
    where the model's context leaves so much; one that it cuts off is scored as it is.

    Args:
        lms: one per owner, all of one frozen model.
        data: each owner's task.
        rows_at_once: the most rows of a batch. Default: as the device has room for.
        places: which rows; default all.
        wanted: whether an owner's scores are still asked for; if not, no more of it is decoded.

    Returns:
        Per owner, (distance, metric name to value) per row; or what a metric failed with, which
        names the row, or a row that does not fit into the memory: no more of that owner is decoded.
    """
    requests, asked = list[Request](), list[tuple[int, int]]()
    judges = [_Judge(task, split) for task in data]
    for owner, (lm, task) in enumerate(zip(lms, data, strict=True)):
        every = task.rows(split)
        judges[owner].places = list(range(len(every)) if places is None else places)
        rows = [every[place] for place in judges[owner].places]
        requests += answer_requests(lm, rows, answer_limit(every), owner)
        asked += [(owner, place) for place in judges[owner].places]
    pool = decoder(lms, rows_at_once)
    for answers in pool.steps(requests):
        for request, ids in answers:
            owner, place = asked[request]
            judges[owner].add(place, ids)
            yield
        for owner, judge in enumerate(judges):
            judge.failure = judge.failure or pool.failures.get(owner)
            if judge.failure is not None or not wanted(owner):  # another's answers may be fine
                pool.cancel(owner)
        yield
    return [judge.failure or judge.scores for judge in judges]


def _finished(pieces: Generator[None, None, _Result]) -> _Result:
    """What a generator returns, all its pieces done."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: _Result = end.value
            return result


@dataclass
class _Judge:
    """Scores one owner's answers in the rows' order, whichever ends first."""

    data: EncodedTask
    split: Split
    places: list[int] = field(default_factory=list)
    scores: list[DistanceScores] = field(default_factory=list)
    failure: TaskError | RowMemoryError | None = None
    _early: dict[int, Ints] = field(default_factory=dict)  # answers whose turn has not come

    def add(self, place: int, ids: Ints) -> None:
        self._early[place] = ids
        while len(self.scores) < len(self.places) and self.failure is None:
            place = self.places[len(self.scores)]
            if place not in self._early:
                return
            try:
                self.scores.append(self._score(place, self._early.pop(place)))
            except TaskError as error:
                self.failure = error

    def _score(self, place: int, ids: Ints) -> DistanceScores:
        data, split = self.data, self.split
        example, row = data.example(split, place), data.rows(split)[place]
        found = judge_all(
            data.answer_metrics,
            example.origin or f"{split} row {place + 1}",
            answer=data.answer_text(ids),
            # As the answer is made to text: of a chat the template may add to the completion.
            reference=data.answer_text(row.ids[row.query_length :]),
            prompt=example.prompt,
        )
        return row.distance, found


def answer_limit(rows: Sequence[EncodedRow]) -> int:
    """The most tokens that an answer to any of these rows may have."""
    return max(len(row.ids) - row.query_length for row in rows) + ANSWER_MARGIN_TOKENS


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
    places = [place for chosen in by_distance.values() for place in chosen]
    rows = [every[place] for place in places]
    scores = [
        (row.distance, data.score(row, response == row.ids[row.query_length :]))
        for row, response in zip(rows, decode(lm, rows), strict=True)
    ]
    if data.answer_metrics:
        scores += answer_metrics(lm, data, split, places=places)
    return mean_by_distance(scores, split)
