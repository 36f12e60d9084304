"""Item scores are the engine's scores taken apart, and insertions are counted as laid out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainable import items
from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec
from trainable.evaluation import forced_scores
from trainable.items import exact_matches, insertion
from trainable.state import Floats
from trainable.strategy import InsertionStrategy
from trainable.tasks.repetition import RepetitionTask
from trainable.trial import TrialConfig

TRIGGERS: list[dict[str, object]] = [
    {},
    {"start": {"kind": "start", "m": 2}},
    {"every": {"kind": "every", "k": 3, "m": 1}},
]


def strategies() -> list[InsertionStrategy]:
    return [InsertionStrategy.from_dict({"triggers": triggers}) for triggers in TRIGGERS]


@pytest.fixture(scope="module")
def easy_data(tiny_base: BaseModel) -> EncodedTask:
    """Rows of two distances."""
    task = RepetitionTask(
        train_lengths=(1, 1), val_ood_lengths=(2,), test_ood_lengths=(2, 3),
        train_rows=4, val_rows=2, test_rows=6,
    )  # fmt: skip
    return EncodedTask(task, tiny_base.tokenizer)


def trained(engine: Engine, data: EncodedTask) -> list[tuple[InsertionStrategy, Floats]]:
    members = []
    for place, strategy in enumerate(strategies()):
        spec = TrialSpec(uid=str(place), config=TrialConfig(strategy=strategy), budget_steps=2)
        engine.join(spec, data)
        members.append((strategy, engine.state(str(place)).latents))
    return members


def test_means_over_items_are_the_engine_s(tiny_base: BaseModel, easy_data: EncodedTask) -> None:
    engine = Engine(tiny_base)
    members = trained(engine, easy_data)
    found = exact_matches(engine, members, easy_data, "test_ood")
    assert found.right_MN.shape == (3, 12)
    assert found.place_N.tolist() == list(range(12))
    scores = engine.evaluate(engine.trials(), ["test_ood"])
    for member, uid in enumerate(engine.trials()):
        for distance in (2, 3):
            mean = found.right_MN[member, found.distance_N == distance].mean()
            assert scores[uid][f"test_ood/exact_match/{distance}"] == pytest.approx(mean)


def test_so_many_rows_of_each_distance_are_the_first_ones(
    tiny_base: BaseModel, easy_data: EncodedTask
) -> None:
    engine = Engine(tiny_base)
    members = trained(engine, easy_data)
    whole = exact_matches(engine, members, easy_data, "test_ood")
    part = exact_matches(engine, members, easy_data, "test_ood", rows_per_distance=2)
    assert part.place_N.tolist() == [0, 1, 6, 7]
    assert np.array_equal(part.right_MN, whole.right_MN[:, part.place_N])


def test_another_metric_is_known_of_each_item(tiny_base: BaseModel, easy_data: EncodedTask) -> None:
    engine = Engine(tiny_base)
    members = trained(engine, easy_data)
    scores = engine.evaluate(engine.trials(), ["test_ood"])
    for metric in ("nll", "token_accuracy", "copy_accuracy"):
        found = exact_matches(engine, members, easy_data, "test_ood", metric=metric)
        means = found.values_MN[metric][:, found.distance_N == 2].mean(axis=1)
        expected = [scores[uid][f"test_ood/{metric}/2"] for uid in engine.trials()]
        assert means.tolist() == pytest.approx(expected, rel=1e-5)
    asked = exact_matches(engine, members, easy_data, "test_ood", metric="normalised_match")
    assert asked.values_MN == {}  # it needs the whole answer


def test_insertions_are_per_row(tiny_base: BaseModel, easy_data: EncodedTask) -> None:
    engine = Engine(tiny_base)
    none, start, every = (insertion(engine, s, easy_data, "val_id") for s in strategies())
    tokens = float(np.mean([len(row.ids) for row in easy_data.rows("val_id")]))
    assert (none.latents, none.sites, none.tokens) == (0, 0, tokens)
    assert (start.latents, start.sites) == (2, 1)
    assert every.latents == every.sites == pytest.approx((tokens - 1) // 3, abs=1)


def test_items_are_scored_as_the_engine_computes(
    tiny_base: BaseModel, easy_data: EncodedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deterministic: one member per forward, no shared prefix, so equal bits; and one budget."""
    owners, sharings = set[frozenset[int]](), set[str]()

    def noted(model: Any, rows: Any, latents: Any, budget: Any, sharing: Any) -> Any:
        owners.add(frozenset(row.owner for row in rows))
        sharings.add(sharing)
        return forced_scores(model, rows, latents, budget, sharing)

    monkeypatch.setattr("trainable.engine.forced_scores", noted)
    monkeypatch.setattr(items, "_PAIRS_AT_ONCE", 9)
    engine = Engine(tiny_base, deterministic=True)
    members = trained(engine, easy_data)
    together = exact_matches(engine, members, easy_data, "test_ood", metric="nll")
    assert owners == {frozenset([0]), frozenset([1]), frozenset([2])}
    assert sharings == {"off"}
    for place, member in enumerate(members):
        alone = exact_matches(engine, [member], easy_data, "test_ood", metric="nll")
        assert np.array_equal(alone.values_MN["nll"][0], together.values_MN["nll"][place])


def test_what_fits_is_learnt_once_for_all_items(
    tiny_base: BaseModel, easy_data: EncodedTask
) -> None:
    engine = Engine(tiny_base)
    members = trained(engine, easy_data)

    def fail(_: Any, __: Any, options: dict[str, Any], output: Any) -> None:
        if options["position_ids"].numel() > 60:
            raise torch.OutOfMemoryError("out of memory")

    hook = tiny_base.model.register_forward_hook(fail, with_kwargs=True)
    try:
        exact_matches(engine, members, easy_data, "test_ood")
    finally:
        hook.remove()
    assert engine.micro_batch_tokens <= 60
