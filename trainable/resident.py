"""One trial inside an engine: its latents, its optimiser, its place in the stream."""

from __future__ import annotations

import math

import numpy as np
import torch

from trainable.data import EncodedTask, ExampleStream
from trainable.errors import ArtifactError, LatentuneError, NumericError
from trainable.layout_rules import Bools, LayoutRules
from trainable.state import TrialState
from trainable.trial import OptimConfig, TrialConfig


class ResidentTrial:
    """A trial that an engine holds; kilobytes.

    Args:
        latents: starting values [L, D]; copied.
        rules: the strategy, resolved against the base model's vocabulary.
        data: the encoded task.
        stream: the search's order of examples.
        budget_steps: the horizon of the learning-rate schedule.
        dropped_N: which training rows are too long for this trial and left out; None is none.
    """

    def __init__(
        self,
        uid: str,
        config: TrialConfig,
        latents: torch.Tensor,
        rules: LayoutRules,
        data: EncodedTask,
        stream: ExampleStream,
        budget_steps: int,
        dropped_N: Bools | None = None,
    ) -> None:
        self.uid = uid
        self.config = config
        self.rules = rules
        self.data = data
        self.stream = stream
        self.budget_steps = budget_steps
        self.dropped_N = dropped_N
        self.step = 0
        self.failure: LatentuneError | None = None
        self.latents = latents.detach().clone().float().requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            [self.latents], lr=config.optim.lr, weight_decay=config.optim.weight_decay
        )

    @property
    def trains(self) -> bool:
        """Whether there is anything to train: a strategy without triggers has no latents."""
        return self.latents.numel() > 0

    def next_rows(self) -> list[int]:
        """The training rows of the next optimiser step; fewer than its batch where some are long.

        All trials read the same examples at the same place, so that a row that is too long for
        one of them is left out there and changes nobody's order.
        """
        rows = self.stream.rows(self.step, self.config.optim.batch_rows)
        dropped_N = self.dropped_N
        return rows if dropped_N is None else [row for row in rows if not dropped_N[row]]

    def costs(self) -> dict[str, float]:
        """The share of training rows that were left out, where some were."""
        if self.dropped_N is None:
            return {}
        return {"cost/dropped_rows_pct": 100.0 * float(self.dropped_N.mean())}

    def update(self, loss: float) -> None:
        """Take one optimiser step on the gradient that has been gathered.

        A loss or gradient that is not finite marks the trial as failed and leaves its latents
        as they were; other trials do not notice.
        """
        optim = self.config.optim
        gradient = self.latents.grad
        if gradient is None:  # no site in the whole batch
            gradient = self.latents.grad = torch.zeros_like(self.latents)
        if not math.isfinite(loss) or not bool(torch.isfinite(gradient).all()):
            self.failure = NumericError(
                f"trial {self.uid} stopped being finite at step {self.step + 1} (loss {loss}): "
                f"lower optim.lr={optim.lr} or optim.clip_norm={optim.clip_norm}"
            )
            return
        if optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([self.latents], optim.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = optim.lr * schedule_factor(optim, self.step, self.budget_steps)
        self.optimizer.step()
        self.step += 1

    def export(self) -> TrialState:
        """The state as plain arrays."""
        moments = self.optimizer.state.get(self.latents, {})
        zeros = torch.zeros_like(self.latents)
        return TrialState(
            step=self.step,
            latents=_array(self.latents),
            exp_avg=_array(moments.get("exp_avg", zeros)),
            exp_avg_sq=_array(moments.get("exp_avg_sq", zeros)),
        )

    def restore(self, state: TrialState) -> None:
        """Go on from an exported state, exactly.

        Raises:
            ArtifactError: if the state belongs to a strategy or a model of another shape.
        """
        if state.latents.shape != tuple(self.latents.shape):
            raise ArtifactError(
                f"trial {self.uid} has latents of shape {list(self.latents.shape)}, but its saved "
                f"state has {list(state.latents.shape)}: it belongs to another configuration"
            )
        with torch.no_grad():
            self.latents.copy_(torch.from_numpy(state.latents))
        self.step = state.step
        self.optimizer.state[self.latents] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": torch.from_numpy(state.exp_avg).to(self.latents.device, copy=True),
            "exp_avg_sq": torch.from_numpy(state.exp_avg_sq).to(self.latents.device, copy=True),
        }


def schedule_factor(optim: OptimConfig, step: int, budget_steps: int) -> float:
    """The share of the peak learning rate at optimiser step `step`, counted from 0."""
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return 1.0
    progress = (step - optim.warmup_steps) / max(1, budget_steps - optim.warmup_steps)
    remaining = max(0.0, 1.0 - progress)
    return remaining if optim.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * remaining))


def _array(values: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return values.detach().float().cpu().numpy().copy()
