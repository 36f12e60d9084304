"""What a confirmation compares: the best configurations of a search, and their controls.

    none                      the frozen model alone
    start, end                prompt tuning and pause tokens, with as many latents as the candidate
                              has (equal parameters), and with as many per row as it inserts over
                              val_id (equal inserted tokens)
    random                    as many sites per row as the candidate's, in no place of their own

Each candidate has its own; candidates whose controls are of one strategy share it, with the init
and optimiser of the first of them. Where that is too dear, all candidates are compared with the
controls of the first. A control that is a candidate itself is trained once and plays both parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal, TypeAlias

from orchestrator.ledger import LedgerTrial, Role, TrialStatus
from trainable.item_scores import Insertion
from trainable.metrics import goodness
from trainable.strategy import InsertionStrategy
from trainable.trial import TrialConfig

Measure: TypeAlias = Callable[[Sequence[InsertionStrategy]], list[Insertion]]
Whose = Literal["each", "first"]

NONE = "no latents"
TRAINED_CONTROLS = 5  # at most: start and end twice, random
_EQUAL_PARAMETERS, _EQUAL_TOKENS = "equal parameters", "equal inserted tokens"
_EQUAL_SITES = "as many sites, at random"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One configuration of a confirmation.

    Args:
        config: its seed means nothing; members have their own.
        rank: its place in the search's order, from 1; None for one that is a control alone.
        search_score: the objective in the search, the mean over its trials there.
        search_trials: these trials' numbers.
        control: what it controls for, in words; None for one that is a candidate alone.
        control_for: the ranks of the candidates that are compared with it.
    """

    config: TrialConfig
    rank: int | None = None
    search_score: float | None = None
    search_trials: tuple[int, ...] = ()
    control: str | None = None
    control_for: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Tells configurations apart, seeds aside."""
        return config_key(self.config)


def config_key(config: TrialConfig) -> str:
    """A short digest of a configuration without its seed."""
    plain = {name: value for name, value in config.to_dict().items() if name != "seed"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def top_arms(trials: Iterable[LedgerTrial], objective: str, count: int) -> list[Arm]:
    """The best configurations by search score, best first, each of another strategy.

    Of a strategy's configurations the best one is taken: another learning rate is no other way to
    insert latents. Trials that differ by nothing but their seed are one configuration, with their
    mean. Those that were stopped early are taken only where none ran to the full budget. Baselines
    and what has no latents are no candidates.
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

    firsts: dict[str, Sequence[LedgerTrial]] = {}
    for group in sorted(groups.values(), key=rank):
        firsts.setdefault(_strategy_key(group[0].config.strategy), group)
    best = list(firsts.values())[:count]
    return [
        Arm(
            config=replace(group[0].config, seed=0),
            rank=place,
            search_score=_score(group, objective),
            search_trials=tuple(trial.number for trial in group),
        )
        for place, group in enumerate(best, start=1)
    ]


def control_arms(candidates: Sequence[Arm], measure: Measure, whose: Whose = "each") -> list[Arm]:
    """The candidates' controls; one whose strategy is a candidate's is that candidate.

    Args:
        candidates: best first, at least one.
        measure: counts what strategies insert per row of val_id.
        whose: which candidates have controls of their own.
    """
    subjects = candidates if whose == "each" else candidates[:1]
    everywhere = _strategy("random", rate=1.0)
    *inserted, dense = measure([*(arm.config.strategy for arm in subjects), everywhere])
    ranks = tuple(arm.rank for arm in candidates if arm.rank is not None)
    drafts: dict[str, _Draft] = {}
    for candidate, own in zip(subjects, inserted, strict=True):
        assert candidate.rank is not None, "a candidate has a rank"
        for strategy, words in _control_strategies(candidate.config.strategy, own, dense):
            twin = next((arm for arm in candidates if arm.config.strategy == strategy), None)
            if whose == "each" and twin is candidate:
                continue  # it does not control for itself
            arm = twin or Arm(config=replace(candidate.config, strategy=strategy))
            draft = drafts.setdefault(_strategy_key(strategy), _Draft(arm))
            draft.words.setdefault(words, []).append(candidate.rank)
    return [draft.finished(ranks if whose == "first" else None) for draft in drafts.values()]


def with_controls(candidates: Sequence[Arm], controls: Sequence[Arm]) -> list[Arm]:
    """Candidates first, each arm once; controls as they are."""
    parts = {arm.key: arm for arm in controls}
    own = {arm.key for arm in candidates}
    return [
        *(parts.get(arm.key, arm) for arm in candidates),
        *(arm for arm in controls if arm.key not in own),
    ]


def control_words(words: Mapping[str, Sequence[int]]) -> str:
    """`equal parameters (no. 1, 2), equal inserted tokens (no. 3)`; `no latents` is for all.

    Args:
        words: what a control has in common with candidates, to their ranks.
    """
    by_ranks: dict[str, list[str]] = {}
    for one, ranks in words.items():
        whose = "" if one == NONE else f" (no. {', '.join(map(str, ranks))})"
        by_ranks.setdefault(whose, []).append(one)
    return ", ".join(", ".join(some) + whose for whose, some in by_ranks.items())


@dataclass
class _Draft:
    """A control, while candidates that share it are found."""

    arm: Arm
    words: dict[str, list[int]] = field(default_factory=dict)

    def finished(self, ranks: tuple[int, ...] | None) -> Arm:
        """The control with what it is for; `ranks` where it is for other candidates, too."""
        own = tuple(sorted({rank for some in self.words.values() for rank in some}))
        for_ranks = own if ranks is None else ranks
        return replace(self.arm, control=control_words(self.words), control_for=for_ranks)


def with_lr(arm: Arm, factor: float) -> Arm:
    """The same arm with another learning rate."""
    optim = replace(arm.config.optim, lr=arm.config.optim.lr * factor)
    return replace(arm, config=replace(arm.config, optim=optim))


def _control_strategies(
    subject: InsertionStrategy, own: Insertion, dense: Insertion
) -> list[tuple[InsertionStrategy, str]]:
    m_parameters, m_tokens = subject.latent_count, max(1, round(own.latents))
    found = [(InsertionStrategy(), NONE)]
    for kind in ("start", "end"):
        found.append((_strategy(kind, m=m_parameters), _EQUAL_PARAMETERS))
        found.append((_strategy(kind, m=m_tokens), _EQUAL_TOKENS))
    if own.sites > 0 and dense.sites > 0:
        rate = min(1.0, own.sites / dense.sites)
        m = max(1, round(own.latents / own.sites))
        found.append((_strategy("random", rate=rate, m=m), _EQUAL_SITES))
    return found


def _strategy(kind: str, **fields: Any) -> InsertionStrategy:
    trigger: Mapping[str, Any] = {"kind": kind, **fields}
    return InsertionStrategy.from_dict({"triggers": {kind: trigger}})


def _strategy_key(strategy: InsertionStrategy) -> str:
    return json.dumps(strategy.to_dict())


def _score(group: Sequence[LedgerTrial], objective: str) -> float:
    return fmean(trial.metrics[objective] for trial in group)
