"""What a confirmation found, as far as a report shows it; nothing where there was none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.confirmation_record import ArmRecord, ConfirmationRecord


class ConfirmedScore(NamedTuple):
    """A mean over seeds and items, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ConfirmedArm:
    """One configuration that was trained again with fresh seeds.

    Args:
        control: what it controls for; None for one that is a candidate alone.
        search_score: the objective in the search, which picked it.
        scores: of the test splits, by metric.
        words: its verdict.
        search_trials: the uids of its trials in the search.
    """

    strategy: str
    control: str | None
    search_score: float | None
    scores: Mapping[str, ConfirmedScore]
    words: str | None
    latents_per_row: float = 0.0
    search_trials: tuple[str, ...] = ()


@dataclass(frozen=True)
class Confirmed:
    """A whole confirmation: the champion and its uid are None where nothing was confirmed."""

    champion_uid: str | None
    verdict: tuple[str, ...]
    notes: tuple[str, ...]
    arms: tuple[ConfirmedArm, ...]
    champion: ConfirmedArm | None = None

    @property
    def metrics(self) -> list[str]:
        """The metrics that any arm has, in order."""
        return list(dict.fromkeys(metric for arm in self.arms for metric in arm.scores))


def shown(record: ConfirmationRecord | None) -> Confirmed | None:
    """What a report shows of a confirmation; None where there was none."""
    if record is None:
        return None
    arms = {arm.key: _arm(arm) for arm in record.arms}
    return Confirmed(
        champion_uid=record.champion_uid,
        verdict=tuple(record.verdict),
        notes=record.notes,
        arms=tuple(arms.values()),
        champion=None if record.champion is None else arms[record.champion],
    )


def _arm(found: ArmRecord) -> ConfirmedArm:
    return ConfirmedArm(
        strategy=found.strategy,
        control=found.control,
        search_score=found.search_score,
        scores={
            score.metric: ConfirmedScore(score.mean, score.low, score.high)
            for score in found.scores
        },
        words=found.words or found.left_out,
        latents_per_row=found.latents_per_row,
        search_trials=tuple(found.search_trials),
    )
