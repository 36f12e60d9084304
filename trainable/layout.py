"""Layouts: a strategy applied to one sequence, as pure index arithmetic.

A sequence of verbal tokens s_0 … s_{n-1} is spelled out into slots. Around each s_i:

    ..  s_{i-1}  [latent-readout groups before s_i]  [verbal-readout groups before s_i]  s_i  ..
        `-------- known once s_{i-1} is --------'    `------ known once s_i is -------------'

Everything to the left of the middle is decided by s_0 … s_{i-1} alone. So what has been
laid out for n tokens is always a prefix of what will be laid out for more, and one
function, `advance`, serves both ways: called once with a whole sequence it gives the
training layout; called token by token it gives the chunks that decoding feeds. The slots
behind the last verbal token are `pending`: latents that already stand before a token not
yet known. Training drops them; a prompt's prefill feeds them.

Shape suffixes: T slots, N verbal tokens, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainable.errors import StrategyError
from trainable.layout_rules import (
    NO_TOKEN,
    Ints,
    LayoutRules,
    LayoutState,
    Places,
    digest,
)
from trainable.strategy import PositionRule

NOT_LATENT = -1
NO_TARGET = -1


@dataclass(frozen=True)
class Layout:
    """Slots, in order. A piece of a sequence or the whole of it.

    Args:
        verbal_T: the place i of the slot's verbal token, or of the one that a latent precedes.
        latent_T: the latent's row of the [L, D] parameter, or -1 for a verbal token.
        position_T: position ids.
        target_T: the place of the verbal token that this slot may predict, or -1; where
            several slots have the same target, the last one predicts it.
        pending: how many slots at the end stand before a token not yet known.
    """

    verbal_T: Ints
    latent_T: Ints
    position_T: Ints
    target_T: Ints
    pending: int

    def __len__(self) -> int:
        return len(self.verbal_T)

    @property
    def latent_count(self) -> int:
        """How many of the slots are latents."""
        return int((self.latent_T != NOT_LATENT).sum())

    def without_pending(self) -> Layout:
        """The slots up to the last verbal token: what training sees."""
        end = len(self) - self.pending
        return Layout(
            self.verbal_T[:end], self.latent_T[:end], self.position_T[:end], self.target_T[:end], 0
        )

    def predictors(self, query_length: int, length: int) -> Ints:
        """The slot that predicts each response token s_q … s_{n-1}, as [n - q] slot indices.

        Raises:
            StrategyError: if s_q has no slot before it.
        """
        slots = np.flatnonzero(self.target_T != NO_TARGET)
        last_slot = np.full(max(length, int(self.target_T.max(initial=0))) + 1, NO_TARGET)
        last_slot[self.target_T[slots]] = slots  # targets never decrease: the last one stays
        predictors = last_slot[query_length:length]
        if (predictors == NO_TARGET).any():
            raise StrategyError(
                "the first response token has no predictor: the prompt is empty, the tokenizer "
                "adds no BOS, and no trigger puts a latent-readout group there; add one (for "
                "example `start`) or give the prompt a token"
            )
        return predictors


def start_state(rules: LayoutRules, query_ids: Sequence[int] | Ints) -> LayoutState:
    """The state before any token.

    Args:
        query_ids: s_0 … s_{q-1}, BOS included. They decide where sites may begin, and `random`
            sites.
    """
    ids_N = np.asarray(query_ids, dtype=np.int64)
    has_bos = len(ids_N) > 0 and rules.bos_id is not None and int(ids_N[0]) == rules.bos_id
    return LayoutState(
        query_length=len(ids_N),
        query_digest=digest(ids_N) if rules.reads_digest else 0,
        first=int(has_bos),
    )


def advance(
    rules: LayoutRules, state: LayoutState, ids: Sequence[int] | Ints
) -> tuple[Layout, LayoutState]:
    """Lay out the next verbal tokens.

    Args:
        state: from `start_state` or an earlier call.
        ids: the next token ids, [N].

    Returns:
        The slots that come behind those of earlier calls (pending ones included), and the
        state behind them.
    """
    rules = rules.in_splice_order(empty_query=state.query_length <= state.first)
    ids_N = np.asarray(ids, dtype=np.int64)
    end = state.length + len(ids_N)
    index_N = np.arange(state.length, end)
    before = Places(index_N, ids_N, np.concatenate([[state.last_id], ids_N])[: len(ids_N)])
    behind = Places(index_N + 1, None, ids_N)
    # One line per token: verbal-readout groups before s_i | s_i | latent-readout before s_{i+1}.
    counts_NC, rows_NC = _lines(rules, state, before, behind)
    begin = state.length
    if not state.begun:  # the latents that stand before s_0 follow no token: a line of their own
        nowhere = np.zeros(0, dtype=np.int64)
        opening = Places(np.zeros(1, np.int64), None, np.array([NO_TOKEN]))
        counts_1C, rows_1C = _lines(rules, state, Places(nowhere, nowhere, nowhere), opening)
        counts_NC = np.concatenate([counts_1C, counts_NC])
        rows_NC = np.concatenate([rows_1C, rows_NC])
        begin = -1
    token_column = len(rules.verbal_after)
    is_site_NC = counts_NC > 0
    is_site_NC[:, token_column] = False
    if rules.cycle is not None:
        pair_NC = state.pairs + np.cumsum(is_site_NC).reshape(is_site_NC.shape) - 1
        rows_NC = pair_NC % rules.cycle * counts_NC  # one m for all
    layout = _spell_out(counts_NC, rows_NC, begin, token_column)
    layout = replace(
        layout,
        position_T=_positions(rules.position_rule, layout, state.slots),
        pending=int((layout.verbal_T == end).sum()),
    )
    return layout, replace(
        state,
        length=end,
        slots=state.slots + len(layout),
        pairs=state.pairs + int(is_site_NC.sum()),
        last_id=int(ids_N[-1]) if len(ids_N) else state.last_id,
        begun=True,
    )


def whole_layout(rules: LayoutRules, ids: Sequence[int] | Ints, query_length: int) -> Layout:
    """The layout of a sequence that holds its whole query, pending slots included."""
    return advance(rules, start_state(rules, ids[:query_length]), ids)[0]


def _lines(
    rules: LayoutRules, state: LayoutState, before: Places, behind: Places
) -> tuple[Ints, Ints]:
    """Per token and column: how many slots stand there, and their group's first row.

    The columns are the triggers that are spliced before the token, the token itself, and the
    triggers that already stand before its successor.
    """
    lines = max(len(before.index_N), len(behind.index_N))
    columns = len(rules.verbal_after) + 1 + len(rules.latent_first)
    counts_NC = np.zeros((lines, columns), dtype=np.int64)
    rows_NC = np.zeros_like(counts_NC)
    counts_NC[: len(before.index_N), len(rules.verbal_after)] = 1
    asked = [(splice, before) for splice in rules.verbal_after]
    asked += [(splice, behind) for splice in rules.latent_first]
    for place, (splice, places) in enumerate(asked):
        column = place + (place >= len(rules.verbal_after))
        stands_N, in_query_N = splice.sites(places, state)
        counts_NC[: len(stands_N), column] = stands_N * splice.trigger.m
        rows_NC[: len(stands_N), column] = np.where(
            in_query_N, splice.query_row, splice.response_row
        )
    return counts_NC, rows_NC


def _spell_out(counts_NC: Ints, rows_NC: Ints, begin: int, token_column: int) -> Layout:
    """Turn counts per token and column into slots; line 0 belongs to verbal token `begin`."""
    counts = counts_NC.ravel()
    cell_T = np.repeat(np.arange(counts.size), counts)
    within_T = np.arange(len(cell_T)) - np.repeat(np.cumsum(counts) - counts, counts)
    line_T, column_T = np.divmod(cell_T, counts_NC.shape[1])
    is_token_T = column_T == token_column
    is_ahead_T = column_T > token_column
    verbal_T = begin + line_T + is_ahead_T
    latent_T = np.where(is_token_T, NOT_LATENT, rows_NC.ravel()[cell_T] + within_T)
    target_T = np.where(is_token_T, verbal_T + 1, np.where(is_ahead_T, verbal_T, NO_TARGET))
    return Layout(verbal_T, latent_T, verbal_T, target_T, pending=0)


def _positions(rule: PositionRule, layout: Layout, slots_before: int) -> Ints:
    if rule is PositionRule.OWN:
        return slots_before + np.arange(len(layout))
    if rule is PositionRule.PRECEDING:
        is_latent_T = layout.latent_T != NOT_LATENT
        preceding_T: Ints = np.maximum(layout.verbal_T - is_latent_T, 0)
        return preceding_T
    return layout.verbal_T
