"""Trials and results written by hand, for tests of what people and programs are shown."""

from __future__ import annotations

from typing import Any

from orchestrator.ledger import LedgerTrial, Role, TrialStatus
from orchestrator.results import SearchResult, TimeSplit, TrialRecord
from trainable.trial import TrialConfig

OBJECTIVE = "val_ood/exact_match"


def ledger_trial(
    number: int, score: float | None, extra: float | None = 10.0, **fields: Any
) -> LedgerTrial:
    """A trial of `start2` that ran to its end, unless told otherwise."""
    metrics = {} if score is None else {OBJECTIVE: score}
    if extra is not None:
        metrics["cost/extra_tokens_pct"] = extra
    triggers = {"start": {"kind": "start", "m": 2}}
    defaults: dict[str, Any] = {
        "config": TrialConfig.from_dict({"strategy": {"triggers": triggers}}),
        "role": Role.SEARCH,
        "status": TrialStatus.COMPLETE,
        "params": {},
        "step": 8,
        "metrics": metrics,
        "reports": {},
        "attempts": 1,
        "reason": None,
    }
    return LedgerTrial(number=number, **defaults | fields)


def record(
    number: int, strategy: str, score: float | None, status: str = "complete", **fields: Any
) -> TrialRecord:
    metrics = {} if score is None else {OBJECTIVE: score}
    metrics |= fields.pop("metrics", {})
    defaults: dict[str, Any] = {
        "uid": f"tiny-{number}",
        "number": number,
        "strategy": strategy,
        "role": Role.SEARCH,
        "status": TrialStatus(status),
        "step": 540,
        "metrics": metrics,
        "params": {},
        "attempts": 1,
        "reason": None,
        "failure": "numeric" if status == "failed" else None,
    }
    return TrialRecord(**defaults | fields)


def result(trials: list[TrialRecord], **fields: Any) -> SearchResult:
    defaults: dict[str, Any] = {
        "name": "tiny",
        "state": "complete",
        "objective": OBJECTIVE,
        "tracking_uri": "sqlite:////nowhere/mlflow.db",
        "best": None,
        "artifact": None,
        "summary": None,
        "trials": trials,
    }
    return SearchResult(**defaults | fields)


SPLIT = TimeSplit(total_s=100.0, train_s=60.0, evaluate_s=15.0, idle_s=1.0, trial_steps=4321)
