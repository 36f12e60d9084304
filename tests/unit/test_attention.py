"""The shares of attention, against hand-made attention and on models made to attend so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import trainable.attention
from tests.conftest import tiny_llama
from trainable.attention import (
    AttentionShares,
    Site,
    eager_attention,
    find_sites,
    read_attention,
)
from trainable.data import EncodedRow
from trainable.delimiters import decoded_vocabulary, matching_ids
from trainable.errors import AttentionError
from trainable.layout import Layout
from trainable.layout_rules import LayoutRules
from trainable.strategy import InsertionStrategy

START_COMMA = {
    "triggers": {"start": {"kind": "start", "m": 3}, "comma": {"kind": "delimiter", "m": 2}},
    "specialization": "by_trigger",
}
TEXT = "ab,c,de"
#        <s> [start]  a  b  [comma] ,  c  [comma] ,  d  e      slots
#         0   1 2 3   4  5   6 7    8  9  10 11  12 13 14
SITES = (Site(0, 1, 1, 3), Site(1, 3, 6, 2), Site(1, 5, 10, 2))
VERBAL_SLOTS = [0, 4, 5, 8, 9, 12, 13, 14]
SITE_SLOTS = [[1, 2, 3], [6, 7], [10, 11]]

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "initializer_range": 0.3, "max_position_embeddings": 128,
}  # fmt: skip
GPT2 = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": SIZES | {"num_key_value_heads": 2},
    "Mistral": SIZES | {"num_key_value_heads": 1, "sliding_window": 4},
    "Gemma3Text": SIZES
    | {
        "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "GPTNeoX": SIZES,
    "GPT2": GPT2 | {"initializer_range": 0.3},
}  # fmt: skip


def tiny(family: str, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(FAMILIES.get(family, SIZES) | options))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model.eval()
    return model


def rules_of(data: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> LayoutRules:
    matches = matching_ids(decoded_vocabulary(tokenizer, len(tokenizer)), [","])
    return LayoutRules.build(InsertionStrategy.from_dict(data), matches, tokenizer.bos_token_id)


def latents_of(model: PreTrainedModel, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    width = next(model.get_input_embeddings().parameters()).shape[1]
    return 0.3 * torch.randn(count, width, generator=generator)


@pytest.fixture
def row(tokenizer: PreTrainedTokenizerFast) -> EncodedRow:
    ids = np.array(tokenizer(TEXT)["input_ids"], dtype=np.int64)
    return EncodedRow(ids, query_length=4, distance=0)


def read(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    row: EncodedRow,
    latents: torch.Tensor | None = None,
) -> AttentionShares:
    if latents is None:
        latents = latents_of(model, 5)
    return read_attention(model, latents, rules_of(START_COMMA, tokenizer), row, (3, 2))


def spliced(model: PreTrainedModel, row: EncodedRow) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [1, T, D] and positions [1, T] of the sequence, put together by hand."""
    embedded = model.get_input_embeddings()(torch.from_numpy(row.ids))
    start, comma = latents_of(model, 5).split([3, 2])
    e, pieces = embedded, [embedded[:1], start, embedded[1:3], comma, embedded[3:5], comma]
    position = [0, 1, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7]
    return torch.cat([*pieces, e[5:]])[None], torch.tensor([position])


def rotated(x_HTE: torch.Tensor, position_T: torch.Tensor) -> torch.Tensor:
    """Rotary embedding as it is written in the paper of Llama's authors, theta = 10000."""
    half = x_HTE.shape[-1] // 2
    angle_TE = position_T[:, None] * 10000.0 ** (-torch.arange(half) / half)
    first, second = x_HTE[..., :half], x_HTE[..., half:]
    cos, sin = angle_TE.cos(), angle_TE.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@torch.no_grad()
def attention_by_hand(model: Any, row: EncodedRow, layer: int) -> torch.Tensor:
    """A Llama layer's attention weights [H, T, T] from its own projections."""
    embeds, position = spliced(model, row)
    hidden = model(
        inputs_embeds=embeds,
        position_ids=position,
        attention_mask=torch.ones_like(position),
        output_hidden_states=True,
    ).hidden_states[layer]
    block, config = model.model.layers[layer], model.config
    normed = block.input_layernorm(hidden)[0]
    size = config.head_dim
    q = block.self_attn.q_proj(normed).view(len(normed), -1, size).transpose(0, 1)
    k = block.self_attn.k_proj(normed).view(len(normed), -1, size).transpose(0, 1)
    k = k.repeat_interleave(len(q) // len(k), dim=0)
    scores = rotated(q, position[0]) @ rotated(k, position[0]).transpose(1, 2) / math.sqrt(size)
    hidden_ahead = torch.ones(len(normed), len(normed), dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden_ahead, -math.inf).softmax(-1)


def test_equals_attention_by_hand(tokenizer: PreTrainedTokenizerFast, row: EncodedRow) -> None:
    model = tiny("Llama")
    shares = read(model, tokenizer, row)
    assert shares.sites == SITES
    for layer in range(2):
        weights = attention_by_hand(model, row, layer)
        for head in range(4):
            for n, slot in enumerate(VERBAL_SLOTS):
                for s, latent_slots in enumerate(SITE_SLOTS):
                    expected = sum(float(weights[head, slot, t]) for t in latent_slots)
                    found = shares.share_KHNS[layer, head, n, s]
                    assert found == pytest.approx(expected, abs=2e-6), (layer, head, n, s)
                verbal = sum(float(weights[head, slot, t]) for t in VERBAL_SLOTS)
                assert shares.verbal_KHN[layer, head, n] == pytest.approx(verbal, abs=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_shares_of_a_token_are_one(
    family: str, tokenizer: PreTrainedTokenizerFast, row: EncodedRow
) -> None:
    shares = read(tiny(family), tokenizer, row)
    assert shares.share_KHNS.shape == (2, 4, len(row.ids), 3)
    total = shares.share_KHNS.sum(-1) + shares.verbal_KHN
    np.testing.assert_allclose(total, 1, atol=1e-5)
    ahead_NS = shares.distance_NS <= 0
    assert not shares.share_KHNS[..., ahead_NS].any()
    assert not shares.uniform_KNS[:, ahead_NS].any()
    assert (shares.share_KHNS[-1, :, 1:3, 0] > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(
    dtype: torch.dtype, tokenizer: PreTrainedTokenizerFast, row: EncodedRow
) -> None:
    exact = read(tiny("Llama"), tokenizer, row)
    shares = read(tiny("Llama").to(dtype), tokenizer, row)  # type: ignore[arg-type]
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5
    assert shares.share_KHNS.dtype == np.float32
    np.testing.assert_allclose(shares.share_KHNS, exact.share_KHNS, atol=tolerance)
    np.testing.assert_allclose(shares.uniform_KNS, exact.uniform_KNS, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_as_before(
    family: str, tokenizer: PreTrainedTokenizerFast, row: EncodedRow
) -> None:
    model = tiny(family)
    embeds, position = spliced(model, row)
    inputs = {"inputs_embeds": embeds, "position_ids": position, "use_cache": False}
    inputs["attention_mask"] = torch.ones_like(position)
    with torch.no_grad():
        before = model(**inputs).logits
        with eager_attention(model):
            assert model.config._attn_implementation == "eager"
            eager = model(**inputs).logits
        read(model, tokenizer, row)
        assert model.config._attn_implementation == "sdpa"
        assert torch.equal(model(**inputs).logits, before)
    torch.testing.assert_close(eager, before, atol=1e-4, rtol=0)


def test_the_model_is_as_before_after_an_error() -> None:
    model = tiny("Llama")
    with pytest.raises(RuntimeError, match="stop"), eager_attention(model):
        raise RuntimeError("stop")
    assert model.config._attn_implementation == "sdpa"


def test_a_model_without_preferences_is_uniform(
    tokenizer: PreTrainedTokenizerFast, row: EncodedRow
) -> None:
    model: Any = tiny("Llama")
    for block in model.model.layers:
        torch.nn.init.zeros_(block.self_attn.q_proj.weight)
    shares = read(model, tokenizer, row)
    heads_KHNS = np.broadcast_to(shares.uniform_KNS[:, None], shares.share_KHNS.shape)
    np.testing.assert_allclose(shares.share_KHNS, heads_KHNS, atol=1e-6)
    expected_NS: list[list[float]] = [  # latents / slots seen, for <s> a b , c , d e
        [0, 0, 0], [3 / 5, 0, 0], [3 / 6, 0, 0], [3 / 9, 2 / 9, 0], [3 / 10, 2 / 10, 0],
        [3 / 13, 2 / 13, 2 / 13], [3 / 14, 2 / 14, 2 / 14], [3 / 15, 2 / 15, 2 / 15],
    ]  # fmt: skip
    np.testing.assert_allclose(shares.uniform_KNS[0], expected_NS, rtol=1e-6)


def test_outside_a_sliding_window_there_is_nothing(
    tokenizer: PreTrainedTokenizerFast, row: EncodedRow
) -> None:
    shares = read(tiny("Mistral"), tokenizer, row)  # each slot sees four, itself included
    expected_NS: list[list[float]] = [
        [0, 0, 0], [3 / 4, 0, 0], [2 / 4, 0, 0], [0, 2 / 4, 0], [0, 2 / 4, 0],
        [0, 0, 2 / 4], [0, 0, 2 / 4], [0, 0, 1 / 4],
    ]  # fmt: skip
    np.testing.assert_allclose(shares.uniform_KNS[0], expected_NS, rtol=1e-6)
    assert (shares.share_KHNS[0][:, np.array(expected_NS) == 0] == 0).all()


@pytest.mark.parametrize(("loved", "site"), [(1, 0), (4, 1)])
def test_a_latent_that_all_look_at(
    loved: int, site: int, tokenizer: PreTrainedTokenizerFast, row: EncodedRow
) -> None:
    """Queries ask for dimension 0, which only the one latent has."""
    model: Any = tiny("GPT2", n_layer=1, initializer_range=0.02)
    attention = model.transformer.h[0].attn.c_attn  # columns: queries, keys, values
    latents = latents_of(model, 5)
    with torch.no_grad():
        for table in (model.transformer.wte.weight, model.transformer.wpe.weight, latents):
            table[:, 0] = 0
        latents[loved, 0] = 50
        attention.weight[:, :64] = 0
        for head in range(4):
            attention.bias[8 * head] = 100
            attention.weight[0, 32 + 8 * head] = 1
    shares = read(model, tokenizer, row, latents)
    first = SITES[site].before
    seen_HNS = shares.share_KHNS[0, :, first:]
    if site == 0:
        np.testing.assert_allclose(seen_HNS[..., 0], 1, atol=1e-4)
    else:  # its group stands twice, and the two share
        np.testing.assert_allclose(seen_HNS[..., 1:].sum(-1), 1, atol=1e-4)
        np.testing.assert_allclose(seen_HNS[:, 2:, 1], 0.5, atol=1e-3)
    assert not shares.share_KHNS[0, :, 0].any()


def crafted(share_KHNS: list[Any], sites: tuple[Site, ...]) -> AttentionShares:
    share = np.array(share_KHNS, dtype=np.float32)
    return AttentionShares(sites, share, 1 - share.sum(-1), share.mean(1) / 2)


def test_views_of_a_sequence() -> None:
    """Sites of group 0 before tokens 1 and 4; group 1 stands with the second."""
    sites = (Site(0, 1, 1, 1), Site(0, 4, 5, 1), Site(1, 4, 6, 1))
    share_NS = [
        [0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0], [0.4, 0.5, 0.0], [0.2, 0.7, 0.1],
    ]  # fmt: skip
    shares = crafted([[share_NS, share_NS]], sites)
    assert shares.distance_NS[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert shares.newer_NS[4:].tolist() == [[1, 0, 0], [1, 0, 0]]
    latest = shares.by_distance(0)
    assert latest.pairs_W.tolist() == [2, 2, 1]
    np.testing.assert_allclose(latest.share_KW, [[0.3, 0.45, 0.3]], rtol=1e-6)
    np.testing.assert_allclose(latest.uniform_KW, [[0.15, 0.225, 0.15]], rtol=1e-6)
    previous = shares.by_distance(0, newer=1)
    assert previous.pairs_W.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(previous.share_KW, [[np.nan] * 3 + [0.4, 0.2]], rtol=1e-6)
    by_newer = shares.by_newer(0)
    assert by_newer.pairs_W.tolist() == [5, 2]
    np.testing.assert_allclose(by_newer.share_KW, [[0.36, 0.3]], rtol=1e-6)
    assert shares.by_distance(1).pairs_W.tolist() == [1, 1]
    assert shares.by_distance(1, newer=1).pairs_W.size == 0


def layout(latent_T: list[int], verbal_T: list[int]) -> Layout:
    zeros_T = np.zeros(len(latent_T), dtype=np.int64)
    return Layout(np.array(verbal_T), np.array(latent_T), zeros_T, zeros_T, 0)


def test_sites_that_touch_are_told_apart() -> None:
    """The same group twice, then two groups with rows that follow each other."""
    met = layout([-1, 0, 1, 0, 1, 2, 3, 4, -1], [0, 1, 1, 1, 1, 1, 1, 1, 1])
    assert find_sites(met, (2, 3)) == (Site(0, 1, 1, 2), Site(0, 1, 3, 2), Site(1, 1, 5, 3))
    single = layout([0, 0, 1, -1], [0, 0, 0, 0])
    assert [site.group for site in find_sites(single, (1, 1))] == [0, 0, 1]
    assert find_sites(layout([-1, -1], [0, 1]), ()) == ()


def test_a_sequence_without_sites(tokenizer: PreTrainedTokenizerFast, row: EncodedRow) -> None:
    rules = rules_of({"triggers": {}}, tokenizer)
    shares = read_attention(tiny("Llama"), torch.zeros(0, 32), rules, row, ())
    assert shares.share_KHNS.shape == (2, 4, len(row.ids), 0)
    np.testing.assert_allclose(shares.verbal_KHN, 1, atol=1e-5)


def test_a_model_that_hides_its_attention(
    tokenizer: PreTrainedTokenizerFast, row: EncodedRow
) -> None:
    config = transformers.MambaConfig(
        num_hidden_layers=2, state_size=4, vocab_size=97, hidden_size=32
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(AttentionError, match="for 0 of its 2 layers"):
        read(model, tokenizer, row)


def test_a_model_that_computes_something_else_under_eager_attention(
    tokenizer: PreTrainedTokenizerFast, row: EncodedRow
) -> None:
    """Falcon keeps the attention that it was built with and gets the other one's mask."""
    with pytest.raises(AttentionError, match="differs from itself under sdpa attention"):
        read(tiny("Falcon"), tokenizer, row)


def test_too_long_for_the_model(tokenizer: PreTrainedTokenizerFast, row: EncodedRow) -> None:
    with pytest.raises(AttentionError, match="needs 8 positions, the base model's context is 7"):
        read(tiny("Llama", max_position_embeddings=7), tokenizer, row)


def test_too_long_for_the_memory(
    tokenizer: PreTrainedTokenizerFast, row: EncodedRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama(tokenizer)  # 2 layers with 2 heads
    monkeypatch.setattr(trainable.attention, "MOST_BYTES", 4 * 4 * 14**2)
    with pytest.raises(AttentionError, match=r"has 15 slots.* up to 14 slots: give a shorter"):
        read(model, tokenizer, row)
    monkeypatch.setattr(trainable.attention, "MOST_BYTES", 4 * 4 * 15**2)
    assert read(model, tokenizer, row).sites == SITES
