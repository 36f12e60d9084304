"""Repetition: write an equation n times (arXiv 2505.12629, its third synthetic task).

    prompt      12@34=46 x3:
    completion  12@34=46,12@34=46,12@34=46

The distance is n; more than in training is out of distribution. The paper's exact form is
not public. The task asks for instruction adherence: n must be remembered while the copies
are written, and the answer ends by itself.
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

EQUATIONS = 100 * 100 * 100


@dataclass(frozen=True, kw_only=True)
class RepetitionTask:
    """The Repetition task.

    Args:
        train_lengths: fewest and most repetitions in training and in distribution.
        val_ood_lengths: more repetitions, on which a search is judged.
        test_ood_lengths: more repetitions, kept for confirmation.
        train_rows: training rows in all.
        val_rows: rows per number of repetitions in each val split.
        test_rows: rows per number of repetitions in each test split.
        seed: decides which equations fall to which split.

    Raises:
        TaskError: for lengths or row counts that contradict each other.
    """

    train_lengths: tuple[int, int] = (1, 5)
    val_ood_lengths: tuple[int, ...] = (6, 8)
    test_ood_lengths: tuple[int, ...] = (6, 8, 10)
    train_rows: int = 2048
    val_rows: int = 64
    test_rows: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        self._ranges  # noqa: B018 - building it refuses what is wrong

    @property
    def _ranges(self) -> Ranges:
        return Ranges(**vars(self), queries=EQUATIONS)

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
        return self._ranges.examples(split, _example)

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """`copy_accuracy`: the share of right copies, the last one with the end behind it."""
        return {"copy_accuracy": float(pieces_right(texts, right_N, ",").mean())}


def _example(number: int, times: int) -> Example:
    number, result = divmod(number, 100)
    left, right = divmod(number, 100)
    equation = f"{left:02d}@{right:02d}={result:02d}"
    return Example(f"{equation} x{times}:", ",".join([equation] * times), distance=times)
