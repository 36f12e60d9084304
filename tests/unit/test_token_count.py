"""Tokens counted on layouts are those that an engine puts through its model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainable.base_model.loading import BaseModel
from trainable.calibration import calibrate
from trainable.data import EncodedTask
from trainable.delimiters import Vocabulary
from trainable.engine import Engine, TrialSpec
from trainable.lengths import long_train_rows
from trainable.tasks.generation import GenerationTask
from trainable.token_count import idle_triggers, survey, train_tokens
from trainable.trial import TrialConfig

SEED, STEPS = 3, 5
STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {},
    "start": {"s": {"kind": "start", "m": 4}},
    "comma": {"c": {"kind": "delimiter", "m": 2}},
    "every": {"e": {"kind": "every", "k": 3, "m": 2}, "end": {"kind": "end"}},
}


def trial(triggers: dict[str, Any], batch_rows: int = 3) -> TrialConfig:
    optim = {"batch_rows": batch_rows}
    strategy = {"triggers": triggers, "specialization": "by_trigger"}
    return TrialConfig.from_dict({"strategy": strategy, "optim": optim})


@pytest.fixture
def vocabulary(tiny_base: BaseModel) -> Vocabulary:
    return Vocabulary(tiny_base.tokenizer, tiny_base.model.config.vocab_size)


@pytest.fixture(scope="module")
def data(tiny_base: BaseModel) -> EncodedTask:
    task = GenerationTask(
        train_lengths=(1, 4), val_ood_lengths=(5,), test_ood_lengths=(6,),
        train_rows=7, val_rows=2, test_rows=2,
    )  # fmt: skip
    return EncodedTask(task, tiny_base.tokenizer)


@pytest.mark.parametrize(
    ("name", "max_tokens"), [*((name, None) for name in STRATEGIES), ("every", 55)]
)
def test_the_count_is_what_the_engine_reads(
    name: str,
    max_tokens: int | None,
    tiny_base: BaseModel,
    vocabulary: Vocabulary,
    data: EncodedTask,
) -> None:
    read = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal read
        read += inputs[0].shape[0] * inputs[0].shape[1]

    config = trial(STRATEGIES[name])
    # Each row alone and whole: nothing is padded or shared.
    engine = Engine(tiny_base, micro_batch_tokens=1, share_prefixes="off")
    drop: Any = {"max_tokens": max_tokens, "long_rows": "drop"}
    engine.join(TrialSpec("t", config, STEPS, SEED, **drop), data)
    hook = tiny_base.model.model.layers[0].register_forward_pre_hook(count)
    try:
        for _ in range(STEPS):
            engine.step()
    finally:
        hook.remove()
    rules = vocabulary.rules(config.strategy)
    dropped_N = None
    if max_tokens is not None:
        dropped_N = long_train_rows(config.strategy, rules, data, max_tokens)
        assert dropped_N is not None
    parts = [
        train_tokens(config, rules, data, data_seed=SEED, begin=a, end=b, dropped_N=dropped_N)
        for a, b in ((0, 2), (2, STEPS))
    ]
    assert sum(parts) == read
    assert (read == 0) == (name == "none")


def test_a_survey_of_all_rows_is_exact(vocabulary: Vocabulary, tiny_data: EncodedTask) -> None:
    trials = [trial(triggers) for triggers in STRATEGIES.values()]
    found = survey(trials, vocabulary, tiny_data.thinned(4), ["val_id"], SEED)
    assert found.step_tokens[0] == 0
    verbal = int(tiny_data.thinned(4).lengths("val_id").sum())
    assert found.score_tokens[0] == pytest.approx(verbal)
    assert found.score_tokens[1] == pytest.approx(verbal + 4 * 4)
    assert found.warnings == []


def test_triggers_that_make_no_site(vocabulary: Vocabulary, tiny_data: EncodedTask) -> None:
    idle = [
        trial({"far": {"kind": "every", "k": 500}}),
        trial({"never": {"kind": "delimiter", "pattern": "Q"}}),
        trial({"asked": {"kind": "delimiter", "pattern": ",", "region": "query"}}),
        trial({"comma": {"kind": "delimiter", "pattern": ","}}),
    ]
    lines = idle_triggers(idle, vocabulary, tiny_data)
    assert [line.split(":")[0] for line in lines] == [
        "trigger far",
        "trigger never",
        "trigger asked",
    ]
    assert "k=500 is longer than every training row" in lines[0]
    assert "never occurs in the query in the training rows" in lines[2]


def test_a_calibration_leaves_nothing(tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    engine = Engine(tiny_base)
    trials = [trial(triggers) for triggers in STRATEGIES.values()]
    trials.append(
        TrialConfig.from_dict(
            {"strategy": {"triggers": {"s": {"kind": "start", "m": 600}}, "position_rule": "own"}}
        )
    )
    found = calibrate(engine, tiny_data, trials, ["val_id"], data_seed=SEED, seconds=0.05)
    assert found is not None
    assert found.train_s_per_token > 0
    assert found.score_s_per_token > 0
    assert found.memory_bytes > 1e6
    assert engine.trials() == []
    assert calibrate(engine, tiny_data, trials[:1], ["val_id"], data_seed=SEED) is None
