"""Generating with a cache, in batches, equals recomputing the whole layout at every token."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StaticCache,
    TextStreamer,
)

from tests.conftest import tiny_llama
from tests.decoding_reference import NaiveLM, artifact_of, attached, greedy
from tests.reference import reference_layout
from trainable.base_model.loading import BaseModel, load_base
from trainable.decoding import LatentLM
from trainable.errors import BaseModelError
from trainable.latents import LatentTokens
from trainable.strategy import InsertionStrategy

NEW_TOKENS = 40
PROMPTS = ["44@47=", "", "a,b;1,2,3", "7@", ","]
# A random model seldom writes a comma: a pattern that matches a quarter of the characters.
OFTEN = "[0-9a-m,]"


def strategy(*triggers: dict[str, Any], specialization: str = "by_trigger") -> InsertionStrategy:
    named = {f"t{place}": fields for place, fields in enumerate(triggers)}
    return InsertionStrategy.from_dict({"triggers": named, "specialization": specialization})


START = {"kind": "start", "m": 3}
END = {"kind": "end", "m": 2}
DELIMITER = {"kind": "delimiter", "pattern": OFTEN, "m": 2}
EVERY = {"kind": "every", "k": 3, "m": 1}
AHEAD = {"kind": "every", "k": 4, "m": 2, "readout": "latent"}
STRATEGIES = {
    "none": strategy(),
    "start": strategy(START),
    "end": strategy(END),
    "end verbal": strategy(END | {"readout": "verbal"}),
    "delimiter": strategy(DELIMITER),
    "every": strategy(EVERY),
    "every ahead": strategy(AHEAD),
    "each one": strategy({"kind": "every", "k": 1, "m": 1, "readout": "latent"}),
    "start delimiter": strategy(START, DELIMITER),
    "all": strategy(DELIMITER, END, AHEAD, EVERY, START),
    "shared": strategy(START | {"m": 2}, DELIMITER, specialization="shared"),
}


@pytest.fixture(params=STRATEGIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def prompts_of(base: BaseModel, prompts: list[str]) -> dict[str, torch.Tensor]:
    """A left-padded batch."""
    batch = base.tokenizer(
        prompts, padding=True, padding_side="left", return_tensors="pt", return_token_type_ids=False
    )
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


def generate(lm: Any, base: BaseModel, prompts: list[str], **options: Any) -> list[list[int]]:
    """The new tokens of each row, padding included."""
    batch = prompts_of(base, prompts)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False} | options
    rows: list[list[int]] = lm.generate(**batch, **options).tolist()
    return [row[batch["input_ids"].shape[1] :] for row in rows]


def ids_of(base: BaseModel, prompt: str) -> list[int]:
    return list(base.tokenizer(prompt)["input_ids"])


@pytest.fixture
def own_base(tiny_base: BaseModel) -> BaseModel:
    """A base model whose generation config a test may change."""
    return load_base(tiny_base.path, device="cpu")


def test_greedy_equals_the_loop_without_a_cache(tiny_base: BaseModel, name: str) -> None:
    lm, naive = attached(tiny_base, STRATEGIES[name]), NaiveLM(tiny_base, STRATEGIES[name], 0)
    rows = generate(lm, tiny_base, PROMPTS)
    for prompt, found in zip(PROMPTS, rows, strict=True):
        expected = greedy(
            naive, ids_of(tiny_base, prompt), NEW_TOKENS, tiny_base.tokenizer.eos_token_id
        )
        padding = [tiny_base.tokenizer.pad_token_id] * (len(found) - len(expected))
        assert found == expected + padding, prompt


def test_the_strategies_do_differ(tiny_base: BaseModel) -> None:
    written = {
        name: generate(attached(tiny_base, each), tiny_base, ["44@47="])[0]
        for name, each in STRATEGIES.items()
    }
    assert len({tuple(row) for row in written.values()}) >= len(STRATEGIES) - 1


def test_logits_equal_the_loops(tiny_base: BaseModel, name: str) -> None:
    lm, naive = attached(tiny_base, STRATEGIES[name]), NaiveLM(tiny_base, STRATEGIES[name], 0)
    batch = prompts_of(tiny_base, PROMPTS)
    output = lm.generate(
        **batch,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=[],
        output_logits=True,
        return_dict_in_generate=True,
    )
    width = batch["input_ids"].shape[1]
    for line, prompt in enumerate(PROMPTS):
        ids = ids_of(tiny_base, prompt)
        for step in range(0, NEW_TOKENS, 3):
            tokens = ids + output.sequences[line, width : width + step].tolist()
            expected = naive.next_logits(tokens, len(ids))
            assert (output.logits[step][line] - expected).abs().max() < 1e-4


def test_a_batch_is_its_rows_one_at_a_time(tiny_base: BaseModel, name: str) -> None:
    lm = attached(tiny_base, STRATEGIES[name])
    together = generate(lm, tiny_base, PROMPTS)
    for prompt, row in zip(PROMPTS, together, strict=True):
        (alone,) = generate(lm, tiny_base, [prompt])
        assert row[: len(alone)] == alone
        assert set(row[len(alone) :]) <= {tiny_base.tokenizer.pad_token_id}


def test_without_an_attention_mask_all_is_real(tiny_base: BaseModel, name: str) -> None:
    lm = attached(tiny_base, STRATEGIES[name])
    ids = torch.tensor([ids_of(tiny_base, "44@47="), ids_of(tiny_base, "a,b;1,")])
    with_mask = lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9)
    assert torch.equal(lm.generate(ids, max_new_tokens=9), with_mask)


def early_eos(base: BaseModel, each: InsertionStrategy) -> int:
    """Make a token that the first row writes midway the EOS of this base model."""
    row = generate(attached(base, each), base, PROMPTS)[0]
    midway = row[12]
    base.model.generation_config.eos_token_id = midway
    return midway


def test_rows_that_end_early_make_no_more_sites(own_base: BaseModel, name: str) -> None:
    each = STRATEGIES[name]
    eos = early_eos(own_base, each)
    lm, naive = attached(own_base, each), NaiveLM(own_base, each, 0)
    output = lm.generate(
        **prompts_of(own_base, PROMPTS),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
    )
    width = len(ids_of(own_base, PROMPTS[2]))
    lengths = []
    for line, prompt in enumerate(PROMPTS):
        expected = greedy(naive, ids_of(own_base, prompt), NEW_TOKENS, eos)
        found = output.sequences[line, width:].tolist()
        assert found[: len(expected)] == expected
        assert set(found[len(expected) :]) <= {own_base.tokenizer.pad_token_id}
        lengths.append(len(expected))
        # Slots that were fed: the layout up to EOS, then holes alone.
        if len(expected) < len(found):  # the newest token has not been fed
            q = len(ids_of(own_base, prompt))
            layout = whole(naive, ids_of(own_base, prompt) + expected, q)
            assert int(output.past_key_values.mask_BS[line].sum()) == layout
    assert min(lengths) <= 13


def whole(naive: NaiveLM, ids: list[int], q: int) -> int:
    layout = reference_layout(naive.strategy, naive.matches, naive.bos_id, ids, q)
    return len(layout.slots) + len(layout.pending)


def test_an_eos_that_generate_is_told_to_pass_over_ends_nothing(
    own_base: BaseModel, name: str
) -> None:
    each = STRATEGIES[name]
    free = generate(attached(own_base, each), own_base, PROMPTS)
    early_eos(own_base, each)
    lm = attached(own_base, each)
    other = own_base.tokenizer.eos_token_id
    assert generate(lm, own_base, PROMPTS, eos_token_id=other) == free


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]])
def test_beam_search_equals_beam_search_without_a_cache(
    tiny_base: BaseModel, name: str, prompts: list[str]
) -> None:
    width = prompts_of(tiny_base, prompts)["input_ids"].shape[1]
    lm, naive = attached(tiny_base, STRATEGIES[name]), NaiveLM(tiny_base, STRATEGIES[name], width)
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 12}
    found = generate(lm, tiny_base, prompts, **beams)
    assert found == generate(naive, tiny_base, prompts, use_cache=False, **beams)


def test_beams_do_move_between_rows(tiny_base: BaseModel) -> None:
    """Otherwise the test above would not see a cache that forgets to follow them."""
    lm = attached(tiny_base, STRATEGIES["all"])
    output = lm.generate(
        **prompts_of(tiny_base, PROMPTS),
        num_beams=3,
        max_new_tokens=12,
        do_sample=False,
        return_dict_in_generate=True,
    )
    assert any(len(set(row[row >= 0].tolist())) > 1 for row in output.beam_indices)


def test_a_reordered_cache_carries_each_rows_state(tiny_base: BaseModel) -> None:
    """Beams of one prompt have equal states today; the cache shall not lean on that."""
    lm = attached(tiny_base, STRATEGIES["all"])
    cache = lm(**prompts_of(tiny_base, PROMPTS)).past_key_values
    states, mask_BS = list(cache.states), cache.mask_BS.clone()
    keys = cache.slots.layers[0].keys.clone()
    order = torch.tensor([4, 0, 0, 2, 1])
    cache.reorder_cache(order)
    assert cache.states == [states[row] for row in order.tolist()]
    assert torch.equal(cache.mask_BS, mask_BS[order])
    assert torch.equal(cache.slots.layers[0].keys, keys[order])


def test_sampling_with_a_seed_is_reproducible(tiny_base: BaseModel, name: str) -> None:
    def sample(lm: LatentLM | NaiveLM, seed: int, **options: Any) -> list[list[int]]:
        torch.manual_seed(seed)
        return generate(
            lm, tiny_base, PROMPTS, do_sample=True, top_k=20, max_new_tokens=15, **options
        )

    width = prompts_of(tiny_base, PROMPTS)["input_ids"].shape[1]
    lm, naive = attached(tiny_base, STRATEGIES[name]), NaiveLM(tiny_base, STRATEGIES[name], width)
    assert sample(lm, 1) == sample(lm, 1)
    assert sample(lm, 1) != sample(lm, 2)
    assert sample(lm, 1) == sample(naive, 1, use_cache=False)


class Forbid(LogitsProcessor):
    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, self.token] = -torch.inf
        return scores


def test_logits_processors_stopping_and_streamers_work(
    tiny_base: BaseModel, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = attached(tiny_base, STRATEGIES["all"])
    (free,) = generate(lm, tiny_base, ["44@47="])
    (without,) = generate(
        lm, tiny_base, ["44@47="], logits_processor=LogitsProcessorList([Forbid(free[3])])
    )
    assert free[3] not in without
    (streamed,) = generate(
        lm, tiny_base, ["44@47="], streamer=TextStreamer(tiny_base.tokenizer, skip_prompt=True)
    )
    assert streamed == free
    assert capsys.readouterr().out.strip() == str(tiny_base.tokenizer.decode(free)).strip()
    stop = tiny_base.tokenizer.decode([free[5]])
    (stopped,) = generate(
        lm, tiny_base, ["44@47="], stop_strings=[stop], tokenizer=tiny_base.tokenizer
    )
    assert stopped == free[: free.index(free[5]) + 1]


def test_generating_leaves_the_frozen_model_alone(tiny_base: BaseModel) -> None:
    before = {key: values.clone() for key, values in tiny_base.model.state_dict().items()}
    batch = prompts_of(tiny_base, PROMPTS)
    model: Any = tiny_base.model
    plain = model.generate(**batch, max_new_tokens=5, do_sample=False)
    generate(attached(tiny_base, STRATEGIES["all"]), tiny_base, PROMPTS)
    after = tiny_base.model.state_dict()
    assert all(torch.equal(values, after[key]) for key, values in before.items())
    again = model.generate(**batch, max_new_tokens=5, do_sample=False)
    assert torch.equal(plain, again)


REFUSED: dict[str, Any] = {
    "use_cache": False,
    "guidance_scale": 1.5,
    "prompt_lookup_num_tokens": 3,
    "cache_implementation": "static",
    "prefill_chunk_size": 4,
    "output_attentions": True,
    "output_hidden_states": True,
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_carry_latents_is_refused(tiny_base: BaseModel, option: str) -> None:
    lm = attached(tiny_base, STRATEGIES["start"])
    with pytest.raises(ValueError, match=option):
        generate(lm, tiny_base, PROMPTS, **{option: REFUSED[option]})


@pytest.mark.parametrize("option", REFUSED)
def test_it_is_refused_in_a_generation_config_too(tiny_base: BaseModel, option: str) -> None:
    lm = attached(tiny_base, STRATEGIES["start"])
    config = copy.deepcopy(tiny_base.model.generation_config)
    setattr(config, option, REFUSED[option])
    with pytest.raises(ValueError, match=option):
        generate(lm, tiny_base, PROMPTS, generation_config=config)


@pytest.mark.parametrize("option", ["use_cache", "cache_implementation"])
def test_it_is_refused_in_the_models_own_config_too(own_base: BaseModel, option: str) -> None:
    setattr(own_base.model.generation_config, option, REFUSED[option])
    with pytest.raises(ValueError, match=option):
        generate(attached(own_base, STRATEGIES["start"]), own_base, PROMPTS)


def test_an_assistant_is_refused(tiny_base: BaseModel, tokenizer: PreTrainedTokenizerFast) -> None:
    lm = attached(tiny_base, STRATEGIES["start"])
    with pytest.raises(ValueError, match="assistant_model"):
        generate(lm, tiny_base, PROMPTS[:1], assistant_model=tiny_llama(tokenizer))


def test_embeddings_as_input_are_refused(tiny_base: BaseModel) -> None:
    lm = attached(tiny_base, STRATEGIES["start"])
    with pytest.raises(ValueError, match="inputs_embeds"):
        lm.generate(inputs_embeds=torch.zeros(1, 3, 32), max_new_tokens=2)


def test_a_cache_of_someone_else_is_refused(tiny_base: BaseModel) -> None:
    lm = attached(tiny_base, STRATEGIES["start"])
    cache = StaticCache(config=tiny_base.model.config, max_cache_len=99)
    with pytest.raises(ValueError, match="past_key_values"):
        generate(lm, tiny_base, PROMPTS, past_key_values=cache)


def test_it_is_not_saved_as_a_model(tiny_base: BaseModel, tmp_path: Path) -> None:
    """A folder of its own would load as a random model of the base's kind."""
    with pytest.raises(NotImplementedError, match=r"LatentTokens\.save"):
        attached(tiny_base, STRATEGIES["start"]).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_latents_are_not_attached_to_latents(tiny_base: BaseModel) -> None:
    latents = LatentTokens(artifact_of(tiny_base, STRATEGIES["start"]))
    lm = attached(tiny_base, STRATEGIES["start"])
    with pytest.raises(BaseModelError, match=r"already carries latents.*`frozen`"):
        latents.attach(lm, tiny_base.tokenizer)


def test_a_plain_generation_config_works(tiny_base: BaseModel) -> None:
    lm = attached(tiny_base, STRATEGIES["all"])
    pad, eos = tiny_base.tokenizer.pad_token_id, tiny_base.tokenizer.eos_token_id
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, pad_token_id=pad, eos_token_id=eos)
    batch = prompts_of(tiny_base, PROMPTS)
    rows = lm.generate(**batch, generation_config=config)
    width = batch["input_ids"].shape[1]
    assert rows[:, width:].tolist() == generate(lm, tiny_base, PROMPTS)


def test_models_that_cannot_carry_latents_are_refused(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = artifact_of(tiny_base, STRATEGIES["start"])
    monkeypatch.setattr(type(tiny_base.model), "_is_stateful", True)
    with pytest.raises(BaseModelError, match="recurrent layers"):
        LatentLM.build(tiny_base.model, tiny_base.tokenizer, artifact)


@pytest.mark.parametrize("triggers", [[START], [START, DELIMITER], [START, END]])
def test_a_tokenizer_without_bos(own_base: BaseModel, triggers: list[dict[str, Any]]) -> None:
    """`start` then stands at the very first slot, and an empty prompt has nothing but it."""
    own_base.tokenizer.bos_token = None
    lm, naive = attached(own_base, strategy(*triggers)), NaiveLM(own_base, strategy(*triggers), 0)
    ids_of_token = own_base.tokenizer.get_vocab()
    plain = [[ids_of_token[character] for character in prompt] for prompt in PROMPTS]
    width = max(map(len, plain))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in plain])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in plain])
    rows = lm.generate(ids, attention_mask=mask, max_new_tokens=15, do_sample=False)
    for row, prompt in zip(rows[:, width:].tolist(), plain, strict=True):
        expected = greedy(naive, prompt, 15, own_base.tokenizer.eos_token_id)
        assert row[: len(expected)] == expected
