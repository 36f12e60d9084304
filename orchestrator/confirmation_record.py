"""What a confirmation has found, as `confirm --json`, `result.json` and MLflow hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from orchestrator.record import SCHEMA_VERSION, Record
from trainable.metrics import EXACT_MATCH

Outcome = Literal["better", "worse", "no difference"]


class ConfirmationEstimate(Record):
    """What a confirmation is expected to take, at most: members that turn out equal are one.

    Args:
        members: configurations with a seed that are trained, those that only try a control's
            learning rate included.
        steps: optimiser steps of all members.
        train_tokens: at the mean of the space's configurations with latents.
        score_tokens: likewise; of validation and test rows.
        seconds: of training and scoring alone; None where nothing was measured, and so are those
            below.
        money: None without a price.
    """

    members: int
    steps: int
    train_tokens: float
    score_tokens: float
    gpus: int
    seconds: float | None = None
    gpu_hours: float | None = None
    money: float | None = None


class ConfirmationCost(Record):
    """What the confirmation took in one run, beside what was expected.

    Args:
        steps: optimiser steps of members with latents.
        estimate: None where no run has made one.
    """

    seconds: float
    steps: int
    estimate: ConfirmationEstimate | None = None


class ScoreRecord(Record):
    """One configuration's score in one place, over seeds and items.

    Args:
        metric: `test_ood/exact_match/26`; without a distance the unweighted mean over all.
        distance: None for all distances of the split together.
        rows: items; per seed.
        low: of the 95 % interval.
        high: of the 95 % interval.
    """

    metric: str
    distance: int | None
    rows: int
    mean: float
    low: float
    high: float


class ComparisonRecord(Record):
    """A candidate minus its best control, in one place.

    Args:
        p: of the paired test.
        p_holm: corrected over all comparisons of the confirmation.
    """

    metric: str
    distance: int | None
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    outcome: Outcome


class ArmRecord(Record):
    """One configuration.

    Args:
        key: tells configurations apart, seeds aside.
        rank: in the search's order; None for one that is a control alone.
        search_score: the objective in the search.
        search_trials: uids.
        control: what it has in common with which candidates; None for one that is a candidate
            alone.
        control_for: the ranks of the candidates that are compared with it.
        latents: L.
        latents_per_row: inserted over val_id, on average.
        uids: the members, one per seed.
        validation: the objective over the members, by which the best control is chosen.
        against: the key of a candidate's best control.
        confirmed: whether a candidate is better than that control somewhere and worse nowhere
            on the objective's side.
        words: a candidate's verdict.
        left_out: why it could not be compared; None as a rule.
        try_again: whether what left it out may have passed: the next `confirm` tries again.
    """

    key: str
    strategy: str
    config: dict[str, Any]
    rank: int | None
    search_score: float | None
    search_trials: list[str]
    control: str | None
    control_for: tuple[int, ...] = ()
    latents: int
    latents_per_row: float
    uids: list[str]
    validation: float | None = None
    scores: tuple[ScoreRecord, ...] = ()
    against: str | None = None
    comparisons: tuple[ComparisonRecord, ...] = ()
    confirmed: bool = False
    words: str | None = None
    left_out: str | None = None
    try_again: bool = False

    def score(self, metric: str) -> ScoreRecord | None:
        """What it reached in one place."""
        return next((score for score in self.scores if score.metric == metric), None)


class ConfirmationRecord(Record):
    """A whole confirmation.

    Args:
        inputs: a digest of what was asked; another one means that it is out of date.
        state: whether any configuration was confirmed.
        champion: the key of the champion's arm.
        champion_uid: the member whose latents are registered: the best one on validation data.
        artifact: its folder.
        judged: the metric of the comparisons: the objective's, where it is known item by item.
        seeds: per configuration.
        steps: optimiser steps of each member.
        verdict: in words, line by line.
        notes: what limits it.
    """

    schema_version: int = SCHEMA_VERSION
    search: str
    inputs: str
    state: Literal["confirmed", "nothing confirmed"]
    objective: str
    judged: str = EXACT_MATCH
    champion: str | None
    champion_uid: str | None
    artifact: str | None
    seeds: int
    steps: int
    arms: list[ArmRecord]
    verdict: list[str]
    notes: tuple[str, ...] = ()

    def arm(self, key: str | None) -> ArmRecord | None:
        """An arm by its key."""
        return next((arm for arm in self.arms if arm.key == key), None)


def read_confirmation(path: Path) -> ConfirmationRecord | None:
    """A stored confirmation; None where there is none."""
    return ConfirmationRecord.model_validate_json(path.read_text()) if path.exists() else None
