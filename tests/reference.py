"""Design section 3, spelled out token by token, as slowly and plainly as it is written there.

Nothing here calls `trainable.layout`: the tests hold the two against each other.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainable.strategy import InsertionStrategy
from trainable.trigger import Readout, Trigger, TriggerKind


@dataclass(frozen=True)
class Slot:
    """A verbal token s_i (`row` is None), or a latent (its row) that stands before s_i."""

    i: int
    row: int | None = None
    position: int = -1


@dataclass(frozen=True)
class Reference:
    """Slots up to s_{n-1}, the slots already decided before s_n, and who predicts what."""

    slots: list[Slot]
    pending: list[Slot]
    predictor: dict[int, int]  # response token i -> slot; missing where there is none


@dataclass(frozen=True)
class Row:
    """What every rule may ask: the strategy, its patterns' ids, BOS, all ids, and q."""

    strategy: InsertionStrategy
    matches: Mapping[str, Sequence[bool]]
    bos_id: int | None
    ids: Sequence[int]
    q: int

    @property
    def first(self) -> int:
        return 1 if self.ids and self.bos_id is not None and self.ids[0] == self.bos_id else 0

    def token(self, i: int) -> int | None:
        return self.ids[i] if 0 <= i < len(self.ids) else None

    def matching(self, trigger: Trigger, i: int) -> bool:
        token = self.token(i)
        assert trigger.pattern is not None
        return token is not None and bool(self.matches[trigger.pattern][token])


def reference_layout(
    strategy: InsertionStrategy,
    matches: Mapping[str, Sequence[bool]],
    bos_id: int | None,
    ids: Sequence[int],
    q: int,
) -> Reference:
    sequence = Row(strategy, matches, bos_id, list(ids), q)
    n = len(ids)
    slots: list[Slot] = []
    predictor: dict[int, int] = {}
    pairs = 0  # (site, trigger) pairs so far

    def splice(names: list[str], i: int) -> None:
        nonlocal pairs
        for name in names:
            in_query = is_of_query(sequence, strategy.triggers[name], i)
            for row in rows_of(strategy, name, in_query, pairs):
                slots.append(Slot(i, row, position_of(strategy, i, len(slots))))
            pairs += 1

    for i in range(n):
        ahead, behind = met_before(sequence, i)
        splice(ahead, i)
        if i >= q and slots:
            predictor[i] = len(slots) - 1  # the last latent one, or else s_{i-1}
        splice(behind, i)
        slots.append(Slot(i, None, len(slots) if strategy.position_rule == "own" else i))
    length = len(slots)
    ahead, _ = met_before(sequence, n)
    splice(ahead, n)
    return Reference(slots[:length], slots[length:], predictor)


def met_before(sequence: Row, i: int) -> tuple[list[str], list[str]]:
    """The triggers with a site before s_i: those with readout `latent`, those with `verbal`.

    Before s_n only the first are decided.
    """
    strategy = sequence.strategy
    met = [n for n, t in strategy.triggers.items() if stands_before(sequence, t, i)]
    if sequence.q <= sequence.first:  # an empty query: `start` stands ahead of `end`
        starts = [n for n in met if strategy.triggers[n].kind is TriggerKind.START]
        met = starts + [n for n in met if n not in starts]
    ahead = [n for n in met if strategy.triggers[n].readout is Readout.LATENT]
    return ahead, [n for n in met if n not in ahead]


def stands_before(sequence: Row, trigger: Trigger, i: int) -> bool:
    first, q = sequence.first, sequence.q
    if trigger.kind is TriggerKind.START:
        return i == first
    if trigger.kind is TriggerKind.END:
        return i == q
    allowed = {"query": [True], "response": [False], "both": [True, False]}[str(trigger.region)]
    if is_of_query(sequence, trigger, i) not in allowed:
        return False
    if trigger.kind is TriggerKind.EVERY:
        assert trigger.k is not None
        return i > first and (i - first) % trigger.k == 0
    if trigger.kind is TriggerKind.RANDOM:
        assert trigger.rate is not None
        return i >= first and chance(trigger.seed or 0, sequence.ids[:q], i) < trigger.rate
    assert trigger.kind is TriggerKind.DELIMITER
    return sequence.matching(trigger, i if trigger.side == "before" else i - 1)


def is_of_query(sequence: Row, trigger: Trigger, i: int) -> bool:
    """The region of a site before s_i."""
    if trigger.kind in (TriggerKind.START, TriggerKind.END):
        return True
    after = trigger.kind is TriggerKind.DELIMITER and trigger.side == "after"
    return (i - 1 if after else i) < sequence.q


def chance(seed: int, query: Sequence[int], i: int) -> float:
    """Output i of SplitMix64, as a fraction, in plain integers."""
    digest = hashlib.blake2b(struct.pack(f"<{len(query)}q", *query), digest_size=8).digest()
    key = digest + struct.pack("<QQ", seed, 0)
    state = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    bits = 2**64 - 1
    z = (state + (i + 1) * 0x9E3779B97F4A7C15) & bits
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & bits
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & bits
    return ((z ^ (z >> 31)) >> 11) / 2**53


def position_of(strategy: InsertionStrategy, i: int, slot: int) -> int:
    """The position id of a latent before s_i that is the sequence's `slot`-th."""
    if strategy.position_rule == "own":
        return slot
    return i if strategy.position_rule == "following" else max(i - 1, 0)


def rows_of(strategy: InsertionStrategy, name: str, in_query: bool, pairs: int) -> list[int]:
    """The rows of the group that a trigger's site takes, as the `pairs`-th of the sequence."""
    m = strategy.triggers[name].m
    begin = 0
    if strategy.specialization == "cycle":
        assert strategy.groups is not None
        begin = pairs % strategy.groups * m
    elif strategy.specialization == "by_region" and not in_query:
        begin = next(t.m for t in strategy.triggers.values() if t.region != "response")
    elif strategy.specialization == "by_trigger":
        for other, trigger in strategy.triggers.items():
            if other == name:
                break
            begin += trigger.m
    return list(range(begin, begin + m))
