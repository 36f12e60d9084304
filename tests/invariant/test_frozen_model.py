"""The frozen model is still itself: without sites, behind padding, and decoding freely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.decoding_reference import artifact_of, attached
from trainable.answer_metrics import AnswerMetric
from trainable.base_model.loading import BaseModel
from trainable.batch import PreparedRow, labelled_logits, prepare
from trainable.data import EncodedRow, EncodedTask, Example, Ints, Split
from trainable.engine import Engine, TrialSpec
from trainable.state import TrialState
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig


def strategy(*triggers: dict[str, Any]) -> InsertionStrategy:
    named = {f"t{place}": fields for place, fields in enumerate(triggers)}
    return InsertionStrategy.from_dict({"triggers": named, "specialization": "by_trigger"})


NONE = strategy()
STRATEGIES = {
    "none": NONE,
    "start": strategy({"kind": "start", "m": 3}),
    "end": strategy({"kind": "end", "m": 2}),
    "delimiter": strategy({"kind": "delimiter", "pattern": "[0-9a-m,]", "m": 2}),
    "every ahead": strategy({"kind": "every", "k": 3, "m": 2, "readout": "latent"}),
    "all": strategy(
        {"kind": "start", "m": 2},
        {"kind": "end", "m": 1},
        {"kind": "delimiter", "pattern": "[0-9a-m,]", "m": 1},
        {"kind": "every", "k": 4, "m": 1},
    ),
}


def prepared(
    base: BaseModel, rows: Sequence[EncodedRow], each: InsertionStrategy
) -> tuple[list[PreparedRow], torch.Tensor]:
    rules = Engine(base).resolve(each)
    latents = torch.from_numpy(artifact_of(base, each).latents)
    return [prepare(0, row, rules) for row in rows], latents


@torch.no_grad()
def test_no_sites_is_the_untouched_model(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    rows, latents = prepared(tiny_base, tiny_data.rows("train")[:6], NONE)
    logits_JV, labels_J, owners_J = labelled_logits(tiny_base.model, rows, [latents])

    width = max(len(row) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for line, row in enumerate(rows):
        ids_BT[line, : len(row)] = torch.from_numpy(row.row.ids)
    hidden_BTD = tiny_base.model.model(
        input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False
    ).last_hidden_state
    expected_JD = torch.cat(
        [hidden_BTD[line, row.row.query_length - 1 : len(row) - 1] for line, row in enumerate(rows)]
    )
    assert torch.equal(logits_JV, tiny_base.model.lm_head(expected_JD))
    assert labels_J.tolist() == [token for row in rows for token in row.response]
    assert owners_J.tolist() == [0] * len(labels_J)

    logits_BTV = tiny_base.model(
        input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False
    ).logits
    begin = 0
    for line, row in enumerate(rows):
        end = begin + len(row.response)
        plain = logits_BTV[line, row.row.query_length - 1 : len(row) - 1]
        torch.testing.assert_close(logits_JV[begin:end], plain, rtol=1e-5, atol=1e-5)
        begin = end


@torch.no_grad()
def test_no_sites_in_a_row_is_the_untouched_model(
    tiny_base: BaseModel, tiny_data: EncodedTask
) -> None:
    """A strategy whose delimiter never appears gives the very bits of no strategy."""
    rows = tiny_data.rows("train")[:6]
    never = strategy({"kind": "delimiter", "pattern": ";", "m": 2})
    found = labelled_logits(tiny_base.model, *_pair(prepared(tiny_base, rows, never)))[0]
    plain = labelled_logits(tiny_base.model, *_pair(prepared(tiny_base, rows, NONE)))[0]
    assert torch.equal(found, plain)


def _pair(
    given: tuple[list[PreparedRow], torch.Tensor],
) -> tuple[list[PreparedRow], list[torch.Tensor]]:
    return given[0], [given[1]]


@torch.no_grad()
def test_generating_without_sites_is_the_base_models_own(tiny_base: BaseModel) -> None:
    batch = tiny_base.tokenizer(
        ["44@47=", "", "a,b;1,2,3"], padding=True, padding_side="left", return_tensors="pt"
    )
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    options: dict[str, Any] = {
        "max_new_tokens": 30, "do_sample": False, "output_logits": True,
        "return_dict_in_generate": True,
    }  # fmt: skip
    model: Any = tiny_base.model
    own = model.generate(**inputs, **options)
    found = attached(tiny_base, NONE).generate(**inputs, **options)
    assert torch.equal(found.sequences, own.sequences)
    torch.testing.assert_close(found.logits, own.logits, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", STRATEGIES)
@torch.no_grad()
def test_padding_changes_nothing(tiny_base: BaseModel, tiny_data: EncodedTask, name: str) -> None:
    each = STRATEGIES[name]
    short = tiny_data.rows("train")[:4]
    long = tiny_data.rows("test_ood")[:2]
    rows, latents = prepared(tiny_base, [*short, *long], each)
    together, _, _ = labelled_logits(tiny_base.model, rows, [latents])
    begin = 0
    for row in rows:
        alone, labels, _ = labelled_logits(tiny_base.model, [row], [latents])
        end = begin + len(labels)
        torch.testing.assert_close(together[begin:end], alone, rtol=1e-5, atol=1e-5)
        begin = end
    assert begin == len(together)


class FixedRows:
    """Rows that are given as ids; each is a distance of its own, so that each has its score."""

    def __init__(self, rows: list[EncodedRow]) -> None:
        self.fixed = rows

    splits: tuple[Split, ...] = ("train", "val_id")
    answer_metrics: Mapping[str, AnswerMetric] = MappingProxyType({})

    def rows(self, split: Split) -> list[EncodedRow]:
        return self.fixed

    def lengths(self, split: Split) -> Ints:
        return np.array([len(row.ids) for row in self.fixed])

    def score(
        self, row: EncodedRow, right_N: npt.NDArray[np.bool_], nll_N: npt.NDArray[np.floating]
    ) -> dict[str, float]:
        return {"exact_match": float(right_N.all()), "first_wrong": float(np.argmin(right_N))}


def written_by(base: BaseModel, each: InsertionStrategy, count: int) -> list[EncodedRow]:
    """Rows that greedy decoding writes under a strategy, every other one with a wrong token.

    Their responses differ in length, so that scoring pads them.
    """
    rng = np.random.default_rng(0)
    rows = []
    for place in range(count):
        prompt = "".join(str(digit) for digit in rng.integers(10, size=2 + place % 3))
        ids = base.tokenizer(f"{prompt}=", return_tensors="pt")["input_ids"]
        lm = attached(base, each)
        length = 6 + 3 * place
        full = lm.generate(ids, max_new_tokens=length, eos_token_id=[], do_sample=False)[0].numpy()
        if place % 2:
            wrong = int(rng.integers(ids.shape[1], len(full)))
            full[wrong] = (full[wrong] + 1) % len(base.tokenizer)
        rows.append(EncodedRow(full.astype(np.int64), ids.shape[1], distance=place))
    return rows


@pytest.mark.parametrize("micro_batch_tokens", [64, 100_000])
@pytest.mark.parametrize("name", STRATEGIES)
def test_teacher_forced_exact_match_is_that_of_free_decoding(
    tiny_base: BaseModel, name: str, micro_batch_tokens: int
) -> None:
    each = STRATEGIES[name]
    rows = written_by(tiny_base, each, 8)
    artifact = artifact_of(tiny_base, each)
    engine = Engine(tiny_base, micro_batch_tokens=micro_batch_tokens)
    zeros = np.zeros_like(artifact.latents)
    engine.join(
        TrialSpec("t", TrialConfig(strategy=each), 1),
        FixedRows(rows),  # type: ignore[arg-type]
        TrialState(0, artifact.latents, zeros, zeros),
    )
    metrics = engine.evaluate(["t"], ["val_id"])["t"]
    lm = attached(tiny_base, each)
    matches = []
    for row in rows:
        prompt = torch.from_numpy(row.ids[: row.query_length])[None]
        free = lm.generate(
            prompt, max_new_tokens=len(row.ids) - row.query_length, eos_token_id=[], do_sample=False
        )[0].numpy()
        match = bool((free == row.ids).all())
        matches.append(match)
        assert metrics[f"val_id/exact_match/{row.distance}"] == float(match)
        if not match:  # and both go wrong at the same place
            wrong = int(np.argmin(free == row.ids)) - row.query_length
            assert metrics[f"val_id/first_wrong/{row.distance}"] == wrong
    assert matches == [True, False] * 4
    assert metrics["val_id/exact_match"] == 0.5


def test_extra_tokens_are_counted(tiny_base: BaseModel) -> None:
    class OneRow:
        splits: tuple[Split, ...] = ("train", "val_id", "val_ood")
        answer_metrics: Mapping[str, AnswerMetric] = MappingProxyType({})

        def examples(self, split: Split) -> list[Example]:
            return [Example("12", "3,4,5", closed=False)]  # <s> 1 2 3 , 4 , 5: 8 verbal tokens

        def score(self, texts: Sequence[str], right_N: npt.NDArray[np.bool_]) -> dict[str, float]:
            return {}

    engine = Engine(tiny_base)
    data = EncodedTask(OneRow(), tiny_base.tokenizer)
    expected = {
        "start": (strategy({"kind": "start", "m": 3}), 3),
        "comma": (strategy({"kind": "delimiter", "m": 2}), 4),
        # after each three of 1 2 3 , 4 , 5: before `,` and before 5
        "every": (strategy({"kind": "every", "k": 3, "m": 1}), 2),
        "none": (NONE, 0),
    }
    for name, (each, _) in expected.items():
        engine.join(TrialSpec(name, TrialConfig(strategy=each), 1), data)
    metrics = engine.evaluate(list(expected), ["val_id", "val_ood"])
    for name, (_, latents) in expected.items():
        assert metrics[name]["cost/extra_tokens_pct"] == pytest.approx(100 * latents / 8)
        assert {"val_id/exact_match", "val_ood/exact_match/0"} <= set(metrics[name])
