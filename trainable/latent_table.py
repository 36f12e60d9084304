"""The latents of several trials as one tensor, and each trial's own part of it.

    owner 0   u0 u1          rows 0 1
    owner 1   u0             row  2        latents_KD [K, D], one leaf for all
    owner 2   u0 u1 u2       rows 3 4 5

One gather puts the latents of all trials into a batch, and one scatter brings all gradients
back, however many trials there are.

Shape suffixes: K latents of all trials, L of one, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch


class LatentTable(Sequence[torch.Tensor]):
    """Latents of several owners, in order.

    Args:
        latents_KD: of all owners, row after row.
        counts: how many rows each owner has; they sum to K.
    """

    def __init__(self, latents_KD: torch.Tensor, counts: Sequence[int]) -> None:
        self.latents_KD = latents_KD
        self.counts = list(counts)
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @classmethod
    def of(cls, latents: Sequence[torch.Tensor], device: torch.device) -> LatentTable:
        """One table of per-owner [L, D] tensors; a table stays what it is."""
        if isinstance(latents, LatentTable):
            return latents
        latents_KD = torch.cat([values.to(device) for values in latents])
        return cls(latents_KD, [len(values) for values in latents])

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, owner: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, owner: slice) -> list[torch.Tensor]: ...

    def __getitem__(self, owner: int | slice) -> torch.Tensor | list[torch.Tensor]:
        """An owner's [L, D], a view."""
        if isinstance(owner, slice):
            return [self[place] for place in range(*owner.indices(len(self)))]
        if not -len(self) <= owner < len(self):
            raise IndexError(owner)
        owner %= len(self)
        return self.latents_KD[self.offsets[owner] : self.offsets[owner + 1]]

    def gradients(self) -> torch.Tensor:
        """The leaf's gradient, [K, D]; zeros where no batch had a site."""
        grad_KD = self.latents_KD.grad
        return torch.zeros_like(self.latents_KD) if grad_KD is None else grad_KD
