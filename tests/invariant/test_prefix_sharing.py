"""What precedes the first site is computed once for all, and nothing comes out differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import trainable.prefix as prefix
from tests.families import WINDOWED, WITH_KERNELS, family, random_rows
from tests.invariant.test_fused_equals_alone import CONFIGS, come_and_go, difference, join
from tests.random_strategies import random_strategy
from trainable.base_model.loading import BaseModel
from trainable.batch import (
    PAST_PER_SLOT,
    PreparedRow,
    batch_slots,
    labelled_logits,
    micro_batches,
    prepare,
)
from trainable.data import EncodedRow, EncodedTask
from trainable.delimiters import Vocabulary
from trainable.engine import Engine
from trainable.evaluation import forced_scores
from trainable.memory import TokenBudget
from trainable.prefix import (
    can_share,
    labelled_logits_shared,
    owners_of,
    read_losses,
    shared_waves,
)
from trainable.prefix_plan import Sharing, call_slots_of, plan
from trainable.strategy import InsertionStrategy

Labelled = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Read = Callable[..., Labelled]

TRIALS = 3  # with random strategies; the others' first sites are late, or there is none
LATE: list[dict[str, Any]] = [
    {"triggers": {"end": {"kind": "end", "m": 2}}, "position_rule": rule}
    for rule in ("following", "own", "preceding")
]
FIXED: list[dict[str, Any]] = [
    *LATE,
    {"triggers": {"nine": {"kind": "every", "k": 9, "m": 1}}},
    {"triggers": {}},
]
EAGER = ("llama", "gemma2", "gemma3", "opt")
STRATEGIES = [
    *(random_strategy(seed) for seed in range(TRIALS)),
    *(InsertionStrategy.from_dict(fields) for fields in FIXED),
]


def rows_of(base: BaseModel, encoded: Sequence[EncodedRow]) -> list[PreparedRow]:
    """Each row under each strategy, trials mixed."""
    vocabulary = Vocabulary(base.tokenizer, base.model.config.get_text_config().vocab_size)
    rules = [vocabulary.rules(strategy) for strategy in STRATEGIES]
    return [prepare(owner, row, each) for row in encoded for owner, each in enumerate(rules)]


def latents_of(base: BaseModel) -> list[torch.Tensor]:
    width = next(base.embeddings.parameters()).shape[1]
    generator = torch.Generator().manual_seed(3)
    return [
        (0.3 * torch.randn(strategy.latent_count, width, generator=generator)).requires_grad_(True)
        for strategy in STRATEGIES
    ]


def run(
    read: Read, base: BaseModel, rows: Sequence[PreparedRow]
) -> tuple[Labelled, list[torch.Tensor]]:
    """What a reader gives, and the gradients of an uneven sum of the losses."""
    latents = latents_of(base)
    logits_JV, labels_J, owners_J = read(base.model, rows, latents)
    nll_J = functional.cross_entropy(logits_JV, labels_J, reduction="none")
    uneven_J = torch.linspace(0.5, 2.0, len(nll_J), dtype=nll_J.dtype)
    (nll_J * uneven_J).sum().backward()
    grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in latents]
    return (logits_JV.detach(), labels_J, owners_J), grads


def largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("name", "kernel"),
    [(name, kernel) for name, kernel in WITH_KERNELS if kernel == "sdpa" or name in EAGER],
)
def test_logits_and_gradients_are_those_of_whole_rows(name: str, kernel: str) -> None:
    """In float64; but eager attention has a float32 softmax, and latents are float32."""
    base = family(name, kernel, torch.float64)
    assert can_share(base.model)
    rows = rows_of(base, random_rows(1))
    assert len({split.cut for wave in plan(rows, 10**6, "on") for split in wave.rows}) > 5
    shared, grads = run(labelled_logits_shared, base, rows)
    plain, expected = run(labelled_logits, base, rows)
    assert torch.equal(shared[1], plain[1])
    assert torch.equal(shared[2], plain[2])
    assert largest(shared[0], plain[0]) < (1e-12 if kernel == "sdpa" else 1e-5)
    for found, each in zip(grads, expected, strict=True):
        if each.any():
            assert largest(found, each) < (1e-6 if kernel == "sdpa" else 1e-5)


def without_holes(model: object, rows: Sequence[object], embeds_BTD: torch.Tensor) -> torch.Tensor:
    past = max(row.cut for row in rows)  # type: ignore[attr-defined]
    return torch.ones(len(rows), past + embeds_BTD.shape[1], dtype=torch.long)


@pytest.mark.parametrize("name", ["llama", "gpt2", *WINDOWED[:2]])
def test_the_mask_is_what_makes_it_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = family(name, "sdpa", torch.float64)
    rows = rows_of(base, random_rows(1))
    plain, _ = run(labelled_logits, base, rows)
    monkeypatch.setattr(prefix, "_mask", without_holes)
    shared, _ = run(labelled_logits_shared, base, rows)
    assert largest(shared[0], plain[0]) > 1e-3


@pytest.mark.parametrize("sharing", ["off", "auto", "on"])
@pytest.mark.parametrize("max_tokens", [16, 200, 10_000])
def test_micro_batches_of_any_size(max_tokens: int, sharing: Sharing) -> None:
    base = family("llama", "sdpa", torch.float64)
    rows = rows_of(base, random_rows(2))
    latents = latents_of(base)
    losses = torch.zeros(len(STRATEGIES), dtype=torch.float64)
    seen = []
    for wave in shared_waves(base.model, rows, TokenBudget(max_tokens), sharing, read_losses):
        for batch in micro_batches(wave.rows, max_tokens):
            past = sum(split.cut for split in batch if len(split))
            kept = batch_slots(batch) + past / PAST_PER_SLOT
            assert len(batch) == 1 or kept <= max_tokens
            seen += [id(split.row) for split in batch]
            (nll_J,) = wave.forward(batch, latents)
            losses.index_add_(0, torch.from_numpy(owners_of(batch)), nll_J.detach())
            if nll_J.requires_grad:
                nll_J.sum().backward()
    assert sorted(seen) == sorted(map(id, rows))
    plain = latents_of(base)
    logits_JV, labels_J, owners_J = labelled_logits(base.model, rows, plain)
    nll_J = functional.cross_entropy(logits_JV, labels_J, reduction="none")
    nll_J.sum().backward()
    expected = torch.zeros_like(losses).index_add_(0, owners_J, nll_J.detach())
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    for found, each in zip(latents, plain, strict=True):
        if each.grad is not None and each.grad.any():
            assert found.grad is not None
            assert largest(found.grad, each.grad) < 1e-5


def test_labels_before_the_first_site_are_read_once_for_all_trials() -> None:
    base = family("llama")
    rows = rows_of(base, random_rows(1))
    waves = [wave for wave in plan(rows, 10**6, "on") if wave.prefixes]
    assert [len(wave.prefixes) for wave in waves] == [len(random_rows(1))]
    computed = prefix.compute_prefixes(base.model, waves[0], read_losses)
    assert len(computed.labels.place_of) == len(computed.labels.kept[0])
    heads = sum(split.head_labels for split in waves[0].rows)
    responses = sum(len(row.ids) - row.query_length for row in random_rows(1))
    assert len(computed.labels.place_of) <= responses < heads


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_scores_are_those_of_whole_rows(name: str) -> None:
    base = family(name, "sdpa", torch.float64)
    rows, latents = rows_of(base, random_rows(1)), latents_of(base)

    def scores(sharing: Sharing) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        scored = forced_scores(base.model, rows, latents, TokenBudget(300), sharing)
        return {id(row): (right_N, nll_N) for row, right_N, nll_N in scored}

    plain = scores("off")
    assert len(plain) == len(rows)
    sharings: tuple[Sharing, ...] = ("auto", "on")
    for sharing in sharings:
        found = scores(sharing)
        assert found.keys() == plain.keys()
        for row, (right_N, nll_N) in found.items():
            np.testing.assert_array_equal(right_N, plain[row][0])
            np.testing.assert_allclose(nll_N, plain[row][1], rtol=1e-12)


def test_engines_with_and_without_agree_while_trials_come_and_go(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    settings: list[tuple[int, Sharing]] = [(2048, "off"), (2048, "on"), (90, "on"), (2048, "auto")]
    engines = [
        Engine(tiny_base, micro_batch_tokens=tokens, share_prefixes=sharing)
        for tokens, sharing in settings
    ]
    for engine in engines:
        come_and_go(engine, tiny_data, *CONFIGS)
        engine.step()
    off, *others = engines
    for engine in others:
        assert engine.trials() == off.trials()
        found = engine.gradients(engine.trials())
        for each, expected in zip(found, off.gradients(off.trials()), strict=True):
            assert difference(each, expected) < 1e-4
        for uid in off.trials():
            assert difference(engine.state(uid).latents, off.state(uid).latents) < 1e-4


def test_slots_of_prefixes_are_counted(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    """As all that goes through the model: counted by what the model was given."""
    engine, given = Engine(tiny_base, share_prefixes="on"), [0]

    def count(_: object, __: object, options: dict[str, torch.Tensor], ___: object) -> None:
        given[0] += options["inputs_embeds"].shape[:2].numel()

    join(engine, tiny_data, *CONFIGS)
    hook = tiny_base.model.register_forward_hook(count, with_kwargs=True)
    try:
        engine.step()
    finally:
        hook.remove()
    assert engine.slots.all == given[0]
    assert engine.slots.useful <= engine.slots.all


def test_a_model_whose_past_is_more_than_keys_and_values_runs_whole_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = family("llama")
    rows = rows_of(base, random_rows(1))
    monkeypatch.setattr(type(base.model), "_is_stateful", True)
    assert not can_share(base.model)
    waves = list(shared_waves(base.model, rows, TokenBudget(500), "on"))
    assert [len(wave.rows) for wave in waves] == [len(rows)]
    assert not any(split.cut for split in waves[0].rows)


# --- what is worth it


def splits(base: BaseModel, triggers: dict[str, object], trials: int, **options: bool) -> int:
    """How many slots are taken from prefixes, by trials of one strategy on one row of 60."""
    strategy = InsertionStrategy.from_dict({"triggers": triggers})
    vocabulary = Vocabulary(base.tokenizer, base.model.config.get_text_config().vocab_size)
    row = EncodedRow(np.arange(1, 61), 45, 0)
    rows = [prepare(owner, row, vocabulary.rules(strategy)) for owner in range(trials)]
    waves = plan(rows, 2048, "auto", **options)
    assert sum(len(wave.rows) for wave in waves) == trials
    return sum(split.cut for wave in waves for split in wave.rows)


def test_what_is_shared_is_what_pays() -> None:
    base = family("llama")
    start: dict[str, object] = {"start": {"kind": "start", "m": 2}}
    end: dict[str, object] = {"end": {"kind": "end", "m": 2}}
    assert splits(base, start, 16) == 0
    assert splits(base, end, 16) == 16 * 45
    assert splits(base, start | end, 16) == 0
    assert splits(base, end, 2) == 0, "two short rows are one small forward"
    assert call_slots_of(860_000, "cpu") < 100 < call_slots_of(20_000, "cpu")
    assert splits(base, end, 16, training=False) == 16 * 45
    assert splits(base, end, 1, training=False) == 0, "nobody to share with, and no backward"


def test_prefixes_that_others_begin_with_are_the_same() -> None:
    base = family("llama")
    rows = rows_of(base, random_rows(1))
    (wave,) = [wave for wave in plan(rows, 10**6, "on") if wave.prefixes]
    for split in wave.rows:
        ids = wave.prefixes[split.prefix]
        assert np.array_equal(split.row.row.ids[: split.cut], ids[: split.cut])
    assert [len(ids) for ids in wave.prefixes] == sorted(map(len, wave.prefixes), reverse=True)
    for max_tokens in (16, 50):
        waves = [each for each in plan(rows, max_tokens, "on") if each.prefixes]
        assert len(waves) > 1
        for each in waves:
            padded = len(each.prefixes) * len(each.prefixes[0])
            assert len(each.prefixes) == 1 or padded <= max_tokens
