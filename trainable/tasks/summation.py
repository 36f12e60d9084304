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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from trainable.data import Example
from trainable.tasks.pieces import pieces_right
from trainable.tasks.sized import SizedTask

NAMES = string.ascii_letters


@dataclass(frozen=True, kw_only=True)
class SummationTask(SizedTask):
    """The Summation task; a size is the number of variables."""

    queries: ClassVar[int] = 20_000  # lists
    sizes: ClassVar[tuple[int, int]] = (2, len(NAMES))

    train_lengths: tuple[int, int] = (5, 15)
    val_ood_lengths: tuple[int, ...] = (18, 22)
    test_ood_lengths: tuple[int, ...] = (18, 22, 28)

    def make(self, query: int, size: int) -> Example:
        """The query's list of `size` variables, two of which are asked for."""
        rng = np.random.default_rng((query, size))
        names = [str(name) for name in rng.choice(list(NAMES), size=size, replace=False)]
        values = [int(value) for value in rng.integers(10, size=size)]
        first, second = (int(place) for place in rng.choice(size, size=2, replace=False))
        lines = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
        prompt = "\n".join([*lines, f"{names[first]}+{names[second]}="])
        x, y = values[first], values[second]
        return Example(prompt, f"{x}+{y}={x + y:02d}", distance=size)

    def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
        """`value_accuracy`: the share of the two look-ups that are right."""
        return {"value_accuracy": float(pieces_right(texts, right_N, "+=")[:2].mean())}
