"""Masks by hand, and which models are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OlmoeConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3NextConfig,
    Starcoder2Config,
)

from tests.families import FAMILIES, family
from trainable.attention_masks import Attention, refuse_attention
from trainable.errors import BaseModelError

SMALL: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def seen(mask_B1TS: torch.Tensor) -> list[list[str]]:
    """Per row and slot of the chunk, what it sees: `#` seen, `.` not."""
    lowest = torch.finfo(mask_B1TS.dtype).min
    assert set(mask_B1TS.unique().tolist()) <= {0.0, lowest}
    return [
        ["".join("#" if value == 0 else "." for value in line) for line in row]
        for row in mask_B1TS[:, 0]
    ]


def test_a_window_counts_real_slots_alone() -> None:
    # a hole is written 0
    real_BS = torch.tensor([[1, 0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1, 1]])
    masks = Attention(("sliding_attention",), 3, by_kind=False).masks(real_BS, 3, torch.float32)
    assert isinstance(masks, torch.Tensor)
    assert seen(masks) == [
        ["#..##..", "#..###.", "...##.#"],
        ["..###..", "...###.", "....###"],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_mask_for_each_kind(dtype: torch.dtype) -> None:
    real_BS = torch.tensor([[1, 0, 1, 1]])
    kinds = ("full_attention", "sliding_attention")
    masks = Attention(kinds, 1, by_kind=True).masks(real_BS, 2, dtype)
    assert isinstance(masks, dict)
    assert {kind: seen(mask) for kind, mask in masks.items()} == {
        "full_attention": [["#.#.", "#.##"]],
        "sliding_attention": [["..#.", "...#"]],
    }
    assert {mask.dtype for mask in masks.values()} == {dtype}


def test_no_window_and_no_holes_need_nothing_but_two_dimensions() -> None:
    real_BS = torch.ones(1, 5, dtype=torch.long)
    full = Attention(("full_attention",), None, by_kind=False)
    window = Attention(("sliding_attention",), 3, by_kind=False)
    for attention, has_holes in ((full, True), (full, False), (window, False)):
        mask = attention.decoding_mask(real_BS, 2, torch.float32, has_holes=has_holes)
        assert mask is real_BS
    mask = window.decoding_mask(real_BS, 2, torch.float32, has_holes=True)
    assert isinstance(mask, torch.Tensor)
    assert mask.shape == (1, 1, 2, 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_known_by_its_window(name: str) -> None:
    model = family(name, FAMILIES[name].kernels[0]).model
    refuse_attention(model)
    attention = Attention.of(model)
    assert attention.window == FAMILIES[name].window
    assert ("sliding_attention" in attention.kinds) == (attention.window is not None)


@pytest.mark.parametrize("config", [LlamaConfig, OlmoeConfig])
@pytest.mark.parametrize("window", [4, 4096])
def test_a_window_that_the_code_never_looks_at_is_none(
    config: type[PreTrainedConfig], window: int
) -> None:
    made = config(**SMALL)
    made.sliding_window = window
    attention = Attention.of(model_of(made))
    assert (attention.kinds, attention.window) == (("full_attention",), None)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SMALL, sliding_window=4096),
        Phi3Config(**SMALL, sliding_window=4096, pad_token_id=0),
        Starcoder2Config(**SMALL, sliding_window=4096),
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=4096, max_window_layers=1),
    ],
    ids=lambda config: str(config.model_type),
)
def test_a_wide_window_that_it_does_look_at(config: PreTrainedConfig) -> None:
    attention = Attention.of(model_of(config))
    assert attention.window == 4096
    assert "sliding_attention" in attention.kinds


def test_foreign_code_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(**SMALL)
    config.sliding_window = 4
    model = model_of(config)
    monkeypatch.setattr(type(model), "__module__", "modeling_ones_own")
    assert Attention.of(model).window == 4


ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {
        "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 16,
    },
}  # fmt: skip


@pytest.mark.parametrize("rope_type", ROPES)
def test_ropes_that_depend_on_the_batch_are_refused(rope_type: str) -> None:
    ropes = ROPES[rope_type] | {"rope_theta": 10000.0}
    model = model_of(LlamaConfig(**SMALL, max_position_embeddings=64, rope_parameters=ropes))
    with pytest.raises(BaseModelError, match=rf"rope_type='{rope_type}'.*default, linear, llama3"):
        refuse_attention(model)


def test_ropes_of_one_kind_of_layer_are_refused_too() -> None:
    model = model_of(LlamaConfig(**SMALL))
    model.config.rope_parameters = {
        "full_attention": {"type": "longrope"}, "sliding_attention": {"rope_type": "default"}
    }  # fmt: skip
    with pytest.raises(BaseModelError, match="longrope"):
        refuse_attention(model)


def test_ropes_that_stay_as_they_are_pass() -> None:
    for rope in (
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16},
    ):
        ropes = rope | {"rope_theta": 10000.0}
        config = LlamaConfig(**SMALL, max_position_embeddings=32, rope_parameters=ropes)
        refuse_attention(model_of(config))


REFUSED: dict[str, PreTrainedConfig] = {
    "linear_attention": Qwen3NextConfig(
        **SMALL, layer_types=["linear_attention", "full_attention"], num_experts=2
    ),
    "conv": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
    "chunked_attention": Llama4TextConfig(
        **SMALL, layer_types=["chunked_attention", "full_attention"], num_local_experts=1
    ),
    "local": GPTNeoConfig(
        vocab_size=20, hidden_size=16, num_layers=2, num_heads=2,
        attention_types=[[["global", "local"], 1]],
    ),
    "linear_attention ": MambaConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_other_layers_are_refused_by_name(kind: str) -> None:
    with pytest.raises(BaseModelError, match=rf"has {kind.strip()}\b.*full_attention or sliding"):
        refuse_attention(model_of(REFUSED[kind]))


def test_a_model_that_says_no_more_than_that_it_is_recurrent() -> None:
    model = model_of(LlamaConfig(**SMALL))
    model._is_stateful = True
    with pytest.raises(BaseModelError, match="has recurrent layers"):
        refuse_attention(model)


def test_chunks_without_layer_types() -> None:
    config = LlamaConfig(**SMALL)
    config.attention_chunk_size = 8
    with pytest.raises(BaseModelError, match="chunked_attention"):
        refuse_attention(model_of(config))


def test_global_layers_are_full_attention() -> None:
    config = GPTNeoConfig(
        vocab_size=20, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]
    )
    refuse_attention(model_of(config))


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention", "paged|sdpa"])
def test_kernels_that_guess_packed_sequences_are_refused(kernel: str) -> None:
    model = model_of(MistralConfig(**SMALL))
    model.config._attn_implementation_internal = kernel
    with pytest.raises(BaseModelError, match="attn_implementation='sdpa'"):
        refuse_attention(model)
