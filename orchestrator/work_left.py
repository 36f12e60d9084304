"""What is left of a search, and what it will cost on the engine at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.assignment import DataSource
from orchestrator.config import SearchConfig
from orchestrator.estimate import Costs, Work, budget_warnings, estimate, sample_trials
from orchestrator.ledger_trials import LedgerTrial, Role, TrialStatus
from orchestrator.opening import baseline_configs
from orchestrator.results import Estimate
from trainable.data import SEARCH_SPLITS, TEST_SPLITS
from trainable.trial import TrialConfig

if TYPE_CHECKING:
    from orchestrator.engines.fleet import Fleet


@dataclass(frozen=True)
class WorkLeft:
    """An estimate of what is left.

    Args:
        trials: that are not at their end.
        estimate: what they will cost.
        warnings: what is odd about that.
    """

    trials: int
    estimate: Estimate
    warnings: Sequence[str]


def estimate_left(
    config: SearchConfig,
    source: DataSource,
    known: Sequence[LedgerTrial],
    fleet: Fleet,
    fits: Callable[[TrialConfig], bool] | None,
) -> WorkLeft:
    """Have an engine count and time a sample of a search's trials.

    Args:
        known: the trials that the ledger has.
        fits: whether a configuration keeps the limits; None where there are none.
    """
    keeps = fits or (lambda _: True)
    sample = sample_trials(config, baseline_configs() * config.space.baselines, keeps)
    configs = [trial.to_dict() for trial in sample.all]
    tests = (list(TEST_SPLITS), config.confirm.rows) if config.confirm.enabled else ()
    at_once = config.engine.concurrent_trials
    found = fleet.ask("survey", source, configs, list(SEARCH_SPLITS), at_once, *tests)
    costs = Costs(
        **found["survey"],
        baselines=len(sample.baselines),
        calibration=found["calibration"],
        gpus=fleet.plan.gpus,
        test_tokens=found["test_tokens"],
    )
    left_out = (TrialStatus.RUNNING, TrialStatus.INFEASIBLE)
    roles = [trial.role for trial in known if trial.status not in left_out]
    whole = Work.whole(config, sample)
    work = Work(
        baselines=whole.baselines - roles.count(Role.BASELINE),
        trials=max(0, whole.trials - roles.count(Role.SEARCH)),
    )
    told = estimate(config, costs, work)
    warnings = [*costs.warnings, *budget_warnings(config, costs, told)]
    return WorkLeft(work.baselines + work.trials, told, warnings)
