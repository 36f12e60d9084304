"""What an engine refuses before it trains."""

from __future__ import annotations

import pytest

from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec
from trainable.errors import TaskError
from trainable.strategy import InsertionStrategy
from trainable.tasks import build_task
from trainable.trial import TrialConfig


def encoded(base: BaseModel, **options: object) -> EncodedTask:
    task = {"kind": "generation", "train_rows": 8, "val_rows": 2, "test_rows": 2, **options}
    return EncodedTask(build_task(task, seed=0), base.tokenizer)


def test_rows_beyond_the_context_are_refused_in_any_split(tiny_base: BaseModel) -> None:
    context = tiny_base.model.config.max_position_embeddings
    fits = {"train_lengths": (2, 3), "val_ood_lengths": (4,), "test_ood_lengths": (5,)}
    Engine(tiny_base).check_context(encoded(tiny_base, **fits))
    for split, name in (("val_ood", "val_ood_lengths"), ("test_ood", "test_ood_lengths")):
        longer = encoded(tiny_base, **fits | {name: (4, context)})
        with pytest.raises(TaskError, match=f"a row of {split} has .* context is {context}"):
            Engine(tiny_base).check_context(longer)


def test_rows_beyond_max_tokens_are_refused(tiny_base: BaseModel) -> None:
    with pytest.raises(TaskError, match=r"data.max_tokens=5: a row of train has .* raise it"):
        Engine(tiny_base).check_context(encoded(tiny_base), max_tokens=5)


@pytest.mark.parametrize("position_rule", ["following", "own"])
def test_own_positions_must_fit_the_context(tiny_base: BaseModel, position_rule: str) -> None:
    context = tiny_base.model.config.max_position_embeddings
    strategy = InsertionStrategy.from_dict(
        {"triggers": {"start": {"kind": "start", "m": context}}, "position_rule": position_rule}
    )
    spec = TrialSpec(uid="t", config=TrialConfig(strategy=strategy), budget_steps=1)
    engine = Engine(tiny_base)
    if position_rule == "following":
        engine.join(spec, encoded(tiny_base))
        return
    with pytest.raises(TaskError, match=rf"position_rule: own needs .* context is {context}"):
        engine.join(spec, encoded(tiny_base))
    assert engine.trials() == []


def test_trials_of_a_search_share_one_order_of_examples(tiny_base: BaseModel) -> None:
    engine, data = Engine(tiny_base), encoded(tiny_base)
    for uid, seed in (("a", 0), ("b", 0), ("c", 1)):
        engine.join(TrialSpec(uid, TrialConfig(), 1, data_seed=seed), data)
    streams = [engine._trials[uid].stream for uid in "abc"]
    assert streams[0] is streams[1]
    assert streams[0] is not streams[2]
