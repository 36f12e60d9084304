"""The study's trials, one by one: what the ledger reads and writes of them.

Optuna's own `Study` reads all trials for each of these, which makes the ten-thousandth trial
dearer than the first. What is running, and what ended last, is kept here instead as it was last
written: the driver is the only writer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.errors import SearchNotFoundError
from orchestrator.ledger_trials import TrialStatus, reports_of
from orchestrator.sampling import SamplerOf
from orchestrator.study.storage import LedgerStorage
from trainable.metrics import direction

_KNOWN = 256  # trials; beyond that, ended ones are read again where they are asked for


class StudyStore:
    """A search's study, for its one writer.

    Args:
        storage: where it is.
        name: the search's, which is the study's.
        objectives: metrics to improve.
        sampler: Optuna's, by the number of the draw.
    """

    def __init__(
        self, storage: LedgerStorage, name: str, objectives: Sequence[str], sampler: SamplerOf
    ) -> None:
        self._storage = storage
        with storage.said():
            self.study = optuna.create_study(
                storage=storage,
                study_name=name,
                sampler=sampler(0),
                pruner=optuna.pruners.NopPruner(),  # the ranking decides
                directions=[direction(metric) for metric in objectives],
                load_if_exists=True,
            )
            self._cached: BaseStorage = self.study._storage
            self._known: dict[int, FrozenTrial] = {}
            self._ids = {trial.number: trial._trial_id for trial in self.trials()}

    def write(self) -> AbstractContextManager[None]:
        """One transition: what is written inside is in the study whole, or not at all."""
        return self._storage.transaction()

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those in these states; reads all of them."""
        with self._storage.said():
            return self.study.get_trials(deepcopy=False, states=states or None)

    def trial(self, number: int) -> FrozenTrial:
        """One trial as it was last written."""
        if number not in self._known:
            self._keep(number, self._read(number))
        return self._known[number]

    def ask(self) -> int:
        """A new trial, with nothing in it."""
        return self._asked(self._cached.create_new_trial(self.study._study_id))

    def draw(self, sampler: SamplerOf) -> optuna.Trial:
        """A new trial for a sampler to fill in; that happens later, param by param."""
        trial = optuna.Trial(self.study, self._cached.create_new_trial(self.study._study_id))
        return self._sampled(trial, sampler)

    def draw_planned(self, sampler: SamplerOf, params: Mapping[str, Any]) -> optuna.Trial:
        """A new trial with some params given; or the one that waits for a driver that died."""
        if not self.trials(TrialState.WAITING):
            self.study.enqueue_trial(dict(params))
        return self._sampled(self.study.ask(), sampler)

    def _sampled(self, trial: optuna.Trial, sampler: SamplerOf) -> optuna.Trial:
        self._asked(trial._trial_id, trial.number)
        self._keep(trial.number, trial._cached_frozen_trial)  # Optuna keeps it up to date
        self.study.sampler = sampler(trial.number)
        return trial

    def set(self, number: int, **attrs: Any) -> None:
        """Write attributes of a running trial."""
        self._storage.set_trial_user_attrs(self._ids[number], attrs)
        if number in self._known:
            known = self._known[number]
            known.user_attrs = {**known.user_attrs, **attrs}

    def report(self, number: int, step: int, value: float) -> None:
        """Write what early stopping ranks by. Optuna takes none for several objectives."""
        if len(self.study.directions) == 1:
            self._cached.set_trial_intermediate_value(self._ids[number], step, value)
            known = self.trial(number)
            known.intermediate_values = {**known.intermediate_values, step: value}
        else:
            reports = reports_of(self.trial(number)) | {step: value}
            self.set(number, reports={str(s): value for s, value in reports.items()})

    def constrain(self, number: int, excess: Mapping[str, float]) -> None:
        """Write by how much a trial is above each limit, where that is not written yet."""
        missing = [limit for limit in excess if limit not in self.trial(number).constraints]
        for limit in missing:
            optuna.Trial(self.study, self._ids[number]).set_constraint(limit, excess[limit])
        if missing:
            self._known.pop(number, None)

    def tell(
        self, number: int, state: TrialState | None = None, values: Sequence[float] | None = None
    ) -> None:
        """End a trial in Optuna's words; a pruned one has the value of its last report."""
        known, state = self.trial(number), state or TrialState.COMPLETE
        if state is TrialState.PRUNED and known.last_step is not None:
            values = [known.intermediate_values[known.last_step]]
        self.study.sampler.after_trial(self.study, known, state, values)
        self._cached.set_trial_state_values(self._ids[number], state, values)
        known.state, known.values = state, values

    def end(self, number: int, status: TrialStatus, **attrs: str | None) -> None:
        """End a trial that was not trained to its end, and note why."""
        frozen = self.trial(number)
        self.set(
            number,
            status=str(status),
            **{key: value for key, value in attrs.items() if value is not None},
        )
        told = TrialState.FAIL if status is TrialStatus.FAILED else TrialState.PRUNED
        if told is TrialState.PRUNED and not reports_of(frozen) and not frozen.params:
            told = TrialState.FAIL
        self.tell(number, state=told)

    def forget(self) -> None:
        """Read everything again: a transition that failed was taken back."""
        self._known.clear()

    def close(self) -> None:
        """Give the database back; SQLite then has all of it in one file."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _keep(self, number: int, trial: FrozenTrial) -> None:
        if len(self._known) >= _KNOWN:
            ended = [n for n, known in self._known.items() if known.state.is_finished()]
            for one in ended:
                del self._known[one]
        self._known[number] = trial

    def _read(self, number: int) -> FrozenTrial:
        if number not in self._ids:
            raise SearchNotFoundError(f"search {self.study.study_name!r} has no trial {number}")
        with self._storage.said():
            return self._cached.get_trial(self._ids[number])

    def _asked(self, trial_id: int, number: int | None = None) -> int:
        number = self._cached.get_trial(trial_id).number if number is None else number
        self._ids[number] = trial_id
        return number


def finite(value: object) -> bool:
    """Whether a metric is a number that can be ranked."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)
