"""Whether a search's ledger and its event log can have come about as they should have.

    draws      a random draw follows from the search's seed and the draw's number
    decisions  early stopping, replayed in the recorded order of reports, decides the same
    tells      every end is told once, nothing is told of a trial that has ended, attempts rise
    counts     a search that is over has asked for what was wanted and leaves nothing running

What it finds is said in words, for a person or a test; a sound search gives nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import optuna
from optuna.trial import FrozenTrial

from orchestrator.config import SearchConfig, load_search
from orchestrator.events import Event, read_events
from orchestrator.folders import SearchFolder
from orchestrator.ledger import recorded_reports
from orchestrator.ledger_reading import reading_study
from orchestrator.ledger_trials import LedgerTrial, Role, TrialStatus, read_trials, status_of
from orchestrator.opening import baseline_configs
from orchestrator.sampling import sampler_of
from orchestrator.stopping import Ranking, rule_of
from search_spaces import ConstraintError
from trainable.metrics import goodness


def audit_search(folder: SearchFolder) -> list[str]:
    """All that is wrong with a search's records, one line each.

    Raises:
        LedgerError, EventLogError: for records that cannot be read at all.
    """
    config = load_search(folder.config)
    with reading_study(folder.path, config.name) as study:
        frozen = study.get_trials(deepcopy=False)
        trials = list(read_trials(study))
    events = list(read_events(folder.events))
    return [
        *_wrong_draws(config, frozen),
        *_wrong_decisions(config, frozen),
        *_wrong_values(frozen),
        *_wrong_tells(folder, trials, events),
        *_wrong_order(folder, frozen, events),
        *_wrong_counts(config, trials, events),
    ]


def _wrong_draws(config: SearchConfig, trials: Sequence[FrozenTrial]) -> Iterator[str]:
    if config.sampler.kind != "random":
        return
    space, sampler = config.space.build(), sampler_of(config.sampler)
    for trial in trials:
        fixed = "fixed_params" in trial.system_attrs  # a start point
        if trial.user_attrs.get("role", Role.SEARCH) != Role.SEARCH or fixed or not trial.params:
            continue
        again = optuna.create_study(sampler=sampler(trial.number)).ask()
        try:
            space.sample(again)
        except ConstraintError:
            pass  # as it was then: the params up to there count
        if again.params != trial.params:
            yield (
                f"trial {trial.number} has {trial.params}, and the seed of its draw gives "
                f"{again.params}"
            )


def _wrong_decisions(config: SearchConfig, trials: Sequence[FrozenTrial]) -> Iterator[str]:
    reports = sorted(recorded_reports(trials), key=lambda one: one[0])
    places = [place for (place, *_), *_ in reports if place >= 0]
    if places != list(range(len(places))):
        yield f"the recorded order of reports has gaps or repeats: {places}"
    last = {trial.number: step for _, trial, step, _ in reports}
    replay = _Replay(config)
    for _, trial, step, rank in reports:
        if trial.number in replay.ended:
            yield f"trial {trial.number} at step {step}: reported after its end"
            continue
        expected = replay.decide(trial, step, rank)
        found = _decided(trial, is_last=step == last[trial.number])
        if found is not expected:
            yield (
                f"trial {trial.number} at step {step}: recorded {found}, and the reports up to "
                f"there say {expected}"
            )


class _Replay:
    """Early stopping, from the beginning."""

    def __init__(self, config: SearchConfig) -> None:
        self.ended: set[int] = set()
        self._config = config
        self._ranking = Ranking(rule_of(config.stopping, config.budget.steps, config.name))

    def decide(self, trial: FrozenTrial, step: int, rank: float) -> TrialStatus:
        """What the report of a trial decides of it."""
        number, score = trial.number, goodness(self._config.objective, rank)
        is_last, stops = step >= self._config.budget.steps, False
        if trial.user_attrs["role"] == Role.SEARCH:
            self._ranking.report(number, step, score)
            stops = not is_last and self._ranking.stops(number)
            if is_last:
                self._ranking.complete(number)
        if is_last or stops:
            self.ended.add(number)
        return (
            TrialStatus.COMPLETE if is_last else TrialStatus.PRUNED if stops
            else TrialStatus.RUNNING
        )  # fmt: skip


def _decided(trial: FrozenTrial, *, is_last: bool) -> TrialStatus:
    """What was decided at a report; a person, or a failure, ends a trial that was to go on."""
    status = status_of(trial)
    by_report = status in (TrialStatus.PRUNED, TrialStatus.COMPLETE)
    return status if is_last and by_report else TrialStatus.RUNNING


def _wrong_values(trials: Sequence[FrozenTrial]) -> Iterator[str]:
    for trial in trials:
        values = [*(trial.values or []), *trial.intermediate_values.values()]
        if not all(math.isfinite(value) for value in values):
            yield f"trial {trial.number} was told {values}"


def _wrong_tells(
    folder: SearchFolder, trials: Sequence[LedgerTrial], events: Sequence[Event]
) -> Iterator[str]:
    of: dict[str | None, list[Event]] = defaultdict(list)
    for event in events:
        of[event.trial_uid].append(event)
    for trial in trials:
        uid = folder.uid(trial.number)
        ends = [event for event in of[uid] if event.type == "trial_ended"]
        never_trained = trial.status is TrialStatus.INFEASIBLE and trial.failure is None
        expected = 0 if trial.status is TrialStatus.RUNNING or never_trained else 1
        if len(ends) != expected:
            yield f"trial {trial.number} is {trial.status}, and its end was told {len(ends)} times"
        for end in ends:
            if (end.payload["state"], end.payload["step"]) != (str(trial.status), trial.step):
                yield (
                    f"trial {trial.number} is {trial.status} at step {trial.step}, and told as "
                    f"{end.payload['state']} at step {end.payload['step']}"
                )
        late = [e.type for e in of[uid] if ends and e.seq > ends[0].seq and e.type in _ALIVE]
        if late:
            yield f"trial {trial.number}: after its end came {', '.join(late)}"
        attempts = [event.attempt for event in of[uid] if event.type == "trial_started"]
        if attempts != sorted(set(attempts)) or max(attempts, default=0) > trial.attempts:
            yield f"trial {trial.number}: attempts {attempts} were begun, {trial.attempts} counted"


_ALIVE = ("trial_started", "trial_report", "trial_lost")


def _wrong_order(
    folder: SearchFolder, trials: Sequence[FrozenTrial], events: Sequence[Event]
) -> Iterator[str]:
    """The ledger takes reports in the order in which they are told; the log may have more."""
    told = [(e.trial_uid, e.payload["step"]) for e in events if e.type == "trial_report"]
    reports = sorted(recorded_reports(trials), key=lambda one: one[0])
    place = 0
    for (order, *_), trial, step, _ in reports:
        if order < 0:
            continue  # a ledger of version 1
        wanted = folder.uid(trial.number), step
        try:
            place = told.index(wanted, place) + 1
        except ValueError:
            yield f"trial {trial.number} at step {step} is in the ledger out of the log's order"
            return


def _wrong_counts(
    config: SearchConfig, trials: Sequence[LedgerTrial], events: Sequence[Event]
) -> Iterator[str]:
    ends = [event for event in events if event.type == "search_ended"]
    if not ends or ends[-1].payload["state"] in ("interrupted", "spent"):
        return
    running = [trial.number for trial in trials if trial.status is TrialStatus.RUNNING]
    if running:
        yield f"the search is over, and trials {running} are running"
    replaced = (TrialStatus.INFEASIBLE, None)
    asked = [t for t in trials if t.role is Role.SEARCH and (t.status, t.failure) != replaced]
    grid, baselines = config.grid(), [t for t in trials if t.role is Role.BASELINE]
    wanted = min(config.budget.trials, len(grid)) if grid else config.budget.trials
    if len(asked) > wanted or (len(asked) < wanted and not grid):
        yield f"{wanted} trials were wanted, and {len(asked)} asked"
    if len(baselines) != len(baseline_configs()) * config.space.baselines:
        yield f"{len(baselines)} baselines were asked"
