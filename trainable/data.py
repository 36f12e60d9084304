"""Examples, their encoding, and the one stream of examples that all trials of a search read.

Ids = tokenizer(prompt, with its specials) + tokenizer(completion, without) + EOS, where the
EOS is left out for an open completion: one that is a window of something endless.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

from trainable.answer_metrics import AnswerMetric
from trainable.errors import TaskError
from trainable.metrics import common_metrics

if TYPE_CHECKING:  # a driver that only checks a task's rows needs no transformers
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "val_id", "val_ood", "test_id", "test_ood"]
SEARCH_SPLITS: tuple[Split, ...] = ("val_id", "val_ood")  # what a search scores trials on
TEST_SPLITS: tuple[Split, ...] = ("test_id", "test_ood")  # what it never sees
ALL_SPLITS: tuple[Split, ...] = ("train", *SEARCH_SPLITS, *TEST_SPLITS)

LongRows = Literal["refuse", "drop"]
Ints = npt.NDArray[np.int64]
_Item = TypeVar("_Item")
_PASSES_BYTES = 2**26  # kept of a stream
_MOST_PASSES = 256


@dataclass(frozen=True)
class Example:
    """One row of a task.

    Args:
        prompt: what the model is given.
        completion: what it shall produce.
        closed: whether the completion ends by itself, with EOS.
        distance: how far out the row lies in the task's own unit, e.g. equations.
        origin: where it was read, e.g. "train.jsonl row 17"; "" for a row that was made.
    """

    prompt: str
    completion: str
    closed: bool = True
    distance: int = 0
    origin: str = ""


class Task(Protocol):
    """What the engine needs to know of a task."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that exist; `train` and `val_id` always do."""
        ...

    @property
    def answer_metrics(self) -> Mapping[str, AnswerMetric]:
        """Metrics that need a decoded answer, by name; empty for most tasks."""
        ...

    def examples(self, split: Split) -> Sequence[Example]:
        """All rows of a split, always the same ones."""
        ...

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """Score one response by the task's own metrics; the common ones come by themselves.

        Args:
            texts: the decoded text of each response token of the reference.
            right_N: whether the model's token is the reference's, at each of those places.

        Returns:
            Metric name to value.
        """
        ...


@dataclass(frozen=True)
class EncodedRow:
    """An example as ids.

    Args:
        ids: [N], query and response.
        query_length: q; the response is `ids[q:]`.
        distance: see `Example`.
    """

    ids: Ints
    query_length: int
    distance: int


@runtime_checkable
class EncodedSource(Protocol):
    """A task whose rows are kept encoded, because they are many: it encodes them itself."""

    def encoded(self, split: Split) -> Sequence[EncodedRow]:
        """All rows of a split, in the order of `examples`."""
        ...

    def lengths(self, split: Split) -> Ints:
        """[R], the tokens of each row."""
        ...


def encode(example: Example, tokenizer: PreTrainedTokenizerBase) -> EncodedRow:
    """Encode one example.

    Raises:
        TaskError: if nothing is left to predict, or the tokenizer has no EOS to close it with.
    """
    query = list(tokenizer(example.prompt)["input_ids"])
    response = list(tokenizer(example.completion, add_special_tokens=False)["input_ids"])
    if example.closed:
        if tokenizer.eos_token_id is None:
            raise TaskError("the tokenizer has no EOS token to close a completion with")
        response.append(tokenizer.eos_token_id)
    if not response:
        raise TaskError(f"the prompt {example.prompt!r} has an empty completion")
    ids = np.array(query + response, dtype=np.int64)
    return EncodedRow(ids, len(query), example.distance)


class LazyRows(Sequence[_Item]):
    """Rows that are read when they are asked for.

    Args:
        read: a place to what stands there.
        places_N: which places, in order.
    """

    def __init__(self, read: Callable[[int], _Item], places_N: Ints) -> None:
        self._read = read
        self._places_N = places_N

    def __len__(self) -> int:
        return len(self._places_N)

    @overload
    def __getitem__(self, key: int) -> _Item: ...
    @overload
    def __getitem__(self, key: slice) -> LazyRows[_Item]: ...
    def __getitem__(self, key: int | slice) -> _Item | LazyRows[_Item]:
        if isinstance(key, slice):
            return LazyRows(self._read, self._places_N[key])
        return self._read(int(self._places_N[key]))


@dataclass(frozen=True)
class _EncodedSplit:
    rows: Sequence[EncodedRow]
    lengths_N: Ints
    places_N: Ints  # where each row stands among the task's examples
    dropped: int


class EncodedTask:
    """A task's splits, encoded once for one tokenizer when they are first read.

    Args:
        task: whose rows.
        tokenizer: the base model's.
        drop_above: rows of more tokens than this, latents not counted, are left out of every
            split; None keeps all.
    """

    def __init__(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, *, drop_above: int | None = None
    ) -> None:
        self.task = task
        self._tokenizer = tokenizer
        self._drop_above = drop_above
        self._splits: dict[Split, _EncodedSplit] = {}
        self._texts: dict[int, str] = {}

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that exist."""
        return self.task.splits

    @property
    def answer_metrics(self) -> Mapping[str, AnswerMetric]:
        """Metrics that need a decoded answer, by name."""
        return self.task.answer_metrics

    def rows(self, split: Split) -> Sequence[EncodedRow]:
        """The split's rows. Raises TaskError if it has none."""
        return self._split(split).rows

    def lengths(self, split: Split) -> Ints:
        """[R], the tokens of each of the split's rows, latents not counted."""
        return self._split(split).lengths_N

    def dropped(self, split: Split) -> int:
        """How many rows of the split were too long and left out."""
        return self._split(split).dropped

    def example(self, split: Split, place: int) -> Example:
        """What a row was encoded from."""
        return self.task.examples(split)[int(self._split(split).places_N[place])]

    def thinned(self, rows: int) -> EncodedTask:
        """The same task with at most so many rows in each split but train, spread over it."""
        few = copy.copy(self)
        few._splits = {"train": self._split("train")}
        for split in self.splits:
            if split != "train":
                whole = self._split(split)
                count = len(whole.rows)
                some_N = np.unique(np.linspace(0, count - 1, min(rows, count)).astype(np.int64))
                few._splits[split] = _EncodedSplit(
                    LazyRows(whole.rows.__getitem__, some_N),
                    whole.lengths_N[some_N],
                    whole.places_N[some_N],
                    whole.dropped,
                )
        return few

    def score(
        self,
        row: EncodedRow,
        right_N: npt.NDArray[np.bool_],
        nll_N: npt.NDArray[np.floating] | None = None,
    ) -> dict[str, float]:
        """Score the response tokens of one row: the common metrics and the task's own."""
        texts = [self._text(i) for i in row.ids[row.query_length :]]
        return common_metrics(right_N, nll_N) | self.task.score(texts, right_N)

    def answer_text(self, ids: Ints) -> str:
        """The text of generated ids, without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _split(self, split: Split) -> _EncodedSplit:
        if split not in self._splits:
            self._splits[split] = self._encode(split)
        return self._splits[split]

    def _encode(self, split: Split) -> _EncodedSplit:
        rows: Sequence[EncodedRow]
        if isinstance(self.task, EncodedSource):
            rows, lengths_N = self.task.encoded(split), self.task.lengths(split)
        else:
            rows = [encode(example, self._tokenizer) for example in self.task.examples(split)]
            lengths_N = np.array([len(row.ids) for row in rows], dtype=np.int64)
        if not len(rows):
            raise TaskError(f"the task has no rows in split {split}")
        kept_N = np.arange(len(rows))
        if self._drop_above is not None:
            kept_N = np.flatnonzero(lengths_N <= self._drop_above)
        dropped = len(rows) - len(kept_N)
        if not len(kept_N):
            raise TaskError(
                f"every row of {split} has more than {self._drop_above} tokens, so none is left: "
                "raise data.max_tokens, or shorten the rows"
            )
        if dropped:
            rows, lengths_N = LazyRows(rows.__getitem__, kept_N), lengths_N[kept_N]
        return _EncodedSplit(rows, lengths_N, kept_N, dropped)

    def _text(self, token_id: int) -> str:
        if token_id not in self._texts:
            self._texts[token_id] = str(self._tokenizer.decode([token_id]))
        return self._texts[token_id]


class ExampleStream:
    """The order in which a search's trials read the training rows.

    The t-th example is the same for every trial: a fresh permutation per pass, drawn from
    the search's data seed. A trial at step s with b rows reads examples s·b … s·b + b - 1.
    Passes are drawn again when they are asked for again; a few are kept, as trials are at
    different places.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        kept = max(2, min(_MOST_PASSES, _PASSES_BYTES // (8 * max(1, size))))
        self._order = lru_cache(maxsize=kept)(partial(_permutation, size, seed))

    def rows(self, step: int, batch_rows: int) -> list[int]:
        """Row indices of one optimiser step."""
        found: list[int] = []
        while len(found) < batch_rows:
            number, place = divmod(step * batch_rows + len(found), self._size)
            found += self._order(number)[place : place + batch_rows - len(found)].tolist()
        return found


def _permutation(size: int, seed: int, number: int) -> Ints:
    order: Ints = np.random.default_rng((seed, number)).permutation(size)
    return order


def mean_by_distance(
    scores: Sequence[tuple[int, dict[str, float]]], split: Split
) -> dict[str, float]:
    """Average row scores per distance, and unweighted over distances.

    Args:
        scores: (distance, metric name to value) per row.

    Returns:
        `val_ood/exact_match/12` and the like, and their mean `val_ood/exact_match`.
    """
    table: dict[str, dict[int, list[float]]] = {}
    for distance, metrics in scores:
        for name, value in metrics.items():
            table.setdefault(name, {}).setdefault(distance, []).append(value)
    result: dict[str, float] = {}
    for name, by_distance in table.items():
        means = {d: float(np.mean(values)) for d, values in sorted(by_distance.items())}
        result[f"{split}/{name}"] = float(np.mean(list(means.values())))
        result |= {f"{split}/{name}/{d}": mean for d, mean in means.items()}
    return result
