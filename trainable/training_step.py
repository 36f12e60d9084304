"""One optimiser step of many trials: forward, backward, update, and one look at the result.

    rows of all trials ─► micro-batches ─► losses and gradients ─► AdamW ─► losses, finite?
                          each trial's mean over its whole step              one fetch

The loss is the sum over trials of each trial's mean, so that no gradient crosses trials and
none depends on how the rows were cut. What a micro-batch gives is added once it is through.

Shape suffixes: K latents of all trials, D width, J labelled slots, T trials.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from functools import partial

import torch

from trainable.batch import PreparedRow, batch_slots, prepare
from trainable.compute import TrainingCompute
from trainable.errors import RowMemoryError
from trainable.latent_adamw import LatentAdamW
from trainable.latent_table import LatentTable
from trainable.memory import TokenBudget, too_long_message
from trainable.prefix import SharedWave, owners_of, shared_waves
from trainable.prefix_plan import SplitRow
from trainable.resident import ResidentTrial


@dataclass
class SlotCount:
    """Slots that went through the model in training.

    Args:
        useful: of rows, and of prefixes that rows share.
        all: padding included.
    """

    useful: int = 0
    all: int = 0

    def add(self, batch: Sequence[Sized]) -> None:
        """Count one forward: a micro-batch, or the prefixes of a wave."""
        rows = [row for row in batch if len(row)]  # one without a tail is not in the forward
        self.useful += sum(map(len, rows))
        self.all += batch_slots(rows) if rows else 0


def train_step(
    compute: TrainingCompute,
    adamw: LatentAdamW,
    trials: Sequence[ResidentTrial],
    budget: TokenBudget,
    slots: SlotCount,
) -> dict[str, float]:
    """Take one optimiser step with each of these trials, all of which train.

    A trial that stops being finite, or has a row that does not fit into the memory, fails alone.

    Returns:
        uid to the mean loss over all labelled tokens of the trial's step.
    """
    if not trials:
        return {}
    uids = [trial.uid for trial in trials]
    table = adamw.table(uids)
    losses_T = gather_gradients(compute, trials, table, budget, slots)
    finite_T = adamw.step(uids, table, [trial.settings() for trial in trials], losses_T)
    losses, finite = torch.stack([losses_T, finite_T.to(losses_T.dtype)]).tolist()  # the one fetch
    for trial, loss, was_finite in zip(trials, losses, finite, strict=True):
        trial.finish(loss, bool(was_finite))
    return dict(zip(uids, losses, strict=True))


def gather_gradients(
    compute: TrainingCompute,
    trials: Sequence[ResidentTrial],
    table: LatentTable,
    budget: TokenBudget,
    slots: SlotCount,
) -> torch.Tensor:
    """Forward and backward of one step: gradients into the table's leaf, mean losses [T] back."""
    rows = [
        prepare(owner, trial.data.rows("train")[index], trial.rules)
        for owner, trial in enumerate(trials)
        for index in trial.next_rows()
    ]
    labels_T = _label_counts(rows, len(trials)).to(table.latents_KD.device)
    losses_T = torch.zeros_like(labels_T)

    def refuse(split: SplitRow) -> None:
        trial = trials[split.owner]
        trial.failure = RowMemoryError(f"trial {trial.uid}: {too_long_message(split.row)}")
        losses_T[split.owner] = math.nan

    waves = shared_waves(compute.model, rows, budget, compute.sharing, within=compute.forward)
    for wave in waves:
        if wave.prefixes:
            slots.add(wave.prefixes)
        action = partial(_forward_backward, compute, wave, table, labels_T)
        for batch, (batch_losses_T, grad_KD) in budget.run(
            wave.rows, action, refuse, in_one_go=True
        ):
            slots.add(batch)
            losses_T += batch_losses_T
            if grad_KD is not None:
                table.latents_KD.grad = table.gradients().add_(grad_KD)
    return losses_T


def _forward_backward(
    compute: TrainingCompute,
    wave: SharedWave,
    table: LatentTable,
    labels_T: torch.Tensor,
    batch: Sequence[SplitRow],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What one micro-batch adds to losses and gradients; None where it has no site."""
    with compute.forward():
        (nll_J,) = wave.forward(batch, table)
    owners_J = torch.from_numpy(owners_of(batch)).to(nll_J.device)
    share_J = nll_J / labels_T[owners_J]  # each trial's own mean ...
    losses_T = torch.zeros_like(labels_T).index_add_(0, owners_J, share_J.detach().to(labels_T))
    if not share_J.requires_grad:
        return losses_T, None
    (grad_KD,) = torch.autograd.grad(share_J.sum(), table.latents_KD)  # ... the sum over trials
    return losses_T, grad_KD


def _label_counts(rows: Iterable[PreparedRow], trials: int) -> torch.Tensor:
    labels_T = torch.zeros(trials)
    for row in rows:
        labels_T[row.owner] += len(row.response)
    return labels_T
