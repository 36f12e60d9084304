"""The queue of a cluster's searches: an actor on its head, which takes one call after the other."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from orchestrator.engines.actor import NAMESPACE
from orchestrator.engines.cluster import HEAD_RESOURCE
from orchestrator.engines.placement import Node
from orchestrator.engines.queue import TICKET_S, Queue, Ticket, Turn

_ANSWERS_S = 10.0


class QueueActor:
    """The actor's class; ends itself once nobody has shown a ticket for a while.

    Args:
        name: of the actor.
        lasting_s: how long a ticket lasts that is not shown.
    """

    def __init__(self, name: str, lasting_s: float = TICKET_S) -> None:
        self._queue = Queue(lasting_s)
        threading.Thread(target=self._end_when_unused, args=(name, lasting_s), daemon=True).start()

    def turn(self, ticket: Ticket, nodes: Sequence[Node]) -> Turn:
        """As `Queue.turn`."""
        return self._queue.turn(ticket, nodes)

    def leave(self, id: str) -> None:
        """As `Queue.leave`."""
        self._queue.leave(id)

    def _end_when_unused(self, name: str, look_s: float) -> None:
        sleeping = threading.Event()
        while not self._queue.is_unused:
            sleeping.wait(look_s)
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)


def start_queue(name: str, lasting_s: float = TICKET_S) -> Any:
    """Begin the queue of this name, or find it; its handle."""
    return (
        ray.remote(QueueActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            resources={HEAD_RESOURCE: 0.001},
            max_restarts=0,  # whoever asks next begins another
        )
        .remote(name, lasting_s)
    )


class RayQueue:
    """One driver's way to the queue.

    Args:
        code: from `code_digest`: searches of different code do not understand each other's tickets.
    """

    def __init__(self, code: str) -> None:
        self._name = f"queue/{code}"
        self._actor: Any = None

    def turn(self, ticket: Ticket, nodes: Sequence[Node]) -> Turn:
        """As `Queue.turn`.

        Raises:
            RayError: if the queue is lost, or does not answer; it may be asked again.
        """
        self._actor = self._actor or start_queue(self._name)
        try:
            turn: Turn = ray.get(self._actor.turn.remote(ticket, list(nodes)), timeout=_ANSWERS_S)
        except RayError:
            self._actor = None
            raise
        return turn

    def leave(self, id: str) -> None:
        """As `Queue.leave`, and wait for nothing."""
        if self._actor is not None:
            self._actor.leave.remote(id)
