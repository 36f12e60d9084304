"""A deterministic engine gives the same bits whoever the neighbours are, and whenever they come."""

from __future__ import annotations

from typing import Any

import pytest

from trainable.base_model.loading import BaseModel
from trainable.data import EncodedTask
from trainable.engine import Engine, TrialSpec
from trainable.trial import TrialConfig

STEPS = 12
CONFIGS = {
    "start": {"triggers": {"s": {"kind": "start", "m": 2}}},
    "comma": {"triggers": {"c": {"kind": "delimiter", "m": 2}}},
    "every": {"triggers": {"e": {"kind": "every", "k": 3}}},
    "none": {"triggers": {}},
}


def join(engine: Engine, data: EncodedTask, uid: str) -> None:
    optim = {"batch_rows": 3, "lr": 0.02, "warmup_steps": 2}
    config = TrialConfig.from_dict({"strategy": CONFIGS[uid], "optim": optim})
    engine.join(TrialSpec(uid, config, STEPS), data)


def outcome(engine: Engine, uid: str) -> tuple[bytes, dict[str, float]]:
    scores: Any = engine.evaluate(engine.trials(), ["val_ood"])
    return engine.state(uid).to_bytes(), scores[uid]


@pytest.mark.parametrize("uid", ["start", "comma"])
def test_neighbours_change_no_bit(uid: str, tiny_base: BaseModel, tiny_data: EncodedTask) -> None:
    alone = Engine(tiny_base, deterministic=True)
    join(alone, tiny_data, uid)
    for _ in range(STEPS):
        alone.step()
    crowd = Engine(tiny_base, deterministic=True)
    join(crowd, tiny_data, "every")
    join(crowd, tiny_data, uid)
    crowd.step([uid])
    join(crowd, tiny_data, "none")
    for _ in range(STEPS - 1):
        crowd.step()
    assert outcome(crowd, uid) == outcome(alone, uid)
