"""What stands before the first site, computed once for all trials that read the same example.

    prefixes, no gradient:   s0 s1 s2 s3 s4 s5      once per example
                             `- keys, values -.
    tails of all trials:       [u] s6 s7    <-+     of A goes on from six slots of it
                               [v] s4 s5 s6 <-'     of B from the first four: two are a hole

The frozen model sees no latent in a prefix, so its keys and values there are constants for
every trial: the tails' logits, and the gradients of their latents, are those of whole rows.
Labels that slots of a prefix predict have the same loss in every trial and no gradient, so
they are read once too. Rows of a batch may go on from prefixes of different lengths: what a
shorter one leaves is a hole in the past, masked for good. Masks are always explicit, because
transformers takes repeated position ids without one for packed sequences; a sliding window
gets a mask made by hand, which counts real slots.

Shape suffixes: B rows, E prefixes, P slots of a past, T slots of tails, S slots of both, H heads,
C channels of a head, J labelled slots, K distinct labelled slots of prefixes, V vocabulary.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from trainable.attention_masks import Attention
from trainable.batch import PreparedRow, embed, head_reads, labelled_logits
from trainable.latent_cache import whole_slots
from trainable.layout_rules import Ints
from trainable.memory import TokenBudget, attempt
from trainable.prefix_plan import Sharing, SplitRow, Wave, call_slots_of, plan

_NO_LIMIT = sys.maxsize  # slots

# What is kept of logits [J, V] and labels [J]: tensors whose first axis is J.
Read = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]


def read_logits(logits_JV: torch.Tensor, labels_J: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Keep the logits themselves."""
    return (logits_JV,)


def read_losses(logits_JV: torch.Tensor, labels_J: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Keep the negative log-likelihood of each label in nats."""
    return (functional.cross_entropy(logits_JV, labels_J, reduction="none"),)


def read_scores(logits_JV: torch.Tensor, labels_J: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Keep the negative log-likelihood of each label, and whether it is the likeliest token."""
    return (*read_losses(logits_JV, labels_J), logits_JV.argmax(-1) == labels_J)


class SharedWave:
    """Rows that go on from prefixes.

    Args:
        plan: which rows go on from which prefixes.
        read: what is kept of the logits.
        prefixes: computed, as planned; None where rows are whole.
    """

    def __init__(
        self, model: PreTrainedModel, plan: Wave, read: Read, prefixes: Prefixes | None = None
    ) -> None:
        self._model = model
        self._read = read
        self._computed = prefixes
        self.rows = plan.rows  # for `micro_batches` to cut
        self.prefixes = plan.prefixes

    def release(self) -> None:
        """Let the prefixes go: nothing is run any more."""
        self._computed = None

    def forward(
        self, batch: Sequence[SplitRow], latents: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Run the tails of some rows, and read each label of each row, row after row.

        Args:
            latents: per owner, its [L, D] parameter.
        """
        prefixes = self._computed
        if prefixes is None:
            logits_JV, labels_J, _ = labelled_logits(
                self._model, [split.row for split in batch], latents
            )
            return self._read(logits_JV, labels_J)
        tails, needed = None, [split for split in batch if len(split)]
        if needed:
            tails = self._read(*_tail_logits(self._model, prefixes, needed, latents))
        return prefixes.labels.joined(batch, tails)


def shared_waves(
    model: PreTrainedModel,
    rows: Sequence[PreparedRow],
    budget: TokenBudget,
    sharing: Sharing = "auto",
    read: Read = read_losses,
    *,
    training: bool = True,
    within: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[SharedWave]:
    """Split rows where that pays, and bring together those that share prefixes.

    Where prefixes do not fit into the memory together they are computed in smaller waves; rows
    that begin with one that does not fit by itself stay whole.

    Args:
        budget: of slots that go through the model at once.
        read: what is kept of the logits.
        training: whether gradients will be asked for.
        within: what holds while the model runs, its precision for one.

    Yields:
        Waves with their prefixes computed, each done with once the next is asked for.
    """
    if sharing != "off" and not can_share(model):
        sharing = "off"
    parameters = model.num_parameters(exclude_embeddings=True)
    call_slots = call_slots_of(parameters, model.device.type)

    def computed(wave: Wave) -> Prefixes:
        with within():
            return compute_prefixes(model, wave, read)

    planned = plan(rows, budget.tokens, sharing, training=training, call_slots=call_slots)
    waiting = deque(planned)
    while waiting:
        wave = waiting.popleft()
        found = attempt(computed, wave) if wave.prefixes else [None]
        if not found:
            waiting.extendleft(reversed(_smaller_waves(wave, budget)))
            continue
        shared = SharedWave(model, wave, read, found.pop())
        yield shared
        shared.release()


def _smaller_waves(wave: Wave, budget: TokenBudget) -> list[Wave]:
    """The rows of a wave whose prefixes do not fit into the memory together."""
    rows = [split.row for split in wave.rows]
    if len(wave.prefixes) == 1:
        return plan(rows, budget.tokens, "off")
    slots = len(wave.prefixes) * len(wave.prefixes[0])
    if slots <= budget.tokens:  # not planned before memory ran out
        budget.halve(slots)
    return plan(rows, budget.tokens, "on")


def owners_of(batch: Sequence[SplitRow]) -> Ints:
    """The owner of each label of a batch, row after row."""
    return np.repeat([split.owner for split in batch], [len(split.row.response) for split in batch])


def labelled_logits_shared(
    model: PreTrainedModel, rows: Sequence[PreparedRow], latents: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `batch.labelled_logits`, in the same order, with each distinct prefix computed once.

    Whatever precedes a first latent is shared; all tails go through the model in one forward.
    """
    waves = plan(rows, _NO_LIMIT, "on")  # at most one has prefixes
    split_of = {id(split.row): split for wave in waves for split in wave.rows}
    batch = [split_of[id(row)] for row in rows]
    prefixes = tuple(ids for wave in waves for ids in wave.prefixes)
    wave = Wave(prefixes, tuple(batch))
    computed = compute_prefixes(model, wave, read_logits) if prefixes else None
    (logits_JV,) = SharedWave(model, wave, read_logits, computed).forward(batch, latents)
    labels_J = torch.from_numpy(np.concatenate([row.response for row in rows]))
    owners_J = torch.from_numpy(owners_of(batch))
    return logits_JV, labels_J.to(logits_JV.device), owners_J.to(logits_JV.device)


def can_share(model: PreTrainedModel) -> bool:
    """Whether a model's past is keys and values of each slot, and nothing else."""
    plain = all(type(layer) is DynamicLayer for layer in whole_slots(model.config).layers)
    config = model.config.get_text_config(decoder=True)
    return plain and not model._is_stateful and not getattr(config, "num_kv_shared_layers", 0)


@dataclass(frozen=True)
class PrefixLabels:
    """What has been read of labels that slots of prefixes predict: once for all their rows.

    Args:
        kept: per tensor that is read, [K, ..].
        place_of: (prefix, slot, label) to its place among the K.
    """

    kept: tuple[torch.Tensor, ...]
    place_of: dict[tuple[int, int, int], int]

    def joined(
        self, rows: Sequence[SplitRow], tails: tuple[torch.Tensor, ...] | None
    ) -> tuple[torch.Tensor, ...]:
        """Put together what was read of prefixes and tails, row after row.

        Args:
            tails: what was read of the tails' labels, row after row; None where there are none.
        """
        if not self.place_of and tails is not None:
            return tails
        places, behind = [], len(self.place_of)
        for split in rows:
            places += [self.place_of[key] for key in _head_keys(split)]
            more = len(split.row.response) - split.head_labels
            places += range(behind, behind + more)
            behind += more
        index_J = torch.tensor(places, device=self.kept[0].device)
        parts: list[tuple[torch.Tensor, ...]] = [(kept,) for kept in self.kept]
        if tails is not None:
            parts = [(kept, tail) for kept, tail in zip(self.kept, tails, strict=True)]
        return tuple(torch.cat(part).index_select(0, index_J) for part in parts)


@dataclass(frozen=True)
class Prefixes:
    """Prefixes that have been computed.

    Args:
        keys: per layer, [E, H, P, C], padded on the right.
        values: likewise.
        labels: what has been read of them.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    labels: PrefixLabels


@torch.no_grad()
def compute_prefixes(model: PreTrainedModel, wave: Wave, read: Read) -> Prefixes:
    """Run the frozen model over a wave's prefixes, and read the labels that they predict."""
    width = max(map(len, wave.prefixes))
    ids_EP = np.zeros((len(wave.prefixes), width), dtype=np.int64)
    for line, ids in enumerate(wave.prefixes):
        ids_EP[line, : len(ids)] = ids
    keys = list(dict.fromkeys(key for row in wave.rows for key in _head_keys(row)))
    slots = [prefix * width + slot for prefix, slot, _ in keys]
    embeddings = model.get_input_embeddings()
    device = next(embeddings.parameters()).device
    embeds_EPD = embeddings(torch.from_numpy(ids_EP).to(device))
    position_EP = torch.arange(width, device=device).expand(len(wave.prefixes), -1)
    cache = whole_slots(model.config)
    with head_reads(model, torch.tensor(slots, dtype=torch.long, device=device)):
        logits_KV = model(
            inputs_embeds=embeds_EPD,
            position_ids=position_EP,
            attention_mask=torch.ones_like(position_EP),
            past_key_values=cache,
            use_cache=True,
        ).logits
    labels_K = torch.tensor([label for *_, label in keys], dtype=torch.long, device=device)
    logits_KV = logits_KV.to(torch.promote_types(logits_KV.dtype, torch.float32))
    kept = read(logits_KV, labels_K)
    past = [
        (layer.keys, layer.values)
        for layer in cache.layers
        if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
    ]
    return Prefixes(
        tuple(keys_EHPC for keys_EHPC, _ in past),
        tuple(values_EHPC for _, values_EHPC in past),
        PrefixLabels(kept, {key: place for place, key in enumerate(keys)}),
    )


def _head_keys(split: SplitRow) -> list[tuple[int, int, int]]:
    """(prefix, slot, label) of each label that the row's prefix predicts."""
    count, row = split.head_labels, split.row
    pairs = zip(row.predictor_N[:count].tolist(), row.response[:count].tolist(), strict=True)
    return [(split.prefix, slot, label) for slot, label in pairs]


def _tail_logits(
    model: PreTrainedModel,
    prefixes: Prefixes,
    rows: Sequence[SplitRow],
    latents: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run tails behind their prefixes; logits [J, V] and labels [J], row after row."""
    tails = [split.tail() for split in rows]
    embeds_BTD, position_BT = embed(tails, latents, model.get_input_embeddings())
    width, device = embeds_BTD.shape[1], embeds_BTD.device
    slots = np.concatenate([line * width + tail.predictor_N for line, tail in enumerate(tails)])
    labels = np.concatenate([split.row.response[split.head_labels :] for split in rows])
    with head_reads(model, torch.from_numpy(slots).to(device)):
        logits_JV = model(
            inputs_embeds=embeds_BTD,
            position_ids=position_BT,
            attention_mask=_mask(model, rows, embeds_BTD),
            past_key_values=_past(model, prefixes, rows, device),
            use_cache=True,
        ).logits
    return (
        logits_JV.to(torch.promote_types(logits_JV.dtype, torch.float32)),
        torch.from_numpy(labels).to(device),
    )


def _mask(
    model: PreTrainedModel, rows: Sequence[SplitRow], embeds_BTD: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """The attention mask of tails behind their past: whatever a prefix leaves of it is a hole.

    The padding behind a tail is marked as real: no real slot looks that far ahead.
    """
    width, past = embeds_BTD.shape[1], max(split.cut for split in rows)
    real_BS = np.ones((len(rows), past + width), dtype=np.int64)
    for line, split in enumerate(rows):
        real_BS[line, split.cut : past] = 0
    mask_BS = torch.from_numpy(real_BS).to(embeds_BTD.device)
    has_holes = bool((real_BS == 0).any())
    return Attention.of(model).decoding_mask(mask_BS, width, embeds_BTD.dtype, has_holes=has_holes)


def _past(
    model: PreTrainedModel, prefixes: Prefixes, rows: Sequence[SplitRow], device: torch.device
) -> DynamicCache:
    source_B = torch.tensor([split.prefix for split in rows], device=device)
    length = max(split.cut for split in rows)
    cache = DynamicCache()
    cache.layers = [
        _PastLayer(keys_EHPC[:, :, :length], values_EHPC[:, :, :length], source_B)
        for keys_EHPC, values_EHPC in zip(prefixes.keys, prefixes.values, strict=True)
    ]
    return cache


class _PastLayer(DynamicLayer):
    """One layer's past: each row goes on from the prefix that is its own.

    Nothing is copied per row before the layer runs, and what it was given is not kept: tails are
    one chunk.

    Args:
        keys_EHPC: of each prefix, cut to the longest that is wanted.
        values_EHPC: likewise.
        source_B: each row's prefix.
    """

    def __init__(
        self, keys_EHPC: torch.Tensor, values_EHPC: torch.Tensor, source_B: torch.Tensor
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys = self._keys_EHPC = keys_EHPC
        self.values = self._values_EHPC = values_EHPC
        self.dtype, self.device = keys_EHPC.dtype, keys_EHPC.device
        self.is_initialized = True
        self._source_B = source_B.to(keys_EHPC.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The past of each row and its new keys and values, [B, H, S, C]."""
        return (
            torch.cat([self._keys_EHPC.index_select(0, self._source_B), key_states], dim=-2),
            torch.cat([self._values_EHPC.index_select(0, self._source_B), value_states], dim=-2),
        )
