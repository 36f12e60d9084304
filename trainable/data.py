"""Examples, their encoding, and the one stream of examples that all trials of a search read.

Ids = tokenizer(prompt, with its specials) + tokenizer(completion, without) + EOS, where the
EOS is left out for an open completion: one that is a window of something endless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from trainable.errors import TaskError

if TYPE_CHECKING:  # a driver that only checks a task's rows needs no transformers
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "val_id", "val_ood", "test_id", "test_ood"]
SEARCH_SPLITS: tuple[Split, ...] = ("val_id", "val_ood")  # what a search scores trials on
TEST_SPLITS: tuple[Split, ...] = ("test_id", "test_ood")  # what it never sees


@dataclass(frozen=True)
class Example:
    """One row of a task.

    Args:
        prompt: what the model is given.
        completion: what it shall produce.
        closed: whether the completion ends by itself, with EOS.
        distance: how far out the row lies in the task's own unit, e.g. equations.
    """

    prompt: str
    completion: str
    closed: bool = True
    distance: int = 0


class Task(Protocol):
    """What the engine needs to know of a task."""

    def examples(self, split: Split) -> Sequence[Example]:
        """All rows of a split, always the same ones."""
        ...

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """Score one response.

        Args:
            texts: the decoded text of each response token of the reference.
            right_N: whether the model's token is the reference's, at each of those places.

        Returns:
            Metric name to value, `exact_match` among them.
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

    ids: npt.NDArray[np.int64]
    query_length: int
    distance: int


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


class EncodedTask:
    """A task's splits, encoded once for one tokenizer when they are first read."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        self.task = task
        self._tokenizer = tokenizer
        self._splits: dict[Split, list[EncodedRow]] = {}
        self._texts: dict[int, str] = {}

    def rows(self, split: Split) -> list[EncodedRow]:
        """The split's rows. Raises TaskError if it has none."""
        if split not in self._splits:
            rows = [encode(example, self._tokenizer) for example in self.task.examples(split)]
            if not rows:
                raise TaskError(f"the task has no rows in split {split}")
            self._splits[split] = rows
        return self._splits[split]

    def score(self, row: EncodedRow, right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """Score the response tokens of one row."""
        return self.task.score([self._text(i) for i in row.ids[row.query_length :]], right_N)

    def _text(self, token_id: int) -> str:
        if token_id not in self._texts:
            self._texts[token_id] = str(self._tokenizer.decode([token_id]))
        return self._texts[token_id]


class ExampleStream:
    """The order in which a search's trials read the training rows.

    The t-th example is the same for every trial: a fresh permutation per pass, drawn from
    the search's data seed. A trial at step s with b rows reads examples s·b … s·b + b - 1.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._passes: dict[int, npt.NDArray[np.int64]] = {}

    def rows(self, step: int, batch_rows: int) -> list[int]:
        """Row indices of one optimiser step."""
        begin = step * batch_rows
        return [self._at(t) for t in range(begin, begin + batch_rows)]

    def _at(self, t: int) -> int:
        number, place = divmod(t, self._size)
        if number not in self._passes:
            order = np.random.default_rng((self._seed, number)).permutation(self._size)
            self._passes[number] = order
        return int(self._passes[number][place])


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
