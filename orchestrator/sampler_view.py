"""What a sampler sees of a study: the trials that have parameters, as they stand at each draw.

    baseline, complete, no params     hidden
    drawn or earlier, with params     seen
    running                           seen

Baselines are configurations and no points of the space. Optuna would take what they have in
common with the trials of the space, which is no axis at all, for all that can be modelled, and
would count them as draws made at random. It also keeps the trials that it has read until its own
`ask` or `tell`, which the ledger does without.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState


class SpaceStudy(optuna.Study):
    """A study without the trials that have no parameters. Read anew, for one draw.

    Args:
        study: the whole one; both write to the same storage.
    """

    def __init__(self, study: optuna.Study) -> None:
        super().__init__(
            study_name=study.study_name,
            storage=study._storage,
            sampler=study.sampler,
            pruner=study.pruner,
        )

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        return [trial for trial in trials if trial.params or not trial.state.is_finished()]


class SpaceSampler(BaseSampler):
    """Another sampler, over the trials that have parameters.

    Args:
        inner: what chooses.
    """

    def __init__(self, inner: BaseSampler) -> None:
        self._inner = inner
        self._seen: SpaceStudy | None = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The axes that are modelled together; a draw begins with this question."""
        self._seen = SpaceStudy(study)
        return self._inner.infer_relative_search_space(self._seen, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of these axes."""
        return self._inner.sample_relative(self._view(study), trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value of an axis that is not among them."""
        return self._inner.sample_independent(
            self._view(study), trial, param_name, param_distribution
        )

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Pass on."""
        self._inner.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Pass on."""
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Pass on."""
        self._inner.reseed_rng()

    def _view(self, study: optuna.Study) -> SpaceStudy:
        if self._seen is None:
            self._seen = SpaceStudy(study)
        return self._seen
