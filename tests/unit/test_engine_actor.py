"""The engine actor's own bookkeeping; its model and Ray are in the integration tests."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from orchestrator.engine_actor import EngineActor, gpus_for


def test_an_engine_ends_with_its_last_search() -> None:
    actor = EngineActor({}, {})
    actor.lease("a")
    actor.lease("b")
    assert not actor.release("a")
    assert not actor.release("a")
    assert actor.release("b")


@pytest.mark.parametrize(
    ("base", "gpus"),
    [
        ({"device": "auto"}, 1),
        ({"device": "cpu"}, 0),
        ({"device": "auto", "device_map": "auto"}, 4),
        ({"device": "auto", "device_map": "cpu"}, 0),
        ({"device": "auto", "device_map": {"": "cpu"}}, 0),
        ({"device": "auto", "device_map": {"model": 0, "lm_head": 1}}, 4),
    ],
)
def test_an_engine_takes_the_gpus_that_its_model_is_spread_over(
    base: dict[str, Any], gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}},
        {"Alive": False, "Resources": {"GPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert gpus_for(base) == gpus
    monkeypatch.setattr(ray, "nodes", lambda: nodes[:1])
    assert gpus_for(base) == 0
