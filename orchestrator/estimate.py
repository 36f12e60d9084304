"""What a search will cost, from what its configurations cost and how fast the engine is here.

    sample of configurations ─► tokens per step and per scoring ─┐
    successive halving       ─► steps and scorings, expected     ├─► tokens, seconds, money
    a few steps, timed       ─► seconds per token               ─┘

A search draws better and better configurations, and those may be longer or shorter than the
average of its space: the estimate knows nothing of that. Where every configuration is known
beforehand (a grid, or one) and none is stopped early, the tokens are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any

from orchestrator.confirmation_estimate import (
    MemberTokens,
    confirmation_estimate,
    confirmation_line,
    millions,
    span,
)
from orchestrator.halving import expected_arrivals
from orchestrator.results import Estimate
from orchestrator.search_config import SearchConfig
from search_spaces import enumerate_configs, sample_configs
from trainable.errors import LatentuneError
from trainable.trial import TrialConfig

SAMPLES = 64  # of a space, for its mean
_DRAWS = 512  # for these, where limits leave few
# Beside the engine's work, on two cores: Ray, processes and tracking at both ends, and each trial.
START_S, TRIAL_S = 14.0, 0.35


@dataclass(frozen=True)
class Sample:
    """Configurations that stand for those that a search will try.

    Args:
        baselines: each is trained to the end.
        trials: of the space.
        exact: whether these are the very trials; otherwise their mean counts.
    """

    baselines: list[TrialConfig]
    trials: list[TrialConfig]
    exact: bool

    @property
    def all(self) -> list[TrialConfig]:
        """Baselines first."""
        return [*self.baselines, *self.trials]


def sample_trials(
    config: SearchConfig,
    baselines: Sequence[TrialConfig],
    fits: Callable[[TrialConfig], bool] = lambda _: True,
) -> Sample:
    """The search's configurations, where they are known, or a random sample of them.

    Args:
        baselines: that it begins with.
        fits: whether a configuration keeps the limits; others are never trained, and left out.
    """
    space = config.space.build()
    exact = config.sampler.kind == "grid" or space.size() == 1
    if config.sampler.kind == "grid":
        points = [one.config for one in enumerate_configs(space)]
        legal = list(_legal(points, fits))[: config.budget.trials]
    elif exact:
        legal = list(_legal(sample_configs(space, 1), fits)) * config.budget.trials
    else:
        drawn = sample_configs(space, _DRAWS if config.limits else SAMPLES)
        legal = list(islice(_legal(drawn, fits), SAMPLES))
    return Sample([trial for trial in baselines if fits(trial)], legal, exact)


def _legal(
    drawn: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]],
    fits: Callable[[TrialConfig], bool],
) -> Iterator[TrialConfig]:
    for data in drawn:
        try:
            trial = TrialConfig.from_dict(data)
        except LatentuneError:  # a run draws again
            continue
        if fits(trial):
            yield trial


@dataclass(frozen=True)
class Work:
    """What is left of a search: trials that begin at step 0.

    Args:
        baselines: how many.
        trials: how many of the space.
    """

    baselines: int
    trials: int

    @classmethod
    def whole(cls, config: SearchConfig, sample: Sample) -> Work:
        """All of a search; a grid may hold less than its budget."""
        most = config.budget.trials
        trials = min(most, len(sample.trials)) if sample.exact else most
        return cls(len(sample.baselines), trials)


@dataclass(frozen=True)
class Costs:
    """The survey of a `Sample`, and what was measured.

    Args:
        step_tokens: per configuration of `Sample.all`.
        score_tokens: likewise.
        baselines: how many of these come first and are baselines.
        calibration: a `Calibration` as plain data; None where nothing was measured.
        gpus: that the engine has.
        test_tokens: likewise, of the rows that a confirmation scores.
    """

    step_tokens: Sequence[float]
    score_tokens: Sequence[float]
    baselines: int
    calibration: Mapping[str, Any] | None = None
    gpus: int = 0
    warnings: Sequence[str] = field(default_factory=list)
    test_tokens: Sequence[float] = ()


def estimate(config: SearchConfig, costs: Costs, work: Work) -> Estimate:
    """What the work will cost; seconds and what follows from them only where measured."""
    rungs, first = config.rungs(), costs.baselines
    halving = config.stopping.kind == "asha"
    arrivals = (
        expected_arrivals(work.trials, rungs, config.stopping.factor)
        if halving
        else [float(work.trials)] * len(rungs)
    )
    lengths = [end - begin for begin, end in zip([0, *rungs], rungs, strict=False)]
    steps = sum(a * n for a, n in zip(arrivals, lengths, strict=True))
    mean_step, mean_score = _means(costs)
    base_step, base_score = sum(costs.step_tokens[:first]), sum(costs.score_tokens[:first])
    share = work.baselines / first if first else 0.0
    train_tokens = steps * mean_step + share * base_step * rungs[-1]
    score_tokens = sum(arrivals) * mean_score + share * base_score * len(rungs)
    found = Estimate(
        trials=work.trials + work.baselines,
        steps=steps + share * rungs[-1] * sum(t > 0 for t in costs.step_tokens[:first]),
        most_steps=(work.trials + work.baselines) * rungs[-1],
        train_tokens=train_tokens,
        score_tokens=score_tokens,
        gpus=costs.gpus,
        confirmation=confirmation_estimate(
            config, _member_tokens(costs), costs.calibration, costs.gpus
        ),
    )
    if costs.calibration is None:
        return found
    return _timed(config, found, costs.calibration)


def _member_tokens(costs: Costs) -> MemberTokens:
    """Of the configurations of the space that a confirmation may train: those with latents."""
    places = [n for n in range(costs.baselines, len(costs.step_tokens)) if costs.step_tokens[n] > 0]
    if not places:
        return MemberTokens(0.0, 0.0, 0.0)
    return MemberTokens(
        step=fmean(costs.step_tokens[n] for n in places),
        score=fmean(costs.score_tokens[n] for n in places),
        test=fmean(costs.test_tokens[n] for n in places) if costs.test_tokens else 0.0,
    )


def _means(costs: Costs) -> tuple[float, float]:
    """Of the trials of the space, per step and per scoring."""
    first = costs.baselines
    if len(costs.step_tokens) <= first:
        return 0.0, 0.0
    return fmean(costs.step_tokens[first:]), fmean(costs.score_tokens[first:])


def _timed(config: SearchConfig, found: Estimate, measured: Mapping[str, Any]) -> Estimate:
    train_s = found.train_tokens * measured["train_s_per_token"]
    score_s = found.score_tokens * measured["score_s_per_token"]
    other_s = START_S + TRIAL_S * found.trials
    seconds = train_s + score_s + other_s
    price = config.budget.price_per_hour
    return found.model_copy(
        update={
            "seconds": seconds,
            "train_s": train_s,
            "score_s": score_s,
            "other_s": other_s,
            "memory_bytes": measured["memory_bytes"],
            "device": measured["device"],
            "calibration_s": measured["took_s"],
            "gpu_hours": seconds / 3600 * found.gpus,
            "money": None if price is None else seconds / 3600 * price,
        }
    )


def budget_warnings(config: SearchConfig, costs: Costs, found: Estimate) -> list[str]:
    """Budgets that end the search before its end, or before a single rung."""
    budget, rung = config.budget, config.rungs()[0]
    first_rung = {
        "total_steps": float(rung),
        "tokens": _means(costs)[0] * rung,
        "time_s": _seconds_of_a_rung(config, costs),
    }
    whole = {"total_steps": found.steps, "tokens": found.train_tokens, "time_s": found.seconds}
    whole |= {"gpu_hours": found.gpu_hours, "money": found.money}
    lines, limits = [], budget.model_dump()
    for name, needed in whole.items():
        given = limits[name]
        if given is None or needed is None or given >= needed:
            continue
        least = first_rung.get(name) or 0.0
        lines.append(
            f"budget.{name}={given:g} is too small for one rung of {rung} steps (about {least:.3g})"
            if given < least
            else f"budget.{name}={given:g} ends the search early: about {needed:.3g} expected"
        )
    lines += _confirmation_warnings(config, found)
    if config.stopping.kind == "asha" and 1 < len(config.rungs()) and budget.trials < 2:
        lines.append("budget.trials=1: early stopping has nobody to compare it with")
    return lines


def _confirmation_warnings(config: SearchConfig, found: Estimate) -> Iterator[str]:
    """Budgets that cover the search, but not its confirmation as well."""
    if found.confirmation is None:
        return
    for name in ("gpu_hours", "money"):
        given, own = getattr(config.budget, name), getattr(found, name)
        more = getattr(found.confirmation, name)
        if None not in (given, own, more) and own <= given < own + more:
            yield (
                f"budget.{name}={given:g} covers the search, but may not cover its confirmation: "
                f"about {own + more:.3g} for both; it is not begun then"
            )


def _seconds_of_a_rung(config: SearchConfig, costs: Costs) -> float | None:
    if costs.calibration is None:
        return None
    tokens = _means(costs)[0] * config.rungs()[0] * config.engine.concurrent_trials
    return START_S + float(tokens * costs.calibration["train_s_per_token"])


def estimate_lines(found: Estimate) -> list[str]:
    """The estimate for people."""
    lines = [
        f"{found.trials} trials, about {found.steps:.0f} optimiser steps (at most "
        f"{found.most_steps}), {millions(found.train_tokens)} tokens of training and "
        f"{millions(found.score_tokens)} of scoring"
    ]
    if found.seconds is not None:
        money = "" if found.money is None else f", {found.money:.2f} in money"
        hours = f", {found.gpu_hours:.2f} GPU-hours" if found.gpus else ""
        assert found.memory_bytes is not None
        lines.append(
            f"estimated: {span(found.seconds)} on {found.device}, of which {span(found.train_s)} "
            f"training and {span(found.score_s)} scoring; {found.memory_bytes / 2**30:.1f} GiB of "
            f"memory{hours}{money}"
        )
    if found.confirmation is not None:
        lines.append(confirmation_line(found.confirmation))
    return lines
