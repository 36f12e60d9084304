"""AdamW over the latents of many trials at once, each with its own settings.

    latents_KD      rows of trial A | rows of trial B | …     the same for both moments
    per trial       lr · schedule, weight decay, clipping, step count: columns of numbers

A step of all trials is one handful of kernels on [K, D] rows, where a loop over optimisers
would launch a handful per trial. It computes what `torch.optim.AdamW` computes for each trial
by itself, `torch.nn.utils.clip_grad_norm_` before it, to rounding.

Source: AdamW, arXiv 1711.05101, algorithm 2.
Shape suffixes: K latents of the trials at hand, D width, T trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainable.latent_table import LatentTable

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch.optim.AdamW's own
_CLIP_EPSILON = 1e-6  # clip_grad_norm_'s own


@dataclass(frozen=True)
class StepSettings:
    """One trial's numbers for one optimiser step.

    Args:
        lr: of this step, schedule included.
        weight_decay: decoupled, per step times lr.
        clip_norm: the gradient's norm is cut to this; None switches it off.
        step: which step it is for this trial, counted from 1.
    """

    lr: float
    weight_decay: float
    clip_norm: float | None
    step: int

    def columns(self) -> tuple[float, float, float, float]:
        """What the kernels need: shrinking, step size, second correction, clipping norm."""
        return (
            1.0 - self.lr * self.weight_decay,
            self.lr / (1.0 - BETA1**self.step),
            math.sqrt(1.0 - BETA2**self.step),
            math.inf if self.clip_norm is None else self.clip_norm,
        )


class LatentAdamW:
    """Latents and moments of all resident trials, in three tensors.

    Rows are copied when a trial joins or leaves, so that the tensors hold what is resident and
    nothing else.

    Args:
        width: D.
        device: where they live.
        dtype: the model's; gradients of a float64 model are gathered in float64.
    """

    def __init__(
        self, width: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._gathering = torch.promote_types(dtype, torch.float32)
        self._rows_3KD = torch.zeros(3, 0, width, device=device)  # latents and both moments
        self._counts: dict[str, int] = {}

    def add(self, uid: str, rows_3LD: torch.Tensor) -> None:
        """Take a trial's latents and moments in."""
        rows_3LD = rows_3LD.to(self._rows_3KD)
        self._rows_3KD = torch.cat([self._rows_3KD, rows_3LD], dim=1)
        self._counts[uid] = rows_3LD.shape[1]

    def remove(self, uid: str) -> None:
        """Let a trial's rows go."""
        begin, end = self._range(uid)
        self._rows_3KD = torch.cat([self._rows_3KD[:, :begin], self._rows_3KD[:, end:]], dim=1)
        del self._counts[uid]

    def rows(self, uid: str) -> torch.Tensor:
        """A trial's latents and moments, [3, L, D]: a view, until a trial joins or leaves."""
        begin, end = self._range(uid)
        return self._rows_3KD[:, begin:end]

    @property
    def bytes(self) -> int:
        """What all trials' latents and moments take."""
        return self._rows_3KD.nbytes

    def table(self, uids: Sequence[str]) -> LatentTable:
        """The latents of these trials as one leaf that gathers their gradients."""
        latents_KD = self._rows_3KD[0].index_select(0, self._places(uids)).to(self._gathering)
        return LatentTable(latents_KD.requires_grad_(True), [self._counts[uid] for uid in uids])

    @torch.no_grad()
    def step(
        self, uids: Sequence[str], table: LatentTable, settings: Sequence[StepSettings],
        losses_T: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """One optimiser step of each of these trials on the gradients that the table gathered.

        A trial whose loss or gradient is not finite keeps its latents and moments.

        Args:
            uids: no trial twice.
            table: of the same trials.
            settings: theirs.
            losses_T: theirs, on the device.

        Returns:
            [T], whether each was finite; still on the device.
        """
        places_K, device = self._places(uids), self._rows_3KD.device
        columns_4T = torch.tensor([each.columns() for each in settings]).T.contiguous()
        owner_K = torch.from_numpy(np.repeat(np.arange(len(uids)), table.counts)).to(device)
        columns_4T = columns_4T.to(device)
        before_3KD, grad_KD = self._rows_3KD[:, places_K], table.gradients().float()
        finite_T = torch.isfinite(losses_T) & _all_of(torch.isfinite(grad_KD), owner_K, len(uids))
        grad_KD = _clipped(grad_KD, owner_K, columns_4T[3])
        after_3KD = _adamw(before_3KD, grad_KD, columns_4T[:3, owner_K, None])
        self._rows_3KD[:, places_K] = torch.where(
            finite_T[owner_K][None, :, None], after_3KD, before_3KD
        )
        return finite_T

    def _range(self, uid: str) -> tuple[int, int]:
        begin = 0
        for other, count in self._counts.items():
            if other == uid:
                return begin, begin + count
            begin += count
        raise KeyError(uid)

    def _places(self, uids: Sequence[str]) -> torch.Tensor:
        """The rows of these trials, [K]."""
        ends = dict(zip(self._counts, np.cumsum(list(self._counts.values())), strict=True))
        ranges = [np.arange(ends[uid] - self._counts[uid], ends[uid]) for uid in uids]
        places = np.concatenate([np.zeros(0, dtype=np.int64), *ranges]).astype(np.int64)
        return torch.from_numpy(places).to(self._rows_3KD.device)


def _all_of(flags_KD: torch.Tensor, owner_K: torch.Tensor, count: int) -> torch.Tensor:
    """[T], whether every value of an owner is true."""
    wrong_K = (~flags_KD).any(dim=1).to(torch.float32)
    wrong_T = torch.zeros(count, device=flags_KD.device).index_add_(0, owner_K, wrong_K)
    return wrong_T == 0


def _clipped(grad_KD: torch.Tensor, owner_K: torch.Tensor, clip_T: torch.Tensor) -> torch.Tensor:
    """Gradients cut to each trial's own norm."""
    square_K = torch.linalg.vector_norm(grad_KD, dim=1).square()
    norm_T = torch.zeros_like(clip_T).index_add_(0, owner_K, square_K).sqrt()
    factor_T = (clip_T / (norm_T + _CLIP_EPSILON)).clamp(max=1.0)
    factor_T = torch.where(torch.isinf(clip_T), 1.0, factor_T)  # no clipping: not inf / inf
    return grad_KD * factor_T[owner_K, None]


def _adamw(rows_3KD: torch.Tensor, grad_KD: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Latents and moments after the step; `columns` are [3, K, 1]."""
    shrink_K1, size_K1, correction_K1 = columns
    latents_KD, mean_KD, square_KD = rows_3KD
    mean_KD = torch.lerp(mean_KD, grad_KD, 1.0 - BETA1)
    square_KD = (square_KD * BETA2).addcmul_(grad_KD, grad_KD, value=1.0 - BETA2)
    denominator_KD = square_KD.sqrt().div_(correction_K1).add_(EPSILON)
    latents_KD = latents_KD * shrink_K1 - size_K1 * (mean_KD / denominator_KD)
    return torch.stack([latents_KD, mean_KD, square_KD])
