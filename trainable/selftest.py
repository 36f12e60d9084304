"""A check at engine start: does this model attend as the method needs?

With repeated position ids some combinations of model, mask and attention kernel silently
cut attention. So every engine first compares a small forward, run as training runs it,
with one under a hand-made additive mask.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from trainable.errors import BaseModelError

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_COARSE_TOLERANCE = 0.1  # bfloat16 and float16


@torch.no_grad()
def check_attention(model: PreTrainedModel) -> None:
    """Compare attention under repeated position ids with a hand-made causal mask.

    Raises:
        BaseModelError: if the logits differ by more than rounding.
    """
    position_BT = torch.tensor([[0, 1, 2, 2, 2, 3, 4, 4]], device=model.device)
    width = position_BT.shape[1]
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids_BT = torch.randint(vocabulary, (1, width), generator=generator).to(model.device)
    embeds_BTD = model.get_input_embeddings()(ids_BT)
    lowest = torch.finfo(model.dtype).min
    mask_BHTT = torch.full((width, width), lowest, dtype=model.dtype, device=model.device)
    mask_BHTT = mask_BHTT.triu(1)[None, None]
    as_trained = model(
        inputs_embeds=embeds_BTD,
        position_ids=position_BT,
        attention_mask=torch.ones_like(position_BT),
        use_cache=False,
    ).logits
    by_hand = model(
        inputs_embeds=embeds_BTD,
        position_ids=position_BT,
        attention_mask=mask_BHTT,
        use_cache=False,
    ).logits
    error = float((as_trained - by_hand).abs().max()) / max(1.0, float(by_hand.abs().max()))
    tolerance = _TOLERANCE.get(model.dtype, _COARSE_TOLERANCE)
    if not error <= tolerance:
        raise BaseModelError(
            f"{type(model).__name__} with {model.config._attn_implementation} attention cuts "
            f"attention at repeated position ids (error {error:.2g}, at most {tolerance:g}): load "
            "it with base_model.attn_implementation: sdpa"
        )
