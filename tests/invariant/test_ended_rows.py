"""Rows that generate() has finished: nothing of their padding is ever seen again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.decoding_reference import NaiveLM, attached, difference
from tests.families import CONTEXT, family
from trainable.base_model.loading import BaseModel
from trainable.decoding import LatentLM
from trainable.errors import ContextError
from trainable.strategy import InsertionStrategy

PROMPTS = ["12,3", "4,5", "7"]
SITES: dict[str, Any] = {
    "ahead": {"kind": "every", "k": 2, "m": 2, "readout": "latent"},
    "delimiter": {"kind": "delimiter", "pattern": "[0-9a-m,]", "m": 1},
}
BASES = ("llama", "gemma3", "gpt2")
NEW = 6


def strategy(rule: str = "following") -> InsertionStrategy:
    return InsertionStrategy.from_dict(
        {"triggers": SITES, "position_rule": rule, "specialization": "by_trigger"}
    )


def batch_of(base: BaseModel, prompts: list[str]) -> dict[str, Any]:
    batch = base.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


def write(lm: LatentLM, new: int = NEW, **inputs: Any) -> Any:
    options = {"eos_token_id": [], "do_sample": False} | inputs
    return lm.generate(
        **options, max_new_tokens=new, output_logits=True, return_dict_in_generate=True
    )


def ended(lm: LatentLM, base: BaseModel, at: int, **options: Any) -> tuple[Any, torch.Tensor]:
    """A batch whose first row ends at its `at`-th token, and the mask of what is real of it."""
    batch = batch_of(base, PROMPTS)
    width = batch["input_ids"].shape[1]
    eos = int(write(lm, **batch).sequences[0, width + at])
    output = write(lm, **batch, eos_token_id=eos, **options)
    mask = torch.ones_like(output.sequences)
    mask[:, :width] = batch["attention_mask"]
    for row, ids in zip(mask, output.sequences.tolist(), strict=True):
        if eos in ids[width:]:
            row[ids.index(eos, width) + 1 :] = 0
    return output, mask


def next_naive(base: BaseModel, rule: str, ids: list[int], q: int, new: int) -> torch.Tensor:
    naive, logits = NaiveLM(base, strategy(rule), 0), []
    for _ in range(new):
        logits.append(naive.next_logits(ids, q))
        ids = [*ids, int(logits[-1].argmax())]
    return torch.stack(logits)


@pytest.mark.parametrize("rule", ["following", "own"])
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("at", [1, NEW - 2])
@pytest.mark.parametrize("given", [True, False])
def test_going_on_behind_an_end_is_as_without_its_padding(
    name: str, rule: str, at: int, given: bool
) -> None:
    base = family(name)
    lm = attached(base, strategy(rule))
    output, mask = ended(lm, base, at)
    assert mask[0, -1] == 0
    more = torch.tensor([[10, 11, 12]]).expand(len(PROMPTS), -1)
    ids = torch.cat([output.sequences, more], dim=1)
    mask = torch.cat([mask, torch.ones_like(more)], dim=1)
    masks = {"attention_mask": mask} if given else {}
    second = write(lm, 4, input_ids=ids, past_key_values=output.past_key_values, **masks)
    for line, prompt in enumerate(PROMPTS):
        real, q = ids[line][mask[line].bool()].tolist(), len(base.tokenizer(prompt)["input_ids"])
        found = torch.stack([logits[line] for logits in second.logits])
        assert difference(found, next_naive(base, rule, real, q, 4)) < 1e-5, prompt


def test_a_mask_that_contradicts_the_cache_is_refused() -> None:
    base = family("llama")
    lm = attached(base, strategy())
    output, mask = ended(lm, base, 1)
    inputs = {"input_ids": output.sequences, "past_key_values": output.past_key_values}
    with pytest.raises(ValueError, match=r"is 1 at row 0, column \d+, .* as padding: give 1 for"):
        write(lm, **inputs, attention_mask=torch.ones_like(mask))
    mask[1, -3] = 0
    with pytest.raises(ValueError, match=r"is 0 at row 1, column \d+, .* as a token"):
        write(lm, **inputs, attention_mask=mask)


def test_a_stop_string_ends_a_row_like_an_eos() -> None:
    base = family("llama")
    lm, batch = attached(base, strategy()), batch_of(base, PROMPTS)
    width = batch["input_ids"].shape[1]
    stop = base.tokenizer.decode(write(lm, **batch).sequences[0, width + 1])
    output = write(
        lm, **batch, eos_token_id=len(base.tokenizer) - 1, stop_strings=[stop],
        tokenizer=base.tokenizer,
    )  # fmt: skip
    cache = output.past_key_values
    assert output.sequences.shape[1] == width + NEW
    assert cache.verbal_BN[0, width:].tolist() == [True, True, *[False] * (NEW - 3)]
    assert cache.states[0].length == int(batch["attention_mask"][0].sum()) + 2


@pytest.mark.parametrize("more", [[10, 2], [10, 11], [2]])
def test_an_eos_in_what_is_given_ends_nothing(more: list[int]) -> None:
    """A conversation has one behind each turn, and training lays out sites behind them."""
    base = family("llama")
    lm, ids = attached(base, strategy()), torch.tensor([[1, 10, 2, 11, 2]])
    first = write(lm, 2, input_ids=ids)
    ids = torch.cat([first.sequences, torch.tensor([more])], dim=1)
    second = write(lm, input_ids=ids, past_key_values=first.past_key_values)
    found = torch.stack([logits[0] for logits in second.logits])
    lone = ids[0].tolist()
    assert difference(found, next_naive(base, "following", lone, 5, NEW)) < 1e-5
    started = write(lm, input_ids=ids, eos_token_id=2)
    found = torch.stack([logits[0] for logits in started.logits])
    assert difference(found, next_naive(base, "following", lone, len(lone), len(found))) < 1e-5


def test_padding_reaches_no_context() -> None:
    base = family("llama")
    lm = attached(
        base, InsertionStrategy.from_dict({"triggers": {"a": {"kind": "start", "m": 2}},
                                           "position_rule": "own"})
    )  # fmt: skip
    long = "1" * (CONTEXT - 11)
    alone = batch_of(base, [long])
    eos = int(write(lm, 1, **alone).sequences[0, -1])
    both = write(lm, 20, **batch_of(base, [long, "4,5"]), eos_token_id=eos)
    assert both.sequences[0, -19:].unique().tolist() == [base.tokenizer.pad_token_id]
    with pytest.raises(ContextError, match=f"context of {CONTEXT}"):
        write(lm, 20, **alone)
