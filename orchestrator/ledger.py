"""The one ledger: an Optuna study is the truth about a search's trials.

    asked ──► running, reported at each rung ──► complete | pruned | failed | stopped
      └─────► infeasible: it breaks a limit, and is never trained

Ray only executes; whatever it forgets, the study knows. A trial left running by a driver
that died goes on from its last report when the same search runs again, so nothing is told
twice and nothing is spent twice. Early stopping (`stopping.Ranking`) decides from what is
recorded here, and therefore survives a restart too.

Knows Optuna; knows no Ray, no MLflow and no torch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import LedgerError, SearchNotFoundError
from orchestrator.ledger_trials import (
    LedgerTrial,
    Role,
    TrialStatus,
    config_of,
    read_trial,
    read_trials,
    reports_of,
    status_of,
)
from orchestrator.sampling import SamplerOf, random_sampler
from orchestrator.stopping import Ranking
from search_spaces import ConstraintError, Space
from trainable.errors import StrategyError, TrialError
from trainable.metrics import direction, goodness
from trainable.trial import TrialConfig

__all__ = [
    "Ledger",
    "LedgerTrial",
    "Role",
    "TrialStatus",
    "read_ledger",
    "read_study",
    "read_trials",
    "storage_url",
]

MAX_ILLEGAL_DRAWS = 1_000
_MODELLED_DRAWS = 4  # in a row that cannot be trained; then chance takes over from the sampler
STUDY_FILE = "study.db"


# A configuration to what it costs, and by how much that is above each limit (below: negative).
CostsOf: TypeAlias = Callable[[TrialConfig], tuple[Mapping[str, float], Mapping[str, float]]]


def no_limits(_: TrialConfig) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """A search without limits."""
    return {}, {}


class Ledger:
    """A search's study.

    Args:
        storage: an SQLAlchemy URL.
        name: the search's name, which is the study's.
        space: what is searched.
        baselines: configurations that are tried first, by label.
        sampler: Optuna's, by the number of the draw.
        pruner: Optuna's.
        objective: the metric to improve; with `tradeoffs`, the first of several.
        stopping_metric: the metric that early stopping ranks by. Where it is better the other way
            than the objective, the study has its negative: a study has one direction.
        trials: how many trials of the space, baselines and infeasible ones not counted.
        steps: optimiser steps of a full trial.
        grid: what is tried in place of the sampler's draws, in order: the params of each trial.
        tradeoffs: further metrics to improve; the study then has several objectives.
        start: what is tried before the sampler draws, in order: params, those left out drawn.
        costs: what breaks a limit.
    """

    def __init__(
        self,
        *,
        storage: str,
        name: str,
        space: Space,
        baselines: Sequence[TrialConfig],
        sampler: SamplerOf,
        pruner: optuna.pruners.BasePruner,
        objective: str,
        stopping_metric: str,
        trials: int,
        steps: int,
        grid: Sequence[Mapping[str, Any]] = (),
        tradeoffs: Sequence[str] = (),
        start: Sequence[Mapping[str, Any]] = (),
        costs: CostsOf = no_limits,
    ) -> None:
        self.space = space
        self.objective = objective
        self.stopping_metric = stopping_metric
        self.trials = trials
        self.steps = steps
        self._rank_sign = 1 if direction(objective) == direction(stopping_metric) else -1
        self._baselines = list(baselines)
        self._grid = list(grid)
        self._start = list(start)
        self._objectives = (objective, *tradeoffs)
        self._costs = costs
        self._sampler = sampler
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler(0),
            pruner=optuna.pruners.NopPruner(),  # the ranking decides
            directions=[direction(metric) for metric in self._objectives],
            load_if_exists=True,
        )
        self.ask_s = 0.0
        self._unfinished = self._reconcile()
        self._ranking = Ranking(name, pruner)
        self._fill_ranking()

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, for reading."""
        return self._study

    @property
    def spent_s(self) -> float:
        """Seconds that earlier runs of this search took."""
        return float(self._study.user_attrs.get("spent_s", 0.0))

    @property
    def spent_gpu_s(self) -> float:
        """GPU-seconds that earlier runs of this search took."""
        return float(self._study.user_attrs.get("spent_gpu_s", 0.0))

    def add_spent(self, seconds: float, *, gpu_s: float = 0.0, tokens: int | None = None) -> None:
        """Count what a run has taken against the budget.

        Args:
            tokens: all that were trained on so far, in all runs; None where nobody counts them.
        """
        self._study.set_user_attr("spent_s", self.spent_s + seconds)
        if gpu_s:
            self._study.set_user_attr("spent_gpu_s", self.spent_gpu_s + gpu_s)
        if tokens is not None:
            self._study.set_user_attr("tokens", tokens)

    def has_work(self) -> bool:
        """Whether `ask` has a trial to give."""
        return bool(
            self._unfinished
            or self._entered(Role.BASELINE) < len(self._baselines)
            or self._has_draws()
        )

    def ask(self) -> LedgerTrial | None:
        """The next trial: one that was cut off, a baseline, or a new draw; None at the end.

        What breaks a limit is told as infeasible and passed over.

        Raises:
            TrialError: where the space gives nothing that can be trained.
        """
        began, in_a_row = time.monotonic(), 0
        while (number := self._next(in_a_row)) is not None:
            if self._keeps_limits(number):
                self.ask_s += time.monotonic() - began
                return self._attempt(number)
            in_a_row += 1
            if in_a_row >= MAX_ILLEGAL_DRAWS:
                raise TrialError(
                    f"limits: {in_a_row} configurations in a row broke one, the last because "
                    f"{self._frozen(number).user_attrs['reason']}: raise the limit"
                )
        return None

    def report(self, number: int, step: int, metrics: Mapping[str, float]) -> TrialStatus:
        """Record what a trial reached and decide what becomes of it.

        Safe to repeat: a report of a finished trial, or of a step already known, changes nothing.

        Returns:
            `RUNNING` if the trial goes on, else how it ended.
        """
        frozen = self._frozen(number)
        if frozen.state.is_finished():
            return status_of(frozen)
        for metric in (*self._objectives, self.stopping_metric):
            if not math.isfinite(metrics.get(metric, math.nan)):
                reason = f"the metric {metric} is missing or not finite at step {step}"
                return self.fail(number, reason)
        trial, rank = self._live(number), self._rank_sign * metrics[self.stopping_metric]
        if step not in reports_of(frozen):
            trial.set_user_attr("metrics", dict(metrics))
            trial.set_user_attr("step", step)
            self._record(trial, step, rank)
            self._rank(frozen, step, rank)
        if step >= self.steps:
            self._study.tell(trial, [metrics[metric] for metric in self._objectives])
            self._rank_complete(frozen, rank)
            return TrialStatus.COMPLETE
        if not self._is_search(frozen) or step <= frozen.user_attrs.get("judged", 0):
            return TrialStatus.RUNNING
        if self._ranking.stops(number):
            return self._end(number, TrialStatus.PRUNED)
        trial.set_user_attr("judged", step)
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
        return read_trial(self._frozen(number))

    def all(self) -> list[LedgerTrial]:
        """All trials, in the order in which they were asked."""
        return list(read_trials(self._study))

    def _next(self, refused: int) -> int | None:
        """The number of the next trial, entered; None at the end."""
        if self._unfinished:
            return self._unfinished.pop(0)
        baselines = self._entered(Role.BASELINE)
        if baselines < len(self._baselines):
            return self._enter(self._baselines[baselines], Role.BASELINE)
        return self._draw(refused) if self._has_draws() else None

    def _draw(self, refused: int) -> int:
        """Ask the sampler until a draw is legal; illegal ones are told as failed.

        Args:
            refused: draws just before this one that could not be trained either.
        """
        for illegal in range(MAX_ILLEGAL_DRAWS):
            trial = self._ask(refused + illegal)
            try:
                config = TrialConfig.from_dict(self.space.sample(trial))
            except (StrategyError, TrialError, ConstraintError) as error:
                trial.set_user_attr("reason", f"illegal configuration: {error}")
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            return self._enter(config, Role.SEARCH, trial)
        raise TrialError(
            f"the space gave no legal configuration in {MAX_ILLEGAL_DRAWS} draws: see "
            "`latentune spaces` and its constraints"
        )

    def _ask(self, refused: int) -> optuna.Trial:
        waiting = (TrialState.WAITING,)  # one that a driver put there and died before it asked
        planned, place = self._grid or self._start, self._entered(Role.SEARCH)
        if place < len(planned) and not self._study.get_trials(deepcopy=False, states=waiting):
            self._study.enqueue_trial(dict(planned[place]))
        number = len(self._study.get_trials(deepcopy=False))
        modelled = refused < _MODELLED_DRAWS
        self._study.sampler = (self._sampler if modelled else random_sampler)(number)
        return self._study.ask()

    def _has_draws(self) -> bool:
        """Whether the budget, and the grid, have another trial."""
        drawn = self._entered(Role.SEARCH)
        trained = drawn - self._entered(Role.SEARCH, TrialStatus.INFEASIBLE)
        return trained < self.trials and not (self._grid and drawn >= len(self._grid))

    def _entered(self, role: Role, status: TrialStatus | None = None) -> int:
        """Trials of a role so far, infeasible ones included."""
        attrs = [trial.user_attrs for trial in self._study.get_trials(deepcopy=False)]
        return sum(
            "config" in one
            and one["role"] == role
            and (status is None or one.get("status") == status)
            for one in attrs
        )

    def _keeps_limits(self, number: int) -> bool:
        """Whether a trial may be trained; one that may not is told with its constraints."""
        frozen = self._frozen(number)
        costs, excess = self._costs(config_of(frozen))
        trial = self._live(number)
        for limit in [limit for limit in excess if limit not in frozen.constraints]:
            trial.set_constraint(limit, excess[limit])
        broken = [limit for limit in excess if excess[limit] > 0]
        if not broken:
            return True
        trial.set_user_attr("metrics", dict(costs))
        above = ", ".join(f"{name}={costs[name]:g} is above {costs[name] - excess[name]:g}"
                          for name in broken)  # fmt: skip
        self._end(number, TrialStatus.INFEASIBLE, above)
        return False

    def _enter(self, config: TrialConfig, role: Role, trial: optuna.Trial | None = None) -> int:
        trial = trial or self._study.ask()
        trial.set_user_attr("role", str(role))
        trial.set_user_attr("strategy", config.strategy.short_name)
        trial.set_user_attr("config", json.dumps(config.to_dict()))
        return trial.number

    def _record(self, trial: optuna.Trial, step: int, rank: float) -> None:
        """Keep a report. Optuna takes none for several objectives: it is an attribute then."""
        if len(self._objectives) == 1:
            trial.report(rank, step)
        else:
            reports = reports_of(self._frozen(trial.number)) | {step: rank}
            trial.set_user_attr("reports", {str(s): value for s, value in reports.items()})

    def _rank(self, frozen: FrozenTrial, step: int, rank: float) -> None:
        if self._is_search(frozen):
            self._ranking.report(frozen.number, step, goodness(self.objective, rank))

    def _rank_complete(self, frozen: FrozenTrial, rank: float) -> None:
        if self._is_search(frozen):
            self._ranking.complete(frozen.number, goodness(self.objective, rank))

    def _fill_ranking(self) -> None:
        """Bring the ranking to where an uninterrupted one would be."""
        for frozen in self._study.get_trials(deepcopy=False):
            if "config" not in frozen.user_attrs or not self._is_search(frozen):
                continue
            judged = frozen.user_attrs.get("judged", 0)
            if status_of(frozen) in (TrialStatus.PRUNED, TrialStatus.COMPLETE):
                judged = self.steps - 1
            for step, rank in sorted(reports_of(frozen).items()):
                self._rank(frozen, step, rank)
                if step <= judged:
                    self._ranking.stops(frozen.number)
            if frozen.state is TrialState.COMPLETE:
                self._rank_complete(frozen, reports_of(frozen)[self.steps])

    def _attempt(self, number: int) -> LedgerTrial:
        attempts = self.trial(number).attempts + 1
        self._live(number).set_user_attr("attempts", attempts)
        return self.trial(number)

    def _end(self, number: int, status: TrialStatus, reason: str | None = None) -> TrialStatus:
        frozen = self._frozen(number)
        if frozen.state.is_finished():
            return status_of(frozen)
        trial = self._live(number)
        trial.set_user_attr("status", str(status))
        if reason is not None:
            trial.set_user_attr("reason", reason)
        told = TrialState.FAIL if status is TrialStatus.FAILED else TrialState.PRUNED
        if told is TrialState.PRUNED and not reports_of(frozen) and not trial.params:
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
