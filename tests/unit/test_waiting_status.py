"""`latentune status` says which engines there are, and why trials wait."""

from __future__ import annotations

import pytest

from orchestrator.engines.roster import EngineRecord
from orchestrator.engines.waiting import WaitingRecord
from orchestrator.results import SearchResult, SpentRecord, budget_spent
from orchestrator.tables import engine_lines

RESULT = SearchResult(
    name="s",
    state="running",
    objective="val_ood/exact_match",
    tracking_uri="sqlite:///x",
    best=None,
    artifact=None,
    summary=None,
    trials=[],
)


def test_engines_and_the_reason_are_told() -> None:
    engine = EngineRecord(
        name="e", node="gpu-a", state="ready", room=8, trials=3, gpus=1, slots_per_s=1234.5
    )
    waiting = WaitingRecord(kind="no-gpu", detail="no node has the GPUs")
    shown = RESULT.model_copy(update={"engines": [engine], "waiting": waiting})
    assert list(engine_lines(shown)) == [
        "engine on gpu-a: ready, 3 of 8 trials, 1 GPUs, 1,234 tokens/s",
        "waiting: no node has the GPUs",
    ]
    assert list(engine_lines(RESULT)) == []
    assert SearchResult.model_validate_json(shown.model_dump_json()) == shown


@pytest.mark.parametrize(
    ("over", "told"),
    [([], None), (["trials"], None), (["trials", "time_s"], "budget.time_s is spent: raise it")],
)
def test_a_spent_budget_is_a_reason(over: list[str], told: str | None) -> None:
    spent = SpentRecord(
        trials=1,
        infeasible=0,
        steps=1,
        tokens=None,
        time_s=1.0,
        gpu_hours=0.0,
        money=None,
        over=over,
    )
    found = budget_spent(spent)
    assert (None if found is None else found.detail) == told
