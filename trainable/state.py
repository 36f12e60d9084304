"""A trial's state as plain arrays: what a checkpoint holds and what travels between engines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from trainable.errors import StateError

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

    Raises:
        StateError: for arrays of another kind, or of unequal shapes.
    """

    step: int
    latents: Floats
    exp_avg: Floats
    exp_avg_sq: Floats

    def __post_init__(self) -> None:
        arrays = {name: getattr(self, name) for name in _NAMES}
        wrong = [name for name, array in arrays.items() if array.dtype != np.float32]
        shapes = {array.shape for array in arrays.values()}
        if wrong or self.step < 0:
            raise StateError(
                f"a trial's saved state has step {self.step} and "
                f"{', '.join(f'{name} of {arrays[name].dtype}' for name in wrong) or 'float32'}; "
                "expected a step of at least 0 and float32: it is not used"
            )
        if len(shapes) != 1 or self.latents.ndim != 2:
            listed = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            raise StateError(
                f"a trial's saved state has {listed}, expected one shape [L, D]: it is not used"
            )

    def to_bytes(self) -> bytes:
        """Serialise as safetensors; kilobytes."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _NAMES}
        return bytes(save(tensors | {"step": np.array([self.step], dtype=np.int64)}))

    @classmethod
    def from_bytes(cls, data: bytes) -> TrialState:
        """Read what `to_bytes` wrote. Raises StateError if it is damaged."""
        try:
            tensors = load(data)
            return cls(int(tensors["step"][0]), *(tensors[name] for name in _NAMES))
        except StateError:
            raise
        except (SafetensorError, KeyError, IndexError, ValueError, TypeError) as error:
            raise StateError(f"a trial's saved state is damaged: {error}") from error
