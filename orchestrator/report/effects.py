"""Which axes of a search matter: Optuna's importance, and each axis's marginal effect.

Both are looked at twice, because early stopping leaves two different pictures:

    first rung   every trial, after the same few steps, by what early stopping ranks by
    full budget  only the trials that were never cut, by the objective

The second is what was asked for, but few trials and picked ones; the first is all trials, but
early. An effect that both show is worth believing.

Intervals are percentile bootstrap over trials, 95 %. They say how far the mean would move with
other trials of the same sampler, not what the axis causes: a sampler that learns spends more
trials where the others are good, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.ledger import Role, TrialStatus
from orchestrator.report.material import Material
from orchestrator.results import TrialRecord
from trainable.metrics import direction

EVALUATOR = "PED-ANOVA"
LEAST_TRIALS = 10  # for an importance; below, it is chance
LEAST_FOR_INTERVAL = 3
MOST_LEVELS = 6  # of a numeric axis, before its values are cut into ranges
_RANGES = 3
_DRAWS = 2000


class Level(NamedTuple):
    """The trials of one value, or one range of values, of an axis.

    Args:
        low, high: 95 % interval of the mean; None with too few trials.
    """

    label: str
    scores: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Effects:
    """What one way of looking shows.

    Args:
        title: which trials, after which steps.
        metric: the score.
        trials: how many there are.
        importance: axis to share, greatest first; empty with too few trials.
        axes: axis to its levels, for axes with at least two.
    """

    title: str
    metric: str
    trials: int
    importance: Mapping[str, float]
    axes: Mapping[str, list[Level]]


def find_effects(material: Material) -> list[Effects]:
    """Each way of looking that the search has trials for."""
    searched = [t for t in material.result.trials if t.role is Role.SEARCH and t.params]
    ways = []
    if len(material.rungs) > 1:
        first = {t.number: material.first(t.uid) for t in searched}
        title = f"all trials at the first rung, step {material.rungs[0]}"
        ways.append((title, material.stopping_metric, first))
    objective = material.result.objective
    final = {
        t.number: t.metrics.get(objective) for t in searched if t.status is TrialStatus.COMPLETE
    }
    ways.append((f"trials with the full {material.rungs[-1]} steps", objective, final))
    return [_look(material, searched, *way) for way in ways]


def _look(
    material: Material,
    searched: Sequence[TrialRecord],
    title: str,
    metric: str,
    scores: Mapping[int, float | None],
) -> Effects:
    known = {number: score for number, score in scores.items() if score is not None}
    trials = [trial for trial in searched if trial.number in known]
    frozen = [trial for trial in material.frozen if trial.number in known]
    return Effects(
        title=title,
        metric=metric,
        trials=len(trials),
        importance=importance(frozen, known, metric),
        axes=_axes(trials, known),
    )


def importance(
    frozen: Sequence[FrozenTrial], scores: Mapping[int, float], metric: str
) -> dict[str, float]:
    """Optuna's importance of each axis, greatest first; empty where it would be chance."""
    if len(frozen) < LEAST_TRIALS or len(set(scores.values())) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction(metric))
    for trial in frozen:
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=scores[trial.number],
                params=trial.params,
                distributions=trial.distributions,
            )
        )
    # It imports scikit-learn, which takes a second: no driver is to wait for it at its start.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))


def _axes(trials: Sequence[TrialRecord], scores: Mapping[int, float]) -> dict[str, list[Level]]:
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    axes = {}
    for name in names:
        having = [trial for trial in trials if name in trial.params]
        levels = levels_of(
            [trial.params[name] for trial in having], [scores[trial.number] for trial in having]
        )
        if len(levels) > 1:
            axes[name] = levels
    return axes


def levels_of(values: Sequence[Any], scores: Sequence[float]) -> list[Level]:
    """Trials gathered by the value of an axis; a fine numeric one in three ranges of equal size."""
    numeric = all(isinstance(value, int | float) for value in values) and not any(
        isinstance(value, bool) for value in values
    )
    if numeric and len(set(values)) > MOST_LEVELS:
        edges = np.quantile(np.array(values, dtype=float), np.linspace(0, 1, _RANGES + 1))
        places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _RANGES - 1)
        labels = [f"{edges[p]:.3g} to {edges[p + 1]:.3g}" for p in places.tolist()]
        order = [f"{edges[p]:.3g} to {edges[p + 1]:.3g}" for p in range(_RANGES)]
    else:
        labels = [f"{value:g}" if numeric else str(value) for value in values]
        order = [f"{value:g}" for value in sorted(set(values))] if numeric else sorted(set(labels))
    pairs = list(zip(labels, scores, strict=True))
    gathered = {label: [score for at, score in pairs if at == label] for label in order}
    return [_level(label, found) for label, found in gathered.items() if found]


def _level(label: str, scores: Sequence[float]) -> Level:
    values = np.array(scores, dtype=float)
    low = high = None
    if len(values) >= LEAST_FOR_INTERVAL:
        low, high = bootstrap(values)
    return Level(label, tuple(scores), float(values.mean()), low, high)


def bootstrap(values: Any) -> tuple[float, float]:
    """The 95 % percentile interval of a mean over resampled trials; seeded."""
    random = np.random.default_rng(0)
    draws = random.choice(values, size=(_DRAWS, len(values))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
