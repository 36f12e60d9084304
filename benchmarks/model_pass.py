"""The frozen model's own pass, without an engine around it, and the machine's matmuls beside it.

A pass is one forward and one backward to the input embeddings, of rows of equal length, as the
engine makes of a full micro-batch.

Shape suffixes: B rows, T slots, D width, J labelled slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.slots import Slots
from trainable.base_model.loading import BaseModel
from trainable.lanes import Lanes


@dataclass(frozen=True)
class Weights:
    """What a pass multiplies by: the parameters of the blocks' matrices and of the head's."""

    blocks: int
    head: int

    @classmethod
    def of(cls, model: nn.Module) -> Weights:
        """Count them; embeddings are looked up, not multiplied by."""
        head = _head(model).weight.numel()
        return cls(sum(m.weight.numel() for m in _matrices(model)) - head, head)

    def flops(self, slots: int, labelled: int) -> float:
        """Forward and backward without weight gradients: 4 per parameter and token."""
        return 4.0 * (self.blocks * slots + self.head * labelled)


def pass_of(
    base: BaseModel, rows: int, tokens: int, *, everywhere: bool = False, compiled: bool = False
) -> Callable[[], None]:
    """A pass to call again and again.

    Args:
        rows: B.
        tokens: T, a quarter of them labelled.
        everywhere: whether logits are computed at all slots, and the labelled ones picked then.
        compiled: whether torch.compile has been asked.
    """
    whole: Any = base.model
    device, vocabulary = whole.device, whole.config.vocab_size
    seed = torch.Generator(device="cpu").manual_seed(0)
    ids_BT = torch.randint(3, min(97, vocabulary), (rows, tokens), generator=seed).to(device)
    embeds_BTD = whole.get_input_embeddings()(ids_BT).detach()
    labelled = max(1, tokens // 4)
    labels_J = ids_BT[:, -labelled:].reshape(-1)
    mask_BT = torch.ones_like(ids_BT)
    body = torch.compile(whole.model) if compiled else whole.model

    def one_pass() -> None:
        inputs_BTD = embeds_BTD.requires_grad_(True)
        hidden_BTD = body(
            inputs_embeds=inputs_BTD, attention_mask=mask_BT, use_cache=False
        ).last_hidden_state
        if everywhere:
            logits_JV = whole.lm_head(hidden_BTD).float()[:, -labelled:].flatten(0, 1)
        else:
            logits_JV = whole.lm_head(hidden_BTD[:, -labelled:].flatten(0, 1)).float()
        functional.cross_entropy(logits_JV, labels_J).backward()
        embeds_BTD.grad = None

    return one_pass


def matmuls_of(base: BaseModel, slots: Slots, lanes: Lanes | None = None) -> Callable[[], None]:
    """Only the matrix products of a step, each of the model's matrices at the step's own shapes.

    Args:
        lanes: in which its micro-batches run side by side; default one after the other.
    """
    model = base.model
    head = _head(model)
    blocks, labelled = slots.executed // slots.passes, slots.labelled // slots.passes
    inputs: dict[tuple[int, int], torch.Tensor] = {}
    together = lanes or Lanes()

    def filled(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
        if (rows, columns) not in inputs:
            inputs[rows, columns] = torch.randn(rows, columns, dtype=like.dtype, device=like.device)
        return inputs[rows, columns]

    def one_pass(_: int) -> None:
        for matrix in _matrices(model):
            weight_OI = matrix.weight.detach()
            rows = max(1, labelled if matrix is head else blocks)
            filled(rows, weight_OI.shape[1], weight_OI) @ weight_OI.T
            filled(rows, weight_OI.shape[0], weight_OI) @ weight_OI

    def multiply() -> None:
        left = list(range(slots.passes))
        while left:
            side_by_side, left = left[: together.count], left[together.count :]
            together.run(one_pass, side_by_side)

    return multiply


def _matrices(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def _head(model: Any) -> nn.Linear:
    head: nn.Linear = model.get_output_embeddings()
    return head
