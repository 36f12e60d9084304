"""What decides where sites stand: the triggers, resolved against a vocabulary.

A trigger answers for many places at once, and knows of a place no more than decoding knows
there: s_{i-1} always, s_i only where the site's readout is `verbal`, and the query. So a
layout made token by token is the layout of the whole.

Shape suffixes: N places, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trainable.strategy import InsertionStrategy, PositionRule, Specialization
from trainable.trigger import Readout, Region, Side, Trigger, TriggerKind

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NO_TOKEN = -1


@dataclass(frozen=True)
class Places:
    """Places in a verbal sequence before which sites may stand, and what is known there.

    Args:
        index_N: the place i.
        id_N: s_i, or None where it is not known yet.
        previous_N: s_{i-1}, or NO_TOKEN where there is none.
    """

    index_N: Ints
    id_N: Ints | None
    previous_N: Ints


@dataclass(frozen=True)
class Splice:
    """One trigger, ready for index arithmetic.

    Args:
        trigger: the rule.
        query_row: where the group of its query sites starts among the rows of [L, D].
        response_row: the same for its response sites.
        matches_V: for `delimiter`, the ids that it matches.
    """

    trigger: Trigger
    query_row: int
    response_row: int
    matches_V: Bools | None

    def sites(self, places: Places, state: LayoutState) -> tuple[Bools, Bools]:
        """Where sites stand, and which of those are of the query; both [N] booleans."""
        stands_N, in_query_N = self._rule(places, state)
        if self.trigger.region is Region.QUERY:
            stands_N = stands_N & in_query_N
        elif self.trigger.region is Region.RESPONSE:
            stands_N = stands_N & ~in_query_N
        return stands_N, in_query_N

    def _rule(self, places: Places, state: LayoutState) -> tuple[Bools, Bools]:
        kind, index_N, q = self.trigger.kind, places.index_N, state.query_length
        if kind is TriggerKind.START:
            return np.equal(index_N, state.first), np.ones(len(index_N), dtype=bool)
        if kind is TriggerKind.END:
            return np.equal(index_N, q), np.ones(len(index_N), dtype=bool)
        if kind is TriggerKind.EVERY:
            assert self.trigger.k is not None
            behind_N = index_N - state.first
            return (behind_N > 0) & (behind_N % self.trigger.k == 0), index_N < q
        if kind is TriggerKind.RANDOM:
            assert self.trigger.rate is not None
            assert self.trigger.seed is not None
            chance_N = chances(self.trigger.seed, state.query_digest, index_N)
            return (index_N >= state.first) & (chance_N < self.trigger.rate), index_N < q
        assert self.matches_V is not None
        if self.trigger.side is Side.AFTER:
            known_N = places.previous_N != NO_TOKEN
            return known_N & self.matches_V[places.previous_N], index_N - 1 < q
        assert places.id_N is not None, "a site before a delimiter depends on the delimiter"
        return self.matches_V[places.id_N], index_N < q


@dataclass(frozen=True)
class LayoutRules:
    """A strategy resolved against a vocabulary: all that `advance` needs to know.

    Args:
        latent_first: triggers with readout `latent`, as declared.
        verbal_after: triggers with readout `verbal`, as declared.
        bos_id: the id before which nothing is placed, or None.
        position_rule: the latents' position ids.
        cycle: G for specialization `cycle`, else None.
    """

    latent_first: tuple[Splice, ...]
    verbal_after: tuple[Splice, ...]
    bos_id: int | None
    position_rule: PositionRule = PositionRule.FOLLOWING
    cycle: int | None = None

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
        splices = []
        for name, trigger in strategy.triggers.items():
            query_row, response_row = (int(starts[group]) for group in strategy.groups_of(name))
            matches_V = matches.get(trigger.pattern or "")
            splices.append(Splice(trigger, query_row, response_row, matches_V))
        return cls(
            latent_first=tuple(s for s in splices if s.trigger.readout is Readout.LATENT),
            verbal_after=tuple(s for s in splices if s.trigger.readout is Readout.VERBAL),
            bos_id=bos_id,
            position_rule=strategy.position_rule,
            cycle=strategy.groups if strategy.specialization is Specialization.CYCLE else None,
        )

    @property
    def reads_digest(self) -> bool:
        """Whether sites depend on what the query says as a whole."""
        splices = (*self.latent_first, *self.verbal_after)
        return any(splice.trigger.kind is TriggerKind.RANDOM for splice in splices)

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
        query_digest: a hash of the query's ids, for `random`; 0 where no trigger reads it.
        first: the first place that may have a site before it: 1 behind BOS, else 0.
        length: verbal tokens laid out so far.
        slots: slots laid out so far.
        pairs: (site, trigger) pairs laid out so far.
        last_id: the last verbal token, or NO_TOKEN.
        begun: the latents that stand before s_0 have been laid out.
    """

    query_length: int
    query_digest: int = 0
    first: int = 0
    length: int = 0
    slots: int = 0
    pairs: int = 0
    last_id: int = NO_TOKEN
    begun: bool = False


def digest(ids_N: Ints) -> int:
    """A hash of a query's ids, 64 bits: the first bytes of BLAKE2b over them as little-endian."""
    data = np.ascontiguousarray(ids_N, dtype="<i8").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def chances(seed: int, query_digest: int, index_N: Ints) -> npt.NDArray[np.float64]:
    """A number in [0, 1) per place: output i of SplitMix64, its state hashed from seed and query.

    SplitMix64 reaches any output by itself, so that decoding need not know how far it is.
    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
    """
    key = query_digest.to_bytes(8, "little") + seed.to_bytes(16, "little")
    state = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    z_N = np.uint64(state) + (index_N + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z_N = (z_N ^ (z_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z_N = (z_N ^ (z_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z_N = z_N ^ (z_N >> np.uint64(31))
    return (z_N >> np.uint64(11)).astype(np.float64) * 2.0**-53
