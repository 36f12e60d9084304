"""What a confirmation compares: the best configurations of a search, and their controls.

    none                      the frozen model alone
    start, end                prompt tuning and pause tokens, with as many latents as the leader
                              has (equal parameters), and with as many per row as the leader
                              inserts over val_id (equal inserted tokens)
    random                    as many sites per row as the leader's, in no place of their own

The leader is the search's best configuration. Controls take its init and optimiser. One that is a
candidate itself is trained once and plays both parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, TypeAlias

from orchestrator.ledger import LedgerTrial, Role, TrialStatus
from trainable.item_scores import Insertion
from trainable.metrics import goodness
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

Measure: TypeAlias = Callable[[Sequence[InsertionStrategy]], list[Insertion]]

NONE = "no latents"
TRAINED_CONTROLS = 5  # at most: start and end twice, random
_EQUAL_PARAMETERS, _EQUAL_TOKENS = "equal parameters", "equal inserted tokens"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One configuration of a confirmation.

    Args:
        config: its seed means nothing; members have their own.
        rank: its place in the search's order, from 1; None for one that is a control alone.
        search_score: the objective in the search, the mean over its trials there.
        search_trials: these trials' numbers.
        control: what it controls for, in words; None for one that is a candidate alone.
    """

    config: TrialConfig
    rank: int | None = None
    search_score: float | None = None
    search_trials: tuple[int, ...] = ()
    control: str | None = None

    @property
    def key(self) -> str:
        """Tells configurations apart, seeds aside."""
        return config_key(self.config)


def config_key(config: TrialConfig) -> str:
    """A short digest of a configuration without its seed."""
    plain = {name: value for name, value in config.to_dict().items() if name != "seed"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def top_arms(trials: Iterable[LedgerTrial], objective: str, count: int) -> list[Arm]:
    """The best configurations by search score, best first.

    Trials that differ by nothing but their seed are one configuration, with their mean. Those
    that were stopped early are taken only where none ran to the full budget. Baselines and what
    has no latents are no candidates.
    """
    scored = [
        trial
        for trial in trials
        if trial.role is Role.SEARCH
        and objective in trial.metrics
        and trial.status in (TrialStatus.COMPLETE, TrialStatus.PRUNED)
        and trial.config.strategy.latent_count
    ]
    complete = [trial for trial in scored if trial.status is TrialStatus.COMPLETE]
    groups: dict[str, list[LedgerTrial]] = {}
    for trial in complete or scored:
        groups.setdefault(config_key(trial.config), []).append(trial)

    def rank(group: Sequence[LedgerTrial]) -> tuple[float, float, int]:
        score = goodness(objective, _score(group, objective))
        return -score, group[0].metrics.get("cost/extra_tokens_pct", 0.0), group[0].number

    best = sorted(groups.values(), key=rank)[:count]
    return [
        Arm(
            config=replace(group[0].config, seed=0),
            rank=place,
            search_score=_score(group, objective),
            search_trials=tuple(trial.number for trial in group),
        )
        for place, group in enumerate(best, start=1)
    ]


def control_arms(candidates: Sequence[Arm], measure: Measure) -> list[Arm]:
    """The leader's controls; one whose strategy is a candidate's is that candidate.

    Args:
        candidates: best first, at least one.
        measure: counts what strategies insert per row of val_id.
    """
    leader = candidates[0].config
    controls: dict[str, Arm] = {}
    for strategy, words in _control_strategies(leader.strategy, measure):
        twin = next((a for a in candidates if a.config.strategy == strategy), None)
        arm = twin or Arm(config=replace(leader, strategy=strategy))
        known = controls.get(arm.key, arm)
        words = words if known.control is None else f"{known.control}, {words}"
        controls[arm.key] = replace(arm, control=words)
    return list(controls.values())


def with_controls(candidates: Sequence[Arm], controls: Sequence[Arm]) -> list[Arm]:
    """Candidates first, each arm once; controls as they are."""
    parts = {arm.key: arm.control for arm in controls}
    own = {arm.key for arm in candidates}
    both = [replace(arm, control=parts.get(arm.key)) for arm in candidates]
    return [*both, *(arm for arm in controls if arm.key not in own)]


def with_lr(arm: Arm, factor: float) -> Arm:
    """The same arm with another learning rate."""
    optim = replace(arm.config.optim, lr=arm.config.optim.lr * factor)
    return replace(arm, config=replace(arm.config, optim=optim))


def _control_strategies(
    leader: InsertionStrategy, measure: Measure
) -> list[tuple[InsertionStrategy, str]]:
    everywhere = _strategy("random", rate=1.0)
    own, dense = measure([leader, everywhere])
    m_parameters, m_tokens = leader.latent_count, max(1, round(own.latents))
    found = [(InsertionStrategy(), NONE)]
    for kind in ("start", "end"):
        found.append((_strategy(kind, m=m_parameters), _EQUAL_PARAMETERS))
        found.append((_strategy(kind, m=m_tokens), _EQUAL_TOKENS))
    if own.sites > 0 and dense.sites > 0:
        rate = min(1.0, own.sites / dense.sites)
        m = max(1, round(own.latents / own.sites))
        found.append((_strategy("random", rate=rate, m=m), "as many sites, at random"))
    return found


def _strategy(kind: str, **fields: Any) -> InsertionStrategy:
    trigger: Mapping[str, Any] = {"kind": kind, **fields}
    return InsertionStrategy.from_dict({"triggers": {kind: trigger}})


def _score(group: Sequence[LedgerTrial], objective: str) -> float:
    return fmean(trial.metrics[objective] for trial in group)
