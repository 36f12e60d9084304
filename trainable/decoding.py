"""Generate text with latent tokens spliced in as verbal tokens appear.

Hugging Face `generate()` drives; it sees verbal tokens only, so sampling, beams, streamers,
stopping criteria and logits processors work as they are. Behind each call of `forward`
stands one chunk per row:

    [verbal-readout latents before the new token] [the token] [latents that already stand
    before its successor]

and the logits come from the chunk's end. Rows feed chunks of different width; they are
aligned on the right, and the holes that this leaves in the cache are masked for good.

Shape suffixes: B rows, N new verbal tokens, T slots of a chunk, S slots in the cache, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.generation.configuration_utils import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast

from trainable.artifact import Artifact
from trainable.delimiters import decoded_vocabulary, matching_ids
from trainable.errors import BaseModelError, StrategyError
from trainable.layout import NOT_LATENT, Layout, advance, start_state
from trainable.layout_rules import LayoutRules, LayoutState

_MODES = (
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
)


class LatentCache:
    """What has been fed: the model's own cache, which of its slots are real, and each row's state.

    To `generate()` it is as long as the verbal sequence; to the model, as long as its slots.
    """

    is_compileable = False

    def __init__(
        self, slots: DynamicCache, states: list[LayoutState], device: torch.device
    ) -> None:
        self.slots = slots
        self.states = states
        self.mask_BS = torch.zeros(len(states), 0, dtype=torch.long, device=device)
        self.verbal_length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Verbal tokens seen, left padding included."""
        return self.verbal_length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let row i go on from row `beam_idx[i]`."""
        self.slots.reorder_cache(beam_idx.long())  # type: ignore[arg-type]
        self.mask_BS = self.mask_BS[beam_idx.to(self.mask_BS.device)]
        self.states = [self.states[row] for row in beam_idx.tolist()]


class LatentLM(PreTrainedModel, GenerationMixin):
    """A frozen causal language model and the latents that it was given.

    Built by `LatentTokens.attach`. `generate` takes and returns what the base model's takes
    and returns.
    """

    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(
        self,
        frozen: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rules: LayoutRules,
        latents: torch.Tensor,
    ) -> None:
        super().__init__(frozen.config)
        self.frozen = frozen
        self.tokenizer = tokenizer
        self.rules = rules
        self.latents = nn.Parameter(latents, requires_grad=False)
        self.generation_config = frozen.generation_config

    @classmethod
    def build(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, artifact: Artifact
    ) -> LatentLM:
        """Join a model and an artifact's latents.

        Raises:
            BaseModelError: if the model has sliding-window layers: holes in the cache would use up
                their window.
        """
        refuse_sliding_window(model)
        strategy = artifact.config.strategy
        size = model.config.get_text_config().vocab_size
        patterns = [t.pattern for t in strategy.triggers.values() if t.pattern is not None]
        texts = decoded_vocabulary(tokenizer, size) if patterns else []
        rules = LayoutRules.build(strategy, matching_ids(texts, patterns), tokenizer.bos_token_id)
        latents = torch.from_numpy(artifact.latents).to(model.device)
        return cls(model.eval(), tokenizer, rules, latents)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As `GenerationMixin.generate`.

        Raises:
            ValueError: for what cannot carry latents, wherever it is set: assisted decoding, a
                cache of another kind, chunked prefill, `inputs_embeds`, or no cache at all.
        """
        for name in ("assistant_model", "inputs_embeds", "past_key_values"):
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} cannot carry latent tokens; leave it out")
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        *_: Any,
    ) -> None:
        """Refuse what the merged configuration holds; note which ids end a row."""
        refuse_options(generation_config, generation_mode)
        eos = generation_config.eos_token_id
        model_kwargs["eos_ids"] = eos if isinstance(eos, list) else [eos]

    def get_input_embeddings(self) -> nn.Module:
        """The frozen model's input embeddings."""
        return self.frozen.get_input_embeddings()

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        past_key_values: LatentCache | None = None,
        attention_mask: torch.Tensor | None = None,
        eos_ids: Sequence[int | None] = (),
        **_: Any,
    ) -> dict[str, Any]:
        """Hand `forward` the verbal tokens that it has not seen."""
        if next_sequence_length is not None:
            input_ids = input_ids[:, -next_sequence_length:]
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "eos_ids": eos_ids,
        }

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: LatentCache | None = None,
        eos_ids: Sequence[int | None] = (),
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        """Feed the next verbal tokens, with the latents that belong among them.

        Args:
            input_ids: [B, N], the new verbal tokens; a prompt's padding stands on the left.
            attention_mask: [B, all verbal tokens], 0 on padding.
            past_key_values: from the call before; None begins, and makes all of `input_ids` query.
            eos_ids: the ids that end a row; it makes no more sites.

        Returns:
            logits [B, 1, V] for the verbal token that comes next, and the cache.

        Raises:
            StrategyError: if a row has neither a token nor a latent to go on from.
        """
        rows = self._real_tokens(input_ids, attention_mask)
        cache = past_key_values or self._empty_cache(rows)
        pieces = []
        for line, ids in enumerate(rows):
            piece, state = advance(self.rules, cache.states[line], ids)
            pieces.append(piece)
            cache.states[line] = replace(state, ended=state.ended or _ends(state, ids, eos_ids))
        if not all(
            len(piece) or state.length for piece, state in zip(pieces, cache.states, strict=True)
        ):
            raise StrategyError(
                "a prompt has no tokens, the tokenizer adds no BOS, and no trigger puts latents "
                "there: nothing predicts the first token; give the prompt a token"
            )
        embeds_BTD, position_BT, mask_BT = self._chunk(rows, pieces)
        cache.mask_BS = torch.cat([cache.mask_BS, mask_BT], dim=1)
        cache.verbal_length += input_ids.shape[1]
        output = self.frozen(
            inputs_embeds=embeds_BTD,
            position_ids=position_BT,
            attention_mask=cache.mask_BS,
            past_key_values=cache.slots,
            use_cache=True,
            logits_to_keep=1,
        )
        return CausalLMOutputWithPast(
            logits=output.logits[:, -1:],
            past_key_values=cache,  # type: ignore[arg-type]  # generate() takes any that it knows how to ask
        )

    def _chunk(
        self, rows: Sequence[np.ndarray[Any, Any]], pieces: Sequence[Layout]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Align pieces on the right. Returns embeddings [B, T, D], positions and mask [B, T]."""
        shape = (len(pieces), max(map(len, pieces)))
        ids_BT, position_BT, mask_BT = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        latent_BT = np.full(shape, NOT_LATENT, dtype=np.int64)
        for line, (ids, piece) in enumerate(zip(rows, pieces, strict=True)):
            begin = shape[1] - len(piece)
            is_token_T = piece.latent_T == NOT_LATENT
            ids_BT[line, begin:][is_token_T] = ids
            latent_BT[line, begin:] = piece.latent_T
            position_BT[line, begin:] = piece.position_T
            mask_BT[line, begin:] = 1
        device = self.latents.device
        embeds_BTD = self.get_input_embeddings()(torch.from_numpy(ids_BT).to(device))
        latent_slots_BT = torch.from_numpy(latent_BT).to(device)
        is_latent_BT = latent_slots_BT != NOT_LATENT
        embeds_BTD[is_latent_BT] = self.latents[latent_slots_BT[is_latent_BT]].to(embeds_BTD.dtype)
        return (
            embeds_BTD,
            torch.from_numpy(position_BT).to(device),
            torch.from_numpy(mask_BT).to(device),
        )

    @staticmethod
    def _real_tokens(
        input_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> list[np.ndarray[Any, Any]]:
        ids_BN = input_ids.cpu().numpy()
        if attention_mask is None:
            return list(ids_BN)
        real_BN = attention_mask[:, -ids_BN.shape[1] :].cpu().numpy().astype(bool)
        return [ids[real] for ids, real in zip(ids_BN, real_BN, strict=True)]

    def _empty_cache(self, rows: Sequence[np.ndarray[Any, Any]]) -> LatentCache:
        states = [start_state(self.rules, ids) for ids in rows]
        return LatentCache(DynamicCache(config=self.frozen.config), states, self.latents.device)

    def _supports_default_dynamic_cache(self) -> bool:  # type: ignore[override]
        return False  # `forward` makes its own cache, a `LatentCache`


def _ends(state: LayoutState, ids: np.ndarray[Any, Any], eos_ids: Sequence[int | None]) -> bool:
    """Whether the last token of a row is an EOS of its response."""
    return state.length > state.query_length and len(ids) > 0 and int(ids[-1]) in eos_ids


def refuse_options(config: GenerationConfig, mode: GenerationMode) -> None:
    """Raise ValueError for options of `generate` that latent tokens cannot go along with."""
    if config.use_cache is False:
        raise ValueError("use_cache=False: the latents live in the cache; leave it out")
    for name in ("cache_implementation", "prefill_chunk_size"):
        if getattr(config, name) is not None:
            raise ValueError(f"{name} cannot carry latent tokens; leave it out")
    if mode not in _MODES:
        raise ValueError(
            f"{mode.value} cannot carry latent tokens: leave out prompt_lookup_num_tokens, "
            "assistant_early_exit and the like"
        )


def refuse_sliding_window(model: PreTrainedModel) -> None:
    """Raise BaseModelError for a model with sliding-window layers."""
    config = model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ())
    sliding = bool(layer_types - {"full_attention"})
    if not layer_types:
        sliding = getattr(config, "sliding_window", None) is not None
    if sliding:
        raise BaseModelError(
            f"{type(model).__name__} has layers other than full attention "
            f"({', '.join(sorted(layer_types)) or 'sliding window'}): decoding with latent tokens "
            "is not supported on them yet; use a model with full attention"
        )
