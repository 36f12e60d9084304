"""Tasks that make their rows, from sizes in distribution and larger ones beyond.

Each has one size that says how far out a row lies: equations, variables, repetitions.
Training and the `id` splits have sizes from a range, the `ood` splits larger ones. What a row
is made of is numbered, and each number belongs to one pool, so that no row of one of train,
val and test has the query of another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from trainable.answer_metrics import AnswerMetric
from trainable.data import ALL_SPLITS, Example, Split
from trainable.errors import TaskError

# Shares of all queries: a val split shares its queries between its sizes only.
_POOLS: dict[str, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "val": (0.6, 0.75),
    "test": (0.75, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class SizedTask(ABC):
    """What such tasks share; a task of its own says how a row is made and scored.

    Args:
        train_lengths: smallest and largest size in training and in distribution.
        val_ood_lengths: larger sizes, on which a search is judged.
        test_ood_lengths: larger sizes, kept for confirmation.
        train_rows: training rows in all.
        val_rows: rows per size in each val split.
        test_rows: rows per size in each test split.
        seed: decides which queries fall to which split.

    Raises:
        TaskError: for sizes or row counts that contradict each other.
    """

    queries: ClassVar[int]  # how many different ones there are
    sizes: ClassVar[tuple[int, int]] = (1, 2**31)  # that a row can have

    train_lengths: tuple[int, int]
    val_ood_lengths: tuple[int, ...]
    test_ood_lengths: tuple[int, ...]
    train_rows: int = 2048
    val_rows: int = 64
    test_rows: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        (least, most), (low, high) = self.sizes, self.train_lengths
        if not least <= low <= high:
            raise TaskError(
                f"task.train_lengths={self.train_lengths} must be low, high from {least} up"
            )
        for name in ("val_ood_lengths", "test_ood_lengths"):
            lengths = getattr(self, name)
            if not lengths or min(lengths) <= high:
                raise TaskError(
                    f"task.{name}={list(lengths)} must all be longer than train_lengths' {high}"
                )
            if max(lengths) > most:
                raise TaskError(f"task.{name}={list(lengths)} must be at most {most}")
        for name, pool in (("train_rows", "train"), ("val_rows", "val"), ("test_rows", "test")):
            rows, all_rows = getattr(self, name), len(self._pool(pool))
            if not 1 <= rows <= all_rows:
                raise TaskError(f"task.{name}={rows} must be from 1 to {all_rows}")

    @abstractmethod
    def make(self, query: int, size: int) -> Example:
        """The row of a query's number and a size."""

    @abstractmethod
    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """The task's own metrics of one response; see `Task`."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """All of them."""
        return ALL_SPLITS

    @property
    def answer_metrics(self) -> Mapping[str, AnswerMetric]:
        """None: a response is scored token by token."""
        return {}

    def examples(self, split: Split) -> Sequence[Example]:
        """All rows of a split, always the same ones."""
        pool = split.split("_")[0]
        order = np.random.default_rng(self.seed).permutation(self.queries)
        queries = [int(order[place]) for place in self._pool(pool)]
        low, high = self.train_lengths
        in_distribution = tuple(range(low, high + 1))
        if split == "train":
            return [
                self.make(query, in_distribution[place % len(in_distribution)])
                for place, query in enumerate(queries[: self.train_rows])
            ]
        lengths = {
            "val_id": in_distribution,
            "test_id": in_distribution,
            "val_ood": self.val_ood_lengths,
            "test_ood": self.test_ood_lengths,
        }[split]
        rows = self.val_rows if pool == "val" else self.test_rows
        return [self.make(query, length) for length in lengths for query in queries[:rows]]

    def _pool(self, pool: str) -> range:
        low, high = _POOLS[pool]
        return range(round(low * self.queries), round(high * self.queries))
