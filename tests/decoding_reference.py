"""Decoding without a cache: the whole layout is recomputed at every token."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithPast

from tests.reference import reference_layout
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel
from trainable.decoding import LatentLM
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

LATENT_SEED = 3


def artifact_of(base: BaseModel, strategy: InsertionStrategy) -> Artifact:
    """Random latents at the embeddings' own scale, for a strategy."""
    weights: torch.Tensor = base.model.get_input_embeddings().weight  # type: ignore[assignment]
    rng = np.random.default_rng(LATENT_SEED)
    noise_LD = rng.normal(size=(strategy.latent_count, weights.shape[1]))
    return Artifact(
        latents=(float(weights.std()) * noise_LD).astype(np.float32),
        config=TrialConfig(strategy=strategy),
        base_model=base.describe(),
    )


def attached(base: BaseModel, strategy: InsertionStrategy) -> LatentLM:
    return LatentLM.build(base.model, base.tokenizer, artifact_of(base, strategy))


class NaiveLM(PreTrainedModel, GenerationMixin):
    """What `LatentLM` shall be, row by row and without any cache.

    Args:
        prompt_width: columns of the prompt, left padding included.
    """

    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, base: BaseModel, strategy: InsertionStrategy, prompt_width: int) -> None:
        super().__init__(base.model.config)
        self.frozen = base.model
        self.strategy = strategy
        self.prompt_width = prompt_width
        self.latents = torch.from_numpy(artifact_of(base, strategy).latents)
        self.bos_id = base.tokenizer.bos_token_id
        self.matches = naive_matches(strategy, base.tokenizer)
        self.generation_config = base.model.generation_config

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> CausalLMOutputWithPast:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        generated = input_ids.shape[1] - self.prompt_width
        logits = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            real = ids[mask.bool()].tolist()
            logits.append(self.next_logits(real, len(real) - generated))
        return CausalLMOutputWithPast(logits=torch.stack(logits)[:, None])

    @torch.no_grad()
    def next_logits(self, ids: list[int], q: int) -> torch.Tensor:
        """The logits of the token behind `ids`, [V], from one forward over the whole layout."""
        layout = reference_layout(self.strategy, self.matches, self.bos_id, ids, q)
        slots = layout.slots + layout.pending
        embeddings = self.frozen.get_input_embeddings()
        embeds_TD = torch.stack(
            [
                embeddings(torch.tensor(ids[slot.i]))
                if slot.row is None
                else self.latents[slot.row]
                for slot in slots
            ]
        )
        logits: torch.Tensor = self.frozen(
            inputs_embeds=embeds_TD[None],
            position_ids=torch.tensor([[slot.position for slot in slots]]),
            attention_mask=torch.ones(1, len(slots), dtype=torch.long),
            use_cache=False,
        ).logits
        return logits[0, -1]


def naive_matches(
    strategy: InsertionStrategy, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[bool]]:
    """For each delimiter: whether each id of the character vocabulary matches it."""
    specials = set(tokenizer.all_special_ids)
    texts = [str(tokenizer.decode([i])) for i in range(len(tokenizer))]
    return {
        t.pattern: [
            i not in specials and re.search(t.pattern, text) is not None
            for i, text in enumerate(texts)
        ]
        for t in strategy.triggers.values()
        if t.pattern is not None
    }


def greedy(naive: NaiveLM, ids: list[int], new_tokens: int, eos: int | None) -> list[int]:
    """Greedy decoding as a plain loop; the new tokens, EOS included."""
    q, tokens = len(ids), list(ids)
    while len(tokens) - q < new_tokens:
        tokens.append(int(naive.next_logits(tokens, q).argmax()))
        if tokens[-1] == eos:
            break
    return tokens[q:]
