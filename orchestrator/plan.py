"""What a search would do, before it does anything: rows, delimiters, strategies, and the bill.

Nothing is written but the cache of a person's own rows, and no weight is read but to measure how
fast the model is here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from orchestrator.config import SearchConfig
from orchestrator.costs import EXTRA_TOKENS, LayoutCosts, check_reachable
from orchestrator.estimate import Costs, Sample, Work, budget_warnings, estimate, sample_trials
from orchestrator.feasibility import (
    context_of_source,
    legal_trials,
    model_source,
    refusal,
    refuse_if_all,
)
from orchestrator.folders import home_folder
from orchestrator.layout_text import layout_text
from orchestrator.opening import baseline_configs, engine_options
from orchestrator.results import SCHEMA_VERSION, Estimate, OverlapRecord, Record
from orchestrator.search_data import checked_task
from trainable.data import SEARCH_SPLITS, TEST_SPLITS, EncodedTask, Split
from trainable.delimiters import Vocabulary
from trainable.errors import TaskError
from trainable.layout import whole_layout
from trainable.lengths import check_verbal_lengths, long_train_rows, row_limit
from trainable.records.report import DataReport
from trainable.token_count import survey, tokens_of_tests, train_tokens
from trainable.trial import TrialConfig

_ROWS = 32  # that a strategy's cost is measured on
_SHOWN_TOKENS = 12
_COUNTED_STRATEGIES = 32  # in full; of more, the rows of some steps stand for all
_COUNTED_STEPS = 4


class SplitPlan(Record):
    """A split's rows and their verbal tokens."""

    rows: int
    dropped: int
    shortest: int
    longest: int


class DelimiterPlan(Record):
    """What a pattern matches.

    Args:
        ids: how many ids of the vocabulary.
        tokens: their texts, the shortest first, at most a dozen.
    """

    ids: int
    tokens: list[str]


class StrategyPlan(Record):
    """What a strategy costs.

    Args:
        latents: L, the rows that are trained.
        extra_tokens_pct: 100 · latents / verbal tokens over some rows of val_id.
        longest: tokens of the longest of those rows, latents included.
        train_tokens: of a full trial, latents included; exact in a space of few strategies, else
            from a few steps.
        sample: the beginning of a row of val_id, with the latents visible.
        refused: why a trial of it would be refused; None where it would not.
    """

    latents: int
    extra_tokens_pct: float
    longest: int
    train_tokens: int
    sample: str
    refused: str | None = None


class Plan(Record):
    """What a search would do.

    Args:
        context: the base model's, in tokens; None where it sets no limit.
        trials: of the space; a grid may hold fewer than budget.trials, those beyond a limit
            left out.
        most_trial_steps: optimiser steps of all trials, if none were stopped early.
        strategies: by short name; of a large space a sample.
        overlap: of a person's own rows, per split, what of it stands in train as well.
        notes: what is odd about such rows and no error.
        estimate: what all trials will cost, and under `confirmation` what confirming the winner
            will; seconds only where they were measured.
        exact: whether the search's tokens are exact: every configuration that will be trained is
            known, and none is stopped.
        warnings: what is probably not meant.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    context: int | None
    vocabulary: int
    trials: int
    baselines: int
    most_trial_steps: int
    splits: dict[Split, SplitPlan]
    delimiters: dict[str, DelimiterPlan]
    strategies: dict[str, StrategyPlan]
    overlap: dict[str, OverlapRecord]
    notes: list[str]
    estimate: Estimate
    exact: bool
    warnings: list[str]


def plan_search(config: SearchConfig, *, calibrate: bool = True) -> Plan:
    """Work out what a search would do.

    Args:
        calibrate: load the model and time a few steps; without, no seconds are known.

    Raises:
        TaskError, BaseModelError, ConfigError: as a run would, for what cannot be used.
    """
    source = model_source(config)
    context = context_of_source(source)
    vocabulary_size = source.config().get_text_config(decoder=True).vocab_size
    tokenizer = source.tokenizer()
    task, report = checked_task(config, home_folder(), tokenizer)
    drops = config.data.long_rows == "drop"
    data = EncodedTask(
        task,
        tokenizer,
        drop_above=row_limit(context, config.data.max_tokens) if drops else None,
    )
    check_verbal_lengths(data, context, config.data.max_tokens)
    vocabulary = Vocabulary(tokenizer, vocabulary_size)
    trials = {trial.strategy.short_name: trial for trial in legal_trials(config)}
    strategies = [trial.strategy for trial in trials.values()]
    patterns = {t.pattern: None for s in strategies for t in s.triggers.values() if t.pattern}
    refusals = {
        name: refusal(trial.strategy, vocabulary, data, config, context)
        for name, trial in trials.items()
    }
    refuse_if_all(list(refusals.values()))
    layouts = LayoutCosts(config, data, vocabulary)
    check_reachable(config, layouts)
    refusals |= _beyond(config, trials, layouts)
    sample = sample_trials(config, baseline_configs() * config.space.baselines, layouts.fits)
    costs = _costs(config, sample, data, vocabulary, calibrate=calibrate)
    work = Work.whole(config, sample)
    found = estimate(config, costs, work)
    few = len(trials) <= _COUNTED_STRATEGIES
    return Plan(
        name=config.name,
        context=context,
        vocabulary=vocabulary_size,
        trials=work.trials,
        baselines=work.baselines,
        most_trial_steps=(work.trials + work.baselines) * config.budget.steps,
        splits={split: _split(data, split) for split in data.splits},
        delimiters={pattern: _delimiter(vocabulary, pattern) for pattern in patterns},
        strategies={
            name: _cost(trial, vocabulary, data, config, refusals[name], few=few)
            for name, trial in trials.items()
        },
        overlap={} if report is None else _overlaps(report),
        notes=[] if report is None else report.notes,
        estimate=found,
        exact=sample.exact and config.stopping.kind == "none",
        warnings=[*costs.warnings, *budget_warnings(config, costs, found)],
    )


def _beyond(
    config: SearchConfig, trials: Mapping[str, TrialConfig], costs: LayoutCosts
) -> dict[str, str]:
    """By name, why strategies beyond a limit are never trained."""
    return {
        name: f"limits.{EXTRA_TOKENS}={config.limits[EXTRA_TOKENS]:g} is below its "
        f"{costs.extra_tokens_pct(trial.strategy):.1f} %"
        for name, trial in trials.items()
        if not costs.fits(trial)
    }


def _split(data: EncodedTask, split: Split) -> SplitPlan:
    lengths_N = data.lengths(split)
    return SplitPlan(
        rows=len(lengths_N),
        dropped=data.dropped(split),
        shortest=int(lengths_N.min()),
        longest=int(lengths_N.max()),
    )


def _delimiter(vocabulary: Vocabulary, pattern: str) -> DelimiterPlan:
    ids = np.flatnonzero(vocabulary.matches(pattern))
    texts = sorted((vocabulary.texts[i] for i in ids), key=lambda text: (len(text), text))
    return DelimiterPlan(ids=len(ids), tokens=texts[:_SHOWN_TOKENS])


def _overlaps(report: DataReport) -> dict[str, OverlapRecord]:
    return {s: OverlapRecord.model_validate(asdict(one)) for s, one in report.overlap.items()}


def _costs(
    config: SearchConfig,
    sample: Sample,
    data: EncodedTask,
    vocabulary: Vocabulary,
    *,
    calibrate: bool,
) -> Costs:
    """The survey of a sample; where every trial is known, with exact counts of training."""
    splits = [split for split in SEARCH_SPLITS if split in data.splits]
    found = survey(sample.all, vocabulary, data, splits, config.data.seed)
    step_tokens = found.step_tokens
    if sample.exact:
        step_tokens = [
            _tokens(trial, vocabulary, data, config, config.budget.steps) / config.budget.steps
            for trial in sample.all
        ]
    measured = _calibrated(config, sample, data, splits) if calibrate else {}
    tests = [split for split in TEST_SPLITS if split in data.splits and config.confirm.enabled]
    return Costs(
        step_tokens,
        found.score_tokens,
        len(sample.baselines),
        warnings=found.warnings,
        test_tokens=tokens_of_tests(sample.all, vocabulary, data, tests, config.confirm.rows),
        **measured,
    )


def _calibrated(
    config: SearchConfig, sample: Sample, data: EncodedTask, splits: Sequence[Split]
) -> dict[str, Any]:
    """Time a few steps on this machine, as an engine of the search would do them."""
    import torch

    from trainable.base_model.loading import load_base
    from trainable.calibration import calibrate
    from trainable.engine import Engine

    base_options, options = engine_options(config)
    before = torch.get_num_threads()
    torch.set_num_threads(options.pop("threads") or os.cpu_count() or 1)
    try:
        compiled = options.pop("compile")
        engine = Engine(load_base(**base_options), compiled=compiled, **options)
        fused = sample.trials[: config.engine.concurrent_trials]
        measured = calibrate(engine, data, fused, splits, data_seed=config.data.seed)
    finally:
        torch.set_num_threads(before)
    on_gpu = engine.base.model.device.type == "cuda"
    return {"calibration": None if measured is None else asdict(measured), "gpus": int(on_gpu)}


def _tokens(
    trial: TrialConfig, vocabulary: Vocabulary, data: EncodedTask, config: SearchConfig, steps: int
) -> int:
    rules, most, dropped_N = vocabulary.rules(trial.strategy), config.data.max_tokens, None
    if most is not None and config.data.long_rows == "drop":
        with suppress(TaskError):  # the trial is refused; that is told by itself
            dropped_N = long_train_rows(trial.strategy, rules, data, most)
    return train_tokens(
        trial, rules, data, data_seed=config.data.seed, begin=0, end=steps, dropped_N=dropped_N
    )


def _cost(
    trial: TrialConfig,
    vocabulary: Vocabulary,
    data: EncodedTask,
    config: SearchConfig,
    refused: str | None,
    *,
    few: bool,
) -> StrategyPlan:
    strategy, rows = trial.strategy, data.rows("val_id")
    rules = vocabulary.rules(strategy)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int))
    layouts = [
        whole_layout(rules, row.ids, row.query_length).without_pending()
        for row in (rows[int(place)] for place in chosen)
    ]
    latents = sum(layout.latent_count for layout in layouts)
    slots, steps = sum(map(len, layouts)), config.budget.steps
    counted = steps if few else min(steps, _COUNTED_STEPS)
    return StrategyPlan(
        latents=strategy.latent_count,
        extra_tokens_pct=100.0 * latents / (slots - latents),
        longest=max(map(len, layouts)),
        train_tokens=round(_tokens(trial, vocabulary, data, config, counted) * steps / counted),
        sample=layout_text(strategy, vocabulary, rows[0]),
        refused=refused,
    )
