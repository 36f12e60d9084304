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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from trainable.data import Example
from trainable.tasks.pieces import pieces_right
from trainable.tasks.sized import SizedTask


@dataclass(frozen=True, kw_only=True)
class GenerationTask(SizedTask):
    """The Generation task; a size is the number of equations of a chain."""

    queries: ClassVar[int] = 100 * 100  # first equations

    train_lengths: tuple[int, int] = (3, 6)
    val_ood_lengths: tuple[int, ...] = (8, 12)
    test_ood_lengths: tuple[int, ...] = (8, 12, 18)

    def make(self, query: int, size: int) -> Example:
        """The chain of `size` equations that begins with the query's."""
        left, right = (f"{number:02d}" for number in divmod(query, 100))
        prompt = f"{left}@{right}="
        parts = []
        for _ in range(size):
            result = result_of(left, right)
            parts.append(f"{left}@{right}={result}")
            left, right = right, result
        chain = ",".join(parts)
        return Example(prompt, chain[len(prompt) :], closed=False, distance=size)

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """`equation_accuracy`: the share of right equations."""
        return {"equation_accuracy": float(pieces_right(texts, right_N, ",").mean())}


def result_of(left: str, right: str) -> str:
    """The task's rule on two two-digit numbers: `("44", "47") -> "83"`."""
    first = abs(int(left[0]) + int(right[0])) % 9
    second = abs(int(left[1]) - int(right[1])) % 9
    return f"{first}{second}"
