"""Guards against wrong answers that come without an error; each is shown to be needed.

Every test compares with a reference twice: as the project runs the model, which must agree, and
with the guard taken away on the way into the model, which must be far off. Should a guard vanish
from the project, the first comparison fails; should it be needed no more, the second does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.decoding_reference import (
    artifact_of,
    attached,
    difference,
    engine_logits,
    latents_of,
    reference_logits,
    step_logits,
)
from tests.families import CONTEXT, FAMILIES, WINDOWED, WITH_KERNELS, family, random_rows
from trainable.attention_masks import Attention, Masks
from trainable.base_model.loading import BaseModel
from trainable.decoding import LatentLM
from trainable.engine import Engine
from trainable.errors import BaseModelError
from trainable.selftest import check_attention, check_decoding
from trainable.strategy import InsertionStrategy

EXACT, FAR_OFF = 1e-5, 0.05
MANY_SITES = InsertionStrategy.from_dict(
    {
        "triggers": {
            "start": {"kind": "start", "m": 3},
            "every": {"kind": "every", "k": 2, "m": 2},
            "delimiter": {"kind": "delimiter", "pattern": "[0-9a-m,]", "m": 1},
        },
        "specialization": "by_trigger",
    }
)
PROMPTS = ("44@47=", "a,b;1,2,3,4,5,6", ",")

Change = Callable[[dict[str, Any]], dict[str, Any]]
# OPT makes a mask of its own where it gets none.
trapped = pytest.mark.parametrize(
    ("name", "kernel"), [pair for pair in WITH_KERNELS if pair[0] != "opt"]
)


@contextmanager
def stripped(model: PreTrainedModel, change: Change) -> Iterator[None]:
    """Change what the model is given, whoever calls it."""
    hook = model.register_forward_pre_hook(
        lambda _, args, given: (args, given | change(given)), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()


def no_mask(given: dict[str, Any]) -> dict[str, Any]:
    return {"attention_mask": None}


def no_mask_but_4d(given: dict[str, Any]) -> dict[str, Any]:
    """Spares masks made by hand: with them the check computes what it expects."""
    masks = given["attention_mask"]
    return no_mask(given) if isinstance(masks, torch.Tensor) and masks.ndim == 2 else {}


def cache_for_mask(given: dict[str, Any]) -> dict[str, Any]:
    return {"attention_mask": None, "use_cache": True}


def boolean_masks(given: dict[str, Any]) -> dict[str, Any]:
    """What is added to scores becomes what is seen: the other form that a 4-D mask can have."""
    return {"attention_mask": _each_mask(given["attention_mask"], lambda mask: mask == 0)}


def _each_mask(masks: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(masks, dict):
        return {kind: change(mask) for kind, mask in masks.items()}
    return change(masks) if masks.ndim == 4 else masks


def two_dimensional(_: Attention, real_BS: torch.Tensor, *__: Any, **___: Any) -> torch.Tensor:
    """The mask that serves full attention: which slots are real."""
    return real_BS


def without_window(
    attention: Attention, real_BS: torch.Tensor, chunk: int, dtype: torch.dtype, *, has_holes: bool
) -> Masks:
    """Masks by hand whose window never ends."""
    return replace(attention, window=CONTEXT).masks(real_BS, chunk, dtype)


@contextmanager
def checkpointing(model: Any) -> Iterator[None]:
    """Training mode with gradient checkpoints, as someone short of memory would set it."""
    model.train()
    # (its name from transformers 5.20 on, or the one before)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    try:
        yield
    finally:
        getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
        model.disable_input_require_grads()  # which enabling had set
        model.eval()


def error_of_training(base: BaseModel, *contexts: AbstractContextManager[None]) -> float:
    """How far the engine's logits, within these contexts, are from those by hand."""
    latents, rows = latents_of(base, MANY_SITES).requires_grad_(), random_rows(0)
    with torch.no_grad():
        expected = reference_logits(base, MANY_SITES, latents, rows)
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        found = engine_logits(base, MANY_SITES, latents, rows)
    return difference(found.detach(), expected)


@torch.no_grad()
def error_of_decoding(
    lm: LatentLM, base: BaseModel, *contexts: AbstractContextManager[None]
) -> float:
    """The same for the logits of greedy decoding, over the tokens that it wrote."""
    batch = base.tokenizer(list(PROMPTS), padding=True, padding_side="left", return_tensors="pt")
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        output = lm.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=[],
            output_logits=True,
            return_dict_in_generate=True,
        )
    found = torch.stack(output.logits, dim=1)
    expected = []
    for line, prompt in enumerate(PROMPTS):
        ids = base.tokenizer(prompt)["input_ids"]
        written = output.sequences[line, batch["input_ids"].shape[1] : -1].tolist()
        expected.append(step_logits(base, MANY_SITES, [*ids, *written], len(ids)))
    return difference(found, torch.stack(expected))


@trapped
def test_repeated_positions_need_a_mask(name: str, kernel: str) -> None:
    """Without one, transformers takes the row for several packed sequences."""
    base = family(name, kernel)
    assert error_of_training(base) < EXACT
    assert error_of_training(base, stripped(base.model, no_mask)) > FAR_OFF


@trapped
def test_the_check_at_engine_start_sees_it(name: str, kernel: str) -> None:
    base = family(name, kernel)
    check_attention(base.model)
    with stripped(base.model, no_mask_but_4d), pytest.raises(BaseModelError, match="repeated"):
        check_attention(base.model)


@trapped
def test_gradient_checkpointing_needs_a_mask(name: str, kernel: str) -> None:
    """A cache would have hidden that there is none, and checkpoints switch it off."""
    base = family(name, kernel)
    assert error_of_training(base, checkpointing(base.model)) < EXACT
    assert error_of_training(base, stripped(base.model, cache_for_mask)) < EXACT
    without = (checkpointing(base.model), stripped(base.model, cache_for_mask))
    assert error_of_training(base, *without) > FAR_OFF


@pytest.mark.parametrize("name", WINDOWED)
def test_eager_attention_needs_masks_that_are_added(name: str) -> None:
    """It adds whatever it is given: of a boolean mask, zeros and ones."""
    base = family(name, "eager")
    lm = attached(base, MANY_SITES)
    assert error_of_decoding(lm, base) < EXACT
    assert error_of_decoding(lm, base, stripped(base.model, boolean_masks)) > FAR_OFF


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize("mask", [two_dimensional, without_window])
def test_windows_need_masks_that_count_real_slots(
    name: str, mask: Callable[..., Masks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 2-D mask lets the holes of a batch use up the window."""
    base = family(name, FAMILIES[name].kernels[0])
    lm = attached(base, MANY_SITES)
    assert error_of_decoding(lm, base) < EXACT
    monkeypatch.setattr(Attention, "decoding_mask", mask)
    assert error_of_decoding(lm, base) > FAR_OFF


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize("mask", [two_dimensional, without_window])
def test_the_check_before_decoding_sees_it(
    name: str, mask: Callable[..., Masks], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = family(name, FAMILIES[name].kernels[0])
    check_decoding(base.model)
    monkeypatch.setattr(Attention, "decoding_mask", mask)
    with pytest.raises(BaseModelError, match="holes"):
        check_decoding(base.model)


@pytest.mark.parametrize("mask", [two_dimensional, without_window])
def test_neither_an_engine_nor_an_attached_model_is_built_without_it(
    mask: Callable[..., Masks], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = family("mistral window")
    artifact = artifact_of(base, MANY_SITES)
    Engine(base)
    LatentLM.build(base.model, base.tokenizer, artifact)
    monkeypatch.setattr(Attention, "decoding_mask", mask)
    with pytest.raises(BaseModelError, match="behind a cache with holes"):
        Engine(base)
    with pytest.raises(BaseModelError, match="behind a cache with holes"):
        LatentLM.build(base.model, base.tokenizer, artifact)
