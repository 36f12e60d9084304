"""How a model attends: which layers latents can live in, and masks made by hand.

Decoding leaves holes in the cache: slots that hold nothing, masked for good. A full-attention
layer never minds. A sliding-window layer counts slots, holes too, so that under a 2-D mask its
window reaches less far than it should:

    window 3    2-D mask    a . . b c     c sees b c        (the holes used up the window)
                by hand     a . . b c     c sees a b c      (real slots alone are counted)

So models with such layers get additive float masks, one per kind of layer, whose window counts
real slots: latents count, holes and padding do not.

Shape suffixes: B rows, T slots of a chunk, S slots in all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from trainable.errors import BaseModelError

FULL, SLIDING = "full_attention", "sliding_attention"
KERNELS = ("sdpa", "eager")
_SLIDING_MASK = "create_sliding_window_causal_mask"  # what models with windows make theirs with
_ROPES_BY_LENGTH = ("dynamic", "longrope", "su")

Masks = torch.Tensor | dict[str, torch.Tensor]


@dataclass(frozen=True)
class Attention:
    """What a model's layers see.

    Args:
        kinds: the kinds of layers, each once, in transformers' words.
        window: the slots that a sliding layer sees, itself included; None without such layers.
        by_kind: whether the model takes a mask for each kind; else all its layers are of one.
    """

    kinds: tuple[str, ...]
    window: int | None
    by_kind: bool

    @classmethod
    def of(cls, model: PreTrainedModel) -> Attention:
        """Read it off a model's configuration and, for windows, its code."""
        config = model.config.get_text_config(decoder=True)
        kinds = _kinds(model)
        window = config.sliding_window if SLIDING in kinds else None
        return cls(kinds, window, by_kind=bool(getattr(config, "layer_types", None)))

    def decoding_mask(
        self, real_BS: torch.Tensor, chunk: int, dtype: torch.dtype, *, has_holes: bool
    ) -> Masks:
        """The mask behind a cache: 2-D, unless holes would use up a sliding window.

        Args:
            has_holes: whether a slot that is not real stands between or before real ones.
        """
        if self.window is None or not has_holes:
            return real_BS
        return self.masks(real_BS, chunk, dtype)

    def masks(self, real_BS: torch.Tensor, chunk: int, dtype: torch.dtype) -> Masks:
        """Masks for the last `chunk` slots, to be added to attention scores.

        Args:
            real_BS: 1 where a slot holds a token or a latent, 0 on holes and padding.
            chunk: T.
            dtype: that of the model's hidden states.

        Returns:
            [B, 1, T, S], 0 where a slot is seen and the dtype's lowest value elsewhere; a dict
            of them where the model takes one for each kind of layer. Each slot sees itself,
            holes too, so that no row of scores is without a finite value.
        """
        real_BS = real_BS.bool()
        slot_S = torch.arange(real_BS.shape[1], device=real_BS.device)
        slot_T = slot_S[-chunk:]
        earlier_BTS = real_BS[:, None] & (slot_S < slot_T[:, None])
        itself_TS = slot_S == slot_T[:, None]
        count_BS = real_BS.cumsum(1)
        behind_BTS = count_BS[:, -chunk:, None] - count_BS[:, None]

        return self._additive(earlier_BTS, behind_BTS, itself_TS, dtype)

    def row_masks(self, slot_BT: torch.Tensor, slots: int, dtype: torch.dtype) -> Masks:
        """Masks, as `masks` gives them, for rows whose slots all stand close, from slot 0 on.

        Args:
            slot_BT: where each of the chunk's slots stands in its row.
            slots: S, how many are looked at; those behind a row's end are never seen.
        """
        slot_S = torch.arange(slots, device=slot_BT.device)
        behind_BTS = slot_BT[..., None] - slot_S
        return self._additive(behind_BTS > 0, behind_BTS, behind_BTS == 0, dtype)

    def _additive(
        self,
        earlier_BTS: torch.Tensor,
        behind_BTS: torch.Tensor,
        itself_BTS: torch.Tensor,
        dtype: torch.dtype,
    ) -> Masks:
        def mask(kind: str) -> torch.Tensor:
            seen_BTS = earlier_BTS
            if kind == SLIDING and self.window is not None:
                seen_BTS = earlier_BTS & (behind_BTS < self.window)
            mask_BTS = torch.zeros_like(seen_BTS, dtype=dtype)
            return mask_BTS.masked_fill_(~(seen_BTS | itself_BTS), torch.finfo(dtype).min)[:, None]

        if self.by_kind:
            return {kind: mask(kind) for kind in self.kinds}
        return mask(self.kinds[0])


def refuse_attention(model: PreTrainedModel) -> None:
    """Raise BaseModelError for a model whose layers latent tokens cannot live in."""
    name = type(model).__name__
    kinds = _kinds(model)
    foreign = [kind for kind in kinds if kind not in (FULL, SLIDING)]
    if not foreign and model._is_stateful:
        foreign = ["recurrent"]
    if foreign:
        raise BaseModelError(
            f"{name} has {', '.join(foreign)} layers, which carry more than keys and values from "
            "token to token or cut them into blocks: holes and repeated position ids would change "
            f"what follows; take a base model whose layers are all {FULL} or {SLIDING}"
        )
    _refuse_rope(model)
    kernel = model.config._attn_implementation
    if kernel not in KERNELS:
        raise BaseModelError(
            f"{name} is loaded with {kernel} attention, which takes repeated position ids for "
            f"packed sequences: load it with attn_implementation={KERNELS[0]!r}"
        )


def _kinds(model: PreTrainedModel) -> tuple[str, ...]:
    config = model.config.get_text_config(decoder=True)
    named = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if named:
        kinds = [FULL if name == "global" else name for name in named]
    elif getattr(config, "sliding_window", None) is not None:
        kinds = [SLIDING]
    elif getattr(config, "attention_chunk_size", None) is not None:
        kinds = ["chunked_attention"]
    else:
        kinds = [FULL]
    if not _knows_windows(model):
        kinds = [FULL if kind == SLIDING else kind for kind in kinds]
    return tuple(dict.fromkeys(kinds))


def _knows_windows(model: PreTrainedModel) -> bool:
    """Whether a model looks at `sliding_window`: any configuration may have one.

    transformers' own models do if their code takes its function for such masks. Other code may
    make them as it likes; what its configuration says is believed, and measured by the self-test.
    """
    classes = {type(part) for part in model.modules() if isinstance(part, PreTrainedModel)}
    names = {base.__module__ for each in classes for base in each.__mro__}
    if not all(each.__module__.startswith("transformers.") for each in classes):
        return True
    return any(hasattr(sys.modules.get(name), _SLIDING_MASK) for name in names)


def _refuse_rope(model: PreTrainedModel) -> None:
    """Refuse rotary frequencies that depend on how long a batch is."""
    config = model.config.get_text_config(decoder=True)
    for field in ("rope_parameters", "rope_scaling"):
        for rope_type in _rope_types(getattr(config, field, None)):
            if rope_type in _ROPES_BY_LENGTH:
                raise BaseModelError(
                    f"{type(model).__name__} has rope_type={rope_type!r} (its configuration's "
                    f"{field}), whose frequencies change with the longest row of a batch: a row's "
                    "result would depend on its neighbours, and on what the cache already holds; "
                    "take a base model or configuration with rope_type default, linear, llama3 or "
                    "yarn"
                )


def _rope_types(parameters: object) -> Iterator[str]:
    """The kinds of scaling; configurations may hold one for each kind of layer."""
    if isinstance(parameters, Mapping):
        rope_type = parameters.get("rope_type", parameters.get("type"))
        if isinstance(rope_type, str):
            yield rope_type
        for nested in parameters.values():
            yield from _rope_types(nested)
