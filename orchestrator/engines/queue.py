"""Whose turn it is where there is no room for all: first come, first served.

    1. searches without an engine, each for its first one, as they came
    2. searches that want more engines, as they came

Each takes, in this order, the room that it could use, and what is left is for those behind it. So
a search waits behind another for what both could use, and for nothing else. One without an engine,
for which there is not room enough anywhere, keeps what is free on one node: smaller ones would take
it for ever. One whose node does not exist, or is refused, keeps nothing.

A search shares an engine of its model, and does not wait, but where another one came before it and
waits for what that engine has: it goes behind that one, and the engine ends with those inside.

    no engine is to be had    after 10 s a search that has several gives one back, the one that has
                              most: its trials go on in its others (see `Crew.vacate`)

A ticket lasts while its driver shows it, at every look.
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
WAITS_S = 10.0  # until others give way: engines end, and Ray counts them, in less
GIFT_S = 120.0  # in which no second engine is given back for the same search


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What a search has and wants.

    Args:
        id: of one run of it.
        holder: the search, as in `FleetPlan`: two homes may have one of the same name.
        pool: the first part of its engines' names: its model, in its way.
        wish: what it wants in all.
        engines: those that it uses, by the name of their place.
        offers: names of places with engines of its pool that it does not use.
        avoided: names of places, and ids of nodes, at which none of its is to start now.
        refused: those of them that it cannot use; the others it uses again in a moment.
        arrived: when it came, as its first turn told; None before that.
    """

    id: str
    holder: str
    pool: str
    wish: Wish
    engines: Mapping[str, EngineView]
    offers: frozenset[str] = frozenset()
    avoided: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    arrived: float | None = None

    @property
    def search(self) -> str:
        """Its name for people."""
        return self.holder.partition("@")[0]

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
        shares: of what it was offered, what it may use.
        gives: names of places whose engines it is to give back.
    """

    decision: Decision
    arrived: float
    before: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Gift:
    """Engines that all who use them give back, for a search that has none.

    Args:
        pool: of these engines.
        names: of their places; none once nobody uses them any more.
        until: when that search may be given more.
    """

    pool: str
    names: frozenset[str]
    until: float


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
        self._now, self._clock = now, clock
        self._tickets: dict[str, Ticket] = {}
        self._gifts: dict[str, _Gift] = {}  # by the pool that they are for
        self._stuck_since: dict[str, float] = {}  # by ticket

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
        ticket = self._known(ticket, shown)
        others = list(shown.values())
        shares = self._shares(ticket, others, nodes)
        ticket = replace(ticket, engines={**ticket.engines, **_loading(shares)})
        decision, before = _turn(ticket, others, nodes)
        engines = {**ticket.engines, **_starting(decision.start)}
        self._tickets = {**shown, ticket.id: replace(ticket, engines=engines)}
        self._give(nodes)
        return Turn(decision, ticket.arrived or 0.0, before, shares, self._gives(ticket))

    def leave(self, id: str) -> None:
        """Give a ticket back."""
        self._leases.release(id)
        self._tickets.pop(id, None)

    def _known(self, ticket: Ticket, shown: dict[str, Ticket]) -> Ticket:
        """A ticket with its arrival: what is shown of the search, also by an earlier run, goes."""
        arrived = [ticket.arrived]
        for one in [one for one in shown.values() if one.holder == ticket.holder]:
            arrived.append(shown.pop(one.id).arrived)
            if one.id != ticket.id:
                self._leases.release(one.id)
        return replace(ticket, arrived=min(filter(None, arrived), default=self._clock()))

    def _shares(
        self, mine: Ticket, others: Sequence[Ticket], nodes: Sequence[Node]
    ) -> tuple[str, ...]:
        """Which engines of its model a search may use: nobody who came before waits for them."""
        ahead = [one for one in _stuck([*others, mine], nodes) if _order(one) < _order(mine)]
        kept = {id for one in ahead if one.pool != mine.pool for id in _fitting(one, nodes)}
        given = self._given(mine.pool)
        free = [name for name in sorted(mine.offers - given) if _node(name) not in kept]
        return tuple(free[: max(0, mine.wish.engines - len(mine.engines))])

    def _give(self, nodes: Sequence[Node]) -> None:
        """Find what others are to give back for those that wait without an engine."""
        now, shown = self._now(), list(self._tickets.values())
        used = {(one.pool, name) for one in shown for name in one.engines}
        self._gifts = {
            pool: replace(gift, names=frozenset(n for n in gift.names if (gift.pool, n) in used))
            for pool, gift in self._gifts.items()
            if gift.until > now
        }
        stuck = _stuck(shown, nodes)
        self._stuck_since = {one.id: self._stuck_since.get(one.id, now) for one in stuck}
        for one in stuck:
            waits = now - self._stuck_since[one.id] >= WAITS_S
            shares = one.pool in self._gifts or one.pool in {pool for pool, _ in used}
            if waits and not shares and (found := self._spare(one, nodes)) is not None:
                self._gifts[one.pool] = _Gift(*found, now + GIFT_S)

    def _spare(self, taker: Ticket, nodes: Sequence[Node]) -> tuple[str, frozenset[str]] | None:
        """The pool and the places of what is room enough, and leaves each who uses it another."""
        fitting, found = _fitting(taker, nodes), list[tuple[int, int, str, list[str]]]()
        for pool in {one.pool for one in self._tickets.values()} - {taker.pool}:
            users = [one for one in self._tickets.values() if one.pool == pool]
            given = self._given(pool)
            for node in (node for node in nodes if node.id in fitting):
                names = _enough(node, taker.wish.gpus, users, given)
                holders = [one for one in users if set(names) & set(one.engines)]
                kept = [len(set(_ready(one)) - given - set(names)) for one in holders]
                if names and min(kept) > 0:
                    trials = sum(_trials(users, name) for name in names)
                    found.append((-max(kept), trials, pool, names))
        return (min(found)[2], frozenset(min(found)[3])) if found else None

    def _given(self, pool: str) -> frozenset[str]:
        """Engines of a pool that are being given back."""
        names = [gift.names for gift in self._gifts.values() if gift.pool == pool]
        return frozenset().union(*names)

    def _gives(self, mine: Ticket) -> tuple[str, ...]:
        """What a search is to give back now."""
        return tuple(sorted(self._given(mine.pool) & set(_ready(mine))))


def _turn(
    mine: Ticket, others: Sequence[Ticket], nodes: Sequence[Node]
) -> tuple[Decision, tuple[str, ...]]:
    """What a search may do, and who waits before it."""
    here, wanted = len(mine.engines), mine.wish.engines
    if wanted <= here:
        return decide(nodes, mine.engines, mine.wish, mine.avoided), ()
    room, before = _Room.beside(others, nodes), list[str]()
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


def _stuck(tickets: Sequence[Ticket], nodes: Sequence[Node]) -> list[Ticket]:
    """Searches without an engine that can start none now, where it could be, as they came."""
    room = _Room.beside(tickets, nodes)
    waiting = sorted((one for one in tickets if one.next_engines and not one.engines), key=_order)
    return [one for one in waiting if not room.serve(one) and _fitting(one, nodes)]


class _Room:
    """What is left on the nodes while one after the other takes from it."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = {node.id: node for node in nodes}

    @classmethod
    def beside(cls, others: Iterable[Ticket], nodes: Sequence[Node]) -> _Room:
        """What others leave whose engines start: Ray may not have counted them yet."""
        room = cls(nodes)
        for one in others:
            begun = [name for name, view in one.engines.items() if view.state == "starting"]
            room.take([_node(name) for name in begun], one.wish.gpus)
        return room

    def take(self, nodes: Iterable[str], gpus: int) -> None:
        """Use up what one engine on each of these nodes takes."""
        for node in nodes:
            if node in self._nodes:
                self._nodes[node] = self._nodes[node].less(gpus)

    def starts(self, one: Ticket, avoid: Collection[str]) -> tuple[Place, ...]:
        """Where a search may start engines now."""
        wish = Wish(gpus=one.wish.gpus, trials=one.next_engines, trials_each=1)
        return decide(list(self._nodes.values()), one.engines, wish, avoid).start

    def serve(self, one: Ticket) -> bool:
        """Have a search take what it could use; for a first engine, also what is not enough.

        Returns:
            Whether it could start an engine.
        """
        taken = [place.node for place in self.starts(one, one.refused)]
        fitting = sorted(_fitting(one, list(self._nodes.values())))
        served = bool(taken)
        if not taken and not one.engines and fitting:
            taken = [max(fitting, key=lambda id: self._nodes[id].free_gpus or 0.0)]
        self.take(taken, one.wish.gpus)
        return served


def _starting(places: Iterable[Place]) -> dict[str, EngineView]:
    return {place.name: EngineView("starting") for place in places}


def _loading(names: Iterable[str]) -> dict[str, EngineView]:
    return {name: EngineView("loading") for name in names}


def _ready(one: Ticket) -> list[str]:
    return [name for name, view in one.engines.items() if view.state == "ready"]


def _trials(users: Iterable[Ticket], name: str) -> int:
    return sum(one.engines[name].trials for one in users if name in one.engines)


def _node(name: str) -> str:
    """The node of a place."""
    return name.partition("/")[0]


def _enough(node: Node, gpus: int, users: Sequence[Ticket], given: Collection[str]) -> list[str]:
    """The fewest engines of a node, by trials, whose end would make room; none if there are not.

    Args:
        gpus: of the engine that there is to be room for.
        users: of the engines' pool.
        given: engines that are spoken for.
    """
    here = {name for one in users for name in _ready(one) if _node(name) == node.id}
    names = list[str]()
    for name in sorted(here - set(given), key=lambda name: (_trials(users, name), name)):
        names.append(name)
        node = node.more(min(one.wish.gpus for one in users if name in one.engines))
        if node.room(gpus):
            return names
    return []


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
