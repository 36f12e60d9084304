"""A trial as the ledger knows it, read from Optuna's record of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from trainable.trial import TrialConfig


class TrialStatus(StrEnum):
    """How a trial stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"  # stopped early, by its scores
    STOPPED = "stopped"  # by a person
    FAILED = "failed"
    INFEASIBLE = "infeasible"  # breaks a limit; never trained, and replaced by another draw


class Role(StrEnum):
    """Why a trial is there."""

    SEARCH = "search"
    BASELINE = "baseline"  # a fixed point of comparison, always run to the full budget


@dataclass(frozen=True)
class LedgerTrial:
    """A trial as the ledger knows it.

    Args:
        step: optimiser steps at its last report or pause.
        metrics: of its last report.
        reports: step to what early stopping ranks by.
        failure: a `FailureKind`; None for one that did not fail.
    """

    number: int
    config: TrialConfig
    role: Role
    status: TrialStatus
    params: Mapping[str, Any]
    step: int
    metrics: Mapping[str, float]
    reports: Mapping[int, float]
    attempts: int
    reason: str | None
    failure: str | None = None


def read_trials(study: optuna.Study) -> Iterator[LedgerTrial]:
    """All trials that were really begun; illegal draws are left out."""
    for frozen in study.get_trials(deepcopy=False):
        if "config" in frozen.user_attrs:
            yield read_trial(frozen)


def read_trial(frozen: FrozenTrial) -> LedgerTrial:
    """A trial that was begun."""
    attrs = frozen.user_attrs
    return LedgerTrial(
        number=frozen.number,
        config=config_of(frozen),
        role=Role(attrs["role"]),
        status=status_of(frozen),
        params=dict(frozen.params),
        step=int(attrs.get("step", 0)),
        metrics=dict(attrs.get("metrics", {})),
        reports=reports_of(frozen),
        attempts=int(attrs.get("attempts", 0)),
        reason=attrs.get("reason"),
        failure=failure_of(frozen),
    )


def config_of(frozen: FrozenTrial) -> TrialConfig:
    """Its configuration."""
    return TrialConfig.from_dict(json.loads(frozen.user_attrs["config"]))


def reports_of(frozen: FrozenTrial) -> dict[int, float]:
    """Step to what early stopping ranks by."""
    kept = {int(step): rank for step, rank in frozen.user_attrs.get("reports", {}).items()}
    return kept or dict(frozen.intermediate_values)


def order_of(frozen: FrozenTrial) -> dict[int, int]:
    """Step to the place of its report among all of the search; empty in a ledger of version 1."""
    return {int(step): place for step, place in frozen.user_attrs.get("order", {}).items()}


def judged_of(frozen: FrozenTrial, steps: int) -> int:
    """The last step at which early stopping judged it; the first ledgers do not say.

    Whatever a trial reported before its last report, or before its end, had been judged by then.

    Args:
        steps: optimiser steps of a full trial, at which none is judged.
    """
    if frozen.state.is_finished():
        return steps - 1
    *before, _ = (0, *sorted(reports_of(frozen)))
    return max(0, int(frozen.user_attrs.get("judged", 0)), *before)


def failure_of(frozen: FrozenTrial) -> str | None:
    """Why it failed; a ledger of version 1 does not say."""
    unknown = "unknown" if status_of(frozen) is TrialStatus.FAILED else None
    found: str | None = frozen.user_attrs.get("failure", unknown)
    return found


def status_of(frozen: FrozenTrial) -> TrialStatus:
    """How it stands."""
    if "status" in frozen.user_attrs:
        return TrialStatus(frozen.user_attrs["status"])
    return {
        TrialState.COMPLETE: TrialStatus.COMPLETE,
        TrialState.PRUNED: TrialStatus.PRUNED,
        TrialState.FAIL: TrialStatus.FAILED,
    }.get(frozen.state, TrialStatus.RUNNING)
