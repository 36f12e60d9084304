"""Which space latents live in, measured; and what only a forward tells about a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from trainable.base_model.inputs import InputSpace, measure_inputs
from trainable.base_model.loading import BaseModel, load_base
from trainable.errors import BaseModelError

WIDTH = 16
COMMON: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = COMMON | {"num_key_value_heads": 1, "head_dim": 8}
GPT = {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 64}
ALIBI = FalconConfig(
    vocab_size=97, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, alibi=True
)


def tiny(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return model


@pytest.mark.parametrize(
    ("config", "space"),
    [
        (LlamaConfig(**GROUPED), InputSpace(1.0, 1.0)),
        (LlamaConfig(**GROUPED, tie_word_embeddings=True), InputSpace(1.0, 1.0)),
        (Gemma3TextConfig(**GROUPED), InputSpace(4.0, 1.0)),
        (Gemma2Config(**GROUPED), InputSpace(4.0, 1.0)),
        (GraniteConfig(**COMMON, embedding_multiplier=6.0), InputSpace(1.0, 6.0)),
        (GPT2Config(**COMMON | GPT), InputSpace(1.0, 1.0)),
        (OPTConfig(**COMMON | {"ffn_dim": 24, "word_embed_proj_dim": 8}), InputSpace(1.0, None)),
    ],
    ids=["llama", "tied", "gemma3", "gemma2", "granite", "gpt2: positions added", "opt: projected"],
)
def test_the_space_of_latents(config: PreTrainedConfig, space: InputSpace) -> None:
    assert measure_inputs(tiny(config)) == space


def test_factors_survive_rounding() -> None:
    for config, expected in (
        (Gemma3TextConfig(**GROUPED | {"hidden_size": 24}), 24**0.5),
        (GraniteConfig(**COMMON, embedding_multiplier=0.3), 0.3),
    ):
        space = measure_inputs(tiny(config, torch.bfloat16))
        factors = (space.embedding_scale, space.block_input_scale)
        assert max(factors, key=lambda f: abs((f or 0) - 1)) == pytest.approx(expected, rel=0.01)


def test_measuring_leaves_the_model_as_it_was(tiny_base: BaseModel) -> None:
    before = {name: each.clone() for name, each in tiny_base.model.state_dict().items()}
    hooks = [len(module._forward_pre_hooks) for module in tiny_base.model.modules()]
    measure_inputs(tiny_base.model)
    assert all(torch.equal(each, before[n]) for n, each in tiny_base.model.state_dict().items())
    assert [len(module._forward_pre_hooks) for module in tiny_base.model.modules()] == hooks


class ScalesWhatItLooksUp(LlamaForCausalLM):
    """As Falcon-H1 does: the factor is lost where `inputs_embeds` are given."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **rest: Any) -> Any:
        if input_ids is not None:
            inputs_embeds = 5.0 * self.get_input_embeddings()(input_ids)
        return super().forward(inputs_embeds=inputs_embeds, **rest)


class LooksIdsUpAgain(LlamaForCausalLM):
    """As Gemma4 does with an embedding per layer: it must find each vector's id."""

    def forward(self, inputs_embeds: Any = None, **rest: Any) -> Any:
        if inputs_embeds is not None:
            table_VD = self.get_input_embeddings().weight
            known = (inputs_embeds[..., None, :] == table_VD).all(-1).any(-1)
            if not known.all():
                raise RuntimeError("the inputs_embeds do not match the embedding weights")
        return super().forward(inputs_embeds=inputs_embeds, **rest)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (tiny(ALIBI), "position_ids have no effect"),
        (BertLMHeadModel(BertConfig(**COMMON)), "its tokens see the ones behind them"),
        (tiny(RobertaConfig(**COMMON, is_decoder=True)), "do not count 0, 1, 2"),
        (ScalesWhatItLooksUp(LlamaConfig(**COMMON)), "something else with inputs_embeds"),
        (LooksIdsUpAgain(LlamaConfig(**COMMON)), "forward fails on inputs_embeds.*do not match"),
    ],
    ids=["alibi", "bidirectional", "positions from 2", "scales what it looks up", "needs ids"],
)
def test_what_only_a_forward_tells(model: PreTrainedModel, words: str) -> None:
    with pytest.raises(BaseModelError, match=f"cannot carry latent tokens: .*{words}"):
        measure_inputs(model.eval())


def test_a_decoder_of_the_same_family_passes() -> None:
    measure_inputs(tiny(BertConfig(**COMMON, is_decoder=True)))
    measure_inputs(tiny(FalconConfig(**ALIBI.to_diff_dict() | {"alibi": False})))


def test_an_artifact_says_which_space(tiny_base: BaseModel) -> None:
    described = load_base(tiny_base.path, device="cpu").describe()
    assert described["latent_space"] == "inputs_embeds"
    assert (described["embedding_scale"], described["block_input_scale"]) == (1.0, 1.0)
