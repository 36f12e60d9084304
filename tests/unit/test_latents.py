"""Where latents start, and how their learning rate goes."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from trainable.base_model.loading import BaseModel
from trainable.base_model.tokenizer import build_tokenizer
from trainable.errors import TrialError
from trainable.latents import init_latents
from trainable.resident import schedule_factor
from trainable.trial import InitConfig, OptimConfig


def drawn(base: BaseModel, init: InitConfig, count: int = 400, seed: int = 0) -> torch.Tensor:
    return init_latents(init, count, seed, base.embeddings, base.tokenizer)


@pytest.fixture
def table_VD(tiny_base: BaseModel) -> torch.Tensor:
    size = tiny_base.model.config.vocab_size
    embedded: torch.Tensor = tiny_base.embeddings(torch.arange(size))
    return embedded


@pytest.mark.parametrize("kind", ["normal", "vocab"])
def test_the_seed_decides_the_draw(tiny_base: BaseModel, kind: str) -> None:
    init = InitConfig(kind=kind)  # type: ignore[arg-type]
    assert torch.equal(drawn(tiny_base, init), drawn(tiny_base, init))
    assert not torch.equal(drawn(tiny_base, init), drawn(tiny_base, init, seed=1))
    assert drawn(tiny_base, init).dtype == torch.float32
    assert drawn(tiny_base, init, count=0).shape == (0, 32)


def test_normal_has_the_embeddings_own_mean_and_spread(
    tiny_base: BaseModel, table_VD: torch.Tensor
) -> None:
    half, whole = (drawn(tiny_base, InitConfig(scale=scale), 4000) for scale in (0.5, 1.0))
    torch.testing.assert_close(whole.mean(0), table_VD.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(whole.std(0), table_VD.std(0), atol=0, rtol=0.1)
    torch.testing.assert_close(half.std(0), table_VD.std(0) / 2, atol=0, rtol=0.1)


def test_vocab_takes_rows_of_ordinary_tokens(
    tiny_base: BaseModel, tokenizer: PreTrainedTokenizerFast, table_VD: torch.Tensor
) -> None:
    latents_LD = drawn(tiny_base, InitConfig(kind="vocab"))
    distance_LV = torch.cdist(latents_LD, table_VD, compute_mode="donot_use_mm_for_euclid_dist")
    assert (distance_LV.min(1).values == 0).all()
    assert not set(distance_LV.argmin(1).tolist()) & set(tokenizer.all_special_ids)


def test_text_is_repeated_or_cut(tiny_base: BaseModel, table_VD: torch.Tensor) -> None:
    four, two = (tiny_base.tokenizer.convert_tokens_to_ids(word) for word in "42")
    init = InitConfig(kind="text", text="42")
    assert torch.equal(drawn(tiny_base, init, 3), table_VD[torch.tensor([four, two, four])])
    assert torch.equal(drawn(tiny_base, init, 1), table_VD[torch.tensor([four])])
    with pytest.raises(TrialError, match=r"init\.text=''"):
        drawn(tiny_base, InitConfig(kind="text", text=""), 1)


def test_schedules() -> None:
    def factors(schedule: str, warmup_steps: int = 2) -> list[float]:
        optim = OptimConfig(schedule=schedule, warmup_steps=warmup_steps)  # type: ignore[arg-type]
        return [schedule_factor(optim, step, 6) for step in range(8)]

    assert factors("constant") == [0.5, 1, 1, 1, 1, 1, 1, 1]
    assert factors("linear") == [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]  # and 0 behind the budget
    assert factors("cosine")[:3] == [0.5, 1, 1]
    assert factors("cosine")[4] == pytest.approx(0.5)
    assert factors("cosine")[6:] == [0, 0]
    assert factors("constant", warmup_steps=0)[0] == 1


def test_latents_that_start_as_tokens_are_rows_of_inputs_embeds() -> None:
    """Where the embeddings scale their weights, latents start on the scaled side."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=97, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    embeddings = Gemma3ForCausalLM(config).get_input_embeddings()
    tokenizer = build_tokenizer()
    ids = tokenizer("44@47", add_special_tokens=False)["input_ids"]
    latents_LD = init_latents(
        InitConfig(kind="text", text="44@47"), len(ids), 0, embeddings, tokenizer
    )
    assert torch.equal(latents_LD, embeddings(torch.tensor(ids)))
    torch.testing.assert_close(latents_LD, 4.0 * next(embeddings.parameters())[ids])
