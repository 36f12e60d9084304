"""What a search tries, or knows, before its sampler chooses anything.

    start points    the paper's configurations, where they lie in the space
    warm start      the trials of earlier searches of the same space, entered as history

History is in the study and in no table: it has scores and parameters, and no configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from orchestrator.config import SearchConfig, load_search
from orchestrator.errors import ConfigError
from orchestrator.folders import SearchFolder
from orchestrator.ledger import Role, reading_study
from search_spaces import PRESETS, enumerate_configs, params_of
from search_spaces.errors import Problem, shown
from trainable.trial import TrialConfig

_FROM = "warm_start"  # the attribute that names a trial's search and its number there


def start_points(config: SearchConfig) -> list[dict[str, Any]]:
    """The parameters of the paper's configurations that lie in the space, each once."""
    if not config.space.start_points or config.sampler.kind == "grid":
        return []
    space = config.space.build()
    named = [TrialConfig.from_dict(c.config) for c in enumerate_configs(PRESETS["paper"]())]
    found = [params_of(space, one) for one in named if one.seed == 0]
    return [params for params in found if params]


def learn_from_earlier(study: optuna.Study, config: SearchConfig, home: Path) -> int:
    """Enter the complete trials of `sampler.warm_start` into a study; returns how many there are.

    Those that are there already are passed over.

    Raises:
        SearchNotFoundError: for a name that no search has.
        ConfigError: for a search of another space or with other objectives.
    """
    known = {
        tuple(trial.user_attrs[_FROM])
        for trial in study.get_trials(deepcopy=False)
        if _FROM in trial.user_attrs
    }
    for name in config.sampler.warm_start:
        folder = SearchFolder.existing(home, name)
        _check_same(config, load_search(folder.config), name)
        with reading_study(folder.path, name) as earlier:
            complete = earlier.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for trial in complete:
            key = (name, trial.number)
            if trial.user_attrs.get("role") != Role.SEARCH or key in known:
                continue
            known.add(key)
            study.add_trial(
                optuna.trial.create_trial(
                    values=trial.values,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs={_FROM: list(key)},
                )
            )
    return len(known)


def _check_same(config: SearchConfig, earlier: SearchConfig, name: str) -> None:
    """Refuse a search whose scores or parameters mean something else."""
    mine, its = config.space.build(), earlier.space.build()
    wrong = None
    if name == config.name:
        wrong, remedy = "a search cannot begin with itself", "remove it: running it again goes on"
    elif mine != its:
        wrong, remedy = "it searched another space", "warm-start from searches of the same space"
    elif (config.objective, *config.tradeoffs) != (earlier.objective, *earlier.tradeoffs):
        was = ", ".join((earlier.objective, *earlier.tradeoffs))
        wrong, remedy = f"its objective was {was}", "give both the same objectives"
    if wrong is not None:
        raise ConfigError(
            [Problem(path="sampler.warm_start", got=shown(name), wrong=wrong, remedy=remedy)]
        )
