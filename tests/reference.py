"""Design section 3, spelled out token by token, as slowly and plainly as it is written there.

Nothing here calls `trainable.layout`: the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainable.strategy import InsertionStrategy, Readout, Trigger, TriggerKind


@dataclass(frozen=True)
class Slot:
    """A verbal token s_i (`row` is None), or a latent (its row) that stands before s_i."""

    i: int
    row: int | None = None


@dataclass(frozen=True)
class Reference:
    """Slots up to s_{n-1}, the slots already decided before s_n, and who predicts what."""

    slots: list[Slot]
    pending: list[Slot]
    predictor: dict[int, int]  # response token i -> slot; missing where there is none


def reference_layout(
    strategy: InsertionStrategy,
    matches: Mapping[str, Sequence[bool]],
    bos_id: int | None,
    ids: Sequence[int],
    q: int,
) -> Reference:
    n = len(ids)
    first = 1 if n and bos_id is not None and ids[0] == bos_id else 0
    slots: list[Slot] = []
    predictor: dict[int, int] = {}
    for i in range(n):
        ahead, behind = sites_before(strategy, matches, i, ids[i], first, q)
        slots += [Slot(i, row) for row in ahead]
        if i >= q and slots:
            predictor[i] = len(slots) - 1  # the last latent one, or else s_{i-1}
        slots += [Slot(i, row) for row in behind]
        slots.append(Slot(i))
    ahead, _ = sites_before(strategy, matches, n, None, first, q)
    return Reference(slots, [Slot(n, row) for row in ahead], predictor)


def sites_before(
    strategy: InsertionStrategy,
    matches: Mapping[str, Sequence[bool]],
    i: int,
    token: int | None,
    first: int,
    q: int,
) -> tuple[list[int], list[int]]:
    """Rows of the latents before s_i: those with readout `latent`, those with `verbal`."""
    met = [
        (name, trigger)
        for name, trigger in strategy.triggers.items()
        if stands_before(trigger, matches, i, token, first, q)
    ]
    if q <= first:  # an empty query: `start` stands ahead of `end`
        starts = [pair for pair in met if pair[1].kind is TriggerKind.START]
        met = starts + [pair for pair in met if pair[1].kind is not TriggerKind.START]
    ahead: list[int] = []
    behind: list[int] = []
    for name, trigger in met:
        rows = rows_of(strategy, name)
        if trigger.readout is Readout.LATENT:
            ahead += rows
        else:
            behind += rows
    return ahead, behind


def stands_before(
    trigger: Trigger,
    matches: Mapping[str, Sequence[bool]],
    i: int,
    token: int | None,
    first: int,
    q: int,
) -> bool:
    if trigger.kind is TriggerKind.START:
        return i == first
    if trigger.kind is TriggerKind.END:
        return i == q
    if trigger.kind is TriggerKind.EVERY:
        assert trigger.k is not None
        return i > first and (i - first) % trigger.k == 0
    assert trigger.kind is TriggerKind.DELIMITER
    assert trigger.pattern is not None
    return token is not None and bool(matches[trigger.pattern][token])


def rows_of(strategy: InsertionStrategy, name: str) -> list[int]:
    """The rows of a trigger's group."""
    if strategy.specialization == "shared":
        return list(range(strategy.triggers[name].m))
    begin = 0
    for other, trigger in strategy.triggers.items():
        if other == name:
            break
        begin += trigger.m
    return list(range(begin, begin + strategy.triggers[name].m))
