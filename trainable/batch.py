"""Rows of many trials in one forward of the frozen model.

Rows differ only in what stands in `inputs_embeds`: the embeddings of their verbal tokens,
and at the slots of their layout the latents of their own trial. They are padded on the
right: under a causal mask no real slot sees the padding, so the attention mask is all ones.
It is passed all the same, because transformers takes repeated position ids without a mask
for packed sequences and silently cuts attention.

Shape suffixes: B rows, T slots, D width, K latents of all trials, J labelled slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from trainable.data import EncodedRow
from trainable.layout import NOT_LATENT, Layout, whole_layout
from trainable.layout_rules import Ints, LayoutRules

AnyRow = TypeVar("AnyRow", bound=Sized)  # as long as what goes through the model for it


@dataclass(frozen=True)
class PreparedRow:
    """One row of one trial, laid out.

    Args:
        owner: the trial's place among those in this step.
        row: the encoded example.
        layout: without pending slots.
        predictor_N: the slot that predicts each response token.
    """

    owner: int
    row: EncodedRow
    layout: Layout
    predictor_N: Ints

    def __len__(self) -> int:
        return len(self.layout)

    @property
    def response(self) -> Ints:
        """The labels, in the order of `predictor_N`."""
        return self.row.ids[self.row.query_length :]


def prepare(owner: int, row: EncodedRow, rules: LayoutRules) -> PreparedRow:
    """Lay out one row. Raises StrategyError if its first response token has no predictor."""
    layout = whole_layout(rules, row.ids, row.query_length).without_pending()
    return PreparedRow(owner, row, layout, layout.predictors(row.query_length, len(row.ids)))


def micro_batches(rows: Sequence[AnyRow], max_tokens: int) -> Iterator[list[AnyRow]]:
    """Cut rows, longest first, into batches of at most `max_tokens` slots, padding included.

    A row longer than that makes a batch of its own.
    """
    batch: list[AnyRow] = []
    for row in sorted(rows, key=len, reverse=True):
        if batch and (len(batch) + 1) * len(batch[0]) > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def embed(
    rows: Sequence[PreparedRow], latents: Sequence[torch.Tensor], embeddings: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """Build the model's inputs.

    Args:
        latents: per owner, its [L, D] float32 parameter.
        embeddings: the model's input embeddings.

    Returns:
        inputs_embeds [B, T, D] in the model's dtype, differentiable in the latents, and
        position_ids [B, T].
    """
    width = max(map(len, rows))
    offsets = np.concatenate([[0], np.cumsum([len(values) for values in latents])])
    ids_BT = np.zeros((len(rows), width), dtype=np.int64)
    source_BT = np.full((len(rows), width), NOT_LATENT, dtype=np.int64)
    position_BT = np.zeros((len(rows), width), dtype=np.int64)
    for line, row in enumerate(rows):
        layout, end = row.layout, len(row)
        is_latent_T = layout.latent_T != NOT_LATENT
        ids_BT[line, :end] = np.where(is_latent_T, 0, row.row.ids[layout.verbal_T])
        source_BT[line, :end] = np.where(
            is_latent_T, layout.latent_T + offsets[row.owner], NOT_LATENT
        )
        position_BT[line, :end] = layout.position_T
    device = next(embeddings.parameters()).device
    with torch.no_grad():
        embeds_BTD = embeddings(torch.from_numpy(ids_BT).to(device))
    source = torch.from_numpy(source_BT.ravel()).to(device)
    slots = torch.nonzero(source != NOT_LATENT).squeeze(1)
    if len(slots):
        latents_KD = torch.cat([values.to(device) for values in latents])
        flat_SD = embeds_BTD.reshape(-1, embeds_BTD.shape[-1])
        spliced_SD = flat_SD.index_copy(0, slots, latents_KD[source[slots]].to(flat_SD.dtype))
        embeds_BTD = spliced_SD.view_as(embeds_BTD)
    return embeds_BTD, torch.from_numpy(position_BT).to(device)


def labelled_logits(
    model: PreTrainedModel, rows: Sequence[PreparedRow], latents: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the frozen model once and read its logits where there is a label, and only there.

    Returns:
        logits [J, V] in float32 (float64 of a float64 model), labels [J] and owners [J], row
        after row.
    """
    embeds_BTD, position_BT = embed(rows, latents, model.get_input_embeddings())
    width = embeds_BTD.shape[1]
    slots = np.concatenate([line * width + row.predictor_N for line, row in enumerate(rows)])
    labels = np.concatenate([row.response for row in rows])
    owners = np.repeat([row.owner for row in rows], [len(row.response) for row in rows])
    device = embeds_BTD.device
    with head_reads(model, torch.from_numpy(slots).to(device)):
        logits_JV = model(
            inputs_embeds=embeds_BTD,
            position_ids=position_BT,
            attention_mask=torch.ones_like(position_BT),
            use_cache=False,
        ).logits
    return (
        logits_JV.to(torch.promote_types(logits_JV.dtype, torch.float32)),
        torch.from_numpy(labels).to(device),
        torch.from_numpy(owners).to(device),
    )


@contextmanager
def head_reads(model: PreTrainedModel, slots: torch.Tensor) -> Iterator[None]:
    """Let the output head see only these of the B·T slots: others cost and serve nothing."""

    def gather(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden_BTD = inputs[0]
        return (
            hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[slots.to(hidden_BTD.device)],
            *inputs[1:],
        )

    hook = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        hook.remove()
