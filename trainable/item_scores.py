"""How members of a confirmation score on each item, and what strategies insert: plain arrays.

Shape suffixes: M members, N items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Insertion:
    """What a strategy inserts into the rows of a split, on average.

    Args:
        latents: per row.
        sites: per row; where triggers meet before one token, each has its own.
        tokens: verbal tokens per row.
    """

    latents: float
    sites: float
    tokens: float


@dataclass(frozen=True)
class ItemScores:
    """Which items each member answers exactly.

    Args:
        distance_N: of each item, in the order of the split's rows.
        place_N: its place among the split's rows.
        right_MN: whether every response token is right, given the reference before it.
        values_MN: each item's score by other metrics, by their bare names.
    """

    distance_N: Ints
    place_N: Ints
    right_MN: npt.NDArray[np.bool_]
    values_MN: Mapping[str, Floats] = field(default_factory=dict)
