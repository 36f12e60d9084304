"""What `generate()` offers works with latents as without: against the loop without a cache."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tests.decoding_reference import NaiveLM, artifact_of, attached, difference, greedy
from tests.families import CONTEXT, family
from trainable.base_model.loading import BaseModel
from trainable.decoding import LatentLM
from trainable.latent_cache import LatentCache
from trainable.strategy import InsertionStrategy

PROMPTS = ["44@47=", "", "a,b;1,2,3", "7@", ","]
EVERYWHERE = InsertionStrategy.from_dict(
    {
        "triggers": {
            "start": {"kind": "start", "m": 3},
            "end": {"kind": "end", "m": 1},
            "delimiter": {"kind": "delimiter", "pattern": "[0-9a-m,]", "m": 2},
            "ahead": {"kind": "every", "k": 4, "m": 2, "readout": "latent"},
            "every": {"kind": "every", "k": 3, "m": 1},
        },
        "specialization": "by_trigger",
    }
)
NONE = InsertionStrategy()
NEW_TOKENS = 9
BASES = ("tiny", "gemma3", "mistral window", "gpt2")


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest, tiny_base: BaseModel) -> BaseModel:
    return tiny_base if request.param == "tiny" else family(request.param)


def batch_of(base: BaseModel, prompts: list[str]) -> dict[str, torch.Tensor]:
    batch = base.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


def naive_of(base: BaseModel, prompts: list[str]) -> NaiveLM:
    return NaiveLM(base, EVERYWHERE, batch_of(base, prompts)["input_ids"].shape[1])


def write(lm: Any, base: BaseModel, prompts: list[str], **options: Any) -> Any:
    torch.manual_seed(1)
    if isinstance(lm, NaiveLM):
        options |= {"use_cache": False}
    return lm.generate(**batch_of(base, prompts), max_new_tokens=NEW_TOKENS, **options)


class TwoOf(StoppingCriteria):
    """Stop a row whose last two tokens are of a set."""

    def __init__(self, tokens: set[int]) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor([set(row) <= self.tokens for row in input_ids[:, -2:].tolist()])


@pytest.mark.parametrize("base", ["tiny", "gemma3"], indirect=True)
def test_options_mean_what_they_mean_without_a_cache(base: BaseModel) -> None:
    lm, naive = attached(base, EVERYWHERE), naive_of(base, PROMPTS)
    half = set(range(0, len(base.tokenizer), 2))
    different: list[dict[str, Any]] = [
        {"do_sample": True, "num_return_sequences": 3, "top_p": 0.9, "temperature": 1.3},
        {"do_sample": True, "num_beams": 3, "num_return_sequences": 2},
        {"do_sample": False, "num_beams": 4, "length_penalty": 0.3, "early_stopping": True},
        {"do_sample": False, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"do_sample": False, "stopping_criteria": StoppingCriteriaList([TwoOf(half)])},
        {"do_sample": False, "stop_strings": ["a", "1", "Z", "(", "="]},
    ]
    for options in different:
        options |= {"tokenizer": base.tokenizer} if "stop_strings" in options else {}
        found, expected = (write(each, base, PROMPTS, **options) for each in (lm, naive))
        assert torch.equal(found, expected), options


def test_return_dict_in_generate(base: BaseModel) -> None:
    options: dict[str, Any] = {
        "do_sample": False, "return_dict_in_generate": True, "output_scores": True,
        "output_logits": True, "eos_token_id": [],
    }  # fmt: skip
    lm, naive = attached(base, EVERYWHERE), naive_of(base, PROMPTS)
    found, expected = (write(each, base, PROMPTS, **options) for each in (lm, naive))
    assert torch.equal(found.sequences, expected.sequences)
    assert len(found.scores) == len(found.logits) == NEW_TOKENS
    for name in ("scores", "logits"):
        assert difference(torch.stack(found[name]), torch.stack(expected[name])) < 1e-5
    assert isinstance(found.past_key_values, LatentCache)
    assert found.past_key_values.get_seq_length() == found.sequences.shape[1] - 1


def test_prompts_longer_than_any_of_training(base: BaseModel) -> None:
    prompt = "44@47=83," * 10
    (row,) = write(attached(base, EVERYWHERE), base, [prompt], do_sample=False).tolist()
    ids = base.tokenizer(prompt)["input_ids"]
    naive = NaiveLM(base, EVERYWHERE, 0)
    assert row[len(ids) :] == greedy(naive, ids, NEW_TOKENS, base.tokenizer.eos_token_id)


def test_a_chat_templates_output_goes_straight_in(tiny_base: BaseModel) -> None:
    tokenizer = copy.deepcopy(tiny_base.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}"
    )
    inputs: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": "44@47="}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    lm = attached(tiny_base, EVERYWHERE)
    (row,) = lm.generate(**inputs, max_new_tokens=9, do_sample=False).tolist()
    ids = inputs["input_ids"][0].tolist()
    assert str(tokenizer.decode(ids)).endswith("u:44@47=;a:")
    naive = NaiveLM(tiny_base, EVERYWHERE, 0)
    assert row[len(ids) :] == greedy(naive, ids, 9, tokenizer.eos_token_id)


def test_the_generation_config_is_ones_own(tiny_base: BaseModel) -> None:
    lm = attached(tiny_base, EVERYWHERE)
    before = tiny_base.model.generation_config.to_dict()
    lm.generation_config.eos_token_id = 7
    lm.generation_config.max_new_tokens = 3
    assert tiny_base.model.generation_config.to_dict() == before
    assert len(lm.generate(**batch_of(tiny_base, ["4"]))[0]) == len("4") + 1 + 3


# Going on from a cache


def written(lm: LatentLM, new_tokens: int, **inputs: Any) -> Any:
    return lm.generate(
        **inputs,
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=[],
        output_logits=True,
        return_dict_in_generate=True,
    )


def grown(mask: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """A prompt's mask for all ids so far."""
    new = ids.shape[1] - mask.shape[1]
    return torch.cat([mask, mask.new_ones(len(mask), new)], dim=1)


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]])
def test_going_on_is_one_longer_call(base: BaseModel, prompts: list[str]) -> None:
    lm = attached(base, EVERYWHERE)
    batch = batch_of(base, prompts)
    whole = written(lm, 16, **batch)
    for cut in (1, 5, 6):
        first = written(lm, cut, **batch)
        ids, cache = first.sequences, first.past_key_values
        second = written(
            lm, 16 - cut, input_ids=ids, past_key_values=cache,
            attention_mask=grown(batch["attention_mask"], ids),
        )  # fmt: skip
        assert torch.equal(second.sequences, whole.sequences)
        assert second.past_key_values is cache
        together = torch.stack([*first.logits, *second.logits])
        assert difference(together, torch.stack(whole.logits)) < 1e-5


def test_going_on_with_tokens_of_ones_own(base: BaseModel) -> None:
    """They are no query: what was the query of the first call stays the query."""
    lm, naive = attached(base, EVERYWHERE), NaiveLM(base, EVERYWHERE, 0)
    batch = batch_of(base, PROMPTS)
    first = written(lm, 4, **batch)
    own = base.tokenizer("1,z=9", return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = torch.cat([first.sequences, own.expand(len(PROMPTS), -1)], dim=1)
    mask = grown(batch["attention_mask"], ids)
    copied = copy.deepcopy(first.past_key_values)
    second = written(lm, 6, input_ids=ids, attention_mask=mask, past_key_values=copied)
    fed = first.past_key_values.get_seq_length()
    rest = written(  # Hugging Face also takes the new ids alone, with the mask of all
        lm, 6, input_ids=ids[:, fed:], attention_mask=mask, past_key_values=first.past_key_values
    )
    for line, prompt in enumerate(PROMPTS):
        q = len(base.tokenizer(prompt)["input_ids"])
        tokens = ids[line][mask[line].bool()].tolist()
        expected: list[int] = []
        for _ in range(6):
            expected.append(int(naive.next_logits(tokens + expected, q).argmax()))
        assert second.sequences[line, -6:].tolist() == expected
        assert rest.sequences[line, -6:].tolist() == expected


def test_sampled_rows_go_on_too(tiny_base: BaseModel) -> None:
    lm = attached(tiny_base, EVERYWHERE)
    first = write(
        lm, tiny_base, PROMPTS, do_sample=True, num_return_sequences=2, eos_token_id=[],
        return_dict_in_generate=True,
    )  # fmt: skip
    mask = batch_of(tiny_base, PROMPTS)["attention_mask"].repeat_interleave(2, dim=0)
    inputs = {"input_ids": first.sequences, "attention_mask": grown(mask, first.sequences)}
    second = written(lm, 5, **inputs, past_key_values=first.past_key_values)
    naive: Any = NaiveLM(tiny_base, EVERYWHERE, mask.shape[1])
    again = naive.generate(
        **inputs, max_new_tokens=5, do_sample=False, eos_token_id=[], use_cache=False
    )
    assert torch.equal(second.sequences, again)


class TestRefusedCaches:
    @pytest.fixture
    def lm(self, tiny_base: BaseModel) -> LatentLM:
        return attached(tiny_base, EVERYWHERE)

    @pytest.fixture
    def first(self, lm: LatentLM, tiny_base: BaseModel) -> Any:
        return written(lm, 5, **batch_of(tiny_base, PROMPTS))

    def test_of_another_kind(self, lm: LatentLM, first: Any) -> None:
        cache = DynamicCache(config=lm.frozen.config)
        with pytest.raises(ValueError, match="past_key_values is a DynamicCache"):
            lm.generate(first.sequences, past_key_values=cache)

    def test_of_another_model(self, lm: LatentLM, first: Any, tiny_base: BaseModel) -> None:
        other = attached(tiny_base, EVERYWHERE)
        with pytest.raises(ValueError, match="filled by another model"):
            other.generate(first.sequences, past_key_values=first.past_key_values, max_new_tokens=2)

    def test_of_other_rows(self, lm: LatentLM, first: Any) -> None:
        cache = first.past_key_values
        with pytest.raises(ValueError, match="has 5 rows, this call 3"):
            lm.generate(first.sequences[:3], past_key_values=cache, max_new_tokens=2)
        with pytest.raises(ValueError, match="has 5 rows, this call 10"):
            lm.generate(first.sequences, past_key_values=cache, max_new_tokens=2, num_beams=2)

    def test_of_other_tokens(self, lm: LatentLM, first: Any) -> None:
        ids = first.sequences.clone()
        ids[2, -3] += 1
        with pytest.raises(ValueError, match="filled with other tokens"):
            lm.generate(ids, past_key_values=first.past_key_values, max_new_tokens=2)

    def test_of_beams(self, lm: LatentLM, tiny_base: BaseModel) -> None:
        """It belongs to the beams that ran last, in their order."""
        output = write(
            lm, tiny_base, PROMPTS, do_sample=False, num_beams=3, num_return_sequences=3,
            return_dict_in_generate=True,
        )  # fmt: skip
        with pytest.raises(ValueError, match="beam search"):
            lm.generate(output.sequences, past_key_values=output.past_key_values, max_new_tokens=2)

    def test_without_new_tokens(self, lm: LatentLM, first: Any) -> None:
        cache = first.past_key_values
        for ids in (first.sequences[:, :-1], first.sequences[:, -1:]):
            mask = torch.ones_like(ids)
            with pytest.raises(ValueError, match="at least one that is new"):
                lm.generate(ids, attention_mask=mask, past_key_values=cache, max_new_tokens=2)

    def test_a_second_time(self, lm: LatentLM, first: Any) -> None:
        ids, cache = first.sequences, first.past_key_values
        kept = copy.deepcopy(cache)
        once = written(lm, 3, input_ids=ids, past_key_values=cache).sequences
        with pytest.raises(ValueError, match="go on from a copy"):
            written(lm, 3, input_ids=ids, past_key_values=cache)
        assert torch.equal(written(lm, 3, input_ids=ids, past_key_values=kept).sequences, once)


# The context


def test_a_position_that_the_model_does_not_know_is_named() -> None:
    """Not an IndexError from inside the model, nor an aborted device."""
    base = family("gpt2")
    lm = attached(base, EVERYWHERE)
    ids = torch.full((1, CONTEXT + 1), base.tokenizer("7")["input_ids"][-1])
    with pytest.raises(ValueError, match=rf"position \d+ .*context of {CONTEXT} positions"):
        lm.generate(ids, max_new_tokens=2)
    with pytest.raises(ValueError, match=f"position {CONTEXT} .*fewer max_new_tokens"):
        lm.generate(ids[:, :-5], max_new_tokens=9, eos_token_id=[])
    fits = attached(base, NONE).generate(ids[:, :-5], max_new_tokens=5, eos_token_id=[])
    assert fits.shape[1] == CONTEXT + 1  # the newest token has not been fed


def test_a_refused_position_leaves_the_cache_as_it_was() -> None:
    base = family("gpt2")
    lm = attached(base, EVERYWHERE)
    ids = torch.full((1, CONTEXT - 9), base.tokenizer("7")["input_ids"][-1])
    first = written(lm, 2, input_ids=ids)
    longer = torch.cat([first.sequences, ids], dim=1)
    with pytest.raises(ValueError, match="beyond the base model's context"):
        written(lm, 2, input_ids=longer, past_key_values=first.past_key_values)
    second = written(lm, 3, input_ids=first.sequences, past_key_values=first.past_key_values)
    assert torch.equal(second.sequences, written(lm, 5, input_ids=ids).sequences)


def rotary(limit: bool | None) -> LatentLM:
    base = family("llama")
    artifact = artifact_of(base, NONE)
    return LatentLM.build(base.model, base.tokenizer, artifact, refuse_beyond_context=limit)


def test_rotary_models_go_on_beyond_their_context_as_they_do_alone() -> None:
    model: Any = family("llama").model
    ids = torch.full((1, CONTEXT + 3), 7)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": []}
    assert torch.equal(rotary(None).generate(ids, **options), model.generate(ids, **options))
    with pytest.raises(ValueError, match=f"context of {CONTEXT}"):
        rotary(True).generate(ids, **options)
