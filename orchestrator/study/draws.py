"""What a search asks next: its baselines, then a grid or what it tries first, then draws.

A draw depends on the sampler's seed, on the draw's number and on what the study knows. With
`sampler: random` that is the first two alone: seed = hash of the search's seed and the number,
so that a search that was cut off anywhere asks for what an uninterrupted one asks for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import optuna
from optuna.trial import TrialState

from orchestrator.ledger_trials import Role, TrialStatus
from orchestrator.sampling import SamplerOf, random_sampler
from orchestrator.study.store import StudyStore
from search_spaces import ConstraintError, Space
from trainable.errors import StrategyError, TrialError
from trainable.trial import TrialConfig

_MODELLED_DRAWS = 4  # in a row that cannot be trained; then chance takes over from the sampler

# A configuration to what it costs, and by how much that is above each limit (below: negative).
CostsOf: TypeAlias = Callable[[TrialConfig], tuple[Mapping[str, float], Mapping[str, float]]]


def no_limits(_: TrialConfig) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """A search without limits."""
    return {}, {}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """All that a search is to ask.

    Args:
        space: what is searched.
        baselines: configurations that are tried first.
        sampler: Optuna's, by the number of the draw.
        trials: how many trials of the space, baselines and those beyond a limit not counted.
        grid: what is tried in place of the sampler's draws, in order: the params of each trial.
        start: what is tried before the sampler draws, in order: params, those left out drawn.
        costs: what breaks a limit.
    """

    space: Space
    baselines: Sequence[TrialConfig]
    sampler: SamplerOf
    trials: int
    grid: Sequence[Mapping[str, Any]] = ()
    start: Sequence[Mapping[str, Any]] = ()
    costs: CostsOf = no_limits


@dataclass(frozen=True)
class Draw:
    """One configuration that was asked, or found to be none.

    Args:
        number: in the study.
        illegal: why it means nothing; it is told as failed then, and is no trial.
        beyond: what is above a limit; it is then infeasible, and never trained.
    """

    number: int
    illegal: str | None = None
    beyond: str | None = None


class Draws:
    """Asks, one configuration at a time; each is in the study whole, or not at all."""

    def __init__(self, store: StudyStore, wanted: Wanted) -> None:
        self._store = store
        self._wanted = wanted
        self._entered: Counter[Role] = Counter()
        self._beyond = 0
        for frozen in store.trials():
            if "config" in frozen.user_attrs:
                self._entered[Role(frozen.user_attrs["role"])] += 1
                self._beyond += _is_beyond_limit(frozen.user_attrs)

    @property
    def has_more(self) -> bool:
        """Whether there is anything left to ask."""
        wanted, drawn = self._wanted, self._entered[Role.SEARCH]
        if self._entered[Role.BASELINE] < len(wanted.baselines):
            return True
        if wanted.grid and drawn >= len(wanted.grid):
            return False
        return drawn - self._beyond < wanted.trials

    def next(self, refused: int) -> Draw:
        """Ask for one more.

        Args:
            refused: draws just before this one that could not be trained.
        """
        baselines = self._entered[Role.BASELINE]
        with self._store.write():
            if baselines < len(self._wanted.baselines):
                number, role = self._store.ask(), Role.BASELINE
                config = self._wanted.baselines[baselines]
            else:
                trial, role = self._drawn(refused), Role.SEARCH
                number = trial.number
                try:
                    config = TrialConfig.from_dict(self._wanted.space.sample(trial))
                except (StrategyError, TrialError, ConstraintError) as error:
                    return self._illegal(number, str(error))
            beyond = self._enter(number, role, config)
        self._entered[role] += 1
        self._beyond += beyond is not None and role is Role.SEARCH
        return Draw(number, beyond=beyond)

    def _drawn(self, refused: int) -> optuna.Trial:
        wanted, place = self._wanted, self._entered[Role.SEARCH]
        planned = wanted.grid or wanted.start
        modelled = refused < _MODELLED_DRAWS
        sampler = wanted.sampler if modelled else random_sampler
        if place < len(planned):
            return self._store.draw_planned(sampler, planned[place])
        return self._store.draw(sampler)

    def _illegal(self, number: int, error: str) -> Draw:
        self._store.set(number, reason=f"illegal configuration: {error}")
        self._store.tell(number, state=TrialState.FAIL)
        return Draw(number, illegal=error)

    def _enter(self, number: int, role: Role, config: TrialConfig) -> str | None:
        """Write a configuration down; what is above a limit ends at once, and that is returned."""
        self._store.set(
            number,
            role=str(role),
            strategy=config.strategy.short_name,
            config=json.dumps(config.to_dict()),
        )
        above = self.check_limits(number, config)
        if above is None:
            self._store.set(number, attempts=1)
        return above

    def check_limits(self, number: int, config: TrialConfig) -> str | None:
        """Hold a configuration against the limits; one above them is told as infeasible."""
        costs, excess = self._wanted.costs(config)
        self._store.constrain(number, excess)
        broken = [limit for limit in excess if excess[limit] > 0]
        if not broken:
            return None
        above = ", ".join(f"{name}={costs[name]:g} is above {costs[name] - excess[name]:g}"
                          for name in broken)  # fmt: skip
        self._store.set(number, metrics=dict(costs))
        self._store.end(number, TrialStatus.INFEASIBLE, reason=above)
        return above


def _is_beyond_limit(attrs: Mapping[str, Any]) -> bool:
    """Whether a trial was never trained, and is replaced by another draw."""
    return (
        attrs["role"] == Role.SEARCH
        and attrs.get("status") == TrialStatus.INFEASIBLE
        and "failure" not in attrs
    )
