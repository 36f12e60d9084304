"""What the driver decides, without Ray: which trial is next, and what a result means.

    Ray Tune ── assign() ─►  ledger.ask   ── event trial_started
             ── on_report ─► ledger.report ── event trial_report, trial_ended + artifact
             ── on_lost ───► ledger.lost   ── event trial_lost
             ── put_back ──► ledger.put_back
             ── on_round ──► the time that was spent, once a second

Tune calls in through two thin adapters (`tune_adapters`); everything it must remember is in
the ledger and on disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from orchestrator.assignment import Assignment, DataSource, TrialReport
from orchestrator.checkpoints import load_state
from orchestrator.events import EventLog
from orchestrator.failures import FailureKind
from orchestrator.folders import SearchFolder
from orchestrator.ledger import Ledger, LedgerTrial, TrialStatus
from orchestrator.manifest import manifest_sha256
from orchestrator.results import DataRecord, Estimate
from orchestrator.search_config import SearchConfig
from orchestrator.spending import Spending
from trainable.artifact import Artifact, describe_strategy
from trainable.data import SEARCH_SPLITS
from trainable.errors import ArtifactError
from trainable.metrics import DECODING_TIME
from trainable.state import TrialState

logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """Whoever wants to see how a search goes."""

    def data_read(self, data: DataRecord) -> None:
        """The rows are known, and nothing has been trained yet."""
        ...

    def planned(self, found: Estimate, warnings: Sequence[str], *, going_on: bool) -> None:
        """What is left to do will cost about this; whoever wants none of it raises."""
        ...

    def search_opened(self, trials: Sequence[LedgerTrial]) -> None:
        """A run begins; `trials` are those of earlier runs."""
        ...

    def trial_started(self, trial: LedgerTrial) -> None:
        """A trial begins, or goes on after an interruption."""
        ...

    def trial_reported(self, trial: LedgerTrial, status: TrialStatus) -> None:
        """A trial has reached a rung; `status` tells what becomes of it."""
        ...


class Quiet:
    """A watcher that says nothing."""

    def data_read(self, data: DataRecord) -> None:
        """Nothing."""

    def planned(self, found: Estimate, warnings: Sequence[str], *, going_on: bool) -> None:
        """Nothing."""

    def search_opened(self, trials: Sequence[LedgerTrial]) -> None:
        """Nothing."""

    def trial_started(self, trial: LedgerTrial) -> None:
        """Nothing."""

    def trial_reported(self, trial: LedgerTrial, status: TrialStatus) -> None:
        """Nothing."""


@dataclass(frozen=True)
class EngineInfo:
    """The engine that a search uses: its name and what identifies its model."""

    name: str
    base_model: Mapping[str, Any]


class Conductor:
    """The driver's decisions.

    Args:
        config: the search.
        folder: where it lives.
        ledger: its study.
        events: its event log.
        engine: who trains.
        data: what it trains on.
        watcher: who watches.
        spending: what may still be spent; by default, what the ledger leaves of the budget.
        note: called in each round of Tune's loop, to write down the time that was spent.
    """

    def __init__(
        self,
        config: SearchConfig,
        folder: SearchFolder,
        ledger: Ledger,
        events: EventLog,
        engine: EngineInfo,
        data: DataSource,
        watcher: Watcher,
        spending: Spending | None = None,
        note: Callable[[], None] = lambda: None,
    ) -> None:
        self.ledger = ledger
        self.halted: str | None = None
        self.full_disk: str | None = None  # what found no space
        self.ended = 0  # trials, in this run
        self._config = config
        self._folder = folder
        self._events = events
        self._engine = engine
        self._data = data
        self._watcher = watcher
        self._spending = spending or Spending(config.budget, ledger.all())
        self._note = note
        self._rungs = config.rungs()
        self._to_stop: set[int] = set()
        self._put_back: set[int] = set()
        self._running: dict[int, str] = {}
        self._lock = threading.Lock()  # the halting thread reads what Tune's thread writes

    @property
    def running(self) -> int:
        """How many trials run."""
        with self._lock:
            return len(self._running)

    def assign(self) -> Assignment | None:
        """The next trial's assignment, or None when there is none or the search is halting."""
        with self._lock:  # a halt sees this trial among the running, or keeps it from being asked
            halted = self.halted is not None or self.full_disk is not None
            open_ = not halted and self._spending.is_open
            trial = self.ledger.ask() if open_ else None
            if trial is None:
                return None
            uid = self._folder.uid(trial.number)
            self._running[trial.number] = uid
            self._put_back.discard(trial.number)
        reported = trial.step in trial.reports
        self._spending.commit(trial.number, trial.config, self._goal(trial.step, reported))
        self._events.append(
            "trial_started",
            {
                "number": trial.number,
                "name": trial.config.strategy.short_name,
                "role": str(trial.role),
                "params": dict(trial.params),
                "config": trial.config.to_dict(),
                "about": describe_strategy(trial.config),
            },
            trial_uid=uid,
            attempt=trial.attempts,
        )
        self._watcher.trial_started(trial)
        return Assignment(
            uid=uid,
            number=trial.number,
            attempt=trial.attempts,
            config=trial.config.to_dict(),
            data=asdict(self._data),
            start_step=trial.step,
            rungs=self._rungs,
            splits=[s for s in SEARCH_SPLITS if s in self._config.task.splits()],
            engine=self._engine.name,
            folder=str(self._folder.trial(uid)),
            reported=reported,
            times_decoding=DECODING_TIME in self._config.tradeoffs,
        )

    def on_report(self, report: TrialReport) -> bool:
        """Take in what a thin trial reports; returns whether the trial goes on."""
        number = report.number
        if report.attempt < self.ledger.trial(number).attempts:
            return self._keep_orphan(report)
        if report.problems:
            self._tell_damage(report)
        if report.disk_full is not None:
            return self._on_full_disk(number, report.disk_full)
        if report.failed is not None:
            kind = FailureKind(report.failure)
            return self._failed(number, self.ledger.fail(number, report.failed, kind))
        self._events.append(
            "trial_report",
            {"step": report.step, "metrics": report.metrics, "curve": report.curve},
            trial_uid=report.uid,
            attempt=report.attempt,
        )
        if report.paused:
            return self._on_pause(number, report.step)
        status = self.ledger.report(number, report.step, report.metrics)
        if status is TrialStatus.RUNNING and number in self._to_stop:
            status = self.ledger.stop(number, "stopped by hand")
        trial = self.ledger.trial(number)
        self._watcher.trial_reported(trial, status)
        if status is TrialStatus.RUNNING:
            return self._goes_on(trial)
        return self._ended(number, status)

    def on_round(self) -> None:
        """Tune's loop goes round, whether a trial reports or not."""
        self._note()

    def on_error(
        self, number: int, reason: str, kind: FailureKind = FailureKind.LOST_MACHINE
    ) -> None:
        """A trial's process died for good."""
        self._failed(number, self.ledger.fail(number, reason, kind))

    def on_lost(self, number: int) -> int | None:
        """A trial's process was lost, and another begins where it last reported.

        Returns:
            The number of the new attempt; None for a trial that has ended.
        """
        trial = self.ledger.lost(number)
        if trial.status is not TrialStatus.RUNNING:
            return None
        self._events.append(
            "trial_lost",
            {"step": trial.step, "attempt": trial.attempts},
            trial_uid=self._folder.uid(number),
            attempt=trial.attempts - 1,
        )
        return trial.attempts

    def put_back(self, number: int) -> None:
        """Tune gave up a trial that is not at its end: it is the next to be assigned."""
        with self._lock:
            if self._running.pop(number, None) is None:
                return  # closed before
        self._put_back.add(number)
        self.ledger.put_back(number)

    @property
    def owes(self) -> bool:
        """Whether a trial that was put back may begin, and nobody has asked for it."""
        halted = self.halted is not None or self.full_disk is not None
        return bool(self._put_back) and not halted and self._spending.is_open

    def settle(self) -> None:
        """Tell the ends that the ledger knows, but that a driver died before it told."""
        told = {event.trial_uid for event in self._events.read() if event.type == "trial_ended"}
        for trial in self.ledger.all():
            never = trial.status is TrialStatus.INFEASIBLE and trial.failure is None
            ended = trial.status is not TrialStatus.RUNNING and not never
            if ended and self._folder.uid(trial.number) not in told:
                self._tell_end(trial)

    def halt(self, reason: str) -> list[str]:
        """Begin no trial any more. Returns the uids of those that run: they are to be paused."""
        with self._lock:
            self.halted = reason
            return list(self._running.values())

    def stop_trial(self, number: int) -> str | None:
        """Stop one trial at its next report. Returns its uid if it runs: it is to be paused."""
        self._to_stop.add(number)
        with self._lock:
            return self._running.get(number)

    def _keep_orphan(self, report: TrialReport) -> bool:
        """Write down what a lost attempt reports late; nothing is told of it, nothing decided."""
        self._events.append(
            "trial_orphan",
            {"step": report.step, "metrics": report.metrics, "failed": report.failed},
            trial_uid=report.uid,
            attempt=report.attempt,
        )
        return False

    def _failed(self, number: int, status: TrialStatus) -> bool:
        """Close a trial that failed, and let the watcher know."""
        if number in self._running:
            self._watcher.trial_reported(self.ledger.trial(number), status)
        return self._ended(number, status)

    def _goes_on(self, trial: LedgerTrial) -> bool:
        """Whether the budget lets a trial begin another report interval; else it is paused."""
        if self._spending.is_open:
            goal = next(rung for rung in self._rungs if rung > trial.step)
            self._spending.commit(trial.number, trial.config, goal)
            return True
        with self._lock:
            self._running.pop(trial.number, None)
        return False

    def _goal(self, step: int, reported: bool) -> int:
        """Where a trial that begins, or goes on, at a step reports next."""
        return next(rung for rung in self._rungs if rung > step - (step > 0 and not reported))

    def _on_pause(self, number: int, step: int) -> bool:
        self.ledger.pause(number, step)
        self._spending.commit(number, self.ledger.trial(number).config, step)
        if number in self._to_stop:
            return self._ended(number, self.ledger.stop(number, "stopped by hand"))
        with self._lock:
            self._running.pop(number, None)
        return False

    def _on_full_disk(self, number: int, reason: str) -> bool:
        """Its state was not saved: the trial stays where the ledger has it, and goes on later."""
        self.full_disk = self.full_disk or reason
        with self._lock:
            self._running.pop(number, None)
        return False

    def _tell_damage(self, report: TrialReport) -> None:
        """Say that a trial did not go on from the state that it had reached."""
        for problem in report.problems:
            logger.warning("trial %s: %s", report.uid, problem)
        payload = {"step": report.step, "problems": report.problems}
        self._events.append("state_damaged", payload, trial_uid=report.uid, attempt=report.attempt)

    def _ended(self, number: int, status: TrialStatus) -> bool:
        """Close a trial that has ended; returns whether it goes on."""
        if status is TrialStatus.RUNNING:
            return True
        with self._lock:
            if self._running.pop(number, None) is None:
                return False  # closed before
            self.ended += 1
        trial = self.ledger.trial(number)
        self._spending.commit(number, trial.config, trial.step)
        self._tell_end(trial)
        return False

    def _tell_end(self, trial: LedgerTrial) -> None:
        uid = self._folder.uid(trial.number)
        artifact = None if trial.failure is not None else self._save_artifact(trial, uid)
        self._events.append(
            "trial_ended",
            {
                "state": str(trial.status),
                "step": trial.step,
                "metrics": dict(trial.metrics),
                "reason": trial.reason,
                "failure": trial.failure,
                "artifact": artifact,
                "manifest_sha256": artifact and manifest_sha256(self._folder.artifact(uid)),
            },
            trial_uid=uid,
            attempt=trial.attempts,
        )

    def _save_artifact(self, trial: LedgerTrial, uid: str) -> str | None:
        """Write the trial's artifact folder from its last saved state."""
        saved = load_state(self._folder.trial(uid), trial.step)
        try:
            state = None if saved is None else TrialState.from_bytes(saved)
        except ArtifactError as error:
            logger.warning("trial %s: %s", uid, error)
            state = None
        if state is None:
            logger.warning("trial %s has no usable state at step %d", uid, trial.step)
            return None
        config = self._config
        Artifact(
            latents=state.latents,
            config=trial.config,
            base_model=self._engine.base_model,
            task={**self._data.task, "data_seed": self._data.seed},
            metrics=trial.metrics,
            provenance={
                "search": config.name,
                "trial_uid": uid,
                "step": trial.step,
                "scored_at_step": max(trial.reports, default=None),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        ).save(self._folder.artifact(uid))
        return str(self._folder.artifact(uid).relative_to(self._folder.path))
