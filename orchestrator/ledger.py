"""The one ledger: an Optuna study is the truth about a search's trials.

    asked ──► running, reported at each rung ──► complete | pruned | failed | stopped

Ray only executes; whatever it forgets, the study knows. A trial left running by a driver
that died goes on from its last report when the same search runs again, so nothing is told
twice and nothing is spent twice. Early stopping decides from the study's own reports
(Optuna's successive halving), and therefore survives a restart too.

Knows Optuna; knows no Ray, no MLflow and no torch.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import LedgerError, SearchNotFoundError
from search_spaces import Space
from trainable.errors import StrategyError, TrialError
from trainable.metrics import direction
from trainable.trial import TrialConfig

logger = logging.getLogger(__name__)

MAX_ILLEGAL_DRAWS = 1_000
STUDY_FILE = "study.db"


class TrialStatus(StrEnum):
    """How a trial stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"  # stopped early, by its scores
    STOPPED = "stopped"  # by a person
    FAILED = "failed"


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


class Ledger:
    """A search's study.

    Args:
        storage: an SQLAlchemy URL.
        name: the search's name, which is the study's.
        space: what is searched.
        baselines: configurations that are tried first, by label.
        sampler: Optuna's.
        pruner: Optuna's, or None for no early stopping.
        objective: the metric to improve.
        stopping_metric: the metric that early stopping ranks by. Where it is better the other way
            than the objective, the study has its negative: a study has one direction.
        trials: how many trials of the space, baselines not counted.
        steps: optimiser steps of a full trial.
        grid: what is tried in place of the sampler's draws, in order: the params of each trial.
    """

    def __init__(
        self,
        *,
        storage: str,
        name: str,
        space: Space,
        baselines: Sequence[TrialConfig],
        sampler: optuna.samplers.BaseSampler,
        pruner: optuna.pruners.BasePruner,
        objective: str,
        stopping_metric: str,
        trials: int,
        steps: int,
        grid: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.space = space
        self.objective = objective
        self.stopping_metric = stopping_metric
        self.trials = trials
        self.steps = steps
        self._rank_sign = 1 if direction(objective) == direction(stopping_metric) else -1
        self._baselines = list(baselines)
        self._grid = list(grid)
        self._pruner = pruner
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler,
            pruner=pruner,
            direction=direction(objective),
            load_if_exists=True,
        )
        self._unfinished = self._reconcile()

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, for reading."""
        return self._study

    @property
    def spent_s(self) -> float:
        """Seconds that earlier runs of this search took."""
        return float(self._study.user_attrs.get("spent_s", 0.0))

    def add_spent(self, seconds: float) -> None:
        """Count the seconds of a run against the time budget."""
        self._study.set_user_attr("spent_s", self.spent_s + seconds)

    def has_work(self) -> bool:
        """Whether `ask` has a trial to give."""
        by_role = [trial.role for trial in self.all()]
        return bool(
            self._unfinished
            or by_role.count(Role.BASELINE) < len(self._baselines)
            or self._drawn() < self.trials
        )

    def ask(self) -> LedgerTrial | None:
        """The next trial: one that was cut off, a baseline, or a new draw; None at the end."""
        if self._unfinished:
            return self._attempt(self._unfinished.pop(0))
        by_role = [trial.role for trial in self.all()]
        baselines_done = by_role.count(Role.BASELINE)
        if baselines_done < len(self._baselines):
            return self._enter(self._baselines[baselines_done], Role.BASELINE)
        if self._drawn() < self.trials:
            return self._draw()
        return None

    def report(self, number: int, step: int, metrics: Mapping[str, float]) -> TrialStatus:
        """Record what a trial reached and decide what becomes of it.

        Safe to repeat: a report of a finished trial, or of a step already known, changes nothing.

        Returns:
            `RUNNING` if the trial goes on, else how it ended.
        """
        frozen = self._frozen(number)
        if frozen.state.is_finished():
            return _status(frozen)
        rank = metrics.get(self.stopping_metric, math.nan)
        value = metrics.get(self.objective, math.nan)
        if not (math.isfinite(rank) and math.isfinite(value)):
            missing = self.objective if not math.isfinite(value) else self.stopping_metric
            return self.fail(
                number, f"the metric {missing} is missing or not finite at step {step}"
            )
        trial = self._live(number)
        if step not in frozen.intermediate_values:
            trial.set_user_attr("metrics", dict(metrics))
            trial.set_user_attr("step", step)
            trial.report(self._rank_sign * rank, step)
        if step >= self.steps:
            self._study.tell(trial, value)
            return TrialStatus.COMPLETE
        if self._is_search(frozen) and trial.should_prune():
            return self._end(number, TrialStatus.PRUNED)
        return TrialStatus.RUNNING

    def pause(self, number: int, step: int) -> None:
        """Record that a trial was halted, with its state saved, at `step`."""
        if not self._frozen(number).state.is_finished():
            self._live(number).set_user_attr("step", step)

    def stop(self, number: int, reason: str) -> TrialStatus:
        """End a running trial at a person's wish; its reports stay."""
        return self._end(number, TrialStatus.STOPPED, reason)

    def fail(self, number: int, reason: str) -> TrialStatus:
        """End a trial that cannot go on."""
        return self._end(number, TrialStatus.FAILED, reason)

    def trial(self, number: int) -> LedgerTrial:
        """One trial as it stands."""
        return _read(self._frozen(number))

    def all(self) -> list[LedgerTrial]:
        """All trials, in the order in which they were asked."""
        return list(read_trials(self._study))

    def _draw(self) -> LedgerTrial:
        """Ask the sampler until a draw is legal; illegal ones are told as failed."""
        for _ in range(MAX_ILLEGAL_DRAWS):
            trial = self._ask()
            try:
                config = TrialConfig.from_dict(self.space.sample(trial))
            except (StrategyError, TrialError) as error:
                trial.set_user_attr("reason", f"illegal configuration: {error}")
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            return self._enter(config, Role.SEARCH, trial)
        raise TrialError(
            f"the space gave no legal configuration in {MAX_ILLEGAL_DRAWS} draws: see "
            "`latentune spaces` and its constraints"
        )

    def _ask(self) -> optuna.Trial:
        waiting = (TrialState.WAITING,)  # one that a driver put there and died before it asked
        if self._grid and not self._study.get_trials(deepcopy=False, states=waiting):
            self._study.enqueue_trial(dict(self._grid[self._drawn()]))
        return self._study.ask()

    def _drawn(self) -> int:
        """Trials of the space so far."""
        return [trial.role for trial in self.all()].count(Role.SEARCH)

    def _enter(
        self, config: TrialConfig, role: Role, trial: optuna.Trial | None = None
    ) -> LedgerTrial:
        trial = trial or self._study.ask()
        trial.set_user_attr("role", str(role))
        trial.set_user_attr("strategy", config.strategy.short_name)
        trial.set_user_attr("config", json.dumps(config.to_dict()))
        return self._attempt(trial.number)

    def _attempt(self, number: int) -> LedgerTrial:
        attempts = self.trial(number).attempts + 1
        self._live(number).set_user_attr("attempts", attempts)
        return self.trial(number)

    def _end(self, number: int, status: TrialStatus, reason: str | None = None) -> TrialStatus:
        frozen = self._frozen(number)
        if frozen.state.is_finished():
            return _status(frozen)
        trial = self._live(number)
        trial.set_user_attr("status", str(status))
        if reason is not None:
            trial.set_user_attr("reason", reason)
        told = TrialState.FAIL if status is TrialStatus.FAILED else TrialState.PRUNED
        if told is TrialState.PRUNED and not frozen.intermediate_values and not trial.params:
            told = TrialState.FAIL
        self._study.tell(trial, state=told)
        return status

    def _reconcile(self) -> list[int]:
        """Find trials that an earlier driver left running; close those it never began."""
        unfinished = []
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "config" in frozen.user_attrs:
                unfinished.append(frozen.number)
            else:
                self._study.tell(frozen.number, state=TrialState.FAIL)
        return unfinished

    def _live(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._frozen(number)._trial_id)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    @staticmethod
    def _is_search(frozen: FrozenTrial) -> bool:
        return bool(frozen.user_attrs["role"] == Role.SEARCH)


def storage_url(search_dir: Path) -> str:
    """The search's own SQLite file, for which the driver is the only writer."""
    return f"sqlite:///{search_dir / STUDY_FILE}"


def read_ledger(search_dir: Path, name: str) -> list[LedgerTrial]:
    """The trials of a search that another process may be running. Raises as `read_study`."""
    return list(read_trials(read_study(search_dir, name)))


def read_study(search_dir: Path, name: str) -> optuna.Study:
    """The study of a search that another process may be running, for reading.

    Raises:
        SearchNotFoundError: if its study does not exist yet.
        LedgerError: if it is damaged.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage_url(search_dir))
    except KeyError:
        raise SearchNotFoundError(
            f"search {name!r} is only just being created: try again in a moment"
        ) from None
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise LedgerError(
            f"the study of search {name!r} in {search_dir / STUDY_FILE} cannot be read: "
            f"{str(error).splitlines()[0]}"
        ) from None


def read_trials(study: optuna.Study) -> Iterator[LedgerTrial]:
    """All trials that were really begun; illegal draws are left out."""
    for frozen in study.get_trials(deepcopy=False):
        if "config" in frozen.user_attrs:
            yield _read(frozen)


def _read(frozen: FrozenTrial) -> LedgerTrial:
    attrs = frozen.user_attrs
    return LedgerTrial(
        number=frozen.number,
        config=TrialConfig.from_dict(json.loads(attrs["config"])),
        role=Role(attrs["role"]),
        status=_status(frozen),
        params=dict(frozen.params),
        step=int(attrs.get("step", 0)),
        metrics=dict(attrs.get("metrics", {})),
        reports=dict(frozen.intermediate_values),
        attempts=int(attrs.get("attempts", 0)),
        reason=attrs.get("reason"),
    )


def _status(frozen: FrozenTrial) -> TrialStatus:
    if "status" in frozen.user_attrs:
        return TrialStatus(frozen.user_attrs["status"])
    return {
        TrialState.COMPLETE: TrialStatus.COMPLETE,
        TrialState.PRUNED: TrialStatus.PRUNED,
        TrialState.FAIL: TrialStatus.FAILED,
    }.get(frozen.state, TrialStatus.RUNNING)
