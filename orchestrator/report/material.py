"""All that a report is made of, read once: the ledger, the event log, the configuration.

rungs        the steps at which trials were judged
scores       per trial, the objective at each rung that it reached
first        per trial, what early stopping ranked it by at the first rung
losses       per trial, the training loss
attempts     per trial, when each of its starts began and ended
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from optuna.trial import FrozenTrial

from orchestrator.config import load_search
from orchestrator.events import Event, read_events
from orchestrator.folders import SearchFolder
from orchestrator.ledger import read_trials, reading_study
from orchestrator.report.confirmed import Confirmed, shown
from orchestrator.results import SearchResult, SearchState, build_result, saved_state

LOSS_POINTS = 100  # per curve of a figure


class Attempt(NamedTuple):
    """One start of a trial: seconds since the search's."""

    began_s: float
    ended_s: float


@dataclass(frozen=True)
class Story:
    """What the event log tells of one trial."""

    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a report shows.

    Args:
        stopping_metric: what early stopping ranks by.
        rungs: ascending; the last is the whole budget.
        stories: by uid.
        frozen: the study's trials that were really begun, for Optuna's importance.
        confirmed: None where nothing has been confirmed yet.
    """

    result: SearchResult
    stopping_metric: str
    rungs: list[int]
    stories: Mapping[str, Story]
    frozen: list[FrozenTrial]
    confirmed: Confirmed | None

    def curve(self, uid: str, metric: str) -> list[tuple[int, float]]:
        """A trial's metric at the steps at which it was measured."""
        scores = self.stories.get(uid, Story()).scores
        return [(step, found[metric]) for step, found in sorted(scores.items()) if metric in found]

    def first(self, uid: str) -> float | None:
        """What early stopping had for a trial at the first rung; None before it."""
        scores = self.stories.get(uid, Story()).scores.get(self.rungs[0], {})
        return scores.get(self.stopping_metric)


def read_material(
    folder: SearchFolder, tracking_uri: str, state: SearchState | None = None
) -> Material:
    """Read a search.

    Args:
        state: how it ended, where its driver asks and still holds the lock.

    Raises:
        SearchNotFoundError, LedgerError, EventLogError: for one that cannot be read.
    """
    config = load_search(folder.config)
    with reading_study(folder.path, config.name) as study:
        trials = list(read_trials(study))
        frozen = [t for t in study.get_trials(deepcopy=False) if "config" in t.user_attrs]
    result = build_result(
        config,
        folder,
        trials,
        state=state or saved_state(folder, trials),
        tracking_uri=tracking_uri,
    )
    return Material(
        result=result,
        stopping_metric=config.stopping.metric or config.objective,
        rungs=config.rungs(),
        stories=read_stories(read_events(folder.events)),
        frozen=frozen,
        confirmed=shown(result.confirmation),
    )


def read_stories(events: Iterable[Event]) -> dict[str, Story]:
    """What an event log tells of each trial; a step that was done again counts once."""
    stories: dict[str, Story] = {}
    start: float | None = None
    for event in events:
        start = event.time if start is None else start
        if event.trial_uid is None:
            continue
        story = stories.setdefault(event.trial_uid, Story())
        now = event.time - start
        if event.type == "trial_started":
            story.attempts.append(Attempt(now, now))
        elif event.type in ("trial_report", "trial_ended") and story.attempts:
            story.attempts[-1] = story.attempts[-1]._replace(ended_s=now)
        if event.type == "trial_report":
            _add_report(story, event)
    return stories


def _add_report(story: Story, event: Event) -> None:
    metrics = event.payload.get("metrics") or {}
    found = {name: float(value) for name, value in metrics.items() if value is not None}
    story.scores.setdefault(int(event.payload["step"]), {}).update(found)
    for step, loss in event.payload.get("curve") or []:
        if loss is not None:
            story.losses[int(step)] = float(loss)
