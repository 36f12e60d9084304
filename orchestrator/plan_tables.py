"""The plan for people: tables, sample layouts, the bill, and what is probably not meant."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator.console import print_line
from orchestrator.estimate import estimate_lines
from orchestrator.plan import Plan

SHOWN_STRATEGIES, SHOWN_SAMPLES = 12, 6


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
        print_line(console, line)
    for pattern, delimiter in plan.delimiters.items():
        shown = "  ".join(repr(text) for text in delimiter.tokens)
        more = "" if delimiter.ids <= len(delimiter.tokens) else "  ..."
        print_line(
            console,
            f"delimiter {pattern!r} matches {delimiter.ids} of {plan.vocabulary} tokens: "
            f"{shown or 'none, so it makes no site'}{more}",
        )
    console.print(_strategy_table(plan))
    refused = [cost.refused for cost in plan.strategies.values() if cost.refused]
    if refused:
        print_line(
            console,
            f"* {len(refused)} of {len(plan.strategies)} strategies would be refused: {refused[0]}",
        )
    for name in _shown(plan)[:SHOWN_SAMPLES]:
        print_line(console, f"{name}: {plan.strategies[name].sample}")
    print_line(
        console,
        f"context {plan.context or 'without limit'}; {plan.trials} trials and {plan.baselines} "
        f"baselines, at most {plan.most_trial_steps} optimiser steps in all",
    )
    for line in estimate_lines(plan.estimate):
        print_line(console, line)
    if plan.exact:
        print_line(
            console,
            "the search's tokens of training are exact: each configuration is known beforehand",
        )
    for line in plan.warnings:
        print_line(console, f"warning: {line}")


def _strategy_table(plan: Plan) -> Table:
    """The strategies by cost; of many, evenly spread ones, cheapest and dearest among them."""
    names = _shown(plan)
    title = f"strategies by cost, {len(names)} of {len(plan.strategies)}"
    heads = ("strategy", "latents", "extra tokens", "longest row", "trained on")
    table = Table(*heads, title=title)
    for name in names:
        cost = plan.strategies[name]
        table.add_row(
            name + (" *" if cost.refused else ""),
            str(cost.latents),
            f"{cost.extra_tokens_pct:.0f} %",
            str(cost.longest),
            f"{cost.train_tokens:,}",
        )
    return table


def _shown(plan: Plan) -> list[str]:
    ranked = sorted(plan.strategies, key=lambda name: plan.strategies[name].extra_tokens_pct)
    places = np.unique(np.linspace(0, len(ranked) - 1, SHOWN_STRATEGIES).astype(int))
    return [ranked[int(place)] for place in places]
