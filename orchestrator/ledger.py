"""The one ledger: an Optuna study is the truth about a search's trials.

    asked ──► running, reported at each rung ──► complete | pruned | failed | stopped
      │           └─► infeasible: it does not fit into the memory
      └─────────────► infeasible: it breaks a limit, and is never trained

Each arrow is one transaction, and safe to repeat. Ray only executes; whatever it forgets, the
study knows. A trial left running by a driver that died goes on from its last report when the
same search runs again, so nothing is told twice and nothing is spent twice. Early stopping
(`stopping.Ranking`) decides from what is recorded here, in the order in which it was recorded,
and therefore survives a restart too.

Knows Optuna; knows no Ray, no MLflow and no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.failures import FailureKind
from orchestrator.ledger_reading import read_ledger, read_study, reading_study
from orchestrator.ledger_trials import (
    LedgerTrial,
    Role,
    TrialStatus,
    config_of,
    judged_of,
    order_of,
    read_trial,
    read_trials,
    reports_of,
    status_of,
)
from orchestrator.sampling import SamplerOf
from orchestrator.stopping import Ranking, Rule
from orchestrator.study.draws import CostsOf, Draws, Wanted, no_limits
from orchestrator.study.owner import check_owner
from orchestrator.study.place import storage_url
from orchestrator.study.storage import Fence, LedgerStorage, no_fence
from orchestrator.study.store import StudyStore, finite
from orchestrator.study.version import check_version, mark_version
from search_spaces import Space
from trainable.errors import TrialError
from trainable.metrics import direction, goodness
from trainable.trial import TrialConfig

__all__ = [
    "Ledger",
    "LedgerTrial",
    "Role",
    "TrialStatus",
    "no_limits",
    "read_ledger",
    "read_study",
    "read_trials",
    "reading_study",
    "storage_url",
]

MAX_ILLEGAL_DRAWS = 1_000


class Ledger:
    """A search's study.

    Args:
        storage: an SQLAlchemy URL.
        name: the search's name, which is the study's.
        space: what is searched.
        baselines: configurations that are tried first, by label.
        sampler: Optuna's, by the number of the draw.
        rule: of early stopping; a new one, which has seen nothing.
        objective: the metric to improve; with `tradeoffs`, the first of several.
        stopping_metric: the metric that early stopping ranks by. Where it is better the other way
            than the objective, the study has its negative: a study has one direction.
        trials: how many trials of the space, baselines and infeasible ones not counted.
        steps: optimiser steps of a full trial.
        grid: what is tried in place of the sampler's draws, in order: the params of each trial.
        tradeoffs: further metrics to improve; the study then has several objectives.
        start: what is tried before the sampler draws, in order: params, those left out drawn.
        costs: what breaks a limit.
        fence: asked in every transaction; refuses where another driver took over.
        owner: the id of the search's folder, where its study is in a database of many.

    Raises:
        LedgerError: for a study that cannot be opened, that a newer version wrote, or that is
            another folder's.
    """

    def __init__(
        self,
        *,
        storage: str,
        name: str,
        space: Space,
        baselines: Sequence[TrialConfig],
        sampler: SamplerOf,
        rule: Rule,
        objective: str,
        stopping_metric: str,
        trials: int,
        steps: int,
        grid: Sequence[Mapping[str, Any]] = (),
        tradeoffs: Sequence[str] = (),
        start: Sequence[Mapping[str, Any]] = (),
        costs: CostsOf = no_limits,
        fence: Fence = no_fence,
        owner: str | None = None,
    ) -> None:
        self.space = space
        self.objective = objective
        self.stopping_metric = stopping_metric
        self.trials = trials
        self.steps = steps
        self._rank_sign = 1 if direction(objective) == direction(stopping_metric) else -1
        self._objectives = (objective, *tradeoffs)
        self._store = StudyStore(LedgerStorage(storage, fence), name, self._objectives, sampler)
        check_version(self.study)
        check_owner(self.study, owner)
        mark_version(self.study)
        wanted = Wanted(
            space=space,
            baselines=list(baselines),
            sampler=sampler,
            trials=trials,
            grid=list(grid),
            start=list(start),
            costs=costs,
        )
        self.ask_s = 0.0
        self._spent: dict[str, Any] = dict(self.study.user_attrs)
        self._unfinished = self._reconcile()
        self._draws = Draws(self._store, wanted)
        self._ranking = Ranking(rule)
        self._reports = self._fill_ranking()
        self._judge_unfinished()

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, for reading."""
        return self._store.study

    @property
    def spent_s(self) -> float:
        """Seconds that earlier runs of this search took."""
        return self.spent("spent_s")

    def spent(self, kind: str) -> float:
        """What earlier runs took of one kind: `spent_gpu_s`, `confirm_s`, `confirm_steps`."""
        return float(self._spent.get(kind, 0.0))

    def add(self, **more: float) -> None:
        """Count what else was taken, each kind by itself."""
        self._keep_spent({kind: self.spent(kind) + amount for kind, amount in more.items()})

    def add_spent(self, seconds: float, *, gpu_s: float = 0.0, tokens: int | None = None) -> None:
        """Count what a run has taken against the budget.

        Args:
            tokens: all that were trained on so far, in all runs; None where nobody counts them.
        """
        spent: dict[str, Any] = {"spent_s": self.spent_s + seconds}
        spent |= {"spent_gpu_s": self.spent("spent_gpu_s") + gpu_s} if gpu_s else {}
        spent |= {"tokens": tokens} if tokens is not None else {}
        self._keep_spent(spent)

    def _keep_spent(self, spent: Mapping[str, Any]) -> None:
        with self._transition():
            for key, value in spent.items():
                self.study.set_user_attr(key, value)
        self._spent |= spent

    def has_work(self) -> bool:
        """Whether `ask` has a trial to give."""
        return bool(self._unfinished) or self._draws.has_more

    def ask(self) -> LedgerTrial | None:
        """The next trial: one that was cut off, a baseline, or a new draw; None at the end.

        What breaks a limit is told as infeasible and passed over, and what means nothing as
        failed.

        Raises:
            TrialError: where the space gives nothing that can be trained.
        """
        began = time.monotonic()
        number = self._next_unfinished()
        if number is None:
            number = self._next_draw()
        self.ask_s += time.monotonic() - began
        return None if number is None else self.trial(number)

    def lost(self, number: int) -> LedgerTrial:
        """Count another attempt of a trial whose process was lost; the earlier one is fenced off.

        What the lost attempt still reports is known by its number, and is not told.
        """
        return self._attempt(number)

    def put_back(self, number: int) -> None:
        """Have `ask` give a trial that is not at its end once more, before any other."""
        self._unfinished.insert(0, number)

    def report(self, number: int, step: int, metrics: Mapping[str, float]) -> TrialStatus:
        """Record what a trial reached and decide what becomes of it.

        Safe to repeat: a report of a finished trial, or of a step already known, changes nothing.

        Returns:
            `RUNNING` if the trial goes on, else how it ended.
        """
        frozen = self._store.trial(number)
        if frozen.state.is_finished():
            return status_of(frozen)
        if step in reports_of(frozen):
            return self._decide(number, step)
        for metric in (*self._objectives, self.stopping_metric):
            if not finite(metrics.get(metric)):
                reason = f"the metric {metric} is missing or not finite at step {step}"
                return self.fail(number, reason, FailureKind.NUMERIC)
        rank = self._rank_sign * metrics[self.stopping_metric]
        with self._transition():
            order = order_of(frozen) | {step: self._reports}
            self._store.set(number, metrics=dict(metrics), step=step, order=_keys_as_text(order))
            self._store.report(number, step, rank)
            self._rank(frozen, step, rank)
            self._reports += 1
            return self._decide(number, step)

    def pause(self, number: int, step: int) -> None:
        """Record that a trial was halted, with its state saved, at `step`."""
        if not self._store.trial(number).state.is_finished():
            with self._transition():
                self._store.set(number, step=step)

    def stop(self, number: int, reason: str) -> TrialStatus:
        """End a running trial at a person's wish; its reports stay."""
        return self._end(number, TrialStatus.STOPPED, reason)

    def fail(self, number: int, reason: str, kind: FailureKind = FailureKind.BUG) -> TrialStatus:
        """End a trial that cannot go on; one that memory is too small for is infeasible."""
        too_big = kind is FailureKind.OUT_OF_MEMORY
        status = TrialStatus.INFEASIBLE if too_big else TrialStatus.FAILED
        return self._end(number, status, reason, kind)

    def trial(self, number: int) -> LedgerTrial:
        """One trial as it stands."""
        return read_trial(self._store.trial(number))

    def all(self) -> list[LedgerTrial]:
        """All trials, in the order in which they were asked."""
        return list(read_trials(self.study))

    def close(self) -> None:
        """Give the database back."""
        self._store.close()

    @contextmanager
    def _transition(self) -> Iterator[None]:
        """All of it in the study, or none of it."""
        try:
            with self._store.write():
                yield
        except BaseException:
            self._store.forget()
            raise

    def _next_unfinished(self) -> int | None:
        while self._unfinished:
            number = self._unfinished.pop(0)
            with self._transition():
                config = config_of(self._store.trial(number))
                if self._draws.check_limits(number, config) is None:
                    self._attempt(number)
                    return number
        return None

    def _next_draw(self) -> int | None:
        """Ask until a configuration can be trained; None at the end."""
        refused = illegal = 0
        while self._draws.has_more:
            draw = self._draws.next(refused)
            if draw.illegal is None and draw.beyond is None:
                return draw.number
            refused, illegal = refused + 1, illegal + (draw.illegal is not None)
            if illegal >= MAX_ILLEGAL_DRAWS:
                raise TrialError(
                    f"the space gave no legal configuration in {illegal} draws: see "
                    "`latentune spaces` and its constraints"
                )
            if refused - illegal >= MAX_ILLEGAL_DRAWS:
                raise TrialError(
                    f"limits: {refused - illegal} configurations in a row broke one, the last "
                    f"because {draw.beyond}: raise the limit"
                )
        return None

    def _attempt(self, number: int) -> LedgerTrial:
        if not self._store.trial(number).state.is_finished():
            with self._transition():
                self._store.set(number, attempts=self.trial(number).attempts + 1)
        return self.trial(number)

    def _decide(self, number: int, step: int) -> TrialStatus:
        """What becomes of a trial that stands at a step; decided once."""
        frozen = self._store.trial(number)
        if step >= self.steps:
            metrics = frozen.user_attrs["metrics"]
            with self._transition():
                self._store.tell(number, values=[metrics[metric] for metric in self._objectives])
            self._rank_complete(frozen)
            return TrialStatus.COMPLETE
        if not self._is_search(frozen) or step <= frozen.user_attrs.get("judged", 0):
            return TrialStatus.RUNNING
        if self._ranking.stops(number):
            return self._end(number, TrialStatus.PRUNED)
        with self._transition():
            self._store.set(number, judged=step)
        return TrialStatus.RUNNING

    def _end(
        self,
        number: int,
        status: TrialStatus,
        reason: str | None = None,
        kind: FailureKind | None = None,
    ) -> TrialStatus:
        frozen = self._store.trial(number)
        if frozen.state.is_finished():
            return status_of(frozen)
        failure = None if kind is None else str(kind)
        with self._transition():
            self._store.end(number, status, reason=reason, failure=failure)
        return status

    def _rank(self, frozen: FrozenTrial, step: int, rank: float) -> None:
        if self._is_search(frozen):
            self._ranking.report(frozen.number, step, goodness(self.objective, rank))

    def _rank_complete(self, frozen: FrozenTrial) -> None:
        if self._is_search(frozen):
            self._ranking.complete(frozen.number)

    def _reconcile(self) -> list[int]:
        """Find trials that an earlier driver left running; close those it never began."""
        unfinished = []
        for frozen in self._store.trials(TrialState.RUNNING):
            if "config" in frozen.user_attrs:
                unfinished.append(frozen.number)
            else:
                with self._transition():
                    self._store.tell(frozen.number, state=TrialState.FAIL)
        return unfinished

    def _fill_ranking(self) -> int:
        """Bring the ranking to where an uninterrupted one would be; returns the next order."""
        reports = sorted(recorded_reports(self._store.trials()), key=lambda one: one[0])
        for _, frozen, step, rank in reports:
            self._rank(frozen, step, rank)
            if self._is_search(frozen) and step <= judged_of(frozen, self.steps):
                self._ranking.stops(frozen.number)
            if frozen.state is TrialState.COMPLETE and step == self.steps:
                self._rank_complete(frozen)
        return 1 + max((order for (order, *_), *_ in reports), default=-1)

    def _judge_unfinished(self) -> None:
        """Decide what a driver of version 1 reported and died before it decided."""
        for number in list(self._unfinished):
            frozen = self._store.trial(number)
            step = frozen.user_attrs.get("step", 0)
            if step in reports_of(frozen) and self._decide(number, step) is not TrialStatus.RUNNING:
                self._unfinished.remove(number)

    @staticmethod
    def _is_search(frozen: FrozenTrial) -> bool:
        return bool(frozen.user_attrs["role"] == Role.SEARCH)


def recorded_reports(
    trials: Sequence[FrozenTrial],
) -> Iterator[tuple[tuple[int, int, int], FrozenTrial, int, float]]:
    """Every report with its place: the order in which it was recorded, else trial and step."""
    for frozen in trials:
        if "config" in frozen.user_attrs:
            order = order_of(frozen)
            for step, rank in reports_of(frozen).items():
                place = order.get(step, -1), frozen.number, step
                yield place, frozen, step, rank


def _keys_as_text(order: Mapping[int, int]) -> dict[str, int]:
    return {str(step): place for step, place in order.items()}
