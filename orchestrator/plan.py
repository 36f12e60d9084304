"""What a search would do, before it does anything: its rows, delimiters and strategies.

No weight is read and nothing is written but the cache of a person's own rows.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator.config import SearchConfig
from orchestrator.driver import baseline_configs
from orchestrator.feasibility import (
    context_of_source,
    legal_strategies,
    model_source,
    refusal,
    refuse_if_all,
)
from orchestrator.folders import home_folder
from orchestrator.results import SCHEMA_VERSION, OverlapRecord, Record
from orchestrator.search_data import checked_task
from trainable.data import EncodedTask, Split
from trainable.delimiters import Vocabulary
from trainable.layout import whole_layout
from trainable.lengths import check_verbal_lengths, row_limit
from trainable.records.report import DataReport
from trainable.strategy import InsertionStrategy

_ROWS = 32  # that a strategy's cost is measured on
_SHOWN_TOKENS, _SHOWN_STRATEGIES = 12, 12


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
        refused: why a trial of it would be refused; None where it would not.
    """

    latents: int
    extra_tokens_pct: float
    longest: int
    refused: str | None = None


class Plan(Record):
    """What a search would do.

    Args:
        context: the base model's, in tokens; None where it sets no limit.
        most_trial_steps: optimiser steps of all trials, if none were stopped early.
        strategies: by short name; of a large space a sample.
        overlap: of a person's own rows, per split, what of it stands in train as well.
        notes: what is odd about such rows and no error.
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


def plan_search(config: SearchConfig) -> Plan:
    """Work out what a search would do.

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
    strategies = {strategy.short_name: strategy for strategy in legal_strategies(config)}
    patterns = {
        t.pattern: None for s in strategies.values() for t in s.triggers.values() if t.pattern
    }
    refusals = {
        name: refusal(strategy, vocabulary, data, config, context)
        for name, strategy in strategies.items()
    }
    refuse_if_all(list(refusals.values()))
    baselines = len(baseline_configs()) * config.space.baselines
    return Plan(
        name=config.name,
        context=context,
        vocabulary=vocabulary_size,
        trials=config.budget.trials,
        baselines=baselines,
        most_trial_steps=(config.budget.trials + baselines) * config.budget.steps,
        splits={split: _split(data, split) for split in data.splits},
        delimiters={pattern: _delimiter(vocabulary, pattern) for pattern in patterns},
        strategies={
            name: _cost(strategy, vocabulary, data, refusals[name])
            for name, strategy in strategies.items()
        },
        overlap={} if report is None else _overlaps(report),
        notes=[] if report is None else report.notes,
    )


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


def _cost(
    strategy: InsertionStrategy, vocabulary: Vocabulary, data: EncodedTask, refused: str | None
) -> StrategyPlan:
    rules, rows = vocabulary.rules(strategy), data.rows("val_id")
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int))
    layouts = [
        whole_layout(rules, row.ids, row.query_length).without_pending()
        for row in (rows[int(place)] for place in chosen)
    ]
    latents = sum(layout.latent_count for layout in layouts)
    slots = sum(map(len, layouts))
    return StrategyPlan(
        latents=strategy.latent_count,
        extra_tokens_pct=100.0 * latents / (slots - latents),
        longest=max(map(len, layouts)),
        refused=refused,
    )


def print_plan(console: Console, plan: Plan) -> None:
    """The plan for people."""
    splits = Table("split", "rows", "shortest", "longest", title=f"{plan.name}: rows and tokens")
    for split, found in plan.splits.items():
        dropped = f" ({found.dropped} dropped)" if found.dropped else ""
        splits.add_row(split, f"{found.rows}{dropped}", str(found.shortest), f"{found.longest}")
    console.print(splits)
    lines = [
        f"{split}: {one.prompts} rows with a prompt that train has too, {one.rows} of them whole"
        for split, one in plan.overlap.items()
    ]
    for line in [*lines, *plan.notes]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for pattern, delimiter in plan.delimiters.items():
        shown = "  ".join(repr(text) for text in delimiter.tokens)
        more = "" if delimiter.ids <= len(delimiter.tokens) else "  ..."
        console.print(
            f"delimiter {pattern!r} matches {delimiter.ids} of {plan.vocabulary} tokens: "
            f"{shown or 'none, so it makes no site'}{more}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    console.print(_strategy_table(plan))
    refused = [cost.refused for cost in plan.strategies.values() if cost.refused]
    if refused:
        console.print(
            f"* {len(refused)} of {len(plan.strategies)} strategies would be refused: {refused[0]}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    console.print(
        f"context {plan.context or 'without limit'}; {plan.trials} trials and {plan.baselines} "
        f"baselines, at most {plan.most_trial_steps} optimiser steps in all",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _strategy_table(plan: Plan) -> Table:
    """The strategies by cost; of many, evenly spread ones, cheapest and dearest among them."""
    ranked = sorted(plan.strategies.items(), key=lambda item: item[1].extra_tokens_pct)
    places = np.unique(np.linspace(0, len(ranked) - 1, _SHOWN_STRATEGIES).astype(int))
    title = f"strategies by cost, {len(places)} of {len(ranked)}"
    table = Table("strategy", "latents", "extra tokens", "longest row", title=title)
    for name, cost in (ranked[int(place)] for place in places):
        mark = " *" if cost.refused else ""
        table.add_row(
            name + mark, str(cost.latents), f"{cost.extra_tokens_pct:.0f} %", str(cost.longest)
        )
    return table
