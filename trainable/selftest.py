"""Checks of a model at hand: does it attend as the method needs?

With repeated position ids some combinations of model, mask and attention kernel silently
cut attention. So every engine first compares a small forward, run as training runs it,
with one under a hand-made additive mask; and before latents meet a model to decode with it,
a chunk behind a cache with a hole in it is compared with the same.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from trainable.attention_masks import Attention
from trainable.errors import BaseModelError
from trainable.latent_cache import whole_slots

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_COARSE_TOLERANCE = 0.1  # bfloat16, float16 and quantised weights
_POSITIONS = (0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6, 7)
_CHUNK = 5  # the last slots, fed behind a cache
_WIDEST = 128  # a window up to here is measured: the check then runs beyond it
_USE_SDPA = "load it with base_model.attn_implementation: sdpa"
# What can be found wrong, and the remedy:
_CUTS_AT_REPEATS = "cuts attention at repeated position ids", _USE_SDPA
_CUTS_AT_HOLES = "cuts attention behind a cache with holes", _USE_SDPA


@torch.no_grad()
def check_attention(model: PreTrainedModel) -> None:
    """Compare training's forward under repeated position ids with a hand-made causal mask.

    Raises:
        BaseModelError: if the logits differ by more than rounding.
    """
    ids_BT, position_BT = _sequence(model)
    embeds_BTD = model.get_input_embeddings()(ids_BT)
    by_hand = _by_hand(model, embeds_BTD, position_BT)
    as_trained = model(
        inputs_embeds=embeds_BTD,
        position_ids=position_BT,
        attention_mask=torch.ones_like(position_BT),
        use_cache=False,
    ).logits
    _compare(model, as_trained, by_hand, *_CUTS_AT_REPEATS)


@torch.no_grad()
def check_decoding(model: PreTrainedModel) -> None:
    """Compare a chunk behind a cache, a hole between them, with one forward over all of it.

    Raises:
        BaseModelError: if the logits differ by more than rounding.
    """
    ids_BT, position_BT = _sequence(model)
    embeds_BTD = model.get_input_embeddings()(ids_BT)
    by_hand = _by_hand(model, embeds_BTD, position_BT)
    cache = whole_slots(model.config)
    attention = Attention.of(model)
    cut = ids_BT.shape[1] - _CHUNK
    holed_BS = torch.cat(
        [torch.ones_like(ids_BT[:, :cut]), torch.zeros_like(ids_BT[:, :1]),
         torch.ones_like(ids_BT[:, cut:])], dim=1,
    )  # fmt: skip
    for begin, end in ((0, cut), (cut - 1, ids_BT.shape[1])):  # the hole repeats a slot
        width = end + (begin > 0)
        logits = model(
            inputs_embeds=embeds_BTD[:, begin:end],
            position_ids=position_BT[:, begin:end],
            attention_mask=attention.decoding_mask(
                holed_BS[:, :width], end - begin, embeds_BTD.dtype, has_holes=begin > 0
            ),
            past_key_values=cache,
            use_cache=True,
        ).logits
    _compare(model, logits[:, 1:], by_hand[:, cut:], *_CUTS_AT_HOLES)


def _sequence(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and position ids, [1, T]; longer than a window, so that it makes a difference."""
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None) or 0  # also one that has no effect
    more = window + _CHUNK - len(_POSITIONS) if window <= _WIDEST else 0
    positions = [*_POSITIONS, *range(_POSITIONS[-1] + 1, _POSITIONS[-1] + 1 + more)]
    position_BT = torch.tensor([positions], device=model.device)
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids_BT = torch.randint(vocabulary, position_BT.shape, generator=generator)
    return ids_BT.to(model.device), position_BT


def _by_hand(
    model: PreTrainedModel, embeds_BTD: torch.Tensor, position_BT: torch.Tensor
) -> torch.Tensor:
    masks = Attention.of(model).masks(
        torch.ones_like(position_BT), position_BT.shape[1], embeds_BTD.dtype
    )
    logits: torch.Tensor = model(
        inputs_embeds=embeds_BTD, position_ids=position_BT, attention_mask=masks, use_cache=False
    ).logits
    return logits


def _compare(
    model: PreTrainedModel, found: torch.Tensor, expected: torch.Tensor, what: str, remedy: str
) -> None:
    error = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    exact = not getattr(model, "is_quantized", False)
    tolerance = _TOLERANCE.get(model.dtype, _COARSE_TOLERANCE) if exact else _COARSE_TOLERANCE
    if not error <= tolerance:
        raise BaseModelError(
            f"{type(model).__name__} with {model.config._attn_implementation} attention {what} "
            f"(error {error:.2g}, at most {tolerance:g}): {remedy}"
        )
