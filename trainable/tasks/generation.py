"""Generation: go on with a chain of equations (arXiv 2505.12629, its first synthetic task).

    prompt      44@47=
    completion  83,47@83=34,83@34=21,...

Each result has two digits, |a1 + b1| mod 9 and |a2 - b2| mod 9, and each equation takes its
operands from the one before. The chain has no end of its own, so completions are open.
In distribution are the lengths seen in training; longer chains are out of distribution, and
the distance is the number of equations. The task asks for self-prompting: staying
consistent over a long output.

No chain of one split starts like a chain of another between train, val and test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainable.answer_metrics import AnswerMetric
from trainable.data import ALL_SPLITS, Example, Split
from trainable.errors import TaskError

PAIRS = 100 * 100
# Shares of all first equations: a val split shares its queries between its lengths only.
_POOLS: dict[str, tuple[float, float]] = {
    "train": (0.0, 0.6),
    "val": (0.6, 0.75),
    "test": (0.75, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class GenerationTask:
    """The Generation task.

    Args:
        train_lengths: shortest and longest chain in training and in distribution, equations.
        val_ood_lengths: longer chains, on which a search is judged.
        test_ood_lengths: longer chains, kept for confirmation.
        train_rows: training rows in all.
        val_rows: rows per length in each val split.
        test_rows: rows per length in each test split.
        seed: decides which first equations fall to which split.

    Raises:
        TaskError: for lengths or row counts that contradict each other.
    """

    train_lengths: tuple[int, int] = (3, 6)
    val_ood_lengths: tuple[int, ...] = (8, 12)
    test_ood_lengths: tuple[int, ...] = (8, 12, 18)
    train_rows: int = 2048
    val_rows: int = 64
    test_rows: int = 500
    seed: int = 0

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
            rows, most = getattr(self, name), self._pool_size(pool)
            if not 1 <= rows <= most:
                raise TaskError(f"task.{name}={rows} must be from 1 to {most}")

    @property
    def splits(self) -> tuple[Split, ...]:
        """All of them."""
        return ALL_SPLITS

    @property
    def answer_metrics(self) -> Mapping[str, AnswerMetric]:
        """None: a chain is scored token by token."""
        return {}

    def examples(self, split: Split) -> Sequence[Example]:
        """All rows of a split, always the same ones."""
        pool = split.split("_")[0]
        pairs = self._pairs(pool)
        low, high = self.train_lengths
        in_distribution = tuple(range(low, high + 1))
        if split == "train":
            return [
                _example(pair, in_distribution[place % len(in_distribution)])
                for place, pair in enumerate(pairs[: self.train_rows])
            ]
        lengths = {
            "val_id": in_distribution,
            "test_id": in_distribution,
            "val_ood": self.val_ood_lengths,
            "test_ood": self.test_ood_lengths,
        }[split]
        rows = self.val_rows if pool == "val" else self.test_rows
        return [_example(pair, length) for length in lengths for pair in pairs[:rows]]

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """`equation_accuracy`: the share of right equations."""
        right = np.asarray(right_N, dtype=bool)
        # A token that holds a comma closes its equation.
        commas = np.array(["," in text for text in texts])
        equation_N = np.cumsum(commas) - commas
        wrong = np.bincount(equation_N, weights=~right)
        return {"equation_accuracy": float((wrong == 0).mean())}

    @staticmethod
    def _pool_size(pool: str) -> int:
        low, high = _POOLS[pool]
        return round(high * PAIRS) - round(low * PAIRS)

    def _pairs(self, pool: str) -> list[int]:
        low, high = _POOLS[pool]
        order = np.random.default_rng(self.seed).permutation(PAIRS)
        return [int(pair) for pair in order[round(low * PAIRS) : round(high * PAIRS)]]


def result_of(left: str, right: str) -> str:
    """The task's rule on two two-digit numbers: `("44", "47") -> "83"`."""
    first = abs(int(left[0]) + int(right[0])) % 9
    second = abs(int(left[1]) - int(right[1])) % 9
    return f"{first}{second}"


def _example(pair: int, equations: int) -> Example:
    left, right = (f"{number:02d}" for number in divmod(pair, 100))
    prompt = f"{left}@{right}="
    parts = []
    for _ in range(equations):
        result = result_of(left, right)
        parts.append(f"{left}@{right}={result}")
        left, right = right, result
    chain = ",".join(parts)
    return Example(prompt, chain[len(prompt) :], closed=False, distance=equations)
