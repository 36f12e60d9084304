"""What the built-in tasks share: in-distribution sizes, larger ones beyond, and disjoint pools.

Every built-in task has one size that says how far out a row lies: equations, variables,
repetitions. Training and the `id` splits have sizes from a range, the `ood` splits larger
ones. What a row is made of is numbered, and each number belongs to one pool, so that no
row of one of train, val and test has the query of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainable.data import Example, Split
from trainable.errors import TaskError

# Shares of all queries: a val split shares its queries between its sizes only.
_POOLS: dict[str, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "val": (0.6, 0.75),
    "test": (0.75, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Sizes and row counts of a task's splits.

    Args:
        train_lengths: smallest and largest size in training and in distribution.
        val_ood_lengths: larger sizes, on which a search is judged.
        test_ood_lengths: larger sizes, kept for confirmation.
        train_rows: training rows in all.
        val_rows: rows per size in each val split.
        test_rows: rows per size in each test split.
        seed: decides which queries fall to which split.
        queries: how many different ones there are.

    Raises:
        TaskError: for sizes or row counts that contradict each other.
    """

    train_lengths: tuple[int, int]
    val_ood_lengths: tuple[int, ...]
    test_ood_lengths: tuple[int, ...]
    train_rows: int
    val_rows: int
    test_rows: int
    seed: int
    queries: int

    def __post_init__(self) -> None:
        low, high = self.train_lengths
        if not 1 <= low <= high:
            raise TaskError(f"task.train_lengths={self.train_lengths} must be low, high from 1 up")
        for name in ("val_ood_lengths", "test_ood_lengths"):
            lengths = getattr(self, name)
            if not lengths or min(lengths) <= high:
                raise TaskError(
                    f"task.{name}={list(lengths)} must all be longer than train_lengths' {high}"
                )
        for name, pool in (("train_rows", "train"), ("val_rows", "val"), ("test_rows", "test")):
            rows, most = getattr(self, name), len(self._pool(pool))
            if not 1 <= rows <= most:
                raise TaskError(f"task.{name}={rows} must be from 1 to {most}")

    def examples(self, split: Split, make: Callable[[int, int], Example]) -> Sequence[Example]:
        """All rows of a split, always the same ones.

        Args:
            make: builds the row of a query's number and a size.
        """
        pool = split.split("_")[0]
        order = np.random.default_rng(self.seed).permutation(self.queries)
        queries = [int(order[place]) for place in self._pool(pool)]
        low, high = self.train_lengths
        in_distribution = tuple(range(low, high + 1))
        if split == "train":
            return [
                make(query, in_distribution[place % len(in_distribution)])
                for place, query in enumerate(queries[: self.train_rows])
            ]
        lengths = {
            "val_id": in_distribution,
            "test_id": in_distribution,
            "val_ood": self.val_ood_lengths,
            "test_ood": self.test_ood_lengths,
        }[split]
        rows = self.val_rows if pool == "val" else self.test_rows
        return [make(query, length) for length in lengths for query in queries[:rows]]

    def _pool(self, pool: str) -> range:
        low, high = _POOLS[pool]
        return range(round(low * self.queries), round(high * self.queries))
