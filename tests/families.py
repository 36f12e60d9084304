"""Tiny random models of many families, from configurations alone.

All read the project's character tokenizer. Their weights are spread widely, so that logits are
far from uniform and what a mask hides makes a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from trainable.base_model.loading import BaseModel
from trainable.base_model.tokenizer import build_tokenizer
from trainable.data import EncodedRow

WIDTH, LAYERS, CONTEXT = 16, 2, 256
SPREAD = 0.2
KERNELS = ("sdpa", "eager")
SLIDING_AND_FULL = ["sliding_attention", "full_attention"]

COMMON: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
}
GROUPED = COMMON | {"num_key_value_heads": 1}


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        config: its configuration class.
        options: besides what the tokenizer decides.
        window: the slots that its sliding layers see; None without such layers.
        kernels: the attention implementations that it runs with.
    """

    config: Callable[..., PreTrainedConfig]
    options: dict[str, Any]
    window: int | None = None
    kernels: tuple[str, ...] = KERNELS


FAMILIES: dict[str, Family] = {
    "llama": Family(LlamaConfig, COMMON | {"tie_word_embeddings": False}),
    "llama tied": Family(LlamaConfig, GROUPED | {"tie_word_embeddings": True}),
    "llama stray": Family(LlamaConfig, COMMON | {"sliding_window": 5}),  # it never looks at it
    "qwen2": Family(Qwen2Config, GROUPED),
    "qwen2 window": Family(
        Qwen2Config,
        GROUPED | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
        window=5,
    ),
    "qwen3": Family(Qwen3Config, GROUPED | {"head_dim": 8, "tie_word_embeddings": True}),
    "mistral": Family(MistralConfig, GROUPED | {"sliding_window": None}),
    "mistral window": Family(MistralConfig, GROUPED | {"sliding_window": 6}, window=6),
    "mixtral": Family(MixtralConfig, GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gemma2": Family(
        Gemma2Config,
        GROUPED
        | {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 7,
            "layer_types": SLIDING_AND_FULL,
        },
        window=7,
        kernels=("eager",),  # sdpa has no soft capping
    ),
    "gemma3": Family(
        Gemma3TextConfig,
        GROUPED
        | {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 4,
            "layer_types": SLIDING_AND_FULL,
        },
        window=4,
    ),
    "cohere2": Family(
        Cohere2Config,
        GROUPED | {"sliding_window": 5, "layer_types": SLIDING_AND_FULL, "logit_scale": 1.0},
        window=5,
    ),
    "phi3": Family(Phi3Config, GROUPED | {"sliding_window": None}),
    "gpt2": Family(
        GPT2Config,
        {
            "n_embd": WIDTH,
            "n_layer": LAYERS,
            "n_head": 2,
            "n_positions": CONTEXT,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
        },
    ),
    "gpt neox": Family(GPTNeoXConfig, COMMON),
    "olmo2": Family(Olmo2Config, GROUPED),
    "opt": Family(
        OPTConfig,
        COMMON | {"ffn_dim": 24, "word_embed_proj_dim": WIDTH, "dropout": 0.0},
    ),
}
WINDOWED = [name for name, family in FAMILIES.items() if family.window is not None]
WITH_KERNELS = [(name, kernel) for name, each in FAMILIES.items() for kernel in each.kernels]
# (query, response) lengths of rows, BOS included; the longest is far beyond every window.
LENGTHS = ((1, 9), (4, 13), (11, 6), (7, 30))


@cache
def tokenizer_of_all() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@cache
def family(name: str, kernel: str = "sdpa", dtype: torch.dtype = torch.float32) -> BaseModel:
    """A frozen model of a family: the same weights for every kernel and dtype."""
    kind, tokenizer = FAMILIES[name], tokenizer_of_all()
    config = kind.config(
        **kind.options,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # What runs a mixture's experts by default knows no float64.
    experts = {"experts_implementation": "eager"} if dtype == torch.float64 else {}
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel, **experts)
    _spread(model)
    return BaseModel(
        model=model.to(dtype).eval().requires_grad_(False),
        tokenizer=tokenizer,
        path=name,
        revision=None,
        fingerprint=name,
        tokenizer_hash=name,
    )


@torch.no_grad()
def _spread(model: PreTrainedModel) -> None:
    """Draw all weights anew: matrices widely, biases and norms around where they start."""
    generator = torch.Generator().manual_seed(0)
    for values in model.parameters():  # tied ones come once
        noise = torch.randn(values.shape, generator=generator)
        if values.ndim > 1:
            values.copy_(SPREAD * noise)
        else:
            values.add_(0.1 * noise)


@cache
def random_rows(seed: int) -> tuple[EncodedRow, ...]:
    """Rows of random characters between BOS and EOS, of unequal length."""
    tokenizer, rng = tokenizer_of_all(), np.random.default_rng(seed)
    ordinary = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    rows = []
    for place, (query, response) in enumerate(LENGTHS):
        ids = rng.choice(ordinary, size=query + response)
        ids[0], ids[-1] = tokenizer.bos_token_id, tokenizer.eos_token_id
        rows.append(EncodedRow(ids.astype(np.int64), query, distance=place))
    return tuple(rows)
