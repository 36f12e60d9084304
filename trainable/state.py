"""A trial's state as plain arrays: what a checkpoint holds and what travels between engines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from trainable.errors import ArtifactError

Floats = npt.NDArray[np.float32]
_NAMES = ("latents", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrialState:
    """A trial between two optimiser steps.

    Args:
        step: optimiser steps done.
        latents: [L, D], float32.
        exp_avg: Adam's first moment, [L, D].
        exp_avg_sq: Adam's second moment, [L, D].
    """

    step: int
    latents: Floats
    exp_avg: Floats
    exp_avg_sq: Floats

    def to_bytes(self) -> bytes:
        """Serialise as safetensors; kilobytes."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _NAMES}
        return bytes(save(tensors | {"step": np.array([self.step], dtype=np.int64)}))

    @classmethod
    def from_bytes(cls, data: bytes) -> TrialState:
        """Read what `to_bytes` wrote. Raises ArtifactError if it is damaged."""
        try:
            tensors = load(data)
            return cls(int(tensors["step"][0]), *(tensors[name] for name in _NAMES))
        except (SafetensorError, KeyError, IndexError, ValueError) as error:
            raise ArtifactError(f"a trial's saved state is damaged: {error}") from error
