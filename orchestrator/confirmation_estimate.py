"""What confirming a search's winner will cost, at most, before the search has begun.

    candidates: confirm.top             ┐ times confirm.seeds        ┐
    controls: five of each, or in all   ┘                            ├─ members, times budget.steps
    controls times confirm.control_lr_factors, to choose one of each ┘

Controls that turn out equal are one, so there may be fewer. Nobody knows yet which configuration
will lead: a member's tokens are the mean of the space's configurations with latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.arms import TRAINED_CONTROLS
from orchestrator.confirmation_record import ConfirmationEstimate
from orchestrator.search_config import SearchConfig
from trainable.data import Split


@dataclass(frozen=True)
class MemberTokens:
    """Tokens of a member.

    Args:
        step: of an optimiser step.
        score: of one scoring on the search's splits.
        test: of the test rows.
    """

    step: float
    score: float
    test: float


def tested_split(objective: str) -> Split:
    """The test split that an objective is confirmed on."""
    return "test_ood" if objective.startswith("val_ood") else "test_id"


def most_members(config: SearchConfig) -> tuple[int, int]:
    """How many members are trained at most: to be judged, and to choose learning rates."""
    confirm = config.confirm
    candidates = min(confirm.top, config.budget.trials)
    controls = TRAINED_CONTROLS * (candidates if confirm.controls == "each" else 1)
    factors = len(confirm.control_lr_factors)
    tuned = controls * factors if factors > 1 else 0
    return (candidates + controls) * confirm.seeds, tuned


def confirmation_estimate(
    config: SearchConfig, tokens: MemberTokens, measured: Mapping[str, Any] | None, gpus: int
) -> ConfirmationEstimate | None:
    """What confirming will take at most; None where nothing will be confirmed.

    Args:
        tokens: of a member.
        measured: a `Calibration` as plain data; None where nothing was measured.
        gpus: of an engine.
    """
    if not config.confirm.enabled or tested_split(config.objective) not in config.task.splits():
        return None
    judged, tuned = most_members(config)
    steps = (judged + tuned) * config.budget.steps
    found = ConfirmationEstimate(
        members=judged + tuned,
        steps=steps,
        train_tokens=steps * tokens.step,
        # One more is scored and not trained: no latents.
        score_tokens=(judged + tuned + 1) * tokens.score + (judged + 1) * tokens.test,
        gpus=gpus,
    )
    if measured is None:
        return found
    train_s = found.train_tokens * measured["train_s_per_token"]
    seconds = train_s + found.score_tokens * measured["score_s_per_token"]
    price = config.budget.price_per_hour
    return found.model_copy(
        update={
            "seconds": seconds,
            "gpu_hours": seconds / 3600 * gpus,
            "money": None if price is None else seconds / 3600 * price,
        }
    )


def confirmation_line(found: ConfirmationEstimate) -> str:
    """The estimate for people, and what is not in it."""
    line = (
        f"then its confirmation, at most: {found.members} members, {found.steps} optimiser steps, "
        f"{millions(found.train_tokens)} tokens of training and {millions(found.score_tokens)} of "
        "scoring"
    )
    if found.seconds is None:
        return line
    hours = f", {found.gpu_hours:.2f} GPU-hours" if found.gpus else ""
    money = "" if found.money is None else f", {found.money:.2f} in money"
    return (
        f"{line}; estimated: {span(found.seconds)}{hours}{money}, without an engine's start, "
        "intervals and tests, and the report"
    )


def millions(tokens: float) -> str:
    """A number of tokens for people."""
    return f"{tokens / 1e6:.2f} million" if tokens >= 1e5 else f"{tokens:.0f}"


def span(seconds: float | None) -> str:
    """A time for people."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
