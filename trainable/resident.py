"""One trial inside an engine: its place in the stream, its schedule, its rows of latents."""

from __future__ import annotations

import math

import torch

from trainable.data import EncodedTask, ExampleStream, Split
from trainable.decoding import LatentLM
from trainable.decoding_speed import ms_per_token
from trainable.errors import LatentuneError, NumericError, StateError
from trainable.latent_adamw import LatentAdamW, StepSettings
from trainable.layout_rules import Bools, LayoutRules
from trainable.metrics import DECODING_TIME
from trainable.state import TrialState
from trainable.trial import OptimConfig, TrialConfig


class ResidentTrial:
    """A trial that an engine holds; kilobytes.

    Args:
        adamw: the optimiser of all trials, which holds this one's latents and moments.
        rules: the strategy, resolved against the base model's vocabulary.
        data: the encoded task.
        stream: the search's order of examples.
        budget_steps: the horizon of the learning-rate schedule.
        step: optimiser steps done.
        dropped_N: which training rows are too long for this trial and left out; None is none.
        times_decoding: whether its evaluations time decoding too.
        name: in messages; the uid where there is none.
    """

    def __init__(
        self,
        uid: str,
        config: TrialConfig,
        adamw: LatentAdamW,
        rules: LayoutRules,
        data: EncodedTask,
        stream: ExampleStream,
        budget_steps: int,
        step: int = 0,
        dropped_N: Bools | None = None,
        times_decoding: bool = False,
        name: str = "",
    ) -> None:
        self.uid = uid
        self.name = name or uid
        self.config = config
        self.adamw = adamw
        self.rules = rules
        self.data = data
        self.stream = stream
        self.budget_steps = budget_steps
        self.dropped_N = dropped_N
        self.step = step
        self.times_decoding = times_decoding
        self.ms_per_token: float | None = None
        self.failure: LatentuneError | None = None

    @property
    def latents(self) -> torch.Tensor:
        """[L, D], float32: a view, which holds until a trial joins or leaves."""
        return self.adamw.rows(self.uid)[0]

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

    @property
    def decodes(self) -> bool:
        """Whether an evaluation lets the model write with this trial's latents."""
        return bool(self.data.answer_metrics) or self.times_decoding

    def decoding_cost(self, lm: LatentLM, split: Split) -> dict[str, float]:
        """Milliseconds per generated token; measured once per join.

        Args:
            lm: the frozen model with this trial's latents.
            split: whose first rows are answered.
        """
        if self.ms_per_token is None:
            self.ms_per_token = ms_per_token(lm, self.data.rows(split))
        return {} if self.ms_per_token is None else {DECODING_TIME: self.ms_per_token}

    def settings(self) -> StepSettings:
        """The numbers of the next optimiser step."""
        optim = self.config.optim
        return StepSettings(
            lr=optim.lr * schedule_factor(optim, self.step, self.budget_steps),
            weight_decay=optim.weight_decay,
            clip_norm=optim.clip_norm,
            step=self.step + 1,
        )

    def finish(self, loss: float, finite: bool) -> None:
        """Note that an optimiser step was taken, or why not.

        A loss or gradient that is not finite marks the trial as failed; its latents are as they
        were, and other trials do not notice.
        """
        if finite:
            self.step += 1
            return
        optim = self.config.optim
        self.failure = self.failure or NumericError(
            f"trial {self.name} stopped being finite at step {self.step + 1} (loss {loss}): "
            f"lower optim.lr={optim.lr} or optim.clip_norm={optim.clip_norm}"
        )

    def export(self) -> TrialState:
        """The state as plain arrays."""
        latents, exp_avg, exp_avg_sq = self.adamw.rows(self.uid).cpu().numpy().copy()
        return TrialState(self.step, latents, exp_avg, exp_avg_sq)


def starting_rows(name: str, latents_LD: torch.Tensor, state: TrialState | None) -> torch.Tensor:
    """Latents and both moments to begin with, [3, L, D]: fresh, or those of an exported state.

    Raises:
        StateError: if the state belongs to a strategy or a model of another shape.
    """
    if state is None:
        zeros_LD = torch.zeros_like(latents_LD, dtype=torch.float32)
        return torch.stack([latents_LD.float(), zeros_LD, zeros_LD])
    if state.latents.shape != tuple(latents_LD.shape):
        raise StateError(
            f"trial {name} has latents of shape {list(latents_LD.shape)}, but its saved "
            f"state has {list(state.latents.shape)}: it belongs to another configuration"
        )
    parts = (state.latents, state.exp_avg, state.exp_avg_sq)
    return torch.stack([torch.from_numpy(part) for part in parts])


def schedule_factor(optim: OptimConfig, step: int, budget_steps: int) -> float:
    """The share of the peak learning rate at optimiser step `step`, counted from 0."""
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return 1.0
    progress = (step - optim.warmup_steps) / max(1, budget_steps - optim.warmup_steps)
    remaining = max(0.0, 1.0 - progress)
    return remaining if optim.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * remaining))
