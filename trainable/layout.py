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

Shape suffixes: T slots, N verbal tokens, R triggers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trainable.errors import StrategyError
from trainable.strategy import InsertionStrategy, Readout, Trigger, TriggerKind

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NOT_LATENT = -1
NO_TARGET = -1


@dataclass(frozen=True)
class Splice:
    """One trigger, ready for index arithmetic.

    Args:
        trigger: the rule.
        first_row: where its group starts among the rows of the [L, D] parameter.
        matches_V: for `delimiter`, the ids before which it places a site.
    """

    trigger: Trigger
    first_row: int
    matches_V: Bools | None

    def sites(self, index_N: Ints, ids_N: Ints | None, first: int, query_length: int) -> Bools:
        """Whether a site stands before each of the verbal tokens `index_N`, as [N] booleans.

        Args:
            index_N: places in the verbal sequence.
            ids_N: the token ids at those places; None where they are not known yet.
            first: the first place that may have a site before it (1 behind BOS, else 0).
            query_length: q.
        """
        kind = self.trigger.kind
        if kind is TriggerKind.START:
            return np.equal(index_N, first)
        if kind is TriggerKind.END:
            return np.equal(index_N, query_length)
        if kind is TriggerKind.EVERY:
            assert self.trigger.k is not None
            behind_N = index_N - first
            due_N: Bools = (behind_N > 0) & (behind_N % self.trigger.k == 0)
            return due_N
        assert self.matches_V is not None
        assert ids_N is not None, "a delimiter's sites depend on the token itself"
        matches_N: Bools = self.matches_V[ids_N]
        return matches_N


@dataclass(frozen=True)
class LayoutRules:
    """A strategy resolved against a vocabulary: all that `advance` needs to know.

    Args:
        latent_first: triggers with readout `latent`, as declared.
        verbal_after: triggers with readout `verbal`, as declared.
        bos_id: the id before which nothing is placed, or None.
    """

    latent_first: tuple[Splice, ...]
    verbal_after: tuple[Splice, ...]
    bos_id: int | None

    @classmethod
    def build(
        cls,
        strategy: InsertionStrategy,
        matches: Mapping[str, Bools],
        bos_id: int | None,
    ) -> LayoutRules:
        """Resolve a strategy.

        Args:
            matches: for each `delimiter` pattern, the vocabulary's matching ids as [V] booleans.
            bos_id: the tokenizer's BOS, or None.
        """
        starts = np.concatenate([[0], np.cumsum(strategy.group_sizes)])
        groups = strategy.group_of_trigger
        splices = [
            Splice(trigger, int(starts[groups[name]]), matches.get(trigger.pattern or ""))
            for name, trigger in strategy.triggers.items()
        ]
        return cls(
            tuple(s for s in splices if s.trigger.readout is Readout.LATENT),
            tuple(s for s in splices if s.trigger.readout is Readout.VERBAL),
            bos_id,
        )

    def in_splice_order(self, empty_query: bool) -> LayoutRules:
        """The rules in the order that a sequence needs: as declared, but for one case.

        With an empty query `start` and `end` meet, and `start` goes first.
        """
        if not empty_query:
            return self
        return replace(
            self,
            latent_first=tuple(sorted(self.latent_first, key=_is_no_start)),
            verbal_after=tuple(sorted(self.verbal_after, key=_is_no_start)),
        )


def _is_no_start(splice: Splice) -> bool:
    return splice.trigger.kind is not TriggerKind.START


@dataclass(frozen=True)
class LayoutState:
    """How far a sequence has been laid out.

    Args:
        query_length: q, BOS included.
        first: the first place that may have a site before it; known with the first token.
        length: verbal tokens laid out so far.
        begun: the latents that stand before s_0 have been laid out.
        ended: the row is finished; it makes no more sites.
    """

    query_length: int
    first: int = 0
    length: int = 0
    begun: bool = False
    ended: bool = False


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


def start_state(rules: LayoutRules, first_id: int | None, query_length: int) -> LayoutState:
    """The state before any token.

    Args:
        first_id: s_0, or None for a sequence without any token yet known.
        query_length: q, BOS included.
    """
    has_bos = rules.bos_id is not None and first_id == rules.bos_id
    return LayoutState(query_length=query_length, first=int(has_bos))


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
    begin, end = state.length, state.length + len(ids_N)
    index_N = np.arange(begin, end)
    # One line per token: verbal-readout groups before s_i | s_i | latent-readout before s_{i+1}.
    columns = [*rules.verbal_after, None, *rules.latent_first]
    counts_NC = np.zeros((len(ids_N), len(columns)), dtype=np.int64)
    counts_NC[:, len(rules.verbal_after)] = 1
    if not state.ended:
        for column, splice in enumerate(columns):
            if splice is not None:
                ahead = column > len(rules.verbal_after)
                sites_N = splice.sites(
                    index_N + ahead, None if ahead else ids_N, state.first, state.query_length
                )
                counts_NC[:, column] = sites_N * splice.trigger.m
    if not state.begun:  # the latents that stand before s_0 follow no token: a line of their own
        line_C = np.zeros((1, len(columns)), dtype=np.int64)
        for column, splice in enumerate(rules.latent_first, start=len(rules.verbal_after) + 1):
            sites = splice.sites(np.zeros(1, np.int64), None, state.first, state.query_length)
            line_C[0, column] = int(sites[0]) * splice.trigger.m
        counts_NC = np.concatenate([line_C, counts_NC])
        begin = -1
    layout = _spell_out(counts_NC, columns, begin, len(rules.verbal_after))
    pending = int((layout.verbal_T == end).sum())
    return replace(layout, pending=pending), replace(state, length=end, begun=True)


def whole_layout(rules: LayoutRules, ids: Sequence[int] | Ints, query_length: int) -> Layout:
    """The layout of a whole sequence, pending slots included."""
    state = start_state(rules, int(ids[0]) if len(ids) else None, query_length)
    return advance(rules, state, ids)[0]


def _spell_out(
    counts_NC: Ints, columns: Sequence[Splice | None], begin: int, token_column: int
) -> Layout:
    """Turn counts per token and column into slots; line 0 belongs to verbal token `begin`."""
    counts = counts_NC.ravel()
    cell_T = np.repeat(np.arange(counts.size), counts)
    within_T = np.arange(len(cell_T)) - np.repeat(np.cumsum(counts) - counts, counts)
    line_T, column_T = np.divmod(cell_T, len(columns))
    is_token_T = column_T == token_column
    is_ahead_T = column_T > token_column
    first_row_C = np.array([0 if s is None else s.first_row for s in columns], dtype=np.int64)
    verbal_T = begin + line_T + is_ahead_T
    latent_T = np.where(is_token_T, NOT_LATENT, first_row_C[column_T] + within_T)
    target_T = np.where(is_token_T, verbal_T + 1, np.where(is_ahead_T, verbal_T, NO_TARGET))
    return Layout(verbal_T, latent_T, verbal_T.copy(), target_T, pending=0)
