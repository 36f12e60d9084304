"""The engine actor's own bookkeeping; its model and Ray are in the integration tests."""

from __future__ import annotations

from orchestrator.engine_actor import EngineActor


def test_an_engine_ends_with_its_last_search() -> None:
    actor = EngineActor({}, {})
    actor.lease("a")
    actor.lease("b")
    assert not actor.release("a")
    assert not actor.release("a")
    assert actor.release("b")
