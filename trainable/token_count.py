"""How many tokens a trial is trained on and scored on, counted on layouts, without a model.

Exact, because layouts and the order of examples are: `train_tokens` is what an engine will put
through its model, padding left out. `Survey` is the cheap kind, from the first rows alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainable.data import EncodedRow, EncodedTask, ExampleStream, Split
from trainable.delimiters import Vocabulary
from trainable.layout import whole_layout
from trainable.layout_rules import Bools, LayoutRules
from trainable.trial import TrialConfig
from trainable.trigger import Region, Trigger, TriggerKind

SURVEYED_ROWS = 16
_TEXT_ROWS = 4096  # that a delimiter is looked for in


@dataclass(frozen=True)
class Survey:
    """What configurations cost, each per optimiser step and per scoring; means over some rows.

    Args:
        step_tokens: per configuration; 0 where there is nothing to train.
        score_tokens: per configuration, of all rows of all splits that trials are scored on.
        warnings: triggers that never make a site.
    """

    step_tokens: list[float]
    score_tokens: list[float]
    warnings: list[str]


def train_tokens(
    trial: TrialConfig,
    rules: LayoutRules,
    data: EncodedTask,
    *,
    data_seed: int,
    begin: int,
    end: int,
    dropped_N: Bools | None = None,
) -> int:
    """The tokens, latents included, of a trial's optimiser steps from `begin` up to `end`.

    Args:
        data_seed: the search's, which orders the examples.
        dropped_N: which training rows are left out; None is none.
    """
    if not trial.strategy.triggers:
        return 0  # there is nothing to train
    rows = data.rows("train")
    stream, batch = ExampleStream(len(rows), data_seed), trial.optim.batch_rows
    places = [place for step in range(begin, end) for place in stream.rows(step, batch)]
    times_R = np.bincount(np.array(places, dtype=np.int64), minlength=len(rows))
    if dropped_N is not None:
        times_R[dropped_N] = 0
    read = np.flatnonzero(times_R)
    return sum(int(times_R[place]) * row_tokens(rules, rows[int(place)]) for place in read)


def row_tokens(rules: LayoutRules, row: EncodedRow) -> int:
    """The tokens of a row with its latents."""
    return len(whole_layout(rules, row.ids, row.query_length).without_pending())


def survey(
    trials: Sequence[TrialConfig],
    vocabulary: Vocabulary,
    data: EncodedTask,
    splits: Sequence[Split],
    data_seed: int,
) -> Survey:
    """Estimate what configurations cost, from a few rows of each split."""
    rows = data.rows("train")
    stream = ExampleStream(len(rows), data_seed)
    first = [rows[place] for place in stream.rows(0, min(SURVEYED_ROWS, len(rows)))]
    scored = {split: _spread(data, split) for split in splits}
    per_row: dict[str, tuple[float, float]] = {}
    step_tokens, score_tokens = [], []
    for trial in trials:
        key = repr(trial.strategy.to_dict())
        if key not in per_row:
            rules = vocabulary.rules(trial.strategy)
            per_row[key] = (
                _mean(rules, first) if trial.strategy.triggers else 0.0,
                sum(_mean(rules, some) * len(data.rows(s)) for s, some in scored.items()),
            )
        train, score = per_row[key]
        step_tokens.append(train * trial.optim.batch_rows)
        score_tokens.append(score)
    return Survey(step_tokens, score_tokens, idle_triggers(trials, vocabulary, data))


def tokens_of_tests(
    trials: Sequence[TrialConfig],
    vocabulary: Vocabulary,
    data: EncodedTask,
    splits: Sequence[Split],
    rows_per_distance: int | None,
) -> list[float]:
    """Estimate, per configuration, the tokens of one scoring on the rows that a confirmation takes.

    Args:
        splits: the test splits.
        rows_per_distance: at most so many rows of each distance; None is all.
    """
    read = [(_spread(data, split), _row_count(data, split, rows_per_distance)) for split in splits]
    per_row: dict[str, float] = {}
    for trial in trials:
        key = repr(trial.strategy.to_dict())
        if key not in per_row:
            rules = vocabulary.rules(trial.strategy)
            per_row[key] = sum(_mean(rules, some) * count for some, count in read)
    return [per_row[repr(trial.strategy.to_dict())] for trial in trials]


def _row_count(data: EncodedTask, split: Split, rows_per_distance: int | None) -> int:
    rows = data.rows(split)
    if rows_per_distance is None:
        return len(rows)
    counts = Counter(row.distance for row in rows)
    return sum(min(count, rows_per_distance) for count in counts.values())


def _spread(data: EncodedTask, split: Split) -> list[EncodedRow]:
    """Some rows of a split, evenly from its first to its last."""
    rows = data.rows(split)
    places = np.linspace(0, len(rows) - 1, min(SURVEYED_ROWS, len(rows))).astype(int)
    return [rows[int(place)] for place in np.unique(places)]


def _mean(rules: LayoutRules, rows: Sequence[EncodedRow]) -> float:
    return float(np.mean([row_tokens(rules, row) for row in rows]))


def idle_triggers(
    trials: Sequence[TrialConfig], vocabulary: Vocabulary, data: EncodedTask
) -> list[str]:
    """A line for each trigger that makes no site in any training row."""
    named = {repr(t): (name, t) for one in trials for name, t in one.strategy.triggers.items()}
    longest = int(data.lengths("train").max())
    seen: dict[Region | None, Bools] = {}
    lines = []
    for name, trigger in named.values():
        if trigger.kind is TriggerKind.EVERY and (trigger.k or 0) >= longest:
            lines.append(
                f"trigger {name}: k={trigger.k} is longer than every training row (at most "
                f"{longest} tokens), so it makes no site"
            )
        elif trigger.kind is TriggerKind.DELIMITER:
            if trigger.region not in seen:
                seen[trigger.region] = _ids_seen(trigger, vocabulary, data)
            if not (seen[trigger.region] & vocabulary.matches(str(trigger.pattern))).any():
                where = "" if trigger.region is Region.BOTH else f" in the {trigger.region}"
                lines.append(
                    f"trigger {name}: the delimiter {trigger.pattern!r} never occurs{where} in the "
                    "training rows, so it makes no site"
                )
    return list(dict.fromkeys(lines))


def _ids_seen(trigger: Trigger, vocabulary: Vocabulary, data: EncodedTask) -> Bools:
    """[V], the ids of the part of the training rows where a trigger may make sites."""
    seen_V = np.zeros(len(vocabulary.texts), dtype=bool)
    rows = data.rows("train")
    for place in range(min(len(rows), _TEXT_ROWS)):
        row = rows[place]
        begin = row.query_length if trigger.region is Region.RESPONSE else 0
        end = row.query_length if trigger.region is Region.QUERY else len(row.ids)
        seen_V[row.ids[begin:end]] = True
    return seen_V
