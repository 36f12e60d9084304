"""The frozen model over a whole layout, one row at a time: no cache, no padding, masks by hand.

`NaiveLM` decodes with it: the whole layout is recomputed at every token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutputWithPast

from tests.families import FAMILIES
from tests.reference import Reference, Slot, reference_layout
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel
from trainable.batch import labelled_logits, prepare
from trainable.data import EncodedRow
from trainable.decoding import LatentLM
from trainable.delimiters import Vocabulary
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

LATENT_SEED = 3


def artifact_of(base: BaseModel, strategy: InsertionStrategy) -> Artifact:
    """Random latents at the embeddings' own scale, for a strategy."""
    table_VD = base.embeddings(torch.arange(len(base.tokenizer)))
    rng = np.random.default_rng(LATENT_SEED)
    noise_LD = rng.normal(size=(strategy.latent_count, table_VD.shape[1]))
    return Artifact(
        latents=(float(table_VD.std()) * noise_LD).astype(np.float32),
        config=TrialConfig(strategy=strategy),
        base_model=base.describe(),
    )


def attached(base: BaseModel, strategy: InsertionStrategy) -> LatentLM:
    return LatentLM.build(base.model, base.tokenizer, artifact_of(base, strategy))


def hand_made_masks(base: BaseModel, length: int) -> torch.Tensor | dict[str, torch.Tensor]:
    """Who sees whom in `length` slots without holes, as numbers to be added to the scores."""
    config, dtype = base.model.config, base.model.dtype
    if getattr(config, "layer_types", None):
        windows = {"full_attention": None, "sliding_attention": config.sliding_window}
        return {kind: _mask(length, windows[kind], dtype) for kind in config.layer_types}
    return _mask(length, FAMILIES[base.path].window if base.path in FAMILIES else None, dtype)


@cache
def _mask(length: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    reach, hidden = window or length, torch.finfo(dtype).min
    rows = [
        [0.0 if 0 <= query - key < reach else hidden for key in range(length)]
        for query in range(length)
    ]
    return torch.tensor([[rows]], dtype=dtype)


def slot_logits(
    base: BaseModel, latents_LD: torch.Tensor, slots: Sequence[Slot], ids: Sequence[int]
) -> torch.Tensor:
    """The frozen model's logits over spelled-out slots, [T, V]; differentiable in the latents."""
    embeddings = base.model.get_input_embeddings()
    embeds_TD = torch.stack(
        [
            embeddings(torch.tensor(ids[slot.i]))
            if slot.row is None
            else latents_LD[slot.row].to(base.model.dtype)
            for slot in slots
        ]
    )
    logits: torch.Tensor = base.model(
        inputs_embeds=embeds_TD[None],
        position_ids=torch.tensor([[slot.position for slot in slots]]),
        attention_mask=hand_made_masks(base, len(slots)),
        use_cache=False,
    ).logits
    return logits[0]


def reference_of(
    base: BaseModel, strategy: InsertionStrategy, ids: Sequence[int], q: int
) -> Reference:
    """The layout by `tests.reference`, for this base model's tokenizer."""
    matches = naive_matches(strategy, base.tokenizer)
    return reference_layout(strategy, matches, base.tokenizer.bos_token_id, ids, q)


def reference_logits(
    base: BaseModel,
    strategy: InsertionStrategy,
    latents_LD: torch.Tensor,
    rows: Sequence[EncodedRow],
) -> torch.Tensor:
    """The logits at every label of rows, [J, V], each row by itself."""
    found = []
    for row in rows:
        ids, q = row.ids.tolist(), row.query_length
        spelled = reference_of(base, strategy, ids, q)
        logits_TV = slot_logits(base, latents_LD, spelled.slots, ids)
        found.append(logits_TV[[spelled.predictor[i] for i in range(q, len(ids))]])
    return torch.cat(found)


def step_logits(
    base: BaseModel, strategy: InsertionStrategy, ids: Sequence[int], q: int
) -> torch.Tensor:
    """The logits behind s_{n-1}, for n from q to the last, [steps, V].

    One forward serves them all: what is laid out for n tokens, with what is pending, begins what
    is laid out for more.
    """
    whole = reference_of(base, strategy, ids, q)
    slots = whole.slots + whole.pending
    ends = []
    for n in range(q, len(ids) + 1):
        spelled = reference_of(base, strategy, ids[:n], q)
        begun = spelled.slots + spelled.pending
        assert begun == slots[: len(begun)]
        ends.append(len(begun) - 1)
    return slot_logits(base, latents_of(base, strategy), slots, ids)[ends]


def engine_logits(
    base: BaseModel,
    strategy: InsertionStrategy,
    latents_LD: torch.Tensor,
    rows: Sequence[EncodedRow],
) -> torch.Tensor:
    """The same as training and scoring see them: all rows in one padded batch."""
    rules = Vocabulary(base.tokenizer, len(base.tokenizer)).rules(strategy)
    return labelled_logits(base.model, [prepare(0, row, rules) for row in rows], [latents_LD])[0]


def latents_of(base: BaseModel, strategy: InsertionStrategy) -> torch.Tensor:
    """The latents that `attached` decodes with."""
    return torch.from_numpy(artifact_of(base, strategy).latents)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The length of the difference, relative to that of what is expected."""
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


class NaiveLM(PreTrainedModel, GenerationMixin):
    """What `LatentLM` shall be, row by row and without any cache.

    Args:
        prompt_width: columns of the prompt, left padding included.
    """

    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, base: BaseModel, strategy: InsertionStrategy, prompt_width: int) -> None:
        super().__init__(base.model.config)
        self.base = base
        self.frozen = base.model  # a module of its own, so that it has a device
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
        return slot_logits(self.base, self.latents, slots, ids)[-1]


def naive_matches(
    strategy: InsertionStrategy, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[bool]]:
    """For each delimiter: whether each id of the character vocabulary matches it."""
    patterns = [t.pattern for t in strategy.triggers.values() if t.pattern is not None]
    specials = frozenset(tokenizer.all_special_ids)
    return {pattern: _matches(pattern, tokenizer, specials) for pattern in patterns}


@cache
def _matches(
    pattern: str, tokenizer: PreTrainedTokenizerBase, specials: frozenset[int]
) -> list[bool]:
    texts = [str(tokenizer.decode([i])) for i in range(len(tokenizer))]
    return [
        i not in specials and re.search(pattern, text) is not None for i, text in enumerate(texts)
    ]


def greedy(naive: NaiveLM, ids: list[int], new_tokens: int, eos: int | None) -> list[int]:
    """Greedy decoding as a plain loop; the new tokens, EOS included."""
    q, tokens = len(ids), list(ids)
    while len(tokens) - q < new_tokens:
        tokens.append(int(naive.next_logits(tokens, q).argmax()))
        if tokens[-1] == eos:
            break
    return tokens[q:]
