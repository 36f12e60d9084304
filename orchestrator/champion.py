"""What a confirmation hands over: every member's latents, and the champion with its numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from orchestrator.assignment import DataSource
from orchestrator.checkpoints import load_state
from orchestrator.confirmation_record import ArmRecord, ConfirmationRecord
from orchestrator.events import EventLog
from orchestrator.folders import SearchFolder
from orchestrator.manifest import manifest_sha256
from orchestrator.members import Member
from trainable.artifact import Artifact
from trainable.state import TrialState


def save_member(
    folder: SearchFolder,
    member: Member,
    steps: int,
    *,
    base_model: Mapping[str, Any],
    data: DataSource,
    metrics: Mapping[str, float],
) -> str:
    """Write a member's artifact folder from its last state; returns its relative path."""
    state = load_state(folder.trial(member.uid), steps)
    assert state is not None, "a trained member has a state"
    Artifact(
        latents=TrialState.from_bytes(state).latents,
        config=member.config,
        base_model=base_model,
        task={**asdict(data)["task"], "data_seed": data.seed},
        metrics=metrics,
        provenance={
            "search": folder.name,
            "trial_uid": member.uid,
            "step": steps,
            "scored_at_step": steps,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    ).save(folder.artifact(member.uid))
    return str(folder.artifact(member.uid).relative_to(folder.path))


def tell_champion(folder: SearchFolder, events: EventLog, record: ConfirmationRecord) -> None:
    """Write the champion's folder and tell of it, if there is one.

    The folder holds nothing that another run of the same confirmation would write differently,
    so that the registry gets one version of it.
    """
    arm = record.arm(record.champion)
    if arm is None or record.champion_uid is None or record.artifact is None:
        return
    own = Artifact.load(folder.artifact(record.champion_uid))
    confirmed = replace(own, confirmation=_confirmed_numbers(record, arm))
    confirmed.save(folder.path / record.artifact)
    events.append(
        "champion",
        {
            "artifact": record.artifact,
            "manifest_sha256": manifest_sha256(folder.path / record.artifact),
            "metrics": dict(own.metrics),
            "name": arm.strategy,
        },
        trial_uid=record.champion_uid,
        attempt=1,
    )


def _confirmed_numbers(record: ConfirmationRecord, arm: ArmRecord) -> dict[str, Any]:
    """What the champion's card says."""
    control = record.arm(arm.against)
    assert control is not None, "a confirmed arm has a control"
    rows = []
    for score in arm.scores:
        other = control.score(score.metric)
        assert other is not None, "all arms are scored on the same rows"
        rows.append(score.model_dump() | {"control_mean": other.mean})
    return {
        "verdict": arm.words,
        "seeds": record.seeds,
        "judged": record.judged,
        "control": control.strategy,
        "scores": rows,
        "comparisons": [comparison.model_dump() for comparison in arm.comparisons],
    }
