"""Which pieces of a response are right: equations, values, copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pieces_right(
    texts: Sequence[str], right_N: npt.NDArray[np.bool_], marks: str
) -> npt.NDArray[np.bool_]:
    """Whether each piece is right as a whole.

    Args:
        texts: the text of each response token, [N].
        right_N: whether the model's token is the reference's.
        marks: a token that holds one of these characters closes its piece.

    Returns:
        One boolean per piece, in order.
    """
    closes_N = np.array([any(mark in text for mark in marks) for text in texts])
    piece_N = np.cumsum(closes_N) - closes_N
    right: npt.NDArray[np.bool_] = np.bincount(piece_N, weights=~np.asarray(right_N, bool)) == 0
    return right
