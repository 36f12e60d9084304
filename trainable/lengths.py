"""How long rows are, with and without their latents, and what becomes of those too long.

context         the base model's: no row of verbal tokens may be longer
max_tokens      the user's: latents count
refuse | drop   a longer row is an error, or it is left out and counted; none is ever cut
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainable.data import SEARCH_SPLITS, EncodedRow, EncodedTask, Example, Ints, Split
from trainable.errors import TaskError
from trainable.layout import whole_layout
from trainable.layout_rules import Bools, LayoutRules
from trainable.records.problems import RowProblems
from trainable.strategy import InsertionStrategy, PositionRule


def row_limit(context: int | None, max_tokens: int | None) -> int | None:
    """The most verbal tokens that a row may have; None where nothing limits it."""
    known = [limit for limit in (context, max_tokens) if limit is not None]
    return min(known, default=None)


def check_verbal_lengths(data: EncodedTask, context: int | None, max_tokens: int | None) -> None:
    """Refuse rows that no strategy could carry, in any split.

    Raises:
        BadRowsError: naming all rows of files that, without any latent, are too long for the
            model or `max_tokens`.
        TaskError: if a row that was made is.
    """
    problems, limit = RowProblems(), row_limit(context, max_tokens)
    if limit is None:
        return
    for split in data.splits:
        lengths_R = data.lengths(split)
        for place in np.flatnonzero(lengths_R > limit):
            # A million rows may be too long; where one stands is looked up for those shown.
            origin = "" if problems.is_full else data.example(split, int(place)).origin
            if not origin and not problems.is_full:
                longest = int(lengths_R.max())
                raise TaskError(_made_row_too_long(split, longest, context, max_tokens))
            length = int(lengths_R[place])
            over = f"data.max_tokens={max_tokens}"
            if context is not None and length > context:
                over = f"the base model's context of {context}"
            problems.add(origin, None, f"{length} tokens, in {split}, are above {over}")
    problems.raise_any("shorten these rows, or write data.long_rows: drop to leave them out")


def _made_row_too_long(
    split: Split, longest: int, context: int | None, max_tokens: int | None
) -> str:
    if context is not None and longest > context:
        return (
            f"task: a row of {split} has {longest} tokens, the base model's context is "
            f"{context}: shorten the task's rows, write data.long_rows: drop to leave such "
            "rows out, or take another base_model.path"
        )
    return (
        f"data.max_tokens={max_tokens}: a row of {split} has {longest} tokens before "
        "any latent: raise it, shorten the task's rows, or write data.long_rows: drop to "
        "leave such rows out"
    )


def check_data_rows(
    examples: Sequence[Example], rows: Sequence[EncodedRow], rules: LayoutRules, context: int | None
) -> None:
    """Refuse rows of files that the model cannot read with some latents.

    Raises:
        BadRowsError: naming all rows that need more positions than the context has.
    """
    problems = RowProblems()
    if context is None:
        return
    for example, row in zip(examples, rows, strict=True):
        needed = len(row.ids)
        if rules.position_rule is PositionRule.OWN:
            needed = len(whole_layout(rules, row.ids, row.query_length))
        if needed > context:
            wrong = f"it needs {needed} positions, the base model's context is {context}"
            problems.add(example.origin, None, wrong)
    problems.raise_any("shorten these rows, prompt or reference, or leave them out")


def answer_room(
    rules: LayoutRules, row: EncodedRow, context: int | None, wanted: int
) -> int | None:
    """How many tokens an answer to a row's query may have within the context.

    Returns:
        At most `wanted`; None where latents take positions too, and enough of them for the
        context might stand in the answer: then only the answer itself tells.
    """
    if context is None:
        return wanted
    if rules.position_rule is not PositionRule.OWN:
        return max(0, min(wanted, context - row.query_length))
    splices = (*rules.latent_first, *rules.verbal_after)
    most_per_gap = sum(splice.trigger.m for splice in splices)
    slots = len(whole_layout(rules, row.ids[: row.query_length], row.query_length))
    return wanted if slots + wanted * (1 + most_per_gap) <= context else None


def check_own_positions(
    strategy: InsertionStrategy, rules: LayoutRules, data: EncodedTask, context: int
) -> None:
    """Refuse rows whose latents, with positions of their own, leave the model's context.

    Raises:
        TaskError: naming the split and the longest row's length.
    """
    for split in data.splits:
        longest = int(_lengths_near(strategy, rules, data, split, context).max())
        if longest > context:
            raise TaskError(
                f"strategy.position_rule: own needs {longest} positions for a row of {split}, the "
                f"base model's context is {context}: use following, shorten the task's rows, or "
                f"insert less than {strategy.short_name}"
            )


def refuse_long(
    strategy: InsertionStrategy, rules: LayoutRules, data: EncodedTask, max_tokens: int
) -> None:
    """Refuse a strategy whose latents make a row of training or of scoring too long.

    Raises:
        TaskError: naming the split and the longest row's length.
    """
    for split in ("train", *(split for split in SEARCH_SPLITS if split in data.splits)):
        longest = int(_lengths_near(strategy, rules, data, split, max_tokens).max())
        if longest > max_tokens:
            raise TaskError(
                f"a row of {split} has {longest} tokens with its latents, above "
                f"data.max_tokens={max_tokens}: raise it, shorten the task's rows, insert less "
                f"than {strategy.short_name}, or write data.long_rows: drop"
            )


def long_train_rows(
    strategy: InsertionStrategy, rules: LayoutRules, data: EncodedTask, max_tokens: int
) -> Bools | None:
    """[R], which training rows are too long with a strategy's latents; None where none is.

    Raises:
        TaskError: if no row is left to train on.
    """
    long_R = _lengths_near(strategy, rules, data, "train", max_tokens) > max_tokens
    if long_R.all():
        raise TaskError(
            f"every training row has more than data.max_tokens={max_tokens} tokens with the "
            f"latents of {strategy.short_name}: raise it, or insert less"
        )
    return long_R if long_R.any() else None


def _lengths_near(
    strategy: InsertionStrategy,
    rules: LayoutRules,
    data: EncodedTask,
    split: Split,
    max_tokens: int,
) -> Ints:
    """[R], the tokens of each row with its latents; without them where it cannot matter.

    No more than one group of each trigger stands in each gap between verbal tokens, which
    settles most rows of a large task without laying them out.
    """
    lengths_R = data.lengths(split).copy()
    most_per_gap = sum(trigger.m for trigger in strategy.triggers.values())
    rows = data.rows(split)
    for place in np.flatnonzero(lengths_R + (lengths_R + 1) * most_per_gap > max_tokens):
        row = rows[int(place)]
        lengths_R[place] = len(whole_layout(rules, row.ids, row.query_length))
    return lengths_R
