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

import copy
import inspect
from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.configuration_utils import GenerationMode
from transformers.modeling_outputs import CausalLMOutputWithPast

from trainable.artifact import Artifact
from trainable.attention_masks import Attention, refuse_attention
from trainable.chunks import LATENT, POSITION, REAL, chunk_table, embed_chunk
from trainable.delimiters import Vocabulary
from trainable.endings import Endings
from trainable.errors import ContextError, StrategyError
from trainable.latent_cache import LatentCache, whole_slots
from trainable.layout import NOT_LATENT, start_state
from trainable.layout_rules import LayoutRules
from trainable.positions import context_of, has_hard_context
from trainable.row_layout import NOTHING, Outlook, Piece, RowLayout
from trainable.selftest import check_decoding

_MODES = (
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
)


class LatentLM(PreTrainedModel, GenerationMixin):
    """A frozen causal language model and the latents that it was given.

    Built by `LatentTokens.attach`. `generate` takes and returns what the base model's takes
    and returns.

    Args:
        rules: the strategy, resolved against the vocabulary.
        latents: [L, D].
        context: positions from here on are refused; None for no limit.
        refused_bos: an id that no prompt may begin with, where the latents stand in its place.
    """

    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(
        self,
        frozen: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rules: LayoutRules,
        latents: torch.Tensor,
        context: int | None = None,
        refused_bos: int | None = None,
    ) -> None:
        super().__init__(frozen.config)
        self.frozen = frozen
        self.tokenizer = tokenizer
        self.rules = rules
        self.latents = nn.Parameter(latents, requires_grad=False)
        self.context = context
        self._refused_bos = refused_bos
        self.generation_config = copy.deepcopy(frozen.generation_config)
        self.attention = Attention.of(frozen)
        self._outlook = Outlook.of(rules)
        knows = inspect.signature(frozen.forward).parameters
        self.last_logits = {"logits_to_keep": 1} if "logits_to_keep" in knows else {}

    @classmethod
    def build(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        artifact: Artifact,
        *,
        refuse_beyond_context: bool | None = None,
    ) -> LatentLM:
        """Join a model and an artifact's latents. The model is left in eval() mode.

        Args:
            refuse_beyond_context: whether a position beyond the model's context is an error.
                Default: where the model has an embedding per position, and where the strategy
                counts latents as positions; elsewhere the model goes on as it does without latents.

        Raises:
            BaseModelError: if the model has layers that latents cannot live in, or does not
                attend as decoding needs.
        """
        refuse_attention(model)
        check_decoding(model.eval())
        strategy = artifact.config.strategy
        if refuse_beyond_context is None:
            refuse_beyond_context = has_hard_context(model, strategy)
        rules = Vocabulary(tokenizer, model.config.get_text_config().vocab_size).rules(strategy)
        device = next(model.get_input_embeddings().parameters()).device
        latents = torch.from_numpy(artifact.latents).to(device)
        context = context_of(model) if refuse_beyond_context else None
        refused_bos = None if artifact.add_special_tokens else tokenizer.bos_token_id
        return cls(model, tokenizer, rules, latents, context, refused_bos)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As `GenerationMixin.generate`, but `past_key_values` must be a `LatentCache`.

        Such a cache comes with `return_dict_in_generate=True`. Handed back with all ids so far,
        decoding goes on as one longer call would have; what was the query stays the query. The
        padding behind the end of a row is not part of it: `attention_mask` must be 0 there.

        Raises:
            ValueError: for what cannot carry latents, wherever it is set: assisted decoding,
                guidance, a cache of another kind or of another call, chunked prefill,
                `inputs_embeds`, or no cache at all.
            ContextError: for a position beyond the context, where that is hard.
            StrategyError: for a prompt that begins with BOS, where the latents are meant for
                prompts without.
        """
        for name in ("assistant_model", "inputs_embeds", "cache_implementation"):
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} cannot carry latent tokens; leave it out")
        cache = kwargs.get("past_key_values")
        if cache is not None and not isinstance(cache, LatentCache):
            raise ValueError(
                f"past_key_values is a {type(cache).__name__}, which cannot carry latent tokens: "
                "leave it out, or give the cache that an earlier call returned"
            )
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        *_: Any,
    ) -> None:
        """Refuse what the merged configuration holds."""
        refuse_options(generation_config, generation_mode)

    def _prepare_attention_mask_for_generation(  # type: ignore[override]
        self,
        inputs_tensor: torch.Tensor,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
    ) -> torch.Tensor:
        """The mask where none is given: what a cache has seen as padding stays padding."""
        cache = model_kwargs.get("past_key_values")
        if cache is not None and len(cache.rows) == len(inputs_tensor):
            new = inputs_tensor.shape[1] - cache.get_seq_length()
            if new > 0:
                grown: torch.Tensor = cache.grown_mask(new).to(inputs_tensor.device)
                return grown
        return super()._prepare_attention_mask_for_generation(
            inputs_tensor, generation_config, model_kwargs
        )

    def _sample(  # type: ignore[override]
        self,
        input_ids: torch.LongTensor,
        logits_processor: Any,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> Any:
        """As `GenerationMixin._sample`; notes which rows are over."""
        endings = Endings(stopping_criteria)
        output = super()._sample(  # type: ignore[misc]
            input_ids, logits_processor, endings, generation_config, endings=endings, **model_kwargs
        )
        kept = model_kwargs if isinstance(output, torch.Tensor) else output
        cache = kept.get("past_key_values")
        if cache is not None:
            cache.newest_padded = endings.padded()
        return output

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Refused: such a folder would load as a model of random weights."""
        raise NotImplementedError(
            "a frozen model with latents is not saved as one: save the latents with "
            "LatentTokens.save(folder), and attach them to their base model again"
        )

    def get_input_embeddings(self) -> nn.Module:
        """The frozen model's input embeddings."""
        return self.frozen.get_input_embeddings()

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        past_key_values: LatentCache | None = None,
        attention_mask: torch.Tensor | None = None,
        endings: Endings | None = None,
        is_first_iteration: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Hand `forward` the verbal tokens that it has not seen."""
        if is_first_iteration and past_key_values is not None:
            past_key_values.refuse_other(self, input_ids, next_sequence_length, attention_mask)
        if next_sequence_length is not None:
            input_ids = input_ids[:, -next_sequence_length:]
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "attention_mask": attention_mask if is_first_iteration else None,  # no more padding
            "padded": endings.padded() if endings is not None else (),
        }

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: LatentCache | None = None,
        padded: Sequence[bool] = (),
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        """Feed the next verbal tokens, with the latents that belong among them.

        Args:
            input_ids: [B, N], the new verbal tokens; a prompt's padding stands on the left.
            attention_mask: [B, all verbal tokens], 0 on padding; None where there is none among
                the new ones.
            past_key_values: from the call before; None begins, and makes all of `input_ids` query.
            padded: rows that are over: what is fed of them is padding, whatever its id.

        Returns:
            logits [B, 1, V] for the verbal token that comes next, and the cache.

        Raises:
            StrategyError: if a row has neither a token nor a latent to go on from, or begins with
                a BOS that the latents are not meant for.
            ContextError: if a position is beyond a context that is hard.
        """
        ids_BN = input_ids.cpu()
        verbal_BN = _which_are_real(ids_BN, attention_mask, padded)
        rows = [
            list(compress(*each)) for each in zip(ids_BN.tolist(), verbal_BN.tolist(), strict=True)
        ]
        cache = past_key_values or self._empty_cache(rows)
        # On branches: a call that is refused leaves the cache as it was.
        layouts = [row.branch() for row in cache.rows]
        over = padded or [False] * len(rows)
        pieces = [
            NOTHING if is_over else layout.feed(ids)
            for layout, ids, is_over in zip(layouts, rows, over, strict=True)
        ]
        if cache.get_seq_length() == 0:
            refuse_nothing(pieces)
        embeds_BTD, position_BT, real_BT = self._chunk(rows, pieces)
        has_holes = min(map(len, pieces)) < real_BT.shape[1]
        cache.extend(layouts, ids_BN, verbal_BN, real_BT, has_holes)
        output = self.frozen(
            inputs_embeds=embeds_BTD,
            position_ids=position_BT,
            attention_mask=self.attention.decoding_mask(
                cache.mask_BS, real_BT.shape[1], embeds_BTD.dtype, has_holes=cache.has_holes
            ),
            past_key_values=cache.slots,
            use_cache=True,
            **self.last_logits,
        )
        return CausalLMOutputWithPast(
            logits=output.logits[:, -1:],
            past_key_values=cache,  # type: ignore[arg-type]  # it has what generate() asks for
        )

    def _chunk(
        self, rows: Sequence[Sequence[int]], pieces: Sequence[Piece]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Align pieces on the right. Returns embeddings [B, T, D], positions and mask [B, T]."""
        table_4BT = chunk_table(rows, pieces)
        self.refuse_positions(int(table_4BT[POSITION].max()))
        has_latents = bool(table_4BT[LATENT].max() != NOT_LATENT)
        on_device = torch.from_numpy(table_4BT).to(self.latents.device)
        embeds_BTD = embed_chunk(
            on_device, self.get_input_embeddings(), self.latents if has_latents else None
        )
        return embeds_BTD, on_device[POSITION], on_device[REAL]

    def refuse_positions(self, highest: int) -> None:
        """Raise ContextError for a position beyond the context, where that is refused."""
        if self.context is not None and highest >= self.context:
            raise ContextError(
                f"position {highest} is beyond the base model's context of {self.context} "
                "positions: give a shorter prompt or fewer max_new_tokens"
            )

    def start_row(self, ids: Sequence[int]) -> RowLayout:
        """A row before any token.

        Args:
            ids: its query.

        Raises:
            StrategyError: if it begins with a BOS that the latents are not meant for.
        """
        if self._refused_bos is not None and self._refused_bos in ids[:1]:
            raise StrategyError(
                "a prompt begins with BOS, but these latents stand in front of everything and were "
                "made without: tokenise prompts with add_special_tokens=False"
            )
        return RowLayout(self._outlook, start_state(self.rules, ids))

    def _empty_cache(self, rows: Sequence[Sequence[int]]) -> LatentCache:
        layouts = [self.start_row(ids) for ids in rows]
        return LatentCache(self, whole_slots(self.frozen.config), layouts, self.latents.device)

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True  # a mixture's configuration asks for one; the frozen model runs it

    def _supports_default_dynamic_cache(self) -> bool:  # type: ignore[override]
        return False  # `forward` makes its own cache, a `LatentCache`


def refuse_nothing(pieces: Sequence[Piece]) -> None:
    """Raise StrategyError if a prompt has neither a token nor a latent to go on from."""
    if not all(map(len, pieces)):
        raise StrategyError(
            "a prompt has no tokens, the tokenizer adds no BOS, and no trigger puts latents "
            "there: nothing predicts the first token; give the prompt a token"
        )


def _which_are_real(
    ids_BN: torch.Tensor, attention_mask: torch.Tensor | None, padded: Sequence[bool]
) -> torch.Tensor:
    """True on tokens, False on padding, [B, N]."""
    if attention_mask is not None:
        return attention_mask[:, attention_mask.shape[1] - ids_BN.shape[1] :].bool().cpu()
    real_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    if padded:
        real_BN[torch.tensor(padded)] = False
    return real_BN


def refuse_options(config: GenerationConfig, mode: GenerationMode) -> None:
    """Raise ValueError for options of `generate` that latent tokens cannot go along with."""
    if config.guidance_scale not in (None, 1):
        raise ValueError(
            f"guidance_scale={config.guidance_scale} runs the model a second time without its "
            "prompt, where there are no sites: leave it out"
        )
    if config.use_cache is False:
        raise ValueError("use_cache=False: the latents live in the cache; leave it out")
    for name in ("cache_implementation", "prefill_chunk_size"):
        if getattr(config, name) is not None:
            raise ValueError(f"{name} cannot carry latent tokens; leave it out")
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(config, name):
            raise ValueError(
                f"{name}: what the model computes belongs to slots, latents and holes among them, "
                "not to the tokens that generate() knows; leave it out"
            )
    if mode not in _MODES:
        raise ValueError(
            f"{mode.value} cannot carry latent tokens: leave out prompt_lookup_num_tokens, "
            "assistant_early_exit and the like"
        )
