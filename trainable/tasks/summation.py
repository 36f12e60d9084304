"""Summation: add two of many variables (arXiv 2505.12629, its second synthetic task).

    prompt      a=3
                Q=7
                ...
                Q+a=
    completion  7+3=10

Variables are single letters and values single digits, so that a tiny base can know how to look
up and to add; the completion does first the one and then the other, so that a wrong sum can be
told from a wrong look-up. The paper's exact form is not public. The distance is the number of
variables; more than in training is out of distribution. The task asks for retrieval: latents in
the list can serve as anchors.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainable.answer_metrics import AnswerMetric
from trainable.data import ALL_SPLITS, Example, Split
from trainable.errors import TaskError
from trainable.tasks.pieces import pieces_right
from trainable.tasks.ranges import Ranges

LISTS = 20_000
NAMES = np.array([*string.ascii_letters])


@dataclass(frozen=True, kw_only=True)
class SummationTask:
    """The Summation task.

    Args:
        train_lengths: fewest and most variables in training and in distribution.
        val_ood_lengths: more variables, on which a search is judged.
        test_ood_lengths: more variables, kept for confirmation.
        train_rows: training rows in all.
        val_rows: rows per number of variables in each val split.
        test_rows: rows per number of variables in each test split.
        seed: decides which lists fall to which split.

    Raises:
        TaskError: for lengths or row counts that contradict each other.
    """

    train_lengths: tuple[int, int] = (5, 15)
    val_ood_lengths: tuple[int, ...] = (18, 22)
    test_ood_lengths: tuple[int, ...] = (18, 22, 28)
    train_rows: int = 2048
    val_rows: int = 64
    test_rows: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        self._ranges  # noqa: B018 - building it refuses what is wrong
        most = max(*self.val_ood_lengths, *self.test_ood_lengths)
        if self.train_lengths[0] < 2 or most > len(NAMES):
            raise TaskError(
                f"task.train_lengths={self.train_lengths} and task.test_ood_lengths="
                f"{list(self.test_ood_lengths)}: a list has from 2 to {len(NAMES)} variables"
            )

    @property
    def _ranges(self) -> Ranges:
        return Ranges(**vars(self), queries=LISTS)

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
        """`value_accuracy`: the share of the two look-ups that are right."""
        return {"value_accuracy": float(pieces_right(texts, right_N, "+=")[:2].mean())}


def _example(number: int, variables: int) -> Example:
    rng = np.random.default_rng((number, variables))
    names = [str(name) for name in rng.choice(NAMES, size=variables, replace=False)]
    values = [int(value) for value in rng.integers(10, size=variables)]
    first, second = (int(place) for place in rng.choice(variables, size=2, replace=False))
    lines = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
    prompt = "\n".join([*lines, f"{names[first]}+{names[second]}="])
    x, y = values[first], values[second]
    return Example(prompt, f"{x}+{y}={x + y:02d}", distance=variables)
