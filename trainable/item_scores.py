"""Which items members of a confirmation answer exactly, and what strategies insert: plain arrays.

Shape suffixes: M members, N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


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
    """

    distance_N: Ints
    place_N: Ints
    right_MN: npt.NDArray[np.bool_]
