"""What a confirmation found, as far as a report shows it; nothing where there was none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

CONFIRMATION_FILE = "confirm/confirmation.json"


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
    """

    strategy: str
    control: str | None
    search_score: float | None
    scores: Mapping[str, ConfirmedScore]
    words: str | None


@dataclass(frozen=True)
class Confirmed:
    """A whole confirmation: `champion_uid` is None where nothing was confirmed."""

    champion_uid: str | None
    verdict: tuple[str, ...]
    notes: tuple[str, ...]
    arms: tuple[ConfirmedArm, ...]

    @property
    def metrics(self) -> list[str]:
        """The metrics that any arm has, in order."""
        return list(dict.fromkeys(metric for arm in self.arms for metric in arm.scores))


def read_confirmed(search_dir: Path) -> Confirmed | None:
    """The confirmation that a search's folder holds; None where it holds none."""
    path = search_dir / CONFIRMATION_FILE
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return Confirmed(
        champion_uid=found.get("champion_uid"),
        verdict=tuple(found.get("verdict", ())),
        notes=tuple(found.get("notes", ())),
        arms=tuple(_arm(arm) for arm in found.get("arms", ())),
    )


def _arm(found: Mapping[str, Any]) -> ConfirmedArm:
    return ConfirmedArm(
        strategy=str(found["strategy"]),
        control=found.get("control"),
        search_score=found.get("search_score"),
        scores={
            score["metric"]: ConfirmedScore(score["mean"], score["low"], score["high"])
            for score in found.get("scores", ())
        },
        words=found.get("words") or found.get("left_out"),
    )
