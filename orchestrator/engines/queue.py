"""Whose turn it is where there is no room for all: first come, first served.

    1. searches without an engine, each for its first one, as they came
    2. searches that want more engines, as they came

Each takes, in this order, the room that it could use, and what is left is for those behind it. So
a search waits behind another for what both could use, and for nothing else. One without an engine,
for which there is not room enough anywhere, keeps what is free on one node: smaller ones would take
it for ever. One whose node does not exist, or is refused, keeps nothing.

A search that finds an engine that it may share is in it, and does not wait here. A ticket lasts
while its driver shows it, at every look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.engines.leases import Leases
from orchestrator.engines.placement import (
    Decision,
    EngineView,
    Node,
    Place,
    Wish,
    decide,
    places_of,
)

TICKET_S = 20.0  # ten looks of a driver; leaving one engine may take it half of that


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What a search has and wants.

    Args:
        id: of one run of it.
        search: its name.
        wish: what it wants in all.
        engines: those that it uses, by the name of their place.
        avoided: names of places, and ids of nodes, at which none of its is to start now.
        refused: those of them that it cannot use; the others it uses again in a moment.
        arrived: when it came, as its first turn told; None before that.
    """

    id: str
    search: str
    wish: Wish
    engines: Mapping[str, EngineView]
    avoided: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    arrived: float | None = None

    @property
    def next_engines(self) -> int:
        """How many it is to have next: one, and then all that it has work for."""
        return self.wish.engines if self.engines else min(1, self.wish.engines)


@dataclass(frozen=True)
class Turn:
    """What a search may do now.

    Args:
        decision: as `decide` has it, but for what others are to have first.
        arrived: when it came; its driver remembers it, should the queue be lost.
        before: searches that wait before it for what it could use; the last is next to it.
    """

    decision: Decision
    arrived: float
    before: tuple[str, ...] = ()


class Queue:
    """All searches that use engines, or wait for one. One call at a time.

    Args:
        lasting_s: how long a ticket lasts that is not shown.
        now: seconds on a clock that never goes back.
        clock: seconds since the epoch, which also a queue that follows a lost one goes by.
    """

    def __init__(
        self,
        lasting_s: float = TICKET_S,
        now: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._leases = Leases(lasting_s, now)
        self._clock = clock
        self._tickets: dict[str, Ticket] = {}

    @property
    def is_unused(self) -> bool:
        """Whether there has been no ticket for as long as one lasts."""
        self._leases.expired()
        return self._leases.is_unused

    def turn(self, ticket: Ticket, nodes: Sequence[Node]) -> Turn:
        """Show a ticket: what its search may do, and is held to have done from now on.

        Args:
            nodes: that are there, as the driver has just seen them.
        """
        self._leases.renew(ticket.id)
        self._leases.expired()
        shown = {one: self._tickets[one] for one in self._leases.holders if one in self._tickets}
        known = shown.pop(ticket.id, ticket)
        arrived = ticket.arrived or known.arrived or self._clock()
        ticket = replace(ticket, arrived=arrived)
        decision, before = _turn(ticket, list(shown.values()), nodes)
        engines = {**ticket.engines, **_starting(decision.start)}
        self._tickets = {**shown, ticket.id: replace(ticket, engines=engines)}
        return Turn(decision, arrived, before)

    def leave(self, id: str) -> None:
        """Give a ticket back."""
        self._leases.release(id)
        self._tickets.pop(id, None)


def _turn(
    mine: Ticket, others: Sequence[Ticket], nodes: Sequence[Node]
) -> tuple[Decision, tuple[str, ...]]:
    """What a search may do, and who waits before it."""
    here, wanted = len(mine.engines), mine.wish.engines
    if wanted <= here:
        return decide(nodes, mine.engines, mine.wish, mine.avoided), ()
    room, before = _Room(nodes), list[str]()
    for other in others:  # these start: Ray may not have counted them yet
        begun = [name for name, one in other.engines.items() if one.state == "starting"]
        room.take([name.partition("/")[0] for name in begun], other.wish.gpus)
    for other in sorted(others, key=_order):
        if _order(other) < _order(mine) and other.next_engines > len(other.engines):
            room.serve(other)
            if _fitting(other, nodes) & _fitting(mine, nodes):
                before.append(other.search)
    start = room.starts(mine, mine.avoided)
    if start and not here:  # further ones come after the first ones of all
        mine = replace(mine, engines=_starting(start))
        left = [node.less(mine.wish.gpus) if node.id == start[0].node else node for node in nodes]
        more, ahead = _turn(mine, others, left)
        return replace(more, start=start + more.start), ahead
    return Decision(start=start, missing=wanted - here - len(start)), tuple(before)


class _Room:
    """What is left on the nodes while one after the other takes from it."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = {node.id: node for node in nodes}

    def take(self, nodes: Iterable[str], gpus: int) -> None:
        """Use up what one engine on each of these nodes takes."""
        for node in nodes:
            if node in self._nodes:
                self._nodes[node] = self._nodes[node].less(gpus)

    def starts(self, one: Ticket, avoid: Collection[str]) -> tuple[Place, ...]:
        """Where a search may start engines now."""
        wish = Wish(gpus=one.wish.gpus, trials=one.next_engines, trials_each=1)
        return decide(list(self._nodes.values()), one.engines, wish, avoid).start

    def serve(self, one: Ticket) -> None:
        """Have a search take what it could use; for a first engine, also what is not enough."""
        taken = [place.node for place in self.starts(one, one.refused)]
        fitting = sorted(_fitting(one, list(self._nodes.values())))
        if not taken and not one.engines and fitting:
            taken = [max(fitting, key=lambda id: self._nodes[id].free_gpus or 0.0)]
        self.take(taken, one.wish.gpus)


def _starting(places: Iterable[Place]) -> dict[str, EngineView]:
    return {place.name: EngineView("starting") for place in places}


def _order(one: Ticket) -> tuple[bool, float, str]:
    return bool(one.engines), one.arrived or 0.0, one.id


def _fitting(one: Ticket, nodes: Sequence[Node]) -> set[str]:
    """The nodes where another engine of a search could be, were nobody else there."""
    no = {*one.refused, *one.engines}
    return {
        node.id
        for node in nodes
        if node.id not in no and any(p.name not in no for p in places_of(node, one.wish.gpus))
    }
