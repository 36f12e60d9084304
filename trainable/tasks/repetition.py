"""Repetition: write an equation n times (arXiv 2505.12629, its third synthetic task).

    prompt      12@34=46 x3:
    completion  12@34=46,12@34=46,12@34=46

The distance is n; more than in training is out of distribution. The paper's exact form is
not public. The task asks for instruction adherence: n must be remembered while the copies
are written, and the answer ends by itself.
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
class RepetitionTask(SizedTask):
    """The Repetition task; a size is the number of copies."""

    queries: ClassVar[int] = 100 * 100 * 100  # equations

    train_lengths: tuple[int, int] = (1, 5)
    val_ood_lengths: tuple[int, ...] = (6, 8)
    test_ood_lengths: tuple[int, ...] = (6, 8, 10)

    def make(self, query: int, size: int) -> Example:
        """The query's equation, to be written `size` times."""
        rest, result = divmod(query, 100)
        left, right = divmod(rest, 100)
        equation = f"{left:02d}@{right:02d}={result:02d}"
        return Example(f"{equation} x{size}:", ",".join([equation] * size), distance=size)

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """`copy_accuracy`: the share of right copies, the last one with the end behind it."""
        return {"copy_accuracy": float(pieces_right(texts, right_N, ",").mean())}
