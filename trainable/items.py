"""Many trained latents on the same items, item by item: what a confirmation compares.

A search keeps a trial's means. To say whether two configurations differ one needs to know on
which items, so here every row of a split gets a yes or no for every member of a confirmation,
all of them in the same batches. And to build controls that insert as much as the winner does,
one needs to count what a strategy inserts.

Shape suffixes: M members, N items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from trainable.batch import prepare
from trainable.data import EncodedRow, EncodedTask, Split
from trainable.engine import Engine
from trainable.item_scores import Insertion, ItemScores
from trainable.layout import advance, start_state
from trainable.metrics import EXACT_MATCH
from trainable.state import Floats
from trainable.strategy import InsertionStrategy

_PAIRS_AT_ONCE = 4096  # rows times members laid out at a time
_ROWS_AT_ONCE = 256  # the same, whatever the members


def insertion(
    engine: Engine, strategy: InsertionStrategy, data: EncodedTask, split: Split
) -> Insertion:
    """Count what a strategy inserts into a split."""
    rules = engine.resolve(strategy)
    latents = sites = tokens = 0
    for row in data.rows(split):
        layout, state = advance(rules, start_state(rules, row.ids[: row.query_length]), row.ids)
        latents += layout.without_pending().latent_count
        sites += state.pairs
        tokens += len(row.ids)
    count = len(data.rows(split))
    return Insertion(latents / count, sites / count, tokens / count)


def exact_matches(
    engine: Engine,
    members: Sequence[tuple[InsertionStrategy, Floats]],
    data: EncodedTask,
    split: Split,
    rows_per_distance: int | None = None,
    metric: str = EXACT_MATCH,
) -> ItemScores:
    """Score members teacher-forced on a split; they need not be in the engine.

    Args:
        members: each a strategy with its trained [L, D] latents.
        rows_per_distance: at most so many rows of each distance, the first ones; None is all.
        metric: another one that is wanted of each item, by its bare name. One that needs an
            answer's text is not in what is returned.
    """
    device = engine.base.model.device
    latents = [torch.from_numpy(array).to(device) for _, array in members]
    rules = [engine.resolve(strategy) for strategy, _ in members]
    places, rows = _first_rows(data, split, rows_per_distance)
    item_of = {id(row): item for item, row in enumerate(rows)}
    right_MN = np.zeros((len(members), len(rows)), dtype=bool)
    values_MN = np.full(right_MN.shape, np.nan)
    size = max(1, _PAIRS_AT_ONCE // max(1, len(members)))
    if engine.deterministic:  # a member's batches may not depend on how many others there are
        size = _ROWS_AT_ONCE
    for begin in range(0, len(rows), size):
        prepared = [
            prepare(owner, row, rule)
            for owner, rule in enumerate(rules)
            for row in rows[begin : begin + size]
        ]
        for row, right_N, nll_N in engine.forced_scores(prepared, latents):
            at = row.owner, item_of[id(row.row)]
            right_MN[at] = right_N.all()
            if metric != EXACT_MATCH:
                values_MN[at] = data.score(row.row, right_N, nll_N).get(metric, np.nan)
    distances = np.array([row.distance for row in rows], dtype=np.int64)
    there = metric != EXACT_MATCH and not np.isnan(values_MN).any()
    found = {metric: values_MN} if there else {}
    return ItemScores(distances, np.array(places, dtype=np.int64), right_MN, found)


def _first_rows(
    data: EncodedTask, split: Split, rows_per_distance: int | None
) -> tuple[list[int], list[EncodedRow]]:
    """The first rows of each distance, in the order of the split."""
    counts: dict[int, int] = {}
    places, rows = [], []
    for place, row in enumerate(data.rows(split)):
        counts[row.distance] = counts.get(row.distance, 0) + 1
        if rows_per_distance is None or counts[row.distance] <= rows_per_distance:
            places.append(place)
            rows.append(row)
    return places, rows
