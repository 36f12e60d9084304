"""Which rows `generate()` has finished: what it feeds of them from then on is padding.

Only its own stopping criteria know. A token says nothing: an end mark may stand in the middle of
a conversation, a model may write the padding token, and a row may be stopped by a string.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import StoppingCriteriaList


class Endings(StoppingCriteriaList):
    """Stopping criteria that remember what they said of each row.

    Args:
        criteria: what `generate()` stops rows by.
    """

    def __init__(self, criteria: StoppingCriteriaList) -> None:
        super().__init__(criteria)
        # Without an EOS id generate() pads nothing: all rows are written on until all are over.
        self._pads = any(hasattr(each, "eos_token_id") for each in criteria)
        self._over_B: torch.Tensor | None = None
        self._padded_B: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        """As the list itself; called once for each new token."""
        over_B: torch.Tensor = super().__call__(input_ids, scores, **options)
        if self._pads:
            self._padded_B = self._over_B
            self._over_B = over_B if self._over_B is None else self._over_B | over_B
        return over_B

    def padded(self) -> list[bool]:
        """Per row, whether its newest token is padding; empty as long as none is."""
        return [] if self._padded_B is None else self._padded_B.tolist()
