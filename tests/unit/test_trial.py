"""Trial configurations: bounds, messages, plain data."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from trainable.errors import StrategyError, TrialError
from trainable.trial import InitConfig, OptimConfig, TrialConfig

FULL: dict[str, Any] = {
    "strategy": {"triggers": {"s": {"kind": "start", "m": 2}}, "specialization": "by_trigger"},
    "init": {"kind": "text", "text": "44@47="},
    "optim": {
        "lr": 0.1,
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup_steps": 0,
        "clip_norm": None,
        "batch_rows": 3,
    },
    "seed": 7,
}


def test_plain_data_comes_back() -> None:
    trial = TrialConfig.from_dict(FULL)
    assert TrialConfig.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial
    assert trial.optim.clip_norm is None
    assert trial.init.text == "44@47="


def test_everything_has_a_default() -> None:
    assert TrialConfig.from_dict({}) == TrialConfig()
    assert TrialConfig().strategy.latent_count == 0


@pytest.mark.parametrize(
    ("section", "fields", "words"),
    [
        ("optim", {"lr": 0}, ["optim.lr=0", "above 0"]),
        ("optim", {"lr": math.nan}, ["optim.lr=nan"]),
        ("optim", {"lr": math.inf}, ["optim.lr=inf"]),
        ("optim", {"lr": "fast"}, ["optim.lr='fast'", "number"]),
        ("optim", {"lr": True}, ["optim.lr=True"]),
        ("optim", {"weight_decay": -0.1}, ["optim.weight_decay=-0.1", "at least 0"]),
        ("optim", {"schedule": "step"}, ["optim.schedule='step'", "constant, linear, cosine"]),
        ("optim", {"warmup_steps": -1}, ["optim.warmup_steps=-1"]),
        ("optim", {"warmup_steps": 1.5}, ["optim.warmup_steps=1.5"]),
        ("optim", {"clip_norm": 0}, ["optim.clip_norm=0"]),
        ("optim", {"batch_rows": 0}, ["optim.batch_rows=0"]),
        ("optim", {"momentum": 1}, ["optim.momentum is unknown", "batch_rows"]),
        ("init", {"kind": "zeros"}, ["init.kind='zeros'", "normal, vocab, text"]),
        ("init", {"scale": 0}, ["init.scale=0"]),
        ("init", {"kind": "text"}, ["init.text=None", "init.kind='text'"]),
        ("init", {"text": "x"}, ["init.text='x'", "init.kind='normal'"]),
        ("init", {"kind": "text", "text": 5}, ["init.text=5"]),
        ("init", {"colour": 1}, ["init.colour is unknown"]),
    ],
)
def test_a_wrong_field_is_named(section: str, fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(TrialError) as caught:
        TrialConfig.from_dict({section: fields})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "data", [{"seed": -1}, {"seed": 0.5}, {"budget": 3}, {"init": 3}, {"optim": [1]}, []]
)
def test_a_wrong_trial_is_refused(data: Any) -> None:
    with pytest.raises(TrialError):
        TrialConfig.from_dict(data)


def test_a_wrong_strategy_keeps_its_own_error() -> None:
    with pytest.raises(StrategyError, match=r"^strategy\.triggers\.s\.k=2"):
        TrialConfig.from_dict({"strategy": {"triggers": {"s": {"kind": "start", "k": 2}}}})


def test_configs_take_plain_arguments() -> None:
    assert OptimConfig(lr=1).lr == 1
    assert InitConfig(kind="vocab").text is None
