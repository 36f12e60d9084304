"""Rows of many trials in one forward of the frozen model.

Rows differ only in what stands in `inputs_embeds`: the embeddings of their verbal tokens,
and at the slots of their layout the latents of their own trial. They are padded on the
right: under a causal mask no real slot sees the padding, so the attention mask is all ones.
It is passed all the same, because transformers takes repeated position ids without a mask
for packed sequences and silently cuts attention.

Shape suffixes: B rows, T slots, S slots of several rows, D width, K latents of all trials,
J labelled slots, V vocabulary.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from trainable.data import EncodedRow
from trainable.latent_table import LatentTable
from trainable.layout import NOT_LATENT, Layout, whole_layout
from trainable.layout_rules import Ints, LayoutRules


class OwnedRow(Sized, Protocol):
    """As long as what goes through the model for it, whatever else it is."""

    @property
    def owner(self) -> int:
        """The trial's place among those in this step."""
        ...

    @property
    def past(self) -> int:
        """Slots that it goes on from: not computed for it, but kept for its backward."""
        ...


_HOOKING, _READS = threading.Lock(), threading.local()

AnyRow = TypeVar("AnyRow", bound=OwnedRow)
FORWARDS_PER_BATCH = 64  # a forward of nothing takes about this part of a full one's time
# So many slots of a past are kept in the memory of one that is computed: of a past each layer keeps
# a key and a value per head, 2·D to 4·D numbers; of a slot that is computed 16·D and more.
PAST_PER_SLOT = 4
_UNEVEN = 0.05  # by so much lanes may differ before their rows are cut into one batch more


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
    def past(self) -> int:
        """A whole row goes on from nothing."""
        return 0

    @property
    def response(self) -> Ints:
        """The labels, in the order of `predictor_N`."""
        return self.row.ids[self.row.query_length :]


def prepare(owner: int, row: EncodedRow, rules: LayoutRules) -> PreparedRow:
    """Lay out one row. Raises StrategyError if its first response token has no predictor."""
    layout = whole_layout(rules, row.ids, row.query_length).without_pending()
    return PreparedRow(owner, row, layout, layout.predictors(row.query_length, len(row.ids)))


def micro_batches(rows: Sequence[AnyRow], max_tokens: int) -> Iterator[list[AnyRow]]:
    """Cut rows, longest first, into batches that need the memory of `max_tokens` slots at most.

    Of all such cuts, the one that costs least: padding costs slots, and so does each further
    forward. A row that needs more by itself makes a batch of its own.
    """
    ordered = sorted(rows, key=lambda row: (len(row), row.past), reverse=True)
    lengths, past_R = [len(row) for row in ordered], np.array([row.past for row in ordered])
    begin = 0
    for size in _cheapest_sizes(lengths, past_R, max_tokens):
        yield ordered[begin : begin + size]
        begin += size


def lane_tokens(rows: Sequence[OwnedRow], max_tokens: int, lanes: int) -> int:
    """The slots of a micro-batch, where so many run side by side: as many rounds as are needed.

    Args:
        max_tokens: in all lanes together.
    """
    if lanes == 1:
        return max_tokens
    slots = sum(len(row) + row.past / PAST_PER_SLOT for row in rows)
    rounds = max(1, math.ceil(slots / max_tokens))
    even = math.ceil(slots / (rounds * lanes) * (1 + _UNEVEN))
    return min(max_tokens // lanes, even)


def batch_slots(rows: Sequence[Sized]) -> int:
    """The slots of one batch that are computed, padding included."""
    return len(rows) * max(map(len, rows))


def batch_memory(rows: Sequence[OwnedRow]) -> int:
    """In the memory of how many slots one batch fits, padding and past included."""
    past = max(row.past for row in rows)
    return batch_slots(rows) + math.ceil(len(rows) * past / PAST_PER_SLOT)


def _cheapest_sizes(lengths: list[int], past_R: Ints, max_tokens: int) -> list[int]:
    """How many rows each batch takes, of rows whose lengths do not grow."""
    count = len(lengths)
    cost = np.zeros(count + 1)  # of all rows from here on
    size = np.zeros(count, dtype=np.int64)
    for begin in reversed(range(count)):
        most = max(1, min(count - begin, max_tokens // max(1, lengths[begin])))
        if past_R[begin : begin + most].any():
            longest_R = np.maximum.accumulate(past_R[begin : begin + most])
            slots_R = np.arange(1, most + 1) * (lengths[begin] + longest_R / PAST_PER_SLOT)
            most = max(1, int(np.searchsorted(slots_R, max_tokens, side="right")))
        costs = lengths[begin] * np.arange(1, most + 1) + cost[begin + 1 : begin + most + 1]
        best = int(costs.argmin())
        cost[begin], size[begin] = max_tokens / FORWARDS_PER_BATCH + costs[best], best + 1
    sizes, begin = [], 0
    while begin < count:
        sizes.append(int(size[begin]))
        begin += sizes[-1]
    return sizes


def embed(
    rows: Sequence[PreparedRow], latents: Sequence[torch.Tensor], embeddings: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """Build the model's inputs.

    Args:
        latents: per owner, its [L, D] float32 parameter; a `LatentTable` is used as it is.
        embeddings: the model's input embeddings.

    Returns:
        inputs_embeds [B, T, D] in the model's dtype, differentiable in the latents, and
        position_ids [B, T].
    """
    device = next(embeddings.parameters()).device
    table = LatentTable.of(latents, device)
    ids_BT, source_BT, position_BT = _tables(rows, table.offsets)
    spliced = np.flatnonzero(source_BT != NOT_LATENT)  # here: asking a GPU would wait for it
    ids, position, slots, source = to_device(
        device, ids_BT, position_BT, spliced, source_BT.ravel()[spliced]
    )
    with torch.no_grad():
        embeds_BTD = embeddings(ids.view(ids_BT.shape))
    if len(spliced):
        flat_SD = embeds_BTD.reshape(-1, embeds_BTD.shape[-1])
        latents_SD = table.latents_KD.index_select(0, source).to(flat_SD.dtype)
        embeds_BTD = flat_SD.index_copy(0, slots, latents_SD).view_as(embeds_BTD)
    return embeds_BTD, position.view(position_BT.shape)


def _tables(rows: Sequence[PreparedRow], offsets: Ints) -> tuple[Ints, Ints, Ints]:
    """Ids, latent rows and position ids of a padded batch, each [B, T]."""
    shape = len(rows), max(map(len, rows))
    ids_BT = np.zeros(shape, dtype=np.int64)
    source_BT = np.full(shape, NOT_LATENT, dtype=np.int64)
    position_BT = np.zeros(shape, dtype=np.int64)
    for line, row in enumerate(rows):
        layout, end = row.layout, len(row)
        is_latent_T = layout.latent_T != NOT_LATENT
        ids_BT[line, :end] = np.where(is_latent_T, 0, row.row.ids[layout.verbal_T])
        source_BT[line, :end] = np.where(
            is_latent_T, layout.latent_T + offsets[row.owner], NOT_LATENT
        )
        position_BT[line, :end] = layout.position_T
    return ids_BT, source_BT, position_BT


def to_device(device: torch.device, *arrays: Ints) -> tuple[torch.Tensor, ...]:
    """Flat whole-number arrays on the device, in one copy that a GPU need not be waited for."""
    joined = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if device.type == "cuda":
        joined = joined.pin_memory()
    sent = joined.to(device, non_blocking=True)
    return tuple(torch.split(sent, [array.size for array in arrays]))


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
    slots, labels, owners = to_device(
        embeds_BTD.device,
        np.concatenate([line * width + row.predictor_N for line, row in enumerate(rows)]),
        np.concatenate([row.response for row in rows]),
        np.repeat([row.owner for row in rows], [len(row.response) for row in rows]),
    )
    with head_reads(model, slots):
        logits_JV = model(
            inputs_embeds=embeds_BTD,
            position_ids=position_BT,
            attention_mask=torch.ones_like(position_BT),
            use_cache=False,
        ).logits
    return logits_JV.to(torch.promote_types(logits_JV.dtype, torch.float32)), labels, owners


@contextmanager
def head_reads(model: PreTrainedModel, slots: torch.Tensor) -> Iterator[None]:
    """Let the output head see only these of the B·T slots: others cost and serve nothing.

    For this thread alone. What gathers them stays at the head and does nothing outside of this:
    hooks that come and go would be changed while another thread reads them.
    """
    head = model.get_output_embeddings()
    with _HOOKING:
        if _gather not in head._forward_pre_hooks.values():
            head.register_forward_pre_hook(_gather)
    _READS.slots = slots
    try:
        yield
    finally:
        _READS.slots = None


def _gather(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    slots: torch.Tensor | None = getattr(_READS, "slots", None)
    if slots is None:
        return None
    hidden_BTD = inputs[0]
    hidden_SD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
    return (hidden_SD.index_select(0, slots.to(hidden_SD.device)), *inputs[1:])
