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
from trainable.tasks.pieces import pieces_right
from trainable.tasks.ranges import Ranges

PAIRS = 100 * 100


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
        self._ranges  # noqa: B018 - building it refuses what is wrong

    @property
    def _ranges(self) -> Ranges:
        return Ranges(**vars(self), queries=PAIRS)

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
        return self._ranges.examples(split, _example)

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """`equation_accuracy`: the share of right equations."""
        return {"equation_accuracy": float(pieces_right(texts, right_N, ",").mean())}


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
